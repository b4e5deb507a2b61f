/*
 * sources: the counts are those of a plain model whatever comes and goes, and many threads together never exceed a limit.
 */
#include "sources.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum { ADDRESSES = 600, STEPS = 300000, LIMIT = 3, THREADS = 4, ROUNDS = 50000, FEW = 8 };

static rille_peer ipv4(uint32_t n) {
  rille_peer peer = {.family = AF_INET, .port = (uint16_t)n, .ip = {10, 0, (uint8_t)(n >> 8), (uint8_t)n}};
  return peer;
}

static rille_peer ipv6(uint32_t network, uint32_t host) {
  rille_peer peer = {.family = AF_INET6,
                     .ip = {0x20, 1, 0xd, 0xb8, [6] = (uint8_t)(network >> 8), [7] = (uint8_t)network}};
  peer.ip[15] = (uint8_t)host;
  return peer;
}

static void agrees_with_a_model(void **state) {
  (void)state;
  rille_sources *s = rille_sources_new();
  uint32_t model[ADDRESSES] = {0}, random = 2463534242u;
  assert_non_null(s);
  for (int i = 0; i < STEPS; i++) {
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    uint32_t n = random % ADDRESSES;
    rille_peer peer = n % 2 ? ipv4(n) : ipv6(n, random >> 20);
    bool grows = i % 60000 < 30000 ? random >> 16 & 3 : !(random >> 16 & 3); /* fill, then empty again */
    if (grows) {
      assert_int_equal(rille_sources_came(s, &peer, LIMIT), model[n] < LIMIT ? RILLE_OK : RILLE_ERR_FULL);
      if (model[n] < LIMIT) model[n]++;
    } else if (model[n] > 0) {
      rille_sources_left(s, &peer);
      model[n]--;
    }
  }
  rille_sources_release(s);
}

static void takes_a_64_of_ipv6_for_one(void **state) {
  (void)state;
  rille_sources *s = rille_sources_new();
  rille_peer one = ipv6(1, 1), same = ipv6(1, 2), other = ipv6(2, 1), unknown = ipv4(9);
  assert_int_equal(rille_sources_came(s, &one, 1), RILLE_OK);
  assert_int_equal(rille_sources_came(s, &same, 1), RILLE_ERR_FULL);
  assert_int_equal(rille_sources_came(s, &other, 1), RILLE_OK);
  rille_sources_left(s, &unknown); /* harmless */
  rille_sources_left(s, &same);
  assert_int_equal(rille_sources_came(s, &one, 1), RILLE_OK);
  rille_sources_release(s);
}

static rille_sources *shared;
static atomic_int open_now[FEW];

static void *come_and_go(void *arg) {
  uint32_t random = (uint32_t)(uintptr_t)arg * 2654435761u + 1;
  for (int i = 0; i < ROUNDS; i++) {
    random = random * 1664525u + 1013904223u;
    uint32_t n = (random >> 16) % FEW;
    rille_peer peer = ipv4(n);
    if (rille_sources_came(shared, &peer, LIMIT) != RILLE_OK) continue;
    if (atomic_fetch_add(&open_now[n], 1) >= LIMIT) return arg;
    atomic_fetch_sub(&open_now[n], 1);
    rille_sources_left(shared, &peer);
  }
  return NULL;
}

static void threads_never_exceed_the_limit(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  shared = rille_sources_new();
  for (uintptr_t i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, come_and_go, (void *)(i + 1));
  for (int i = 0; i < THREADS; i++) {
    void *failed;
    pthread_join(threads[i], &failed);
    assert_null(failed);
  }
  for (uint32_t n = 0; n < FEW; n++) { /* and all have left */
    rille_peer peer = ipv4(n);
    for (int i = 0; i < LIMIT; i++) assert_int_equal(rille_sources_came(shared, &peer, LIMIT), RILLE_OK);
    assert_int_equal(rille_sources_came(shared, &peer, LIMIT), RILLE_ERR_FULL);
  }
  rille_sources_release(shared);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(agrees_with_a_model),
      cmocka_unit_test(takes_a_64_of_ipv6_for_one),
      cmocka_unit_test(threads_never_exceed_the_limit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
