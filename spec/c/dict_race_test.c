/*
 * dict: what several threads do to one at a time. Additions are exact, a value is never half of one and half of another, and when
 * all is removed every cell is free again, however full it was.
 */
#include "rille.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, ADDITIONS = 50000, STEPS = 20000, KEYS = 300, VALUE_MAX = 6000 };

static void run(void *(*body)(void *), rille_dict *d) {
  pthread_t threads[THREADS];
  struct {
    rille_dict *d;
    unsigned seed;
  } args[THREADS];
  for (unsigned i = 0; i < THREADS; i++) {
    args[i].d = d;
    args[i].seed = i + 1;
    assert_int_equal(pthread_create(&threads[i], NULL, body, &args[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    void *problem;
    pthread_join(threads[i], &problem);
    if (problem) fail_msg("%s", (const char *)problem);
  }
}

static rille_dict *open_dict(const char *name, double size) {
  int err;
  rille_dict *d = rille_dict_open(name, (double)strlen(name), size, &err);
  assert_non_null(d);
  return d;
}

static void *add_all(void *arg) {
  rille_dict *d = *(rille_dict **)arg;
  for (int i = 0; i < ADDITIONS; i++) {
    double result;
    if (rille_dict_incr(d, "sum", 3, 1, 1, 0, 0, &result) < 0) return "incr failed";
    if (rille_dict_incr(d, i % 2 ? "odd" : "even", i % 2 ? 3 : 4, 2, 1, 0, 0, &result) < 0) return "incr failed";
  }
  return NULL;
}

static void additions_are_exact(void **state) {
  (void)state;
  rille_dict *d = open_dict("sums", 1 << 20);
  run(add_all, d);
  double result;
  assert_int_equal(rille_dict_incr(d, "sum", 3, 0, 0, 0, 0, &result), RILLE_OK);
  assert_true(result == (double)THREADS * ADDITIONS);
  assert_int_equal(rille_dict_incr(d, "odd", 3, 0, 0, 0, 0, &result), RILLE_OK);
  assert_true(result == (double)THREADS * ADDITIONS);
}

static void *push_and_pop(void *arg) {
  rille_dict *d = *(rille_dict **)arg;
  rille_dict_value out = {0};
  for (int i = 0; i < ADDITIONS; i++) {
    if (rille_dict_push(d, "queue", 5, 1, RILLE_DICT_NUMBER, 1, NULL, 0) < 1) return "push failed";
    if (rille_dict_pop(d, "queue", 5, 0, &out) != RILLE_DICT_NUMBER || out.number != 1) return "pop failed";
  }
  return NULL;
}

static void nothing_is_lost_in_a_list(void **state) {
  (void)state;
  rille_dict *d = open_dict("queues", 1 << 20);
  double before = rille_dict_free_space(d);
  run(push_and_pop, d);
  assert_true(rille_dict_llen(d, "queue", 5) == 0);
  assert_true(rille_dict_free_space(d) == before);
}

/* Anything, in a dict that is much too small for it. A value consists of one byte, again and again. */
static const char *one_step(rille_dict *d, unsigned *seed, uint8_t *bytes) {
  char key[32];
  int key_size = snprintf(key, sizeof key, "key %d", rand_r(seed) % KEYS);
  int size = rand_r(seed) % VALUE_MAX;
  if (rand_r(seed) % 64 == 0) size *= 20;
  double ttl = rand_r(seed) % 3 == 0 ? 0.001 * (rand_r(seed) % 5) : 0;
  rille_dict_value out = {.bytes = bytes, .room = 20.0 * VALUE_MAX};
  switch (rand_r(seed) % 8) {
  case 0:
  case 1:
  case 2:
    memset(bytes, rand_r(seed) % 256, (size_t)size);
    rille_dict_set(d, key, key_size, rand_r(seed) % 4, RILLE_DICT_STRING, 0, bytes, size, ttl, 0);
    break;
  case 3: rille_dict_set(d, key, key_size, RILLE_DICT_SET, RILLE_DICT_NIL, 0, NULL, 0, 0, 0); break;
  case 4: rille_dict_push(d, key, key_size, size % 2, RILLE_DICT_STRING, 0, bytes, size % 500); break;
  case 5: rille_dict_pop(d, key, key_size, size % 2, &out); break;
  default:
    if (rille_dict_get(d, key, key_size, &out) != RILLE_DICT_STRING) break;
    for (double i = 1; i < out.size; i++) {
      if (bytes[(size_t)i] != bytes[0]) return "a value is of several";
    }
  }
  return NULL;
}

static void *anything(void *arg) {
  rille_dict *d = *(rille_dict **)arg;
  unsigned seed = *(unsigned *)((char *)arg + sizeof d);
  uint8_t *bytes = calloc(20, VALUE_MAX);
  const char *problem = NULL;
  for (int i = 0; i < STEPS && !problem; i++) {
    problem = one_step(d, &seed, bytes);
    if (i % 5000 == 4999) rille_dict_flush(d);
    if (i % 1000 == 999) {
      rille_dict_walk walk = {0};
      while (rille_dict_keys(d, &walk, bytes, 4096)) {
      }
    }
  }
  free(bytes);
  return (void *)(uintptr_t)problem;
}

static void no_cell_is_lost(void **state) {
  (void)state;
  static const double sizes[] = {16 << 10, 64 << 10, 300 << 10, 2 << 20};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    char name[32];
    snprintf(name, sizeof name, "small %zu", i);
    rille_dict *d = open_dict(name, sizes[i]);
    double before = rille_dict_free_space(d);
    assert_true(before > sizes[i] * 0.75 && before < sizes[i]);
    run(anything, d);
    rille_dict_flush(d);
    assert_true(rille_dict_free_space(d) == before);
  }
}

static void *open_it(void *arg) {
  (void)arg;
  int err;
  for (int i = 0; i < 100; i++) {
    char name[32];
    int size = snprintf(name, sizeof name, "new %d", i);
    rille_dict *d = rille_dict_open(name, size, 64 << 10, &err);
    double result;
    if (!d || rille_dict_incr(d, "n", 1, 1, 1, 0, 0, &result) < 0) return "not opened";
  }
  return NULL;
}

static void a_name_is_one_dict(void **state) {
  (void)state;
  run(open_it, NULL);
  for (int i = 0; i < 100; i++) {
    char name[32];
    snprintf(name, sizeof name, "new %d", i);
    double result;
    assert_int_equal(rille_dict_incr(open_dict(name, 0), "n", 1, 0, 0, 0, 0, &result), RILLE_OK);
    assert_true(result == THREADS);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(additions_are_exact),
      cmocka_unit_test(nothing_is_lost_in_a_list),
      cmocka_unit_test(no_cell_is_lost),
      cmocka_unit_test(a_name_is_one_dict),
  };
  return cmocka_run_group_tests_name("dict", tests, NULL, NULL);
}
