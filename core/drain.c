/*
 * drain: how a loop stops. It accepts no more, lets on_shutdown run and connections finish until patience ends, then cancels
 * what is still parked and ends the run. Loop thread.
 */
#include "listener.h"
#include "log.h"
#include "loop.h"
#include "notify.h"
#include "team.h"
#include "udp.h"

enum {
  DRAIN_MS = 30000,
  DRAIN_RECHECK_MS = 20 /* connections that became idle during a stop are found by looking */
};

/* The number of connections the stop waits for. */
static uint32_t stop_connections(rille_loop *loop, bool force) {
  uint32_t count = 0;
  for (uint32_t slot = 0; slot < loop->slab_count * RILLE_CONN_SLAB; slot++) {
    rille_conn *c = rille_conn_at(loop, slot);
    if (c && rille_conn_stop(c, force)) count++;
  }
  return count;
}

void rille_loop_stop(rille_loop *loop, double drain_ms) {
  if (drain_ms < 0) drain_ms = loop->drain_ms;
  uint64_t at = loop->clock_ms + (drain_ms > 0 ? (uint64_t)(drain_ms < 1e15 ? drain_ms : 1e15) : 0);
  if (loop->is_stopping) {
    if (at < loop->drain_at_ms) loop->drain_at_ms = at;
    return;
  }
  if (loop->id != RILLE_LOOP_PRIVATE) rille_notify_stopping();
  loop->is_stopping = true;
  atomic_store(&loop->phase, RILLE_LOOP_STOPPING);
  loop->is_draining = drain_ms > 0;
  loop->drain_at_ms = at;
  /* not in this turn: a connection is idle only when the kernel has nothing for it either */
  loop->drain_look_ms = loop->clock_ms + 1;
  loop->hooks_pending = 0;
  if (loop->is_open) {
    for (rille_listener *l = loop->listeners; l; l = l->next) {
      if (!l->options.stays) rille_listener_drain(l);
    }
  }
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (!loop->states[i] || !loop->states[i]->lua) continue;
    loop->states[i]->owes_hooks = true;
    loop->hooks_pending++;
    rille_state_emit(loop->states[i], RILLE_EVENT_STOP, 0, 0);
  }
}

void rille_state_hooks_done(rille_state *state) {
  if (state->owes_hooks) state->loop->hooks_pending--;
  state->owes_hooks = false;
}

void rille_loop_exit(rille_loop *loop, int status) {
  loop->status = status;
  rille_loop_stop(loop, 0);
  if (loop->team) rille_team_stop(loop->team, 0);
}

void rille_loop_shutdown(rille_loop *loop, double drain_ms) {
  rille_process_ask_stop(RILLE_STOP_DRAIN); /* and the other processes of the server */
  if (loop->team) rille_team_stop(loop->team, drain_ms);
  else rille_loop_stop(loop, drain_ms);
}

void rille_loop_set_drain(rille_loop *loop, double ms) {
  loop->drain_ms = ms >= 0 && ms < (double)UINT32_MAX ? (uint32_t)ms : DRAIN_MS;
}

/* Nothing can park any more, so what runs now comes to its end, unless it goes on making tasks for ever. */
static void finish_work(rille_loop *loop) {
  enum { ROUNDS_MAX = 1000 };
  for (int i = 0; i < ROUNDS_MAX; i++) {
    bool has_work = loop->dirty != NULL;
    for (uint32_t k = 0; k < loop->state_count; k++) {
      if (!loop->states[k]) continue;
      rille_state_begin_turn(loop->states[k]);
      has_work |= loop->states[k]->runnable || rille_state_has_work(loop->states[k]);
    }
    if (!has_work) return;
    rille_loop_run_states(loop, true);
  }
}

/* What is still parked is cancelled, so that scripts clean up; it gets a few rounds, not the time of a drain. */
static void end(rille_loop *loop) {
  loop->is_ending = true;
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (loop->states[i]) rille_state_emit(loop->states[i], RILLE_EVENT_END, 0, 0);
  }
  finish_work(loop);
  rille_udp_stop(loop, true);
  stop_connections(loop, true); /* such as a script made for itself and never closed */
  /* on_close of those */
  finish_work(loop);
  rille_loop_bury(loop);
  loop->is_over = true;
}

/* Idle connections go, at the end of patience all do; the last one out ends the run. */
void rille_loop_check_stop(rille_loop *loop) {
  uint64_t now = loop->clock_ms;
  bool is_late = now >= loop->drain_at_ms;
  if (!is_late && now < loop->drain_look_ms && (loop->conn_count > 0 || loop->udp)) return;
  if (!is_late && loop->poller.ready == loop->poller.capacity) return; /* who has spoken may not have been read yet */
  loop->drain_look_ms = now + DRAIN_RECHECK_MS;
  uint32_t left = loop->conn_count > 0 ? stop_connections(loop, false) : 0;
  if (is_late && left > 0 && loop->is_draining) {
    RILLE_LOG(RILLE_LOG_WARN, "aborting %u connections that have not finished", left);
  }
  left += rille_udp_stop(loop, false);
  bool has_more = loop->hooks_pending > 0 || rille_listener_may_receive(loop); /* what it was handed before is mail */
  has_more = has_more || rille_mailbox_has_mail(&loop->mailbox);
  if (is_late || (left == 0 && !has_more)) end(loop);
}
