/*
 * Threads against each other: one reader and one writer on the same LinkBuffer without a lock, slices and buffers
 * that end on another thread, and four threads on the shared pool. Meant for ThreadSanitizer; also checks every byte.
 */
#include "linkbuffer.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* cmocka's assertions jump, which only the main thread may do. */
#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                  \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

enum { STREAM_SIZE = 16 << 20, AHEAD_MAX = 1 << 20, LINE = 61, QUEUE_MAX = 64 };

static uint32_t draw(uint64_t *seed, uint32_t bound) {
  *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)((*seed >> 33) % bound);
}

/* The stream: its byte at a position; every LINE bytes a newline. */
static uint8_t byte_at(uint64_t at) { return at % LINE == LINE - 1 ? '\n' : (uint8_t)('A' + at % 53 + at / 4096 % 7); }

static void check_bytes(const uint8_t *bytes, uint64_t at, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (bytes[i] == byte_at(at + i)) continue;
    fprintf(stderr, "byte %llu (%zu of %zu) is %02x, not %02x\n", (unsigned long long)(at + i), i, n, bytes[i],
            byte_at(at + i));
    abort();
  }
}

/* ---- what the reader hands to a third thread ---- */

typedef struct parcel {
  rille_slice slice;        /* retained, when buffer is NULL */
  rille_linkbuffer *buffer; /* taken */
  uint64_t at;
} parcel;

typedef struct queue {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  parcel parcels[QUEUE_MAX];
  size_t first, count;
  bool is_ended;
} queue;

static void queue_put(queue *q, const parcel *p) {
  pthread_mutex_lock(&q->lock);
  while (q->count == QUEUE_MAX) pthread_cond_wait(&q->changed, &q->lock);
  q->parcels[(q->first + q->count++) % QUEUE_MAX] = *p;
  pthread_cond_broadcast(&q->changed);
  pthread_mutex_unlock(&q->lock);
}

static void queue_end(queue *q) {
  pthread_mutex_lock(&q->lock);
  q->is_ended = true;
  pthread_cond_broadcast(&q->changed);
  pthread_mutex_unlock(&q->lock);
}

static bool queue_get(queue *q, parcel *p) {
  pthread_mutex_lock(&q->lock);
  while (q->count == 0 && !q->is_ended) pthread_cond_wait(&q->changed, &q->lock);
  bool is_there = q->count > 0;
  if (is_there) {
    *p = q->parcels[q->first];
    q->first = (q->first + 1) % QUEUE_MAX;
    q->count--;
    pthread_cond_broadcast(&q->changed);
  }
  pthread_mutex_unlock(&q->lock);
  return is_there;
}

static void *use_parcels(void *arg) {
  queue *q = arg;
  parcel p;
  while (queue_get(q, &p)) {
    if (!p.buffer) {
      check_bytes(p.slice.base_, p.at, p.slice.size_);
      CHECK(rille_slice_release(&p.slice) == 0);
      continue;
    }
    rille_slice s;
    double n = rille_linkbuffer_len(p.buffer);
    CHECK(rille_linkbuffer_next(p.buffer, n, &s) == 0);
    check_bytes(s.base_, p.at, s.size_);
    if (p.at % 2) rille_linkbuffer_release(p.buffer);
    rille_linkbuffer_free(p.buffer);
  }
  return NULL;
}

/* ---- writer ---- */

static void *write_stream(void *arg) {
  rille_linkbuffer *b = arg;
  uint64_t seed = 1, at = 0; /* at: flushed */
  while (at < STREAM_SIZE) {
    if (rille_linkbuffer_len(b) > AHEAD_MAX) {
      sched_yield();
      continue;
    }
    size_t unflushed = 0;
    for (uint32_t parts = 1 + draw(&seed, 4); parts > 0; parts--) {
      int err;
      size_t n = 1 + draw(&seed, draw(&seed, 16) ? 200 : 20000), keep = n;
      if (draw(&seed, 3)) {
        uint8_t *p = rille_linkbuffer_malloc(b, (double)n, &err);
        CHECK(p && err == 0);
        for (size_t i = 0; i < n; i++) p[i] = byte_at(at + unflushed + i);
        if (draw(&seed, 2)) keep = draw(&seed, (uint32_t)n + 1);
        CHECK(rille_linkbuffer_malloc_ack(b, (double)(unflushed + keep)) == 0);
      } else {
        char bytes[20000];
        for (size_t i = 0; i < n; i++) bytes[i] = (char)byte_at(at + unflushed + i);
        /* the front half goes in before the back half, so that nodes are split while the reader runs */
        size_t half = n / 2;
        CHECK(rille_linkbuffer_write(b, bytes + half, n - half) == 0);
        CHECK(rille_linkbuffer_write_direct(b, bytes, half, (double)(n - half)) == 0);
      }
      unflushed += keep;
    }
    CHECK(rille_linkbuffer_malloc_len(b) == (double)unflushed);
    CHECK(rille_linkbuffer_flush(b) == 0);
    at += unflushed;
  }
  /* a last line, so that the reader knows the end when it sees it */
  CHECK(rille_linkbuffer_write(b, "!", 1) == 0 && rille_linkbuffer_flush(b) == 0);
  return NULL;
}

/* ---- reader (the main thread) ---- */

static void read_stream(rille_linkbuffer *b, queue *q) {
  uint64_t seed = 2, at = 0;
  rille_slice s;
  for (;;) {
    size_t have = (size_t)rille_linkbuffer_len(b);
    if (have == 0) {
      sched_yield();
      continue;
    }
    if (at >= STREAM_SIZE && have == 1) {
      CHECK(rille_linkbuffer_peek(b, 1, &s) == 0);
      if (s.base_[0] == '!') return;
    }
    if (at + have > STREAM_SIZE) have--; /* not the end mark, should it be there already */
    if (have == 0) continue;
    size_t n = 1 + draw(&seed, (uint32_t)(have < 5000 ? have : 5000));
    if (n > have) n = have;
    switch (draw(&seed, 8)) {
    case 0:
      CHECK(rille_linkbuffer_peek(b, (double)n, &s) == 0);
      check_bytes(s.base_, at, n);
      break;
    case 1: {
      int err = rille_linkbuffer_read_until(b, "\n", 1, &s);
      CHECK(err == 0 || err == RILLE_ERR_SHORT);
      if (err != 0) break;
      CHECK(s.size_ == LINE - at % LINE);
      check_bytes(s.base_, at, s.size_);
      at += s.size_;
      break;
    }
    case 2: {
      int err;
      parcel p = {.at = at};
      CHECK((p.buffer = rille_linkbuffer_take(b, (double)n, &err)) != NULL);
      queue_put(q, &p);
      at += n;
      break;
    }
    case 3: {
      parcel p = {.at = at};
      CHECK(rille_linkbuffer_next(b, (double)n, &p.slice) == 0);
      CHECK(rille_slice_retain(&p.slice) == 0);
      queue_put(q, &p);
      at += n;
      break;
    }
    case 4: {
      double line = rille_linkbuffer_index_of(b, "\n", 1, 0);
      CHECK(line < 0 || (uint64_t)line == LINE - 1 - at % LINE);
      break;
    }
    default:
      CHECK(rille_linkbuffer_next(b, (double)n, &s) == 0);
      check_bytes(s.base_, at, n);
      at += n;
    }
    if (draw(&seed, 3) == 0) rille_linkbuffer_release(b);
  }
}

static void one_reader_and_one_writer(void **state) {
  (void)state;
  rille_block_stats before, now;
  rille_block_stats_read(&before);
  static const double block_sizes[] = {64, 4096, 16384};
  for (size_t i = 0; i < sizeof block_sizes / sizeof block_sizes[0]; i++) {
    int err;
    rille_linkbuffer *b = rille_linkbuffer_new(block_sizes[i], &err);
    assert_non_null(b);
    queue q = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    pthread_t writer, user;
    assert_int_equal(pthread_create(&writer, NULL, write_stream, b), 0);
    assert_int_equal(pthread_create(&user, NULL, use_parcels, &q), 0);
    read_stream(b, &q);
    queue_end(&q);
    pthread_join(writer, NULL);
    pthread_join(user, NULL);
    rille_linkbuffer_free(b);
  }
  rille_block_stats_read(&now);
  assert_true(now.blocks_in_use == before.blocks_in_use);
  assert_true(now.bytes_in_use == before.bytes_in_use);
  assert_true(now.slices_retained == before.slices_retained);
  assert_true(now.buffers_in_use == before.buffers_in_use);
}

/* ---- the shared pool ---- */

enum { HANDS = 256, THREADS = 4, SWAPS = 60000 };

static _Atomic(rille_block *) hands[HANDS];

/* Swap blocks through places that all threads share: nearly every block ends on another thread than it was taken on. */
static void *swap_blocks(void *arg) {
  uint64_t seed = (uint64_t)(uintptr_t)arg;
  for (int i = 0; i < SWAPS; i++) {
    size_t size = draw(&seed, 8) ? 1024u << draw(&seed, 3) : 1u << draw(&seed, 21);
    rille_block *block = rille_block_take(size);
    CHECK(block && block->size >= size);
    block->data[0] = block->data[size - 1] = (uint8_t)seed;
    block = atomic_exchange(&hands[draw(&seed, HANDS)], block);
    if (block) rille_block_release(block);
    if (i % 1024 == 0) rille_block_trim();
    if (i % 4096 == 0) rille_block_thread_end();
    if (i % 512 == 0) {
      rille_block_stats now;
      rille_block_stats_read(&now);
      rille_cell_give(rille_cell_take());
    }
  }
  return NULL;
}

static void four_threads_on_the_shared_pool(void **state) {
  (void)state;
  rille_block_stats before, now;
  rille_block_stats_read(&before);
  pthread_t threads[THREADS];
  for (uintptr_t i = 0; i < THREADS; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, swap_blocks, (void *)(i + 1)), 0);
  }
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < HANDS; i++) {
    rille_block *block = atomic_exchange(&hands[i], NULL);
    if (block) rille_block_release(block);
  }
  rille_block_stats_read(&now);
  assert_true(now.blocks_in_use == before.blocks_in_use);
  assert_true(now.bytes_in_use == before.bytes_in_use);
  assert_true(now.cached_bytes <= (64 << 20) + 32 * (2 << 20));
  rille_block_purge();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_reader_and_one_writer),
      cmocka_unit_test(four_threads_on_the_shared_pool),
  };
  return cmocka_run_group_tests_name("linkbuffer race", tests, NULL, NULL);
}
