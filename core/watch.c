/*
 * watch: what a task waits for besides a connection: a descriptor to be ready, a span of time, or the first of both. One
 * shot: it is gone when its event is out. Watches live in slabs, because a running timer must not move; an id carries
 * the epoch of its slot, so that stopping one that already fired does nothing. Loop thread only.
 */
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { NONE = 0xffffffff };

static rille_watch *watch_at(const rille_loop *loop, uint32_t slot) {
  return &loop->watch_slabs[slot / RILLE_WATCH_SLAB][slot % RILLE_WATCH_SLAB];
}

static bool add_slab(rille_loop *loop) {
  if (loop->watch_slab_count == RILLE_WATCH_SLABS_MAX) return false;
  rille_watch *slab = calloc(RILLE_WATCH_SLAB, sizeof *slab);
  if (!slab) return false;
  uint32_t first = loop->watch_slab_count * RILLE_WATCH_SLAB;
  loop->watch_slabs[loop->watch_slab_count++] = slab;
  for (uint32_t i = 0; i < RILLE_WATCH_SLAB; i++) {
    slab[i].slot = first + i;
    slab[i].epoch = 1;
    slab[i].next_free = i + 1 < RILLE_WATCH_SLAB ? first + i + 1 : NONE;
  }
  loop->watch_free = first;
  return true;
}

double rille_watch_start(rille_state *state, int fd, int mask, double ms, uint32_t token) {
  rille_loop *loop = state->loop;
  if (!(ms >= 0) || mask < 0 || mask > 3 || (fd >= 0 && mask == 0)) return RILLE_ERR_INVALID;
  if (loop->watch_free == NONE && !add_slab(loop)) return RILLE_ERR_NO_MEMORY;
  rille_watch *w = watch_at(loop, loop->watch_free);
  if (fd >= 0) {
    uint32_t events =
        (mask & 1 ? (uint32_t)(EPOLLIN | EPOLLRDHUP) : 0) | (mask & 2 ? (uint32_t)EPOLLOUT : 0) | EPOLLONESHOT;
    int err = rille_poller_add(&loop->poller, fd, events, rille_poller_data(RILLE_TAG_WATCH, w->epoch, w->slot));
    if (err < 0) return err;
  }
  loop->watch_free = w->next_free;
  loop->watch_count++;
  w->state = state;
  w->fd = fd;
  w->token = token;
  if (ms > 0 || fd < 0) {
    double span = ceil(ms);
    /* The turn's clock may lag behind by what handlers took; and a part of a ms counts as one, so that no timer is early. */
    uint64_t now = (rille_now_ns() + (span > 0 ? 999999 : 0)) / 1000000;
    rille_timer_start(&loop->task_wheel, &w->timer, now + (span < 1e15 ? (uint64_t)span : (uint64_t)1e15));
  }
  return (double)((uint64_t)w->epoch << 24 | w->slot);
}

static void forget(rille_loop *loop, rille_watch *w) {
  if (w->fd >= 0) rille_poller_remove(&loop->poller, w->fd);
  rille_timer_stop(&loop->task_wheel, &w->timer);
  w->state = NULL;
  w->fd = -1;
  w->epoch = w->epoch == 0xffffff ? 1 : w->epoch + 1;
  w->next_free = loop->watch_free;
  loop->watch_free = w->slot;
  loop->watch_count--;
}

void rille_watch_stop(rille_loop *loop, double id) {
  if (!(id >= 0)) return;
  uint32_t slot = (uint32_t)((uint64_t)id & 0xffffff);
  if (slot >= loop->watch_slab_count * RILLE_WATCH_SLAB) return;
  rille_watch *w = watch_at(loop, slot);
  if (w->state && w->epoch == (uint32_t)((uint64_t)id >> 24)) forget(loop, w);
}

void rille_watch_evict(rille_loop *loop, const rille_state *state) {
  for (uint32_t slot = 0; slot < loop->watch_slab_count * RILLE_WATCH_SLAB; slot++) {
    rille_watch *w = watch_at(loop, slot);
    if (w->state == state) forget(loop, w);
  }
}

static void report(rille_loop *loop, rille_watch *w, int arg) {
  rille_state *state = w->state;
  uint32_t token = w->token;
  forget(loop, w);
  rille_state_emit(state, RILLE_EVENT_WATCH, token, arg);
}

void rille_watch_ready(rille_loop *loop, uint32_t slot, uint32_t epoch, uint32_t events) {
  if (slot >= loop->watch_slab_count * RILLE_WATCH_SLAB) return;
  rille_watch *w = watch_at(loop, slot);
  /* queued for an earlier user of the slot */
  if (!w->state || w->epoch != epoch) return;
  bool is_over = events & (EPOLLERR | EPOLLHUP); /* any call on it returns at once */
  report(loop, w, (events & (EPOLLIN | EPOLLRDHUP) || is_over ? 1 : 0) | (events & EPOLLOUT || is_over ? 2 : 0));
}

void rille_watch_fired(rille_loop *loop, rille_watch *w) { report(loop, w, 0); }

int rille_fd_prepare(int fd) {
  int status = fcntl(fd, F_GETFL);
  if (status < 0) return RILLE_ERR_INVALID;
  if (fcntl(fd, F_SETFL, status | O_NONBLOCK) < 0) return rille_err_from_errno(errno);
  int flags = fcntl(fd, F_GETFD);
  if (flags >= 0) (void)fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
  return RILLE_OK;
}
