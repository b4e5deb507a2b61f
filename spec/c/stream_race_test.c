/*
 * A stream between two threads: one feeds and drains as a loop does, the other reads and writes as a worker does. Meant for
 * ThreadSanitizer; also checks every byte, and that nobody waits for ever.
 */
#include "loop.h"
#include "pool.h"
#include "stream.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                  \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

enum { LIMIT = 20000, SIZE = 8 << 20, ROUNDS = 4 };

static uint32_t draw(uint64_t *seed, uint32_t bound) {
  *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)((*seed >> 33) % bound);
}

static uint8_t byte_at(uint64_t at) { return (uint8_t)(at % 251 + at / 4096 % 5); }

/* The worker: copies input to output until the input ends. */
static void *copy(void *arg) {
  rille_stream *s = arg;
  uint64_t seed = 7, at = 0;
  for (;;) {
    int err = rille_stream_want(s, 1);
    if (err) {
      CHECK(err == RILLE_ERR_CLOSED);
      break;
    }
    rille_slice piece;
    double have = rille_linkbuffer_len(rille_stream_input(s));
    double n = 1 + draw(&seed, 9000);
    if (n > have) n = have;
    CHECK(rille_linkbuffer_next(rille_stream_input(s), n, &piece) == 0);
    for (uint32_t i = 0; i < piece.size_; i++) CHECK(piece.base_[i] == byte_at(at + i));
    at += piece.size_;
    CHECK(rille_linkbuffer_write_slice(rille_stream_output(s), &piece) == 0);
    if (draw(&seed, 3) == 0 || at == SIZE) CHECK(rille_stream_flush(s) == 0);
    rille_stream_give_back(s);
  }
  CHECK(at == SIZE);
  rille_stream_publish(s);
  rille_block_thread_end();
  return NULL;
}

static size_t feed(rille_stream *s, uint64_t at, uint64_t *seed) {
  static char bytes[12000];
  size_t n = 1 + draw(seed, draw(seed, 4) ? 600 : sizeof bytes);
  size_t room = (size_t)rille_stream_room(s);
  if (n > room) n = room;
  if (n > SIZE - at) n = SIZE - at;
  if (n == 0) return 0;
  for (size_t i = 0; i < n; i++) bytes[i] = (char)byte_at(at + i);
  if (draw(seed, 2)) {
    CHECK(rille_stream_feed(s, bytes, n) == 0);
    return n;
  }
  int err;
  rille_linkbuffer *b = rille_linkbuffer_new(4096, &err);
  CHECK(b && rille_linkbuffer_write(b, bytes, n) == 0 && rille_linkbuffer_flush(b) == 0);
  CHECK(rille_stream_feed_buffer(s, b) == 0);
  rille_linkbuffer_free(b);
  return n;
}

static size_t check_output(rille_stream *s, rille_linkbuffer *to, uint64_t at) {
  if (rille_stream_ready(s) == 0) return 0;
  CHECK(rille_stream_drain(s, to) == 0 && rille_linkbuffer_flush(to) == 0);
  rille_slice piece;
  double n = rille_linkbuffer_len(to);
  CHECK(rille_linkbuffer_next(to, n, &piece) == 0);
  for (uint32_t i = 0; i < piece.size_; i++) CHECK(piece.base_[i] == byte_at(at + i));
  rille_linkbuffer_release(to);
  return (size_t)n;
}

/* A state of its own on a loop that does not run. */
static rille_state *make_state(rille_loop *loop) {
  int err;
  rille_generation *g = rille_generation_new(1, 1, "race@1", &err);
  assert_non_null(g);
  rille_state *state = rille_state_host(loop, g);
  rille_generation_release(g);
  return state;
}

static void there_and_back(void **unused) {
  (void)unused;
  int err;
  const rille_pool_options none = {.max = -1, .scale_threshold = -1, .queue = -1, .idle_ms = -1, .memory = -1};
  rille_pool *pool = rille_pool_open("race", &none, &err);
  rille_loop *loop = rille_loop_new(1, &err);
  assert_true(pool && loop);
  rille_state *state = make_state(loop);
  rille_linkbuffer *to = rille_linkbuffer_new(4096, &err);
  for (uint64_t round = 1; round <= ROUNDS; round++) {
    rille_stream *s = rille_stream_new(pool, state, 1, LIMIT);
    uint64_t seed = round, fed = 0, got = 0;
    pthread_t worker;
    assert_int_equal(pthread_create(&worker, NULL, copy, s), 0);
    while (got < SIZE) {
      size_t moved = fed < SIZE ? feed(s, fed, &seed) : 0;
      fed += moved;
      if (moved > 0 && fed == SIZE) rille_stream_end(s, RILLE_ERR_CLOSED);
      size_t back = check_output(s, to, got);
      got += back;
      if (moved + back > 0) continue;
      rille_message m; /* as a loop that slept would be told */
      rille_mailbox_hear(&loop->mailbox);
      while (rille_mailbox_take(&loop->mailbox, &m)) CHECK(m.words[1] == 1);
      sched_yield();
    }
    pthread_join(worker, NULL);
    assert_true(rille_stream_put(s) == SIZE && rille_stream_left(s) == 0);
    rille_stream_release(s);
  }
  rille_linkbuffer_free(to);
  rille_pool_release(pool);
  rille_pools_set_patience(100);
  rille_pools_stop();
  rille_loop_free(loop);
  rille_block_purge();
}

static void *flood(void *arg) {
  rille_stream *s = arg;
  int err;
  do {
    CHECK(rille_linkbuffer_write(rille_stream_output(s), "moon", 4) == 0);
    err = rille_stream_flush(s);
  } while (!err);
  CHECK(err == RILLE_ERR_CANCELLED);
  return NULL;
}

/* A worker that waits is told of an abort, whenever that comes. */
static void aborted(void **unused) {
  (void)unused;
  int err;
  const rille_pool_options none = {.max = -1, .scale_threshold = -1, .queue = -1, .idle_ms = -1, .memory = -1};
  rille_pool *pool = rille_pool_open("abort", &none, &err);
  rille_loop *loop = rille_loop_new(1, &err);
  rille_state *state = make_state(loop);
  for (uint64_t i = 0; i < 200; i++) {
    rille_stream *s = rille_stream_new(pool, state, 1, 400);
    pthread_t worker;
    assert_int_equal(pthread_create(&worker, NULL, flood, s), 0);
    for (uint64_t k = 0; k < i * 20; k++) sched_yield();
    rille_stream_abort(s, RILLE_ERR_CANCELLED);
    pthread_join(worker, NULL);
    rille_stream_release(s);
  }
  rille_pool_release(pool);
  rille_pools_set_patience(100);
  rille_pools_stop();
  rille_loop_free(loop);
  rille_block_purge();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(there_and_back),
      cmocka_unit_test(aborted),
  };
  return cmocka_run_group_tests_name("stream race", tests, NULL, NULL);
}
