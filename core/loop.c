/*
 * loop: the turn, and what surrounds it; see loop.h.
 */
#include "loop.h"

#include "cpu.h"
#include "dialer.h"
#include "http.h"
#include "listener.h"
#include "log.h"
#include "notify.h"
#include "pages.h"
#include "pool.h"
#include "team.h"
#include "udp.h"

#include <errno.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { TICK_MS = 1000, BUDGET_NS = 1000000 };

uint64_t rille_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double rille_now(void) { return (double)rille_now_ns() / 1e9; }

double rille_time(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t now_ms(const rille_loop *loop) { return loop->clock_ms; }

uint32_t rille_loop_fresh_ms(const rille_loop *loop) { return (uint32_t)(rille_now_ns() / 1000000 - loop->started_ms); }

static void update_clock(rille_loop *loop) {
  uint64_t now = rille_now_ns();
  loop->now_ns = now;
  loop->clock.now = (double)now / 1e9;
  loop->clock_ms = now / 1000000;
  loop->now_ms = (uint32_t)(loop->clock_ms - loop->started_ms);
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

rille_loop *rille_loop_new(uint32_t id, int *err) {
  rille_loop *loop = rille_pages_new(sizeof *loop);
  if (!loop) {
    *err = RILLE_ERR_NO_MEMORY;
    return NULL;
  }
  loop->id = id;
  loop->cpu = RILLE_CPU_ANY;
  rille_reserve_init(&loop->reserve);
  loop->free_slot = UINT32_MAX;
  loop->watch_free = UINT32_MAX;
  loop->budget_slot = UINT32_MAX;
  loop->budget_ns = BUDGET_NS;
  loop->pipes.max = RILLE_PIPES_MAX;
  loop->mend_at_ms = UINT64_MAX;
  loop->place = id == RILLE_LOOP_PRIVATE ? NULL : rille_process_place(id);
  if (!loop->place) loop->place = &loop->own_place;
  rille_loop_set_drain(loop, -1); /* the default */
  rille_publisher_init(&loop->published);
  loop->started_ms = rille_now_ns() / 1000000;
  update_clock(loop);
  rille_wheel_init(&loop->wheel, now_ms(loop));
  rille_wheel_init(&loop->task_wheel, now_ms(loop));
  *err = rille_poller_init(&loop->poller);
  if (*err < 0) {
    rille_pages_free(loop, sizeof *loop);
    return NULL;
  }
  loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  *err = loop->wake_fd < 0
             ? rille_err_from_errno(errno)
             : rille_poller_add(&loop->poller, loop->wake_fd, EPOLLIN, rille_poller_data(RILLE_TAG_WAKE, 0, 0));
  if (*err >= 0) *err = rille_mailbox_init(&loop->mailbox, loop->wake_fd);
  if (*err < 0) {
    rille_poller_close(&loop->poller);
    if (loop->wake_fd >= 0) close(loop->wake_fd);
    rille_pages_free(loop, sizeof *loop);
    return NULL;
  }
  if (id != RILLE_LOOP_PRIVATE) rille_control_add(loop);
  return loop;
}

void rille_loop_free(rille_loop *loop) {
  rille_control_remove(loop);
  rille_pools_forget_loop(loop);
  rille_mailbox_close(&loop->mailbox);
  for (rille_listener *l = loop->listeners; l; l = l->next) rille_listener_shut(l);
  for (uint32_t slot = 0; slot < loop->slab_count * RILLE_CONN_SLAB; slot++) {
    rille_conn *c = rille_conn_at(loop, slot);
    if (!c) continue;
    rille_conn_free(c);
    rille_conn_bury(c);
  }
  rille_listener_sweep(loop, true);
  rille_reserve_end(&loop->reserve);
  rille_balance_end(loop);
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (loop->states[i]) rille_state_free(loop->states[i]);
  }
  rille_udp_end_loop(loop);
  rille_dial_end_loop(loop);
  rille_binding_end_loop(&loop->bindings);
  for (uint32_t i = 0; i < loop->slab_count; i++) free(loop->slabs[i]);
  for (uint32_t i = 0; i < loop->watch_slab_count; i++) free(loop->watch_slabs[i]);
  rille_topic_end(&loop->subscriptions);
  rille_pipes_trim(&loop->pipes, 0);
  while (loop->buffer_count > 0) rille_linkbuffer_free(loop->buffers[--loop->buffer_count]);
  while (loop->exchanges) {
    rille_http *http = loop->exchanges;
    loop->exchanges = http->next;
    rille_http_free(http);
  }
  rille_poller_close(&loop->poller);
  close(loop->wake_fd);
  rille_pages_free(loop, sizeof *loop);
}

rille_linkbuffer *rille_loop_buffer_take(rille_loop *loop) {
  if (loop->buffer_count > 0) return loop->buffers[--loop->buffer_count];
  int err;
  return rille_linkbuffer_new(4096, &err);
}

void rille_loop_buffer_give(rille_loop *loop, rille_linkbuffer *b) {
  if (loop->buffer_count == RILLE_BUFFERS_KEPT) {
    rille_linkbuffer_free(b);
    return;
  }
  rille_linkbuffer_reset(b);
  loop->buffers[loop->buffer_count++] = b;
}

/* ---- from elsewhere -------------------------------------------------------------------------------------------- */

void rille_loop_ask(rille_loop *loop, uint32_t bits) {
  uint64_t one = 1;
  atomic_fetch_or(&loop->asked, bits);
  if (write(loop->wake_fd, &one, sizeof one) < 0) return; /* EAGAIN: it is awake already */
}

void rille_loop_interrupt(rille_loop *loop) { rille_loop_ask(loop, RILLE_ASK_STOP_NOW); }

/* Mail beyond a batch waits for the next turn, behind what the sockets have. */
static void take_mail(rille_loop *loop) {
  rille_message m;
  for (int i = 0; i < RILLE_MAILBOX_BATCH && rille_mailbox_take(&loop->mailbox, &m); i++) m.deliver(loop, &m);
  loop->has_mail = rille_mailbox_has_mail(&loop->mailbox);
}

static void accept_from_now(rille_loop *loop) {
  if (loop->is_stopping) return;
  loop->is_open = true;
  atomic_store(&loop->phase, RILLE_LOOP_OPEN);
  for (rille_listener *l = loop->listeners; l; l = l->next) rille_listener_arm(l);
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (loop->states[i]) rille_state_emit(loop->states[i], RILLE_EVENT_ACCEPT, 0, 0);
  }
  uint32_t count = loop->team ? loop->team->count : 1;
  if (loop->id == RILLE_LOOP_PRIVATE) return;
  if (!loop->team || atomic_fetch_add(&loop->team->accepting, 1) + 1 == count) rille_notify_ready(1, count);
}

static void hear(rille_loop *loop) {
  uint64_t count;
  if (read(loop->wake_fd, &count, sizeof count) < 0) return;
  rille_mailbox_hear(&loop->mailbox);
  if (!loop->has_mail) take_mail(loop); /* else the turn does */
  uint32_t asked = atomic_exchange(&loop->asked, 0);
  if (asked & RILLE_ASK_DUMP) rille_loop_dump(loop);
  if (asked & RILLE_ASK_OPEN) accept_from_now(loop);
  if (asked & RILLE_ASK_STOP_NOW) rille_loop_stop(loop, 0);
  else if (asked & RILLE_ASK_STOP) rille_loop_stop(loop, loop->drain_ms);
}

/* ---- the turn -------------------------------------------------------------------------------------------------- */

/* Send what was written, change what epoll looks for, settle what ended. */
static void tidy(rille_loop *loop) {
  while (loop->dirty) {
    rille_conn *list = loop->dirty;
    loop->dirty = NULL;
    while (list) {
      rille_conn *c = list;
      list = c->next_dirty;
      rille_conn_tidy(c);
    }
    /* What is dirty again has more to send than its share: the next turn. */
    bool again = false;
    for (rille_conn *c = loop->dirty; c; c = c->next_dirty) again |= !rille_conn_is_put_off(c);
    if (!again) return;
  }
}

void rille_loop_run_states(rille_loop *loop, bool first) {
  for (int round = 0; round < RILLE_LOOP_ROUNDS; round++) {
    bool worked = false;
    for (uint32_t i = 0; i < loop->state_count; i++) {
      rille_state *state = loop->states[i];
      if (!state || (!rille_state_has_work(state) && !(first && round == 0 && state->runnable))) continue;
      rille_state_dispatch(state);
      worked = true;
    }
    rille_udp_tidy(loop);
    tidy(loop); /* may end connections, and so make work */
    loop->worked |= worked;
    bool again = false;
    for (uint32_t i = 0; i < loop->state_count; i++) {
      again |= loop->states[i] && rille_state_has_work(loop->states[i]);
    }
    if (!again) return;
  }
}

void rille_loop_bury(rille_loop *loop) {
  if (!loop->dead) return;
  while (loop->dead) {
    rille_conn *c = loop->dead;
    loop->dead = c->next_dirty;
    rille_conn_bury(c);
  }
}

void rille_loop_evict(rille_loop *loop, rille_state *state) {
  rille_watch_evict(loop, state);
  rille_udp_evict(loop, state);
  rille_dial_evict(loop, state);
  for (uint32_t slot = 0; slot < loop->slab_count * RILLE_CONN_SLAB; slot++) {
    rille_conn *c = rille_conn_at(loop, slot);
    if (c && c->state == state) rille_conn_free(c);
  }
  for (rille_conn **at = &loop->dirty; *at;) {
    rille_conn *c = *at;
    if (!(c->flags & RILLE_CONN_DEAD)) {
      at = &c->next_dirty;
      continue;
    }
    *at = c->next_dirty;
    c->next_dirty = loop->dead;
    loop->dead = c;
  }
  rille_loop_bury(loop);
}

static void ready(rille_loop *loop, const struct epoll_event *event) {
  uint64_t data = event->data.u64;
  uint32_t epoch = (uint32_t)(data >> 32) & 0xffffffu;
  switch ((enum rille_tag)(data >> 56)) {
  case RILLE_TAG_CONN: {
    rille_conn *c = rille_conn_at(loop, (uint32_t)data);
    if (c && c->epoch == epoch) rille_conn_ready(c, event->events); /* else it was for an earlier user of the slot */
    break;
  }
  case RILLE_TAG_LISTENER: {
    rille_listener *l = (rille_listener *)(uintptr_t)(data & 0xffffffffffffu);
    if (!l->is_closed) rille_listener_accept(l);
    break;
  }
  case RILLE_TAG_WATCH: rille_watch_ready(loop, (uint32_t)data, epoch, event->events); break;
  case RILLE_TAG_UDP: rille_udp_ready(loop, (uint32_t)data, epoch, event->events); break;
  case RILLE_TAG_DIAL: rille_dial_ready(loop, (uint32_t)data, epoch); break;
  case RILLE_TAG_DNS: rille_resolver_ready(loop, (uint32_t)data, epoch, event->events); break;
  case RILLE_TAG_WAKE: hear(loop); break;
  }
}

static void conn_fired(rille_timer *timer, void *arg) {
  (void)arg;
  rille_conn_timer((rille_conn *)(void *)((char *)timer - offsetof(rille_conn, timer)));
}

static void watch_fired(rille_timer *timer, void *arg) {
  rille_watch_fired(arg, (rille_watch *)(void *)((char *)timer - offsetof(rille_watch, timer)));
}

static void housekeep(rille_loop *loop) {
  rille_udp_trim(loop);
  rille_pipes_trim(&loop->pipes, 1);
  rille_block_trim();
  while (loop->buffer_count > RILLE_BUFFERS_KEPT / 4) rille_linkbuffer_free(loop->buffers[--loop->buffer_count]);
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (loop->states[i]) rille_state_collect_all(loop->states[i]);
  }
}

static void run_timers(rille_loop *loop) {
  uint64_t now = now_ms(loop);
  rille_wheel_advance(&loop->wheel, now, conn_fired, loop);
  rille_wheel_advance(&loop->task_wheel, now, watch_fired, loop);
  rille_udp_timers(loop);
  rille_dial_timers(loop);
  if (loop->tick_at_ms && now >= loop->tick_at_ms) {
    loop->tick_at_ms = 0;
    if (loop->worked) housekeep(loop);
    loop->worked = false;
  }
}

static uint64_t sooner(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* How long to wait: not at all while tasks can run, else until the next timer. */
static int wait_ms(rille_loop *loop) {
  uint64_t revive_at_ms = rille_listener_revive(loop, now_ms(loop)); /* a loop that never sleeps accepts too */
  for (uint32_t i = 0; i < loop->state_count; i++) {
    const rille_state *state = loop->states[i];
    if (!state) continue;
    if (state->runnable || state->ready.count > 0 || state->later.count > 0) return 0;
  }
  if (loop->dirty || loop->has_mail) return 0;
  if (loop->worked && !loop->tick_at_ms) loop->tick_at_ms = now_ms(loop) + TICK_MS;
  uint64_t next = sooner(rille_wheel_next(&loop->wheel), rille_wheel_next(&loop->task_wheel));
  next = sooner(next, sooner(revive_at_ms, rille_udp_next(loop)));
  next = sooner(next, rille_dial_next(loop));
  if (loop->tick_at_ms) next = sooner(next, loop->tick_at_ms);
  next = sooner(next, loop->mend_at_ms);
  if (loop->is_stopping) next = sooner(next, loop->drain_look_ms);
  if (next == UINT64_MAX) return -1;
  /* handlers took their time: a wait from the turn's clock on would end late */
  loop->looked_ns = rille_now_ns();
  uint64_t now = loop->looked_ns / 1000000;
  if (next <= now) return 0;
  return next - now < INT32_MAX ? (int)(next - now) : INT32_MAX;
}

/* A collector step before sleeping; at most so much that a wait is hardly longer, and again next time while one is due. */
static bool collect(rille_loop *loop, bool about_to_sleep) {
  bool more = false;
  for (uint32_t i = 0; i < loop->state_count; i++) {
    rille_state *state = loop->states[i];
    if (!state) continue;
    rille_state_collect(state, about_to_sleep);
    more |= state->collecting;
  }
  return more;
}

/* One more turn, for the statistics: it ends where the loop goes to sleep, or with the next look at the clock. */
static void count_turn(rille_loop *loop, uint64_t lasted_ns) {
  rille_delay_end_turn(&loop->delay);
  loop->turns_ns += lasted_ns;
  if (lasted_ns > loop->longest_ns) loop->longest_ns = lasted_ns;
  rille_histogram_add(&loop->turns, lasted_ns);
}

static void wait(rille_loop *loop) {
  enum { AWAKE_TOO_LONG_NS = 10000000 };
  loop->looked_ns = 0;
  int timeout = wait_ms(loop);
  bool sleeps = timeout != 0;
  if (sleeps || loop->now_ns - loop->slept_ns > AWAKE_TOO_LONG_NS) {
    if (collect(loop, true) && sleeps) timeout = 0;
  } else {
    collect(loop, false);
  }
  if (loop->dirty) timeout = 0; /* a finalizer closed a connection */
  if (sleeps) {
    count_turn(loop, (loop->looked_ns ? loop->looked_ns : rille_now_ns()) - loop->now_ns);
    atomic_store_explicit(&loop->busy_since, 0, memory_order_relaxed);
  }
  rille_poller_wait(&loop->poller, timeout);
  uint64_t began_ns = loop->now_ns;
  update_clock(loop);
  if (!sleeps) count_turn(loop, loop->now_ns - began_ns);
  atomic_store_explicit(&loop->busy_since, loop->now_ns, memory_order_relaxed);
  if (sleeps) loop->slept_ns = loop->now_ns;
  rille_delay_begin_turn(&loop->delay);
}

/* Read from some of the ready descriptors, let the handlers work, send what they wrote. */
static void run_chunk(rille_loop *loop, int *done, bool first) {
  int last = loop->poller.ready - *done < RILLE_LOOP_CHUNK ? loop->poller.ready : *done + RILLE_LOOP_CHUNK;
  double enough = loop->bytes_in + RILLE_LOOP_CHUNK_BYTES;
  while (*done < last && loop->bytes_in < enough) ready(loop, &loop->poller.events[(*done)++]);
  rille_loop_run_states(loop, first);
}

static void turn(rille_loop *loop) {
  enum { PUBLISH_NS = 100000000 };
  wait(loop);
  loop->turn++;
  if (loop->now_ns - loop->published_ns >= PUBLISH_NS) {
    rille_delay_tend(&loop->delay);
    rille_snapshot_publish(loop);
  }
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (loop->states[i]) rille_state_begin_turn(loop->states[i]);
  }
  int done = 0;
  if (loop->has_mail) take_mail(loop);
  run_chunk(loop, &done, true);
  while (done < loop->poller.ready) run_chunk(loop, &done, false);
  run_timers(loop); /* after the reads: what has just spoken is not idle */
  rille_loop_run_states(loop, false);
  rille_loop_bury(loop);
  rille_balance_settle(loop);
  if (loop->mend_at_ms <= loop->clock_ms) rille_loop_mend(loop);
  rille_listener_sweep(loop, false);
  rille_udp_sweep(loop);
  if (loop->is_stopping) rille_loop_check_stop(loop);
}

/* ---- run ------------------------------------------------------------------------------------------------------- */

void rille_loop_pin(rille_loop *loop, int cpu) {
  rille_cpu_remember();
  loop->cpu = cpu;
}

int rille_loop_run(rille_loop *loop) {
  rille_log_set_thread_loop(loop->id);
  if (loop->cpu != RILLE_CPU_ANY && !rille_cpu_pin(loop->cpu)) {
    RILLE_LOG(RILLE_LOG_WARN, "cannot stay on processor %d: this loop runs on any", loop->cpu);
  }
  update_clock(loop);
  loop->slept_ns = loop->now_ns;
  loop->is_over = false;
  loop->starting = 0;
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (!loop->states[i]) continue;
    loop->starting++;
    loop->states[i]->phase = RILLE_STATE_RUNNING;
    loop->states[i]->started_ms = loop->clock_ms;
    rille_state_emit(loop->states[i], RILLE_EVENT_START, 0, 0);
  }
  while (!loop->is_over) turn(loop);
  atomic_store_explicit(&loop->busy_since, 0, memory_order_relaxed);
  rille_loop_bury(loop);
  for (rille_listener *l = loop->listeners; l; l = l->next) rille_listener_shut(l);
  rille_listener_sweep(loop, false);
  atomic_store(&loop->busy_since, 0);
  if (atomic_load(&loop->asked) & RILLE_ASK_DUMP) rille_loop_dump(loop); /* asked for while it stopped */
  if (loop->cpu != RILLE_CPU_ANY) rille_cpu_roam();                      /* the thread may be the program's */
  rille_delay_end(&loop->delay);
  rille_log_set_thread_loop(0);
  return loop->status;
}

static void *thread_main(void *arg) {
  rille_loop_run(arg);
  rille_block_thread_end();
  return NULL;
}

int rille_loop_thread_start(rille_loop *loop) {
  int error_number = pthread_create(&loop->thread, NULL, thread_main, loop);
  if (error_number) return rille_err_from_errno(error_number);
  loop->has_thread = true;
  char name[16];
  uint32_t process = rille_process_number();
  if (loop->id == RILLE_LOOP_PRIVATE) snprintf(name, sizeof name, "rille-reload");
  else if (process) snprintf(name, sizeof name, "rille-p%u-l%u", process % 100, loop->id % 1000);
  else snprintf(name, sizeof name, "rille-loop-%u", loop->id % 1000);
  pthread_setname_np(loop->thread, name);
  return RILLE_OK;
}

int rille_loop_thread_join(rille_loop *loop) {
  if (!loop->has_thread) return RILLE_ERR_INVALID;
  pthread_join(loop->thread, NULL);
  loop->has_thread = false;
  return loop->status;
}

void rille_loop_open(rille_loop *loop) {
  if (loop->starting > 0) loop->starting--;
  if (loop->is_stopping || loop->starting > 0) return;
  if (loop->team) rille_team_started(loop->team);
  else accept_from_now(loop);
}

void rille_loop_set_pipes(rille_loop *loop, double max) { loop->pipes.max = max > 0 ? (uint32_t)max : 0; }

void rille_loop_set_budget(rille_loop *loop, double ms) { loop->budget_ns = ms > 0 ? (uint64_t)(ms * 1e6) : BUDGET_NS; }

rille_place *rille_loop_place(rille_loop *loop) { return loop->place; }

const rille_clock *rille_loop_clock(const rille_loop *loop) { return &loop->clock; }
