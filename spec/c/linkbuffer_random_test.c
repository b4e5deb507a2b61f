/*
 * Random operations on LinkBuffers against flat byte arrays, with memory running out now and then: every byte, every
 * length, every slice and the statistics must agree. SEED=n runs another sequence.
 */
#include "linkbuffer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static rille_block_stats stats(void) {
  rille_block_stats now;
  rille_block_stats_read(&now);
  return now;
}

static bool is_valid(const rille_slice *s) { return rille_cell_epoch(s->cell_) == s->epoch_; }

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
  assert_true(rille_linkbuffer_len(m->b) == (double)(m->fl - m->rd));
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
    if (want != RILLE_OK) assert_int_equal(err, want);
    else if (worked(err)) m->rd += n;
    else return;
    break;
  case 1:
    err = rille_linkbuffer_peek(m->b, (double)n, &s);
    if (want != RILLE_OK) assert_int_equal(err, want);
    else if (!worked(err)) return;
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
    if (!match) assert_int_equal(err, want);
    else if (!worked(err)) return;
    else m->rd += s.size_;
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
  if (what < 6 && !m->is_taken) step_write(m);
  else if (what < 8 && !m->is_taken) {
    assert_int_equal(rille_linkbuffer_flush(m->b), 0);
    m->fl = m->end;
  } else if (what < 9 && !m->is_taken) {
    size_t n = draw((uint32_t)(m->end - m->fl) + 2);
    bool is_there = n <= m->end - m->fl;
    assert_int_equal(rille_linkbuffer_malloc_ack(m->b, (double)n), is_there ? RILLE_OK : RILLE_ERR_INVALID);
    if (is_there) m->end = m->fl + n;
  } else if (what < 10 && !m->is_taken) step_append(m);
  else if (what < 16) step_read(m);
  else if (what < 17) step_take(m, &run.models[draw(BUFFERS)]);
  else if (what < 19) {
    assert_int_equal(rille_linkbuffer_release(m->b), 0);
    expire_views(m);
  } else if (draw(8) == 0) {
    end_model(m);
    fresh(m);
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
      cmocka_unit_test(agrees_with_flat_arrays),
  };
  return cmocka_run_group_tests_name("linkbuffer random", tests, NULL, NULL);
}
