/*
 * state_replace: a Lua state that cannot be trusted any more, because its memory is used up or its dispatcher failed, gives way to a new one
 * of the same script. Its connections, timers and calls under way end with it; its listening sockets go over to the new one, so that
 * no connection in their queues is lost, and nothing else of the loop is touched. Loop thread, at the end of a turn.
 *
 * The new one is built as a reload builds its states, on the staging thread, and comes by mail; on the loop itself only where nobody deploys.
 * A script that does not come up is tried again, later each time; meanwhile its sockets take no connections.
 */
#include "conn.h"
#include "listener.h"
#include "log.h"
#include "loop.h"
#include "note.h"
#include "reload.h"
#include "team.h"

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

/* Not this time. */
static void put_off(rille_state *state, const char *message) {
  state->retry_ms = patience(state);
  state->retry_at_ms = state->loop->clock_ms + state->retry_ms;
  RILLE_LOG(RILLE_LOG_ERROR, "%s: cannot be started again: %s; next try in %u ms", state->label, message,
            state->retry_ms);
}

static void start_again(rille_state *state) {
  state->started_ms = state->loop->clock_ms;
  rille_state_emit(state, RILLE_EVENT_START, 0, 0);
}

static void build_here(rille_state *old) {
  rille_loop *loop = old->loop;
  char message[1024];
  bool is_built;
  rille_state *state = rille_state_renew(old, &is_built, message, sizeof message);
  if (!state) { /* old is as it was */
    old->retry_at_ms = loop->clock_ms + RETRY_MAX_MS;
    return;
  }
  if (is_built) {
    start_again(state);
    return;
  }
  state->started_ms = loop->clock_ms;
  rille_loop_evict(loop, state);
  rille_state_close(state);
  state->is_broken = true;
  put_off(state, message);
}

/* Its script is loaded where that holds up nobody, if somebody deploys. */
static void build_again(rille_state *old) {
  old->is_awaited = rille_note_send(RILLE_NOTE_FAILED, old->loop, old->generation, NULL, 0, old->arguments,
                                    old->arguments_size) == RILLE_OK;
  if (!old->is_awaited) build_here(old);
}

static bool is_down(const rille_state *state) { return !state->lua && !state->is_host; }

static void mend(rille_state *state) {
  rille_loop *loop = state->loop;
  bool is_up = state->lua && !state->is_host;
  if (is_up && (state->is_broken || (state->heap.is_passed && rille_state_is_worn_out(state)))) take_down(state);
  if (state->change.after || state->change.is_leaving) return; /* it gets no messages any more */
  bool is_due = !state->is_awaited && state->retry_at_ms <= loop->clock_ms;
  if (is_down(state) && !loop->is_stopping && is_due) build_again(state);
}

void rille_loop_mend(rille_loop *loop) {
  loop->mend_at_ms = UINT64_MAX;
  uint64_t next = rille_reload_tend(loop);
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (!loop->states[i]) continue;
    mend(loop->states[i]);
    const rille_state *state = loop->states[i];
    if (!is_down(state) || loop->is_stopping || state->change.after || state->change.is_leaving) continue;
    if (state->is_awaited) continue;
    if (state->retry_at_ms < loop->mend_at_ms) loop->mend_at_ms = state->retry_at_ms;
  }
  if (next < loop->mend_at_ms) loop->mend_at_ms = next;
}

/* ---- one that was built elsewhere ------------------------------------------------------------------------------- */

typedef struct renewal {
  rille_generation *generation; /* a reference */
  rille_state *state;           /* owned, or NULL */
  bool is_for_here;             /* the loop is to build it */
  char message[1024];
} renewal;

static void free_renewal(renewal *r) {
  if (r->state) rille_state_discard(r->state);
  rille_generation_release(r->generation);
  free(r);
}

static void drop_renewal(const rille_message *m) { free_renewal(m->what); }

/* The one that waits for it, and still is to serve; NULL: there is none. It waits no longer. */
static rille_state *whose(const rille_loop *loop, const renewal *r) {
  uint32_t place = r->generation->place;
  rille_state *old = place < loop->state_count ? loop->states[place] : NULL;
  if (!old || old->generation != r->generation || !old->is_awaited) return NULL;
  old->is_awaited = false;
  return loop->is_stopping || old->change.after || old->change.is_leaving ? NULL : old;
}

static void deliver_renewal(rille_loop *loop, const rille_message *m) {
  renewal *r = m->what;
  rille_state *old = whose(loop, r), *state = r->state;
  r->state = NULL;
  if (!old) {
    if (state) rille_note_send(RILLE_NOTE_SPARE, loop, r->generation, state, 0, NULL, 0);
  } else if (state) {
    rille_state_succeed(state, old);
    start_again(state);
  } else if (r->is_for_here) {
    build_here(old);
  } else {
    old->renewals++; /* as if it had been there */
    old->started_ms = loop->clock_ms;
    put_off(old, r->message);
    loop->mend_at_ms = 0;
  }
  free_renewal(r);
}

int rille_reload_renew(rille_team *team, uint32_t id, rille_generation *g, rille_state *state, const char *message) {
  rille_loop *loop = rille_team_loop(team, id);
  renewal *r = loop ? calloc(1, sizeof *r) : NULL;
  if (!r) return loop ? RILLE_ERR_FULL : RILLE_ERR_NOT_FOUND;
  rille_generation_retain(g);
  r->generation = g;
  r->state = state;
  r->is_for_here = !state && !message;
  snprintf(r->message, sizeof r->message, "%s", message ? message : "");
  rille_message m = {.deliver = deliver_renewal, .drop = drop_renewal, .what = r};
  int err = rille_mailbox_send(&loop->mailbox, &m);
  if (!err) return RILLE_OK;
  r->state = NULL; /* the caller's */
  free_renewal(r);
  return err;
}

/* ---- serving again ---------------------------------------------------------------------------------------------- */

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
