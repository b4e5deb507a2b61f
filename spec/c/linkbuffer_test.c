/*
 * Tests of core/linkbuffer: what the connection uses, odd lengths, and scanning and copying beside pages without access.
 * What Lua can reach is tested by spec/linkbuffer_spec.lua and spec/linkbuffer_conformance_spec.lua.
 */
#include "linkbuffer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static rille_block_stats stats(void) {
  rille_block_stats now;
  rille_block_stats_read(&now);
  return now;
}

static rille_linkbuffer *new_buffer(double block_size) {
  int err = 1;
  rille_linkbuffer *b = rille_linkbuffer_new(block_size, &err);
  assert_non_null(b);
  assert_int_equal(err, 0);
  return b;
}

static bool is_valid(const rille_slice *s) { return rille_cell_epoch(s->cell_) == s->epoch_; }

static size_t length(const rille_linkbuffer *b) { return (size_t)rille_linkbuffer_len(b); }

/* ---- for the connection ---- */

/* What a read of n bytes into the areas would do. */
static void fill(const struct iovec *areas, int count, const char *bytes, size_t n) {
  for (int i = 0; i < count && n > 0; i++) {
    size_t k = areas[i].iov_len < n ? areas[i].iov_len : n;
    memcpy(areas[i].iov_base, bytes, k);
    bytes += k;
    n -= k;
  }
  assert_int_equal(n, 0);
}

static void a_message_goes_through(void **state) {
  (void)state;
  rille_block_stats before = stats();
  rille_linkbuffer *in = new_buffer(4096), *out = new_buffer(4096);
  for (int i = 0; i < 1000; i++) {
    struct iovec areas[4];
    rille_slice s;
    assert_int_equal(rille_linkbuffer_reserve(in, 2048, 8192, areas), 1);
    assert_int_equal(areas[0].iov_len, 8192);
    fill(areas, 1, "hello world, how are you", 24);
    rille_linkbuffer_commit(in, 24);
    assert_int_equal(rille_linkbuffer_next(in, 24, &s), 0);
    assert_int_equal(rille_linkbuffer_held(in), 24);
    assert_int_equal(rille_linkbuffer_write_slice(out, &s), 0);
    assert_int_equal(rille_linkbuffer_flush(out), 0);
    assert_int_equal(rille_linkbuffer_areas(out, areas, 4), 1);
    assert_int_equal(areas[0].iov_len, 24);
    assert_memory_equal(areas[0].iov_base, "hello world, how are you", 24);
    rille_linkbuffer_drop(out, 21); /* a short write */
    assert_int_equal(rille_linkbuffer_areas(out, areas, 4), 1);
    assert_memory_equal(areas[0].iov_base, "you", 3);
    rille_linkbuffer_drop(out, 3);
    assert_int_equal(rille_linkbuffer_areas(out, areas, 4), 0);
    rille_linkbuffer_release(in);
    assert_false(is_valid(&s));
    assert_int_equal(rille_linkbuffer_held(in), 0);
    rille_linkbuffer_reset(in); /* as the loop does when it takes a buffer back */
  }
  rille_linkbuffer_reset(out);
  assert_true(stats().blocks_in_use == before.blocks_in_use); /* idle buffers hold no block */
  rille_linkbuffer_free(in);
  rille_linkbuffer_free(out);
  assert_true(stats().buffers_in_use == before.buffers_in_use);
}

static void a_read_never_lands_in_a_small_tail(void **state) {
  (void)state;
  rille_linkbuffer *b = new_buffer(4096);
  struct iovec areas[2];
  char bytes[8192];
  memset(bytes, 'x', sizeof bytes);
  assert_int_equal(rille_linkbuffer_reserve(b, 1024, 8192, areas), 1);
  fill(areas, 1, bytes, 8191);
  rille_linkbuffer_commit(b, 8191);
  assert_int_equal(rille_linkbuffer_reserve(b, 1024, 4096, areas), 2);
  assert_int_equal(areas[0].iov_len, 1);
  assert_int_equal(areas[1].iov_len, 4096);
  double blocks = stats().blocks_in_use;
  rille_linkbuffer_commit(b, 0); /* nothing came: the room is kept for the next time */
  assert_int_equal(rille_linkbuffer_reserve(b, 1024, 4096, areas), 2);
  assert_true(stats().blocks_in_use == blocks);
  fill(areas, 2, "yz", 2);
  rille_linkbuffer_commit(b, 2);
  assert_int_equal(rille_linkbuffer_reserve(b, 1024, 4096, areas), 1);
  assert_int_equal(areas[0].iov_len, 4095);
  rille_slice s;
  assert_int_equal(length(b), 8193);
  assert_int_equal(rille_linkbuffer_skip(b, 8190), 0);
  assert_int_equal(rille_linkbuffer_next(b, 3, &s), 0);
  assert_memory_equal(s.base_, "xyz", 3);
  rille_linkbuffer_free(b);
}

static void a_large_area_that_stayed_empty_is_not_kept(void **state) {
  (void)state;
  rille_linkbuffer *b = new_buffer(4096);
  struct iovec areas[2];
  assert_int_equal(rille_linkbuffer_reserve(b, 64, 64, areas), 1);
  fill(areas, 1, "GET / HTTP/1.1\r\n", 16);
  rille_linkbuffer_commit(b, 16);
  double bytes = stats().bytes_in_use;
  assert_int_equal(rille_linkbuffer_reserve(b, 1024, 1 << 20, areas), 2);
  assert_true(stats().bytes_in_use == bytes + (1 << 20));
  rille_linkbuffer_commit(b, 4);
  assert_true(stats().bytes_in_use == bytes);
  rille_linkbuffer_free(b);
}

static void release_ends_what_was_lent_only(void **state) {
  (void)state;
  rille_linkbuffer *b = new_buffer(64);
  rille_slice s;
  assert_int_equal(rille_linkbuffer_write(b, "abc", 3), 0);
  rille_linkbuffer_release(b);
  assert_true(rille_linkbuffer_malloc_len(b) == 3);
  rille_linkbuffer_flush(b);
  rille_linkbuffer_release(b);
  assert_int_equal(rille_linkbuffer_next(b, 3, &s), 0);
  assert_true(is_valid(&s));
  rille_linkbuffer_release(b);
  assert_false(is_valid(&s));
  rille_linkbuffer_free(b);
}

static void reset_makes_a_handle_as_new(void **state) {
  (void)state;
  rille_block_stats before = stats();
  rille_linkbuffer *b = new_buffer(64);
  rille_slice s;
  rille_linkbuffer_write(b, "abcdef", 6);
  rille_linkbuffer_flush(b);
  rille_linkbuffer_write(b, "ghi", 3);
  rille_linkbuffer_next(b, 2, &s);
  rille_linkbuffer_reset(b);
  assert_false(is_valid(&s));
  assert_int_equal(length(b), 0);
  assert_true(rille_linkbuffer_malloc_len(b) == 0);
  assert_int_equal(rille_linkbuffer_held(b), 0);
  assert_true(stats().blocks_in_use == before.blocks_in_use);
  rille_linkbuffer_close(b);
  assert_int_equal(rille_linkbuffer_write(b, "x", 1), RILLE_ERR_CLOSED);
  rille_linkbuffer_reset(b);
  assert_int_equal(rille_linkbuffer_write(b, "x", 1), 0);
  assert_true(stats().buffers_in_use == before.buffers_in_use + 1);
  rille_linkbuffer_free(b);
  assert_true(stats().buffers_in_use == before.buffers_in_use);
}

static void areas_stop_at_max(void **state) {
  (void)state;
  rille_linkbuffer *b = new_buffer(8);
  struct iovec areas[8];
  for (int i = 0; i < 5; i++) rille_linkbuffer_write(b, "12345678", 8);
  assert_int_equal(rille_linkbuffer_areas(b, areas, 8), 0); /* not flushed yet */
  rille_linkbuffer_flush(b);
  assert_int_equal(rille_linkbuffer_areas(b, areas, 3), 3);
  assert_int_equal(rille_linkbuffer_areas(b, areas, 8), 5);
  rille_linkbuffer_drop(b, 12);
  assert_int_equal(rille_linkbuffer_areas(b, areas, 8), 4);
  assert_int_equal(areas[0].iov_len, 4);
  rille_linkbuffer_free(b);
}

/* ---- lengths ---- */

static void odd_lengths_are_refused(void **state) {
  (void)state;
  rille_linkbuffer *b = new_buffer(64);
  rille_slice s;
  int err;
  rille_linkbuffer_write(b, "0123456789", 10);
  rille_linkbuffer_flush(b);
  static const double invalid[] = {-1, -0.5, 0.5, 2.5, 11.5, NAN, -INFINITY, INFINITY, -4294967297.0, -9e15, 1e301};
  for (size_t i = 0; i < sizeof invalid / sizeof invalid[0]; i++) {
    assert_int_equal(rille_linkbuffer_next(b, invalid[i], &s), RILLE_ERR_INVALID);
    assert_int_equal(rille_linkbuffer_skip(b, invalid[i]), RILLE_ERR_INVALID);
    assert_null(rille_linkbuffer_take(b, invalid[i], &err));
    assert_int_equal(err, RILLE_ERR_INVALID);
    assert_null(rille_linkbuffer_malloc(b, invalid[i], &err));
    assert_int_equal(err, RILLE_ERR_INVALID);
    assert_int_equal(rille_linkbuffer_malloc_ack(b, invalid[i]), RILLE_ERR_INVALID);
    assert_int_equal(rille_linkbuffer_write_direct(b, "x", 1, invalid[i]), RILLE_ERR_INVALID);
    assert_true(rille_linkbuffer_index_of(b, "0", 1, invalid[i]) == RILLE_ERR_INVALID - 1);
    assert_null(rille_linkbuffer_new(invalid[i], &err));
    assert_int_equal(err, RILLE_ERR_INVALID);
  }
  static const double large[] = {11, 4294967299.0, 9007199254740991.0, 0x1p63, 0x1p64, 1e300};
  for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
    assert_int_equal(rille_linkbuffer_next(b, large[i], &s), RILLE_ERR_SHORT);
    assert_int_equal(rille_linkbuffer_malloc_ack(b, large[i]), RILLE_ERR_INVALID);
    if (i > 0) {
      assert_null(rille_linkbuffer_malloc(b, large[i], &err));
      assert_int_equal(err, RILLE_ERR_TOO_LARGE);
    }
  }
  assert_null(rille_linkbuffer_new(0, &err));
  assert_null(rille_linkbuffer_new((8 << 20) + 1, &err));
  assert_int_equal(length(b), 10);
  assert_true(rille_linkbuffer_malloc_len(b) == 0);
  rille_linkbuffer_free(b);
}

/* ---- beside pages without access ---- */

enum { PIECES = 3 };

/* A slice over n bytes in a block of its own, which end where a page without access begins, or begin where one ends. */
typedef struct island {
  rille_block block;
  rille_slice slice;
} island;

static void make_island(island *is, const char *bytes, size_t n, bool at_the_end) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  uint8_t *pages = mmap(NULL, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(pages != MAP_FAILED);
  assert_int_equal(mprotect(pages + page, page, PROT_READ | PROT_WRITE), 0);
  uint8_t *at = at_the_end ? pages + 2 * page - n : pages + page;
  memcpy(at, bytes, n);
  is->block = (rille_block){.data = pages + page, .size = page, .refs = 1};
  rille_cell *cell = rille_cell_take();
  is->slice = (rille_slice){
      .base_ = at, .cell_ = cell, .block_ = &is->block, .size_ = (uint32_t)n, .epoch_ = rille_cell_epoch(cell)};
}

static void end_island(island *is) {
  assert_int_equal(is->block.refs, 1);
  rille_cell_give(is->slice.cell_);
  munmap(is->block.data - sysconf(_SC_PAGESIZE), 3 * (size_t)sysconf(_SC_PAGESIZE));
}

static void nothing_touches_a_byte_beside_the_data(void **state) {
  (void)state;
  static const char text[] = "aab\r\naabaab\r\n\r\nxyz";
  size_t n = sizeof text - 1;
  for (size_t i = 1; i < n - 1; i++) {
    for (size_t j = i + 1; j < n; j++) {
      for (int edge = 0; edge < 2; edge++) {
        island islands[PIECES];
        make_island(&islands[0], text, i, edge);
        make_island(&islands[1], text + i, j - i, edge);
        make_island(&islands[2], text + j, n - j, edge);
        rille_linkbuffer *b = new_buffer(64);
        for (int k = 0; k < PIECES; k++) {
          assert_int_equal(rille_linkbuffer_write_direct_slice(b, &islands[k].slice, 0), 0);
        }
        rille_linkbuffer_flush(b);
        /* every part of the text, from every offset, and some that are not there */
        for (size_t from = 0; from <= n + 1; from++) {
          for (size_t size = 1; size <= 6; size++) {
            for (size_t at = 0; at + size <= n; at++) {
              const char *match = from <= n ? memmem(text + from, n - from, text + at, size) : NULL;
              double want = match ? (double)(match - text) : -1;
              assert_true(rille_linkbuffer_index_of(b, text + at, size, (double)from) == want);
            }
          }
          assert_true(rille_linkbuffer_index_of(b, "z!", 2, (double)from) == -1);
        }
        rille_slice s;
        char copy[sizeof text];
        assert_int_equal(rille_linkbuffer_peek(b, (double)n, &s), 0);
        assert_memory_equal(s.base_, text, n);
        rille_linkbuffer *taken = NULL;
        int err;
        assert_int_equal(rille_linkbuffer_read_until(b, "\r\n", 2, &s), 0);
        assert_int_equal(s.size_, 5);
        assert_memory_equal(s.base_, text, 5);
        assert_int_equal(rille_linkbuffer_read_until(b, "\r\n\r\n", 4, &s), 0);
        assert_int_equal(s.size_, 10);
        assert_memory_equal(s.base_, text + 5, 10);
        assert_int_equal(rille_linkbuffer_read_byte(b), 'x');
        assert_non_null(taken = rille_linkbuffer_take(b, 2, &err));
        assert_int_equal(rille_linkbuffer_read_copy(taken, (uint8_t *)copy, 2), 0);
        assert_memory_equal(copy, "yz", 2);
        rille_linkbuffer_free(taken);
        rille_linkbuffer_free(b);
        for (int k = 0; k < PIECES; k++) end_island(&islands[k]);
      }
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_message_goes_through),
      cmocka_unit_test(a_read_never_lands_in_a_small_tail),
      cmocka_unit_test(a_large_area_that_stayed_empty_is_not_kept),
      cmocka_unit_test(release_ends_what_was_lent_only),
      cmocka_unit_test(reset_makes_a_handle_as_new),
      cmocka_unit_test(areas_stop_at_max),
      cmocka_unit_test(odd_lengths_are_refused),
      cmocka_unit_test(nothing_touches_a_byte_beside_the_data),
  };
  return cmocka_run_group_tests_name("linkbuffer", tests, NULL, NULL);
}
