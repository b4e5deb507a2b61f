/*
 * state_replace: a Lua state that cannot be trusted any more, because its memory is used up or its dispatcher failed, gives way to a new one
 * of the same script. Its connections, timers and calls under way end with it; its listening sockets go over to the new one, so that
 * no connection in their queues is lost, and nothing else of the loop is touched. Loop thread, at the end of a turn.
 *
 * A script that does not come up is tried again, later each time; meanwhile its sockets take no connections.
 */
#include "conn.h"
#include "listener.h"
#include "log.h"
#include "loop.h"
#include "reload.h"

#include <stdio.h>
#include <stdlib.h>

enum { RETRY_FIRST_MS = 100, RETRY_MAX_MS = 10000, CALM_MS = 10000 };

void rille_state_distrust(rille_state *state) {
  if (state->is_host) return; /* the program's own VM has no replacement */
  state->is_broken = true;
  state->loop->mend_at_ms = 0;
}

/* A state that was well for a while, or never failed before, is replaced at once. */
static uint32_t patience(const rille_state *state) {
  uint64_t lived_ms = state->loop->clock_ms - state->started_ms;
  if (lived_ms >= CALM_MS || state->renewals == 0) return 0;
  if (state->retry_ms == 0) return RETRY_FIRST_MS;
  return state->retry_ms < RETRY_MAX_MS / 2 ? state->retry_ms * 2 : RETRY_MAX_MS;
}

static void say_why(const rille_state *state, uint32_t connections) {
  char why[64] = "its dispatcher failed";
  if (state->heap.is_passed) {
    snprintf(why, sizeof why, "limits.memory (%zu bytes) is used up", state->heap.limit);
  }
  RILLE_LOG(RILLE_LOG_ERROR, "%s: %s: the Lua state is replaced, %u connections closed", state->label, why,
            connections);
}

static void take_down(rille_state *state) {
  rille_loop *loop = state->loop;
  (void)rille_reload_fails(state);
  say_why(state, state->conn_count);
  state->is_broken = true;
  for (rille_listener *l = loop->listeners; l; l = l->next) {
    if (l->service->state != state) continue;
    atomic_store(&l->is_away, true);
    rille_listener_disarm(l);
  }
  rille_loop_evict(loop, state);
  rille_state_close(state);
  loop->replaced++;
  if (state->owes_hooks) rille_state_hooks_done(state);
  if (!state->is_serving && state->renewals == 0) {
    rille_loop_exit(loop, 1); /* it never came up: the server does not either */
    return;
  }
  state->is_serving = false; /* what other loops hand it until the next is up is refused */
  state->retry_ms = patience(state);
  state->retry_at_ms = loop->clock_ms + state->retry_ms;
}

static void build_again(rille_state *old) {
  rille_loop *loop = old->loop;
  char message[1024];
  bool is_built;
  rille_state *state = rille_state_renew(old, &is_built, message, sizeof message);
  if (!state) { /* old is as it was */
    old->retry_at_ms = loop->clock_ms + RETRY_MAX_MS;
    return;
  }
  state->started_ms = loop->clock_ms;
  if (is_built) {
    rille_state_emit(state, RILLE_EVENT_START, 0, 0);
    return;
  }
  rille_loop_evict(loop, state);
  rille_state_close(state);
  state->is_broken = true;
  state->retry_ms = patience(state);
  state->retry_at_ms = loop->clock_ms + state->retry_ms;
  RILLE_LOG(RILLE_LOG_ERROR, "%s: cannot be started again: %s; next try in %u ms", state->label, message,
            state->retry_ms);
}

static bool is_down(const rille_state *state) { return !state->lua && !state->is_host; }

static void mend(rille_state *state) {
  rille_loop *loop = state->loop;
  bool is_up = state->lua && !state->is_host;
  if (is_up && (state->is_broken || (state->heap.is_passed && rille_state_is_worn_out(state)))) take_down(state);
  if (state->change.after || state->change.is_leaving) return; /* it gets no messages any more */
  if (is_down(state) && !loop->is_stopping && state->retry_at_ms <= loop->clock_ms) build_again(state);
}

void rille_loop_mend(rille_loop *loop) {
  loop->mend_at_ms = UINT64_MAX;
  uint64_t next = rille_reload_tend(loop);
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (!loop->states[i]) continue;
    mend(loop->states[i]);
    const rille_state *state = loop->states[i];
    if (!is_down(state) || loop->is_stopping || state->change.after || state->change.is_leaving) continue;
    if (state->retry_at_ms < loop->mend_at_ms) loop->mend_at_ms = state->retry_at_ms;
  }
  if (next < loop->mend_at_ms) loop->mend_at_ms = next;
}

/* Its on_start has returned: sockets of the one before that it did not ask for are not wanted any more. */
static void serve_again(rille_state *state) {
  rille_loop *loop = state->loop;
  for (rille_listener *l = loop->listeners; l; l = l->next) {
    if (!l->service->is_former || l->service->state != state) continue;
    l->is_held = false;
    rille_listener_shut(l);
  }
  RILLE_LOG(RILLE_LOG_INFO, "%s: a new Lua state serves", state->label);
  for (rille_listener *l = loop->listeners; l; l = l->next) {
    if (l->service->state != state) continue;
    atomic_store(&l->is_away, false);
    if (loop->is_open && (!loop->is_stopping || l->options.stays)) rille_listener_arm(l);
  }
  if (!loop->is_open) return;
  rille_state_emit(state, RILLE_EVENT_ACCEPT, 0, 0);
}

int rille_state_is_renewed(const rille_state *state) { return state->renewals > 0; }

void rille_state_started(rille_state *state) {
  if (state->change.is_incoming) {
    state->change.is_ready = true;
    state->loop->mend_at_ms = 0;
    return;
  }
  state->is_serving = true;
  if (state->renewals > 0) serve_again(state);
  else rille_loop_open(state->loop);
}

void rille_state_refuse_start(rille_state *state) {
  if (state->change.is_incoming) {
    state->change.is_refused = true;
    state->loop->mend_at_ms = 0;
    return;
  }
  if (state->renewals > 0) rille_state_distrust(state);
  else rille_loop_exit(state->loop, 1);
}
