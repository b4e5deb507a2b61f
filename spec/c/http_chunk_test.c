/*
 * Tests of core/http_chunk: framing that is taken and framing that is refused, rule by rule; limits at the limit and one
 * beyond; the same answer however the bytes are cut.
 */
#include "http_drive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { PARTIAL = 0, OVER = 1 };

static drive_chunk whole, pieces;

/* The answer to a body, which has to be the same when it comes in two parts or byte by byte. */
static int64_t status_of(const char *bytes, size_t size, uint32_t extra_max) {
  drive_chunk_whole(&whole, bytes, size, extra_max);
  for (size_t cut = 0; cut <= size; cut++) {
    if (cut < size) drive_chunk_by(&pieces, bytes, size, extra_max, (const size_t[]){cut, SIZE_MAX}, 2);
    else drive_chunk_by(&pieces, bytes, size, extra_max, (const size_t[]){1}, 1);
    if (!drive_chunk_same(&whole, &pieces)) {
      fail_msg("cut at %zu of %zu: %d, whole: %d", cut, size, (int)pieces.status, (int)whole.status);
    }
  }
  return whole.status;
}

static void assert_status(const char *bytes, size_t size, int status, size_t data_size) {
  int64_t got = status_of(bytes, size, 1000);
  if (got != status) fail_msg("%d, not %d: %.*s", (int)got, status, (int)size, bytes);
  assert_int_equal(whole.data_size, data_size);
  if (status == OVER) assert_int_equal(whole.consumed, size);
}

#define TAKEN(text, data_size) assert_status(text, sizeof(text) - 1, OVER, data_size)
#define REFUSED(text)          assert_status(text, sizeof(text) - 1, -400, 0)
#define REFUSED_BEHIND(text)   assert_status("5\r\nhello" text, sizeof("5\r\nhello" text) - 1, -400, 5)
#define LAST(line, status)     assert_status(line, sizeof(line) - 1, status, 0)

static void chunks_are_joined(void **state) {
  (void)state;
  static const char body[] = "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
  TAKEN("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 11);
  assert_true(whole.digest == drive_digest(UINT64_C(0xcbf29ce484222325), (const uint8_t *)"hello world", 11));
  TAKEN("0\r\n\r\n", 0);
  TAKEN("1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", 2);
  drive_chunk_whole(&whole, body, sizeof body - 3, 0);
  assert_int_equal(whole.status, PARTIAL);
  assert_int_equal(whole.data_size, 11);
}

static void the_tail_is_counted(void **state) {
  (void)state;
  TAKEN("5\r\nhello\r\n0\r\n\r\n", 5);
  assert_int_equal(whole.chunk.tail, 2);
  TAKEN("0;a=b\r\nX: 1\r\nY:\r\n\r\n", 0);
  assert_int_equal(whole.chunk.tail, 12);
}

static void what_follows_the_body_is_left_alone(void **state) {
  (void)state;
  assert_int_equal(status_of("1\r\na\r\n0\r\n\r\nGET / HTTP", 21, 0), OVER);
  assert_int_equal(whole.consumed, 11);
  rille_http_chunk chunk = whole.chunk;
  assert_true(rille_http_chunk_is_done(&chunk));
  assert_int_equal(rille_http_chunk_decode(&chunk, (const uint8_t *)"GET", 3, 0), 0);
}

static void data_is_never_looked_at(void **state) {
  (void)state;
  rille_http_chunk chunk;
  rille_http_chunk_init(&chunk);
  assert_int_equal(rille_http_chunk_decode(&chunk, (const uint8_t *)"3\r\nabc", 6, 0), 3);
  assert_int_equal(chunk.left, 3);
  assert_int_equal(rille_http_chunk_decode(&chunk, (const uint8_t *)"abc", 3, 0), 0);
  chunk.left -= 2;
  assert_int_equal(rille_http_chunk_decode(&chunk, (const uint8_t *)"c", 1, 0), 0);
  chunk.left -= 1;
  assert_int_equal(rille_http_chunk_decode(&chunk, (const uint8_t *)"\r\n0", 3, 0), 3);
  assert_false(rille_http_chunk_is_done(&chunk));
  assert_int_equal(rille_http_chunk_decode(&chunk, (const uint8_t *)"", 0, 0), 0);
}

static void a_size_is_up_to_16_hex_digits(void **state) {
  (void)state;
  TAKEN("a\r\n0123456789\r\n0\r\n\r\n", 10);
  TAKEN("A\r\n0123456789\r\n0\r\n\r\n", 10);
  LAST("123456789abcdef\r\n", PARTIAL);
  assert_true(whole.chunk.left == UINT64_C(0x123456789abcdef));
  LAST("FEDCBA0987\r\n", PARTIAL);
  assert_true(whole.chunk.left == UINT64_C(0xfedcba0987));
  TAKEN("0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", 5);
  REFUSED("00000000000000005\r\nhello\r\n0\r\n\r\n");
  REFUSED("10000000000000005\r\nhello\r\n0\r\n\r\n");
  REFUSED_BEHIND("\r\n00000000000000000\r\n\r\n");
  LAST("7fffffffffffffff\r\n", PARTIAL);
  assert_true(whole.chunk.left == INT64_MAX);
  LAST("8000000000000000\r\n", -413);
  LAST("ffffffffffffffff\r\n", -413);
  LAST("FFFFFFFFFFFFFFFF;a=b\r\n", -413);
  LAST("100000005\r\n", PARTIAL);
  assert_true(whole.chunk.left == UINT64_C(0x100000005));
}

static void nothing_but_hex_digits_makes_a_size(void **state) {
  (void)state;
  char line[] = "5x";
  for (int c = 0; c < 256; c++) {
    line[1] = (char)c;
    bool is_hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    bool may_follow = is_hex || c == '\r' || c == ';' || c == ' ' || c == '\t';
    assert_status(line, 2, may_follow ? PARTIAL : -400, 0);
    assert_status(line + 1, 1, is_hex ? PARTIAL : -400, 0);
  }
  REFUSED("0x5\r\nhello\r\n0\r\n\r\n");
  REFUSED("+5\r\n");
  REFUSED("-5\r\n");
  REFUSED(" 5\r\n");
  REFUSED("\t5\r\n");
  REFUSED("\r\n5\r\n");
  REFUSED(";a=b\r\n");
  REFUSED_BEHIND("\r\n 5\r\n");
  REFUSED_BEHIND("\r\n\r\n");
  REFUSED_BEHIND("\r\n;a\r\n");
}

static void a_size_line_ends_in_cr_lf(void **state) {
  (void)state;
  REFUSED("5\nhello\r\n0\r\n\r\n");
  REFUSED("5\rhello\r\n0\r\n\r\n");
  REFUSED("5\r\rhello\r\n");
  REFUSED("5 \r\nhello\r\n");
  REFUSED("5\t\r\nhello\r\n");
  REFUSED("0\n\r\n");
  REFUSED("0\r\r\n");
}

static void data_ends_in_cr_lf(void **state) {
  (void)state;
  REFUSED_BEHIND("\n0\r\n\r\n");
  REFUSED_BEHIND("\r0\r\n\r\n");
  REFUSED_BEHIND("0\r\n\r\n");
  REFUSED_BEHIND("XX0\r\n\r\n");
  REFUSED_BEHIND("\r\r\n0\r\n\r\n");
  REFUSED_BEHIND(" \r\n0\r\n\r\n");
}

static void extensions_are_read_over(void **state) {
  (void)state;
  TAKEN("5;a\r\nhello\r\n0;b\r\n\r\n", 5);
  TAKEN("5;a=b;c=d;e\r\nhello\r\n0\r\n\r\n", 5);
  TAKEN("5;a ;b\t;c\r\nhello\r\n0\r\n\r\n", 5);
  TAKEN("5 \t; \ta \t= \tb ; c\r\nhello\r\n0\r\n\r\n", 5);
  TAKEN("5;a=\"\"\r\nhello\r\n0\r\n\r\n", 5);
  TAKEN("5;a=\"b;c\\\"\\\\ \t\xff\" ;d=\"e\"\r\nhello\r\n0\r\n\r\n", 5);
}

static void an_extension_has_the_grammar_of_one(void **state) {
  (void)state;
  REFUSED("5;\r\n");
  REFUSED("5;;a\r\n");
  REFUSED("5; \r\n");
  REFUSED("5;=b\r\n");
  REFUSED("5;a=\r\n");
  REFUSED("5;a= \r\n");
  REFUSED("5;a==b\r\n");
  REFUSED("5;a=b=c\r\n");
  REFUSED("5;a b\r\n");
  REFUSED("5;a=b c\r\n");
  REFUSED("5;a,b\r\n");
  REFUSED("5;a=\"b\"c\r\n");
  REFUSED("5;a=b\"c\"\r\n");
  REFUSED("5;\"a\"\r\n");
  REFUSED("5;a=\"b\r\n");
  REFUSED("5;a=\"b\\\r\n");
  REFUSED("5;a=\"\x7f\"\r\n");
  REFUSED("5;a=\"\\\x01\"\r\n");
  REFUSED("5;a\0b\r\n");
  REFUSED("5;a=\0\r\n");
  REFUSED("5;\xc3\xa9\r\n");
  REFUSED("5 a\r\n");
}

/* A blank belongs to the ";" or "=" that follows it (RFC 9112 section 7.1.1), so none stands in front of a line's end. */
static void no_blank_ends_a_size_line(void **state) {
  (void)state;
  REFUSED("5;a \r\n");
  REFUSED("5;a=b \r\n");
  REFUSED("5;a=b\t\r\n");
  REFUSED("5;a=\"b\" \r\n");
}

static void an_extension_does_not_end_in_a_bare_lf_or_cr(void **state) {
  (void)state;
  REFUSED("5;a\nhello\r\n0\r\n\r\n");
  REFUSED("5;a\rhello\r\n0\r\n\r\n");
  REFUSED("5;a=b\nhello\r\n");
  REFUSED("5;a=\"b\"\nhello\r\n");
  REFUSED("5;a=\"b\nc\"\r\nhello\r\n");
  REFUSED("5;a=\"b\rc\"\r\nhello\r\n");
}

static void trailers_are_checked_and_dropped(void **state) {
  (void)state;
  TAKEN("0\r\nA: b\r\nC:\r\nD: \t e \t\r\n\r\n", 0);
  TAKEN("0\r\nContent-Length: 50\r\nTransfer-Encoding: x\r\nHost: y\r\n\r\n", 0);
  TAKEN("0\r\nA:\xff\r\n\r\n", 0);
}

static void a_trailer_is_a_field(void **state) {
  (void)state;
  REFUSED("0\r\nA\r\n\r\n");
  REFUSED("0\r\nbad trailer\r\n\r\n");
  REFUSED("0\r\nA : b\r\n\r\n");
  REFUSED("0\r\n: b\r\n\r\n");
  REFUSED("0\r\n A: b\r\n\r\n");
  REFUSED("0\r\nA: b\r\n c\r\n\r\n");
  REFUSED("0\r\nA: b\n\r\n");
  REFUSED("0\r\nA: b\rC: d\r\n\r\n");
  REFUSED("0\r\nA: b\r\n\n");
  REFUSED("0\r\nA: b\0\r\n\r\n");
  REFUSED("0\r\nA: \x7f\r\n\r\n");
  REFUSED("0\r\nA[: b\r\n\r\n");
  REFUSED("0\r\n\n");
  REFUSED("0\r\n\rX");
}

static void extensions_and_trailers_are_limited_together(void **state) {
  (void)state;
  /* ";a" twice, ";b=cd" and "E: f" with its CR: 14 bytes */
  static const char body[] = "1;a\r\nx\r\n1;a\r\nx\r\n0;b=cd\r\nE: f\r\n\r\n";
  assert_int_equal(status_of(body, sizeof body - 1, 14), OVER);
  for (uint32_t extra = 0; extra < 14; extra++) assert_int_equal(status_of(body, sizeof body - 1, extra), -431);
  static const char plain[] = "1\r\nx\r\n0\r\n\r\n";
  assert_int_equal(status_of(plain, sizeof plain - 1, 0), OVER);
  assert_int_equal(status_of("1 ", 2, 0), -431);
  assert_int_equal(status_of("0\r\nA", 4, 0), -431);
}

static void many_chunks_need_no_more_than_their_bytes(void **state) {
  (void)state;
  enum { COUNT = 10000 };
  static char body[COUNT * 6 + 6];
  for (size_t i = 0; i < COUNT; i++) memcpy(body + i * 6, "1\r\nx\r\n", 6);
  memcpy(body + COUNT * 6, "0\r\n\r\n", 5);
  assert_int_equal(drive_chunk_whole(&whole, body, COUNT * 6 + 5, 0), OVER);
  assert_int_equal(whole.data_size, COUNT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(chunks_are_joined),
      cmocka_unit_test(the_tail_is_counted),
      cmocka_unit_test(what_follows_the_body_is_left_alone),
      cmocka_unit_test(data_is_never_looked_at),
      cmocka_unit_test(a_size_is_up_to_16_hex_digits),
      cmocka_unit_test(nothing_but_hex_digits_makes_a_size),
      cmocka_unit_test(a_size_line_ends_in_cr_lf),
      cmocka_unit_test(data_ends_in_cr_lf),
      cmocka_unit_test(extensions_are_read_over),
      cmocka_unit_test(an_extension_has_the_grammar_of_one),
      cmocka_unit_test(no_blank_ends_a_size_line),
      cmocka_unit_test(an_extension_does_not_end_in_a_bare_lf_or_cr),
      cmocka_unit_test(trailers_are_checked_and_dropped),
      cmocka_unit_test(a_trailer_is_a_field),
      cmocka_unit_test(extensions_and_trailers_are_limited_together),
      cmocka_unit_test(many_chunks_need_no_more_than_their_bytes),
  };
  return cmocka_run_group_tests_name("http_chunk", tests, NULL, NULL);
}
