/*
 * Tests of core/linkbuffer: what the connection uses, scanning and copying beside pages without access, and random
 * operations against flat byte arrays, with memory running out now and then. What Lua can reach is tested by
 * spec/linkbuffer_spec.lua and spec/linkbuffer_conformance_spec.lua.
 */
#include "linkbuffer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
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
    rille_linkbuffer_end_borrow(in);
    assert_false(is_valid(&s));
    assert_int_equal(rille_linkbuffer_held(in), 0);
  }
  rille_linkbuffer_shrink(out);
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

static void shrink_waits_for_what_is_held(void **state) {
  (void)state;
  rille_linkbuffer *b = new_buffer(64);
  rille_slice s;
  assert_int_equal(rille_linkbuffer_write(b, "abc", 3), 0);
  rille_linkbuffer_shrink(b);
  assert_true(rille_linkbuffer_malloc_len(b) == 3);
  rille_linkbuffer_flush(b);
  rille_linkbuffer_shrink(b);
  assert_int_equal(rille_linkbuffer_next(b, 3, &s), 0);
  rille_linkbuffer_shrink(b);
  assert_true(is_valid(&s));
  rille_linkbuffer_end_borrow(b);
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

/* ---- against flat arrays ---- */

enum { BUFFERS = 4, FLAT_MAX = 1 << 20, VIEWS = 64, STEPS = 250000 };

/* A buffer and what must be in it: bytes[rd .. fl) can be read, [fl .. end) waits for a flush. */
typedef struct model {
  rille_linkbuffer *b;
  uint8_t *bytes;
  size_t rd, fl, end;
  bool is_taken;
} model;

typedef struct watched {
  rille_slice slice;
  uint8_t *bytes;
  model *owner; /* NULL: retained */
} watched;

static struct {
  uint64_t seed;
  model models[BUFFERS];
  watched views[VIEWS];
  bool is_failing;
} run;

static uint32_t draw(uint32_t bound) {
  run.seed = run.seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)((run.seed >> 33) % bound);
}

static uint8_t noise(void) {
  return (uint8_t)("ab\r\n"[draw(4)]);
} /* few letters: delimiters nearly match all the time */

static size_t draw_size(void) {
  switch (draw(12)) {
  case 0: return 0;
  case 1: return 4096 + draw(3) - 1;
  case 2: return draw(20000);
  default: return draw(draw(2) ? 16 : 300);
  }
}

static void forget_view(watched *v) {
  free(v->bytes);
  *v = (watched){0};
}

static void check_view(watched *v) {
  if (!v->bytes) return;
  assert_true(is_valid(&v->slice));
  assert_memory_equal(v->slice.base_, v->bytes, v->slice.size_);
}

/* All unretained views of the buffer have expired. */
static void expire_views(const model *m) {
  for (int i = 0; i < VIEWS; i++) {
    if (!run.views[i].bytes || run.views[i].owner != m) continue;
    if (run.views[i].slice.size_ > 0) assert_false(is_valid(&run.views[i].slice));
    forget_view(&run.views[i]);
  }
}

static void watch(model *m, const rille_slice *s, const uint8_t *bytes) {
  assert_memory_equal(s->base_, bytes, s->size_);
  watched *v = &run.views[draw(VIEWS)];
  if (v->bytes && !v->owner) {
    check_view(v);
    rille_slice_release(&v->slice);
  }
  forget_view(v);
  v->slice = *s;
  v->owner = m;
  v->bytes = malloc(s->size_ + 1);
  memcpy(v->bytes, bytes, s->size_);
  if (draw(4) == 0 && rille_slice_retain(&v->slice) == 0) v->owner = NULL;
}

static void compact(model *m) {
  if (m->end < FLAT_MAX / 2) return;
  memmove(m->bytes, m->bytes + m->rd, m->end - m->rd);
  m->fl -= m->rd;
  m->end -= m->rd;
  m->rd = 0;
}

static void put(model *m, size_t at, const uint8_t *bytes, size_t n) {
  assert_true(m->end + n <= FLAT_MAX);
  memmove(m->bytes + at + n, m->bytes + at, m->end - at);
  memcpy(m->bytes + at, bytes, n);
  m->end += n;
}

static void check_model(const model *m) {
  assert_int_equal(length(m->b), m->fl - m->rd);
  assert_true(rille_linkbuffer_malloc_len(m->b) == (double)(m->end - m->fl));
  struct iovec areas[16];
  int count = rille_linkbuffer_areas(m->b, areas, 16);
  const uint8_t *at = m->bytes + m->rd;
  for (int i = 0; i < count; i++) {
    assert_memory_equal(areas[i].iov_base, at, areas[i].iov_len);
    at += areas[i].iov_len;
  }
}

/* Whether the call worked. It may fail for want of memory, and then only when that was arranged. */
static bool worked(int err) {
  if (err == RILLE_OK) return true;
  assert_int_equal(err, RILLE_ERR_NO_MEMORY);
  assert_true(run.is_failing);
  return false;
}

static void fresh(model *m) {
  int err;
  static const double sizes[] = {8, 64, 100, 4096, 65536};
  rille_block_fail_after(-1);
  m->b = rille_linkbuffer_new(sizes[draw(5)], &err);
  assert_non_null(m->b);
  m->rd = m->fl = m->end = 0;
  m->is_taken = false;
}

static void step_write(model *m) {
  static uint8_t bytes[20000];
  size_t n = draw_size(), remain = draw((uint32_t)(m->end - m->fl) + 1);
  for (size_t i = 0; i < n; i++) bytes[i] = noise();
  int err = RILLE_OK;
  model *from = &run.models[draw(BUFFERS)];
  watched *v = &run.views[draw(VIEWS)];
  switch (draw(7)) {
  case 0: {
    uint8_t *p = rille_linkbuffer_malloc(m->b, (double)n, &err);
    if (!worked(err)) return;
    memcpy(p, bytes, n);
    put(m, m->end, bytes, n);
    return;
  }
  case 1:
    if (worked(rille_linkbuffer_write(m->b, (char *)bytes, n))) put(m, m->end, bytes, n);
    return;
  case 2:
    if (worked(rille_linkbuffer_write_direct(m->b, (char *)bytes, n, (double)remain)))
      put(m, m->end - remain, bytes, n);
    return;
  case 3:
    if (!v->bytes || !worked(rille_linkbuffer_write_slice(m->b, &v->slice))) return;
    put(m, m->end, v->bytes, v->slice.size_);
    return;
  case 4:
    if (!v->bytes || !worked(rille_linkbuffer_write_direct_slice(m->b, &v->slice, (double)remain))) return;
    put(m, m->end - remain, v->bytes, v->slice.size_);
    return;
  default: {
    bool is_direct = draw(2);
    if (!is_direct) remain = 0;
    size_t size = from->fl - from->rd;
    if (size > 30000) return;
    err = is_direct ? rille_linkbuffer_write_direct_buffer(m->b, from->b, (double)remain)
                    : rille_linkbuffer_write_buffer(m->b, from->b);
    if (!worked(err)) return;
    uint8_t *copy = malloc(size + 1);
    memcpy(copy, from->bytes + from->rd, size);
    put(m, m->end - remain, copy, size);
    free(copy);
  }
  }
}

static void step_append(model *m) {
  model *other = &run.models[draw(BUFFERS)];
  size_t ready = other->fl - other->rd, all = other->end - other->rd;
  int err = rille_linkbuffer_append(m->b, other->b);
  if (other == m) {
    assert_int_equal(err, RILLE_ERR_INVALID);
    return;
  }
  if (!worked(err) || all == 0) return;
  bool is_direct = m->fl == m->end;
  put(m, m->end, other->bytes + other->rd, all);
  if (is_direct) m->fl += ready;
  other->rd = other->fl = other->end = 0;
  expire_views(other);
}

static void step_read(model *m) {
  static uint8_t copy[FLAT_MAX];
  size_t have = m->fl - m->rd;
  size_t n = draw(3) ? draw((uint32_t)have + 1) : draw_size();
  const uint8_t *at = m->bytes + m->rd;
  rille_slice s;
  int want = n > have ? RILLE_ERR_SHORT : RILLE_OK;
  int err;
  switch (draw(7)) {
  case 0:
    err = rille_linkbuffer_next(m->b, (double)n, &s);
    if (want != RILLE_OK)
      assert_int_equal(err, want);
    else if (worked(err))
      m->rd += n;
    else
      return;
    break;
  case 1:
    err = rille_linkbuffer_peek(m->b, (double)n, &s);
    if (want != RILLE_OK)
      assert_int_equal(err, want);
    else if (!worked(err))
      return;
    break;
  case 2:
    assert_int_equal(rille_linkbuffer_skip(m->b, (double)n), want);
    if (want == RILLE_OK) m->rd += n;
    return;
  case 3:
    assert_int_equal(rille_linkbuffer_read_copy(m->b, copy, (double)n), want);
    if (want != RILLE_OK) return;
    assert_memory_equal(copy, at, n);
    m->rd += n;
    return;
  case 4:
    assert_int_equal(rille_linkbuffer_read_byte(m->b), have > 0 ? *at : RILLE_ERR_SHORT);
    if (have > 0) m->rd++;
    return;
  default: {
    char delim[8];
    size_t size = 1 + draw(8), from = draw((uint32_t)have + 2);
    for (size_t i = 0; i < size; i++) delim[i] = (char)noise();
    const uint8_t *match = from <= have ? memmem(at + from, have - from, delim, size) : NULL;
    assert_true(rille_linkbuffer_index_of(m->b, delim, size, (double)from) == (match ? (double)(match - at) : -1));
    match = memmem(at, have, delim, size);
    want = match ? RILLE_OK : RILLE_ERR_SHORT;
    err = rille_linkbuffer_read_until(m->b, delim, size, &s);
    if (!match)
      assert_int_equal(err, want);
    else if (!worked(err))
      return;
    else
      m->rd += s.size_;
    if (match) assert_int_equal(s.size_, (size_t)(match - at) + size);
  }
  }
  if (want == RILLE_OK) watch(m, &s, at);
}

static void end_model(model *m) {
  if (draw(2)) rille_linkbuffer_close(m->b);
  rille_linkbuffer_free(m->b);
  expire_views(m);
}

static void step_take(model *m, model *to) {
  int err;
  size_t n = draw((uint32_t)(m->fl - m->rd) + 1);
  rille_linkbuffer *taken = rille_linkbuffer_take(m->b, (double)n, &err);
  if (!taken) {
    worked(err);
    return;
  }
  if (to == m) { /* nowhere to put it */
    rille_linkbuffer_free(taken);
    m->rd += n;
    return;
  }
  end_model(to);
  to->b = taken;
  memcpy(to->bytes, m->bytes + m->rd, n);
  to->rd = 0;
  to->fl = to->end = n;
  to->is_taken = true;
  m->rd += n;
}

static void step(void) {
  model *m = &run.models[draw(BUFFERS)];
  compact(m);
  if (m->end - m->rd > 100000) { /* keep it small */
    end_model(m);
    fresh(m);
  }
  run.is_failing = draw(8) == 0;
  if (run.is_failing) {
    if (draw(4) == 0) rille_block_purge(); /* or the caches would help out */
    rille_block_fail_after((int)draw(3));
  }
  uint32_t what = draw(20);
  if (what < 6 && !m->is_taken)
    step_write(m);
  else if (what < 8 && !m->is_taken) {
    assert_int_equal(rille_linkbuffer_flush(m->b), 0);
    m->fl = m->end;
  } else if (what < 9 && !m->is_taken) {
    size_t n = draw((uint32_t)(m->end - m->fl) + 2);
    bool is_there = n <= m->end - m->fl;
    assert_int_equal(rille_linkbuffer_malloc_ack(m->b, (double)n), is_there ? RILLE_OK : RILLE_ERR_INVALID);
    if (is_there) m->end = m->fl + n;
  } else if (what < 10 && !m->is_taken)
    step_append(m);
  else if (what < 16)
    step_read(m);
  else if (what < 17)
    step_take(m, &run.models[draw(BUFFERS)]);
  else if (what < 19) {
    assert_int_equal(rille_linkbuffer_release(m->b), 0);
    expire_views(m);
  } else if (draw(8) == 0) {
    end_model(m);
    fresh(m);
  } else if (draw(2) && !m->is_taken) {
    bool is_empty = m->rd == m->end;
    rille_linkbuffer_end_borrow(m->b);
    expire_views(m);
    if (is_empty) assert_int_equal(rille_linkbuffer_held(m->b), 0);
  }
  rille_block_fail_after(-1);
  check_model(m);
  for (int i = 0; i < 4; i++) check_view(&run.views[draw(VIEWS)]);
}

static void agrees_with_flat_arrays(void **state) {
  (void)state;
  const char *seed = getenv("SEED");
  rille_block_stats before = stats();
  for (uint64_t round = 0; round < 4; round++) {
    run.seed = seed ? strtoull(seed, NULL, 0) : round;
    for (int i = 0; i < BUFFERS; i++) {
      run.models[i].bytes = malloc(FLAT_MAX);
      fresh(&run.models[i]);
    }
    for (int i = 0; i < STEPS; i++) step();
    for (int i = 0; i < BUFFERS; i++) {
      end_model(&run.models[i]);
      free(run.models[i].bytes);
    }
    for (int i = 0; i < VIEWS; i++) {
      watched *v = &run.views[i];
      if (!v->bytes) continue;
      assert_null(v->owner);
      check_view(v);
      rille_slice_release(&v->slice);
      forget_view(v);
    }
    rille_block_stats now = stats();
    assert_true(now.blocks_in_use == before.blocks_in_use);
    assert_true(now.bytes_in_use == before.bytes_in_use);
    assert_true(now.buffers_in_use == before.buffers_in_use);
    assert_true(now.slices_retained == before.slices_retained);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_message_goes_through),
      cmocka_unit_test(a_read_never_lands_in_a_small_tail),
      cmocka_unit_test(a_large_area_that_stayed_empty_is_not_kept),
      cmocka_unit_test(shrink_waits_for_what_is_held),
      cmocka_unit_test(reset_makes_a_handle_as_new),
      cmocka_unit_test(areas_stop_at_max),
      cmocka_unit_test(odd_lengths_are_refused),
      cmocka_unit_test(nothing_touches_a_byte_beside_the_data),
      cmocka_unit_test(agrees_with_flat_arrays),
  };
  return cmocka_run_group_tests_name("linkbuffer", tests, NULL, NULL);
}
