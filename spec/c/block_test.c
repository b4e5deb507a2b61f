/*
 * Tests of core/block, core/cache and core/cell: sizes and statistics of blocks, what caches keep and give back,
 * epochs.
 */
#include "cache.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { KEEPS = RILLE_CACHE_KEEPS }; /* 0 under AddressSanitizer: nothing is kept for reuse then */

static rille_block_stats stats(void) {
  rille_block_stats now;
  rille_block_stats_read(&now);
  return now;
}

static void a_block_has_the_size_of_its_class(void **state) {
  (void)state;
  static const struct {
    size_t asked, got;
  } cases[] = {{0, 64},      {1, 64},      {64, 64},           {65, 128},          {4096, 4096},
               {4097, 8192}, {8192, 8192}, {8388607, 8388608}, {8388608, 8388608}, {8388609, 8388672}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    rille_block_stats before = stats();
    rille_block *block = rille_block_take(cases[i].asked);
    assert_non_null(block);
    assert_int_equal(block->size, cases[i].got);
    memset(block->data, 1, block->size);
    rille_block_stats now = stats();
    assert_true(now.blocks_in_use - before.blocks_in_use == 1);
    assert_true(now.bytes_in_use - before.bytes_in_use == (double)cases[i].got);
    rille_block_release(block);
    now = stats();
    assert_true(now.blocks_in_use == before.blocks_in_use);
    assert_true(now.bytes_in_use == before.bytes_in_use);
  }
}

static void a_request_above_the_limit_fails(void **state) {
  (void)state;
  assert_null(rille_block_take((size_t)RILLE_BLOCK_REQUEST_MAX + 1));
  assert_null(rille_block_take(SIZE_MAX));
}

static void only_the_last_release_gives_back(void **state) {
  (void)state;
  double before = stats().blocks_in_use;
  rille_block *block = rille_block_take(100);
  rille_block_retain(block);
  rille_block_retain(block);
  rille_block_release(block);
  rille_block_release(block);
  assert_true(stats().blocks_in_use == before + 1);
  block->data[99] = 7;
  rille_block_release(block);
  assert_true(stats().blocks_in_use == before);
}

static void the_block_given_back_last_is_taken_first(void **state) {
  (void)state;
  if (!KEEPS) skip();
  rille_block *a = rille_block_take(8192), *b = rille_block_take(8192);
  rille_block_release(a);
  rille_block_release(b);
  assert_ptr_equal(rille_block_take(8192), b);
  assert_ptr_equal(rille_block_take(8192), a);
  rille_block_release(a);
  rille_block_release(b);
}

static void give_and_take(size_t size, size_t count) {
  rille_block **blocks = calloc(count, sizeof *blocks);
  assert_non_null(blocks);
  for (size_t i = 0; i < count; i++) assert_non_null(blocks[i] = rille_block_take(size));
  for (size_t i = 0; i < count; i++) rille_block_release(blocks[i]);
  free(blocks);
}

static void what_is_kept_is_bounded(void **state) {
  (void)state;
  rille_block_purge();
  assert_true(stats().cached_bytes == 0);
  rille_block_limit(1 << 20);
  give_and_take(4096, 4000);
  give_and_take(1 << 20, 40);
  /* 256 blocks of 4 KiB and one of 1 MiB in the cache of this thread, at most 1 MiB in the shared pool */
  assert_true(stats().cached_bytes <= 256 * 4096 + (2 << 20) + (1 << 20));
  rille_block_limit(0);
  assert_true(stats().cached_bytes <= 256 * 4096 + (2 << 20));
  rille_block_limit(64 << 20);
  rille_block_purge();
  assert_true(stats().cached_bytes == 0);
}

static void trimming_gives_back_what_was_not_needed(void **state) {
  (void)state;
  if (!KEEPS) skip();
  rille_block_purge();
  give_and_take(1024, 200);
  rille_block_trim(); /* the period in which they were needed ends */
  assert_true(stats().cached_blocks == 200);
  give_and_take(1024, 50);
  rille_block_trim();
  assert_true(stats().cached_blocks == 200); /* 150 of them now in the shared pool, which has had no whole period yet */
  give_and_take(1024, 50);
  rille_block_trim();
  assert_true(stats().cached_blocks == 200);
  rille_block_trim();
  assert_true(stats().cached_blocks == 50);
  for (int i = 0; i < 3; i++) rille_block_trim();
  assert_true(stats().cached_blocks == 0);
}

static void *release_block(void *block) {
  rille_block_release(block);
  return NULL;
}

static void *take_block(void *unused) {
  (void)unused;
  return rille_block_take(2048);
}

static void *run(void *(*start)(void *), void *arg) {
  pthread_t thread;
  void *result;
  assert_int_equal(pthread_create(&thread, NULL, start, arg), 0);
  assert_int_equal(pthread_join(thread, &result), 0);
  return result;
}

static void blocks_may_cross_threads(void **state) {
  (void)state;
  rille_block_purge();
  rille_block_stats before = stats();
  rille_block *block = run(take_block, NULL);
  assert_non_null(block);
  assert_true(stats().blocks_in_use == before.blocks_in_use + 1); /* the thread that counted it has ended */
  run(release_block, block);
  assert_true(stats().blocks_in_use == before.blocks_in_use);
  assert_true(stats().bytes_in_use == before.bytes_in_use);
  if (KEEPS) {
    assert_true(stats().cached_blocks == 1); /* handed to the shared pool when the thread ended */
    assert_ptr_equal(rille_block_take(2048), block);
    rille_block_release(block);
  }
}

static void a_thread_may_end_its_cache_and_go_on(void **state) {
  (void)state;
  double before = stats().blocks_in_use;
  rille_block *block = rille_block_take(64);
  rille_block_thread_end();
  rille_block_thread_end();
  assert_true(stats().blocks_in_use == before + 1);
  rille_block_release(block);
  assert_true(stats().blocks_in_use == before);
}

static void without_memory_taking_fails_and_giving_works(void **state) {
  (void)state;
  double before = stats().blocks_in_use;
  rille_block *block = rille_block_take(64), *huge = rille_block_take(9 << 20);
  void *node = rille_node_take();
  rille_block_purge();
  rille_block_fail_after(0);
  assert_null(rille_block_take(64)); /* not even a cache for the thread */
  assert_null(rille_node_take());
  assert_null(rille_handle_take());
  assert_null(rille_cell_take());
  rille_block_release(block);
  rille_block_release(huge);
  rille_node_give(node);
  rille_block_fail_after(1); /* a cache, but nothing to put into it; the cells may come from what was left */
  assert_null(rille_block_take(9 << 20));
  assert_null(rille_handle_take());
  rille_block_fail_after(-1);
  assert_true(stats().blocks_in_use == before);
}

static void epochs_of_a_cell_never_come_back(void **state) {
  (void)state;
  rille_cell *cell = rille_cell_take();
  uint32_t epoch = rille_cell_epoch(cell);
  assert_true(epoch != 0);
  assert_ptr_equal(rille_cell_advance(cell), cell);
  assert_int_equal(rille_cell_epoch(cell), epoch + 1);
  rille_cell_give(cell);
  assert_int_equal(rille_cell_epoch(cell), epoch + 2);
}

static void a_used_up_cell_is_left_for_good(void **state) {
  (void)state;
  rille_cell *cell = rille_cell_take();
  cell->epoch = UINT32_MAX - 2;
  assert_ptr_equal(rille_cell_advance(cell), cell);
  assert_null(rille_cell_advance(cell));
  rille_cell *other = rille_cell_take();
  other->epoch = UINT32_MAX - 1;
  rille_cell_give(other);
  enum { MANY = 1000 };
  static rille_cell *cells[MANY];
  for (int i = 0; i < MANY; i++) {
    cells[i] = rille_cell_take();
    assert_true(cells[i] != cell && cells[i] != other);
    assert_true(rille_cell_epoch(cells[i]) != UINT32_MAX);
  }
  for (int i = 0; i < MANY; i++) rille_cell_give(cells[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_block_has_the_size_of_its_class),
      cmocka_unit_test(a_request_above_the_limit_fails),
      cmocka_unit_test(only_the_last_release_gives_back),
      cmocka_unit_test(the_block_given_back_last_is_taken_first),
      cmocka_unit_test(what_is_kept_is_bounded),
      cmocka_unit_test(trimming_gives_back_what_was_not_needed),
      cmocka_unit_test(blocks_may_cross_threads),
      cmocka_unit_test(a_thread_may_end_its_cache_and_go_on),
      cmocka_unit_test(without_memory_taking_fails_and_giving_works),
      cmocka_unit_test(epochs_of_a_cell_never_come_back),
      cmocka_unit_test(a_used_up_cell_is_left_for_good),
  };
  return cmocka_run_group_tests_name("block", tests, NULL, NULL);
}
