/*
 * histogram: every span falls into a bucket whose limit is at most an eighth above it, and quantiles are read from those.
 */
#include "histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_limits_are_close(void **state) {
  (void)state;
  for (uint64_t ns = 1; ns < (uint64_t)1 << 39; ns += ns / 7 + 1) {
    uint64_t limit = rille_histogram_limit(rille_histogram_bucket(ns));
    assert_true(limit >= ns);
    assert_true(limit - ns <= ns / 8);
  }
  assert_int_equal(rille_histogram_bucket(UINT64_MAX), RILLE_HISTOGRAM_BUCKETS - 1);
  assert_int_equal(rille_histogram_bucket(0), 0);
}

static void test_buckets_meet(void **state) {
  (void)state;
  for (uint32_t i = 0; i + 1 < RILLE_HISTOGRAM_BUCKETS; i++) {
    uint64_t limit = rille_histogram_limit(i);
    assert_int_equal(rille_histogram_bucket(limit), i);
    assert_int_equal(rille_histogram_bucket(limit + 1), i + 1);
  }
}

static void test_quantiles(void **state) {
  (void)state;
  rille_histogram *h = calloc(1, sizeof *h);
  assert_non_null(h);
  assert_int_equal(rille_histogram_quantile(h, 0.5), 0);
  for (int i = 0; i < 98; i++) rille_histogram_add(h, 1000);
  rille_histogram_add(h, 1000000);
  rille_histogram_add(h, 1000000000);
  assert_in_range(rille_histogram_quantile(h, 0.5), 1000, 1125);
  assert_in_range(rille_histogram_quantile(h, 0.99), 1000000, 1125000);
  assert_in_range(rille_histogram_quantile(h, 1), 1000000000, 1125000000);
  free(h);
}

static void test_forgets(void **state) {
  (void)state;
  const uint64_t second = 1000000000;
  rille_histogram *h = calloc(1, sizeof *h);
  assert_non_null(h);
  rille_histogram_turn(h, 100 * second);
  rille_histogram_add(h, 1000);
  rille_histogram_turn(h, 129 * second);
  assert_true(rille_histogram_quantile(h, 1) > 0);
  rille_histogram_turn(h, 131 * second); /* the other half is filled now */
  assert_true(rille_histogram_quantile(h, 1) > 0);
  rille_histogram_turn(h, 162 * second);
  assert_int_equal(rille_histogram_quantile(h, 1), 0);
  free(h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_limits_are_close),
      cmocka_unit_test(test_buckets_meet),
      cmocka_unit_test(test_quantiles),
      cmocka_unit_test(test_forgets),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
