/*
 * stream: see stream.h.
 */
#include "stream.h"

#include "errand.h"
#include "loop.h"
#include "pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { RETRY_NS = 1000000 };

/* ---- life ------------------------------------------------------------------------------------------------------ */

static void free_parts(rille_stream *s) {
  if (s->input.buffer) rille_linkbuffer_free(s->input.buffer);
  if (s->output.buffer) rille_linkbuffer_free(s->output.buffer);
  if (s->errand) rille_errand_free(s->errand);
  free(s);
}

rille_stream *rille_stream_new(rille_pool *pool, rille_state *state, uint32_t token, double limit) {
  rille_stream *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  int err;
  s->input.buffer = rille_linkbuffer_new(4096, &err);
  s->output.buffer = rille_linkbuffer_new(4096, &err);
  if (!s->input.buffer || !s->output.buffer) {
    free_parts(s);
    return NULL;
  }
  atomic_store(&s->refs, 1);
  atomic_fetch_add(&pool->refs, 1);
  s->pool = pool;
  s->loop = state->loop;
  s->state = state->id;
  s->token = token;
  s->limit = (uint64_t)limit;
  return s;
}

void rille_stream_release(rille_stream *s) {
  if (atomic_fetch_sub(&s->refs, 1) != 1) return;
  rille_pool *pool = s->pool;
  free_parts(s);
  rille_pool_release(pool);
}

void rille_stream_close(rille_stream *s) {
  rille_stream_abort(s, RILLE_ERR_CANCELLED);
  rille_stream_release(s);
}

static void reset_pipe(rille_pipe *pipe) {
  rille_linkbuffer_reset(pipe->buffer);
  pipe->put = 0;
  atomic_store(&pipe->freed, 0);
  atomic_store(&pipe->end, 0);
  atomic_store(&pipe->loop_waits, 0);
}

void rille_stream_reset(rille_stream *s) {
  reset_pipe(&s->input);
  reset_pipe(&s->output);
  atomic_store(&s->worker_waits, 0);
}

void rille_job_use_stream(rille_job *job, rille_stream *s) {
  atomic_fetch_add(&s->refs, 1);
  job->stream = s;
}

/* ---- bells ----------------------------------------------------------------------------------------------------- */

void rille_stream_ring_worker(rille_stream *s) {
  if (!atomic_exchange(&s->worker_waits, 0)) return;
  atomic_fetch_add(&s->bell, 1);
  syscall(SYS_futex, &s->bell, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void deliver(rille_loop *loop, const rille_message *m) {
  rille_state *state = rille_loop_state(loop, m->words[0]);
  if (!state) return; /* one that took its place does not know the stream */
  rille_state_emit(state, RILLE_EVENT_STREAM, m->words[1], (int)m->words[2]);
}

/* The lock keeps the loop from being freed while its mailbox is used; it is taken once for each time the loop waits. */
void rille_stream_tell_loop(rille_stream *s, uint32_t side) {
  rille_message m = {.deliver = deliver, .words = {s->state, s->token, side}};
  for (;;) {
    pthread_mutex_lock(&s->pool->lock);
    bool is_done = !s->loop || rille_mailbox_send(&s->loop->mailbox, &m) == RILLE_OK;
    pthread_mutex_unlock(&s->pool->lock);
    if (is_done) return;
    nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
  }
}

static void ring_loop(rille_stream *s, rille_pipe *pipe, uint32_t side) {
  if (atomic_exchange(&pipe->loop_waits, 0)) rille_stream_tell_loop(s, side);
}

/* ---- loop ------------------------------------------------------------------------------------------------------ */

/* Bytes between a pipe's ends, for its writer: those the reader holds count. */
static uint64_t used(rille_pipe *pipe) { return pipe->put - atomic_load(&pipe->freed); }

double rille_stream_room(rille_stream *s) {
  uint64_t now = used(&s->input);
  if (now >= s->limit) {
    atomic_exchange(&s->input.loop_waits, 1);
    now = used(&s->input);
  }
  return now < s->limit ? (double)(s->limit - now) : 0;
}

static int fed(rille_stream *s, int err) {
  if (err) return err;
  s->input.put += (uint64_t)rille_linkbuffer_malloc_len(s->input.buffer);
  err = rille_linkbuffer_flush(s->input.buffer);
  rille_stream_ring_worker(s);
  return err;
}

int rille_stream_feed_view(rille_stream *s, const uint8_t *base, uint32_t size, rille_cell *cell, rille_block *block,
                           uint32_t epoch) {
  rille_slice slice = {.base_ = base, .cell_ = cell, .block_ = block, .size_ = size, .epoch_ = epoch};
  return fed(s, rille_linkbuffer_write_slice(s->input.buffer, &slice));
}

int rille_stream_feed(rille_stream *s, const char *bytes, size_t size) {
  return fed(s, rille_linkbuffer_write(s->input.buffer, bytes, size));
}

int rille_stream_feed_buffer(rille_stream *s, rille_linkbuffer *from) {
  int err;
  uint64_t size = rille_linkbuffer_readable(from);
  rille_linkbuffer *part = rille_linkbuffer_take(from, (double)size, &err);
  if (!part) return err;
  err = rille_linkbuffer_append(s->input.buffer, part); /* to be read at once */
  rille_linkbuffer_free(part);
  rille_linkbuffer_release(from);
  if (err) return err;
  s->input.put += size;
  rille_stream_ring_worker(s);
  return RILLE_OK;
}

void rille_stream_end(rille_stream *s, int err) {
  atomic_store(&s->input.end, err);
  rille_stream_ring_worker(s);
}

void rille_stream_refuse(rille_stream *s, int err) {
  atomic_store(&s->output.end, err);
  rille_stream_ring_worker(s);
}

void rille_stream_abort(rille_stream *s, int err) {
  atomic_store(&s->aborted, err);
  rille_stream_ring_worker(s);
}

double rille_stream_ready(rille_stream *s) {
  double n = rille_linkbuffer_len(s->output.buffer);
  if (n > 0) return n;
  atomic_exchange(&s->output.loop_waits, 1);
  return rille_linkbuffer_len(s->output.buffer);
}

int rille_stream_drain(rille_stream *s, rille_linkbuffer *to) {
  int err;
  double n = rille_linkbuffer_len(s->output.buffer);
  rille_linkbuffer *part = rille_linkbuffer_take(s->output.buffer, n, &err);
  if (!part) return err;
  err = rille_linkbuffer_append(to, part);
  rille_linkbuffer_free(part);
  rille_linkbuffer_release(s->output.buffer);
  atomic_store(&s->output.freed, atomic_load(&s->output.freed) + (uint64_t)n);
  rille_stream_ring_worker(s);
  return err;
}

double rille_stream_put(const rille_stream *s) { return (double)s->input.put; }

double rille_stream_left(const rille_stream *s) { return rille_linkbuffer_len(s->input.buffer); }

/* ---- worker ---------------------------------------------------------------------------------------------------- */

rille_stream *rille_worker_stream(rille_worker *worker) { return worker->job->stream; }

double rille_stream_front(rille_stream *s) {
  struct iovec area;
  return rille_linkbuffer_areas(s->input.buffer, &area, 1) > 0 ? (double)area.iov_len : 0;
}

rille_linkbuffer *rille_stream_input(rille_stream *s) { return s->input.buffer; }

rille_linkbuffer *rille_stream_output(rille_stream *s) { return s->output.buffer; }

int rille_stream_writable(const rille_stream *s) {
  int err = atomic_load(&s->aborted);
  return err ? err : atomic_load(&s->output.end);
}

static bool publish(rille_stream *s) {
  double n = rille_linkbuffer_malloc_len(s->output.buffer);
  if (n == 0) return false;
  rille_linkbuffer_flush(s->output.buffer);
  s->output.put += (uint64_t)n;
  return true;
}

void rille_stream_publish(rille_stream *s) {
  if (publish(s)) ring_loop(s, &s->output, RILLE_STREAM_OUTPUT);
}

static int look_at_input(rille_stream *s, double n) {
  int err = atomic_load(&s->aborted);
  if (err) return err;
  err = atomic_load(&s->input.end); /* before the length: what was fed before the end is seen */
  if (rille_linkbuffer_len(s->input.buffer) >= n) return RILLE_OK;
  if (err) return err;
  if (n + (double)rille_linkbuffer_held(s->input.buffer) > (double)s->limit) return RILLE_ERR_TOO_LARGE;
  return RILLE_PARK;
}

static int look_at_output(rille_stream *s, double level) {
  int err = rille_stream_writable(s);
  return err ? err : (double)used(&s->output) <= level ? RILLE_OK : RILLE_PARK;
}

int rille_stream_await(rille_stream *s, int (*look)(rille_stream *, double), double n) {
  int result = look(s, n);
  while (result == RILLE_PARK) {
    uint32_t bell = atomic_load(&s->bell);
    atomic_exchange(&s->worker_waits, 1);
    result = look(s, n);
    if (result != RILLE_PARK) break;
    syscall(SYS_futex, &s->bell, FUTEX_WAIT_PRIVATE, bell, NULL, NULL, 0);
    result = look(s, n);
  }
  return result;
}

int rille_stream_want(rille_stream *s, double n) {
  if (!(n >= 0)) return RILLE_ERR_INVALID;
  int result = look_at_input(s, n);
  if (result != RILLE_PARK) return result;
  rille_stream_publish(s);                                       /* who is to send more may wait for what was written */
  (void)rille_stream_await(s, look_at_output, (double)s->limit); /* that it is refused does not end the input */
  return rille_stream_await(s, look_at_input, n);
}

void rille_stream_give_back(rille_stream *s) {
  size_t held = rille_linkbuffer_held(s->input.buffer);
  rille_linkbuffer_release(s->input.buffer);
  if (held == 0) return;
  atomic_store(&s->input.freed, atomic_load(&s->input.freed) + held);
  ring_loop(s, &s->input, RILLE_STREAM_INPUT);
}

void rille_stream_finish(rille_stream *s) {
  publish(s);
  size_t held = rille_linkbuffer_held(s->input.buffer);
  rille_linkbuffer_release(s->input.buffer);
  atomic_store(&s->input.freed, atomic_load(&s->input.freed) + held);
}

double rille_stream_consumed(rille_stream *s) {
  return (double)(atomic_load(&s->input.freed) + rille_linkbuffer_held(s->input.buffer));
}

int rille_stream_flush(rille_stream *s) {
  rille_stream_publish(s);
  return rille_stream_await(s, look_at_output, (double)s->limit);
}
