/*
 * Answers of DNS: what is right is read, and nothing that is wrong makes the reader leave the message, which ends where its memory does.
 */
#include "dns_answer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 20000 };

/* www.a: CNAME b.a, 1.2.3.4 of b.a; a SOA of a among the authorities */
static const uint8_t good[] = {
    0,    1,   0x81, 0x80, 0, 1,   0, 2, 0, 1,  0, 0,                       /* header */
    3,    'w', 'w',  'w',  1, 'a', 0, 0, 1, 0,  1,                          /* question, the name at 12, "a" at 16 */
    0xc0, 12,  0,    5,    0, 1,   0, 0, 0, 9,  0, 4,  1,    'b', 0xc0, 16, /* b.a at 35 */
    0xc0, 35,  0,    1,    0, 1,   0, 0, 0, 7,  0, 4,  1,    2,   3,    4,  /* */
    0xc0, 16,  0,    6,    0, 1,   0, 0, 0, 60, 0, 24, 0xc0, 16,  0xc0, 16, /* */
    0,    0,   0,    1,    0, 0,   0, 2, 0, 0,  0, 3,  0,    0,   0,    4,  0, 0, 0, 30,
};

/* In a block of its very size, so that a sanitizer sees a byte too far. */
static int read_copy(const uint8_t *bytes, size_t size, int type) {
  uint8_t *copy = malloc(size ? size : 1);
  assert_non_null(copy);
  memcpy(copy, bytes, size);
  int err;
  uint32_t ttl;
  rille_answer *a = rille_answer_read(copy, size, "www.a", type, &err, &ttl);
  assert_int_equal(a == NULL, err != RILLE_OK);
  if (a) assert_true(a->count > 0 && a->count <= RILLE_DNS_RECORDS_MAX);
  (void)rille_answer_negative_ttl(copy, size);
  rille_answer_drop(a);
  free(copy);
  return err;
}

static void reads_what_is_right(void **state) {
  (void)state;
  int err;
  uint32_t ttl;
  rille_answer *a = rille_answer_read(good, sizeof good, "WWW.A", RILLE_DNS_A, &err, &ttl);
  assert_non_null(a);
  assert_int_equal(a->count, 1);
  assert_int_equal(a->ttl, 7);
  assert_string_equal(a->pool + a->items[0].offset, "1.2.3.4");
  rille_answer_drop(a);
  assert_null(rille_answer_read(good, sizeof good, "www.a", RILLE_DNS_AAAA, &err, &ttl));
  assert_int_equal(err, RILLE_ERR_NOT_FOUND); /* the alias is there, what it leads to has none */
  assert_int_equal(ttl, 30);
  assert_int_equal(rille_answer_negative_ttl(good, sizeof good), 30);
}

static void survives_every_cut(void **state) {
  (void)state;
  for (size_t size = 0; size < sizeof good; size++) {
    for (int type = 0; type < 40; type++) (void)read_copy(good, size, type);
  }
}

static void survives_what_is_wrong(void **state) {
  (void)state;
  static const int types[] = {RILLE_DNS_A,  RILLE_DNS_AAAA, RILLE_DNS_SRV, RILLE_DNS_TXT,
                              RILLE_DNS_MX, RILLE_DNS_PTR,  RILLE_DNS_NS,  RILLE_DNS_CNAME};
  unsigned seed = 1;
  for (int i = 0; i < ROUNDS; i++) {
    uint8_t bytes[sizeof good];
    memcpy(bytes, good, sizeof good);
    for (int k = rand_r(&seed) % 6; k >= 0; k--) bytes[(size_t)rand_r(&seed) % sizeof good] = (uint8_t)rand_r(&seed);
    int type = types[rand_r(&seed) % 8];
    bytes[42] = (uint8_t)type; /* of the second record */
    (void)read_copy(bytes, sizeof good - (size_t)rand_r(&seed) % 30, type);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_what_is_right),
      cmocka_unit_test(survives_every_cut),
      cmocka_unit_test(survives_what_is_wrong),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
