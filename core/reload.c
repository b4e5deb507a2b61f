/*
 * reload: see reload.h.
 */
#include "reload.h"

#include "listener.h"
#include "log.h"
#include "note.h"
#include "pool.h"
#include "team.h"
#include "udp.h"

#include <stdlib.h>
#include <string.h>

enum { LOOK_MS = 20, LOOK_SLOWLY_MS = 200, ROUNDS = 4, MOVES_MAX = 512 };

static const char STOPPING[] = "the server is stopping";
static const char TOO_LATE[] = "its on_start has not returned";
static const char UNKNOWN[] = "it did not come up";

/* ---- calls into a state ---------------------------------------------------------------------------------------- */

static bool can_speak(const rille_state *state) { return state->lua && !state->is_broken; }

/* Between two turns, so nothing of the loop's runs meanwhile. */
static void tell(rille_state *state, enum rille_change_kind kind) {
  if (can_speak(state) && rille_state_emit(state, RILLE_EVENT_CHANGE, 0, (int)kind)) rille_state_dispatch(state);
}

static void keep(char **to, size_t *to_size, const char *bytes, size_t size) {
  free(*to);
  *to = malloc(size + 1);
  *to_size = *to ? size : 0;
  if (!*to) return;
  if (size > 0) memcpy(*to, bytes, size);
  (*to)[size] = 0;
}

void rille_state_explain(rille_state *state, const char *text, size_t size) {
  keep(&state->change.text, &state->change.text_size, text, size);
}

void rille_state_leave_behind(rille_state *state, const char *bytes, size_t size) {
  keep(&state->change.text, &state->change.text_size, bytes, size);
}

/* For the other one of the change that is under way. */
void rille_state_bequeath(rille_state *state, const char *bytes, size_t size) {
  rille_state *to = state->change.after;
  if (!to) {
    for (uint32_t i = 0; i < state->loop->state_count && !to; i++) {
      rille_state *one = state->loop->states[i];
      if (one && one->change.is_incoming && one->change.before == state) to = one;
    }
  }
  if (to) keep(&to->change.inheritance, &to->change.inheritance_size, bytes, size);
}

const char *rille_state_inheritance(const rille_state *state, size_t *size) {
  *size = state->change.inheritance_size;
  return state->change.inheritance;
}

static void forget_inheritance(rille_state *state) {
  free(state->change.inheritance);
  state->change.inheritance = NULL;
  state->change.inheritance_size = 0;
}

const char *rille_state_explanation(const rille_state *state) { return state->change.text; }

void rille_state_set_wish(rille_state *state, int wish) { state->change.wish = wish; }

void rille_state_set_migrates(rille_state *state) { state->migrates = true; }

int rille_state_wish(const rille_state *state) { return state->change.wish; }

int rille_state_is_incoming(const rille_state *state) { return state->change.is_incoming; }

rille_loop *rille_state_loop(const rille_state *state) { return state->loop; }

/* What its Lua has of the loop is of no use from here on, and no finalizer may come back to it: it is closed on another thread. */
static void part(rille_state *state) {
  rille_loop *loop = state->loop;
  if (can_speak(state)) tell(state, RILLE_CHANGE_GONE);
  else rille_state_close(state);
  rille_loop_evict(loop, state);
  rille_loop_take(loop, state);
  state->ready.count = state->later.count = 0;
  state->runnable = false;
}

void rille_state_detach(rille_state *state) { part(state); }

void rille_state_discard(rille_state *state) { rille_state_free(state); }

/* ---- listeners ------------------------------------------------------------------------------------------------- */

/* It may have been put aside because the state before had failed, or be another's now that has. */
static void serve_with(rille_listener *l) {
  atomic_store(&l->is_away, !l->service->state->is_serving);
  if (!l->service->state->is_serving) rille_listener_disarm(l);
  else if (l->loop->is_open && !l->loop->is_stopping) rille_listener_arm(l);
}

static void give_listeners(rille_loop *loop, const rille_state *from, const rille_state *to) {
  for (rille_listener *l = loop->listeners; l; l = l->next) {
    if (l->is_closed) continue;
    if (l->heir && l->heir->state == to) {
      rille_listener_to_heir(l);
      l->is_resting = false; /* of a server that had given it up already */
      serve_with(l);
    } else if (l->service->state == from) {
      rille_listener_disarm(l); /* what is in its queue waits: there may be a way back */
      l->is_resting = true;
    } else if (l->service->state == to && loop->is_open) {
      atomic_store(&l->is_away, false);
      rille_listener_arm(l);
    }
  }
}

static void give_listeners_back(rille_loop *loop, const rille_state *from, const rille_state *to) {
  for (rille_listener *l = loop->listeners; l; l = l->next) {
    if (l->is_closed) continue;
    if (l->former && l->former->state == to && l->service->state == from) {
      rille_listener_to_former(l);
      serve_with(l);
    } else if (l->service->state == from) {
      rille_listener_shut(l);
      l->is_held = false;
    } else if (l->service->state == to && l->is_resting) {
      l->is_resting = false;
      rille_listener_arm(l);
    }
  }
}

/* The state goes: its listeners do, and nobody expects them of it. */
static void forget_listeners(rille_loop *loop, const rille_state *state) {
  for (rille_listener *l = loop->listeners; l; l = l->next) {
    if (l->heir && l->heir->state == state) l->heir = NULL;
    if (l->former && l->former->state == state) l->former = NULL;
    if (l->service->state != state) continue;
    if (!l->is_closed) rille_listener_shut(l);
    rille_listener_orphan(l);
  }
}

/* What is in the queues of addresses that nobody wants any more. */
static void close_resting(rille_loop *loop, const rille_state *state) {
  for (rille_listener *l = loop->listeners; l; l = l->next) {
    if (l->service->state != state || l->is_closed) continue;
    l->is_held = false;
    l->is_resting = false;
    if (l->udp) rille_listener_arm(l); /* it takes what is queued as one that receives */
    l->is_dropped = true;
    rille_listener_drain(l);
  }
}

/* ---- arriving -------------------------------------------------------------------------------------------------- */

/* Off the loop, with all it had there; it is the note's. */
static void send_off(rille_state *state, int kind, const char *text, size_t size) {
  rille_loop *loop = state->loop;
  forget_listeners(loop, state);
  part(state);
  rille_pools_forget_state(state);
  rille_listener_sweep(loop, false);
  if (state->owes_hooks) rille_state_hooks_done(state);
  for (uint32_t i = 0; i < loop->state_count; i++) {
    rille_state *one = loop->states[i];
    if (one && one->change.before == state) one->change.before = NULL;
    if (one && one->change.after == state) one->change.after = NULL;
  }
  loop->gone_errors += state->errors;
  loop->gone_failures += state->failures;
  loop->gone_allocated += state->allocated;
  rille_note_send(kind, loop, state->generation, state, state->change.handed, text, size);
}

void rille_reload_refuse(rille_state *state) {
  const char *text = state->change.text ? state->change.text : UNKNOWN;
  send_off(state, RILLE_NOTE_REFUSED, text, strlen(text));
}

static void drop_commit(const rille_message *m) { rille_state_discard(m->what); }

static void deliver_commit(rille_loop *loop, const rille_message *m) {
  rille_state *state = m->what;
  if (loop->is_stopping || !loop->is_open) {
    rille_note_send(RILLE_NOTE_REFUSED, loop, state->generation, state, 0, STOPPING, sizeof STOPPING - 1);
    return;
  }
  state->change.before = rille_loop_current(loop, state->generation->server);
  state->change.is_incoming = true;
  state->phase = RILLE_STATE_RUNNING;
  state->started_ms = loop->clock_ms;
  rille_loop_put(loop, state);
  rille_state_emit(state, RILLE_EVENT_START, 0, 0);
}

/* Whoever gave way to `from` gives way to `to`. */
static void follow(const rille_loop *loop, const rille_state *from, rille_state *to) {
  for (uint32_t i = 0; i < loop->state_count; i++) {
    rille_state *one = loop->states[i];
    if (one && one != to && one->change.after == from) one->change.after = to;
  }
}

static void take_over(rille_state *state) {
  rille_loop *loop = state->loop;
  rille_state *before = state->change.before;
  state->change.is_ready = false;
  if (before) tell(before, RILLE_CHANGE_RETIRE);
  if (before) tell(state, RILLE_CHANGE_RELOAD);
  forget_inheritance(state);
  if (state->change.is_refused || state->is_broken) {
    rille_reload_refuse(state);
    return;
  }
  state->change.is_incoming = false;
  state->is_serving = true;
  if (before) {
    before->change.after = state;
    follow(loop, before, state);
  }
  give_listeners(loop, before, state);
  if (before) tell(before, RILLE_CHANGE_ASIDE);
  rille_note_send(RILLE_NOTE_COMMITTED, loop, state->generation, NULL, 0, NULL, 0);
}

/* ---- going back ------------------------------------------------------------------------------------------------ */

/* New messages are the old one's from here on, even within this turn; the rest follows at its end. */
static void turn_back(rille_state *state) {
  rille_state *before = state->change.before;
  if (!before || state->change.after || before->change.is_retiring) return;
  before->change.after = NULL;
  state->change.after = before;
  follow(state->loop, state, before);
  state->change.before = NULL;
  state->change.is_returning = true;
  state->loop->mend_at_ms = 0;
}

static void finish_return(rille_state *state) {
  rille_state *to = state->change.after;
  state->change.is_returning = false;
  if (!to) return;
  give_listeners_back(state->loop, state, to);
  tell(state, RILLE_CHANGE_RETIRE);
  tell(to, RILLE_CHANGE_RETURN);
  forget_inheritance(to);
  tell(state, RILLE_CHANGE_ASIDE);
  tell(to, RILLE_CHANGE_BACK);
  rille_note_send(RILLE_NOTE_ROLLED_BACK, state->loop, state->generation, NULL, 0, NULL, 0);
}

/* ---- messages -------------------------------------------------------------------------------------------------- */

/* It cannot go on; where there is a way back, that is taken. */
bool rille_reload_fails(rille_state *state) {
  rille_state *before = state->change.before;
  if (!before || state->change.after || state->change.is_incoming) return false;
  if (!can_speak(before) || before->change.is_retiring) return false;
  if (!rille_generation_break(state->generation)) return false;
  turn_back(state);
  rille_note_send(RILLE_NOTE_BROKEN, state->loop, state->generation, NULL, 0, NULL, 0);
  return true;
}

uint64_t rille_reload_message(rille_state *state) {
  rille_generation *g = state->generation;
  if (rille_generation_is_broken(g)) turn_back(state);
  return atomic_load_explicit(&g->is_watched, memory_order_relaxed) ? rille_now_ns() : 0;
}

void rille_reload_message_done(rille_state *state, uint64_t began_ns, bool has_failed) {
  rille_generation *g = state->generation;
  if (!atomic_load_explicit(&g->is_watched, memory_order_relaxed)) return;
  if (!rille_generation_count(g, has_failed, began_ns, rille_now_ns())) return;
  turn_back(state);
  rille_note_send(RILLE_NOTE_BROKEN, state->loop, g, NULL, 0, NULL, 0);
}

bool rille_reload_begin(rille_conn *c) {
  c->began_ns = rille_reload_message(c->state);
  if (c->state->change.after && rille_conn_may_go(c)) {
    rille_conn_go(c);
    return false;
  }
  c->has_failed = false;
  return true;
}

void rille_reload_done(rille_conn *c, bool has_failed) { rille_reload_message_done(c->state, c->began_ns, has_failed); }

/* ---- the end of a generation ----------------------------------------------------------------------------------- */

/* Patience with a connection ends at a time of its own, so that not all of them come back at once. */
bool rille_reload_is_late(const rille_state *state, uint32_t slot) {
  uint64_t jitter_ms = state->change.jitter_ms;
  uint64_t at = state->change.drain_at_ms;
  if (at == UINT64_MAX) return false;
  if (jitter_ms > 0) at += ((uint64_t)slot * 2654435761u) % jitter_ms;
  return state->loop->clock_ms >= at;
}

static void end_patience(rille_state *state, rille_conn *c) {
  switch ((enum rille_drain)state->change.drain) {
  case RILLE_DRAIN_LEAVE: /* see leave.c */
  case RILLE_DRAIN_STAY: return;
  case RILLE_DRAIN_MIGRATE:
    if (c->is_told) return;
    c->is_told = true;
    c->is_bound = false;
    rille_state_emit(state, RILLE_EVENT_MIGRATE, c->slot, 1);
    return;
  case RILLE_DRAIN_CLOSE:
    if (c->flags & RILLE_CONN_CLOSING) return;
    if (!c->reason) c->reason = RILLE_ERR_SHUTDOWN;
    state->change.handed++;
    rille_conn_close(c);
    return;
  }
}

/* Hand on what is idle, MOVES_MAX in a turn. How many connections, sessions and datagrams there still are. */
static uint32_t sweep(rille_state *state, bool *is_cut) {
  rille_loop *loop = state->loop;
  uint32_t left = 0, moves = 0, slots = state->conn_count > 0 ? loop->slab_count * RILLE_CONN_SLAB : 0;
  for (uint32_t slot = 0; slot < slots; slot++) {
    rille_conn *c = rille_conn_at(loop, slot);
    if (!c || c->state != state) continue;
    if (!rille_conn_holds_up(c)) continue; /* the script's own */
    left++;
    if (!(c->flags & RILLE_CONN_BUSY) && rille_conn_may_go(c)) {
      *is_cut = ++moves > MOVES_MAX;
      if (*is_cut) return left;
      rille_conn_go(c);
      if (c->state != state) left--;
    } else if (rille_reload_is_late(state, c->slot)) {
      end_patience(state, c);
    }
  }
  left += rille_sessions_retire(state);
  if (!rille_reload_is_late(state, 0)) left += state->datagrams; /* else their handlers are cancelled with the rest */
  return left;
}

/* The way back is closed: what connections brought along from there is not needed any more. */
static void forget_luggage(const rille_state *state) {
  rille_loop *loop = state->loop;
  for (uint32_t slot = 0; slot < loop->slab_count * RILLE_CONN_SLAB; slot++) {
    rille_conn *c = rille_conn_at(loop, slot);
    if (c) rille_luggage_stay(&c->luggage, state->id);
  }
  rille_sessions_stay(loop, state->id);
}

/* How many connections the end waits for. */
static uint32_t left_of(rille_state *state, bool *is_cut) {
  if (!state->change.is_leaving) return sweep(state, is_cut) + rille_leave_is_expected(state);
  uint32_t left = rille_leave_sweep(state);
  if (state->loop->clock_ms < state->change.drain_at_ms) return left;
  state->change.handed = left;
  return 0;
}

static void begin_leaving(rille_state *state) {
  state->change.is_leaving = true;
  tell(state, RILLE_CHANGE_RETIRE);
  rille_leave_begin(state);
  tell(state, RILLE_CHANGE_ASIDE);
}

static uint64_t retire(rille_state *state) {
  rille_loop *loop = state->loop;
  if (state->change.drain == RILLE_DRAIN_LEAVE && !state->change.is_leaving) begin_leaving(state);
  if (!state->change.is_ending) {
    bool is_cut = false;
    if (left_of(state, &is_cut) > 0) {
      if (is_cut) return loop->clock_ms;
      bool is_new = loop->clock_ms < state->change.began_ms + 1000;
      return loop->clock_ms + (is_new ? LOOK_MS : LOOK_SLOWLY_MS);
    }
    state->change.is_ending = true;
    tell(state, RILLE_CHANGE_LEFT);
    if (can_speak(state)) rille_state_emit(state, RILLE_EVENT_END, 0, 0);
    state->change.rounds = 0;
    return loop->clock_ms;
  }
  bool works = can_speak(state) && (state->runnable || rille_state_has_work(state));
  if (works && ++state->change.rounds < ROUNDS) return loop->clock_ms;
  forget_luggage(state);
  const char *text = state->change.text ? state->change.text : "";
  send_off(state, RILLE_NOTE_RETIRED, text, state->change.text_size);
  return UINT64_MAX;
}

uint64_t rille_reload_tend(rille_loop *loop) {
  uint64_t next = UINT64_MAX;
  for (uint32_t i = 0; i < loop->state_count; i++) {
    rille_state *state = loop->states[i];
    if (!state) continue;
    if (state->change.is_refused || (state->change.is_incoming && state->is_broken)) rille_reload_refuse(state);
    else if (state->change.is_ready) take_over(state);
    else if (state->change.is_returning) finish_return(state);
    else if (state->change.is_retiring && !loop->is_stopping) {
      uint64_t at = retire(state);
      if (at < next) next = at;
    }
  }
  return next;
}

void rille_reload_replaced(const rille_state *old, rille_state *state) {
  rille_loop *loop = state->loop;
  state->change.before = old->change.before;
  for (uint32_t i = 0; i < loop->state_count; i++) {
    rille_state *one = loop->states[i];
    if (!one) continue;
    if (one->change.before == old) one->change.before = state;
    if (one->change.after == old) one->change.after = state;
  }
}

/* ---- mail ------------------------------------------------------------------------------------------------------ */

int rille_reload_commit(rille_team *team, uint32_t id, rille_state *state) {
  rille_loop *loop = rille_team_loop(team, id);
  rille_message m = {.deliver = deliver_commit, .drop = drop_commit, .what = state};
  return loop ? rille_mailbox_send(&loop->mailbox, &m) : RILLE_ERR_NOT_FOUND;
}

static rille_state *state_of(const rille_loop *loop, const rille_generation *g) {
  rille_state *state = g->place < loop->state_count ? loop->states[g->place] : NULL;
  return state && state->generation == g ? state : NULL;
}

static void drop_generation(const rille_message *m) { rille_generation_release(m->what); }

static int send_about(rille_team *team, uint32_t id, rille_generation *g, rille_message m) {
  rille_loop *loop = rille_team_loop(team, id);
  if (!loop) return RILLE_ERR_NOT_FOUND;
  m.what = g;
  m.drop = drop_generation;
  rille_generation_retain(g);
  int err = rille_mailbox_send(&loop->mailbox, &m);
  if (err) rille_generation_release(g);
  return err;
}

static void deliver_rollback(rille_loop *loop, const rille_message *m) {
  rille_state *state = state_of(loop, m->what);
  /* one that went back by itself, or never came, has said so */
  if (state && !loop->is_stopping) turn_back(state);
  rille_generation_release(m->what);
}

int rille_reload_rollback(rille_team *team, uint32_t loop, rille_generation *g) {
  return send_about(team, loop, g, (rille_message){.deliver = deliver_rollback});
}

static void deliver_retire(rille_loop *loop, const rille_message *m) {
  rille_state *state = state_of(loop, m->what);
  rille_generation_release(m->what);
  if (!state || loop->is_stopping) return;
  if (state->change.is_retiring && (state->change.is_leaving || m->words[0] != RILLE_DRAIN_LEAVE)) return;
  if (state->change.is_incoming) { /* nobody waits for its on_start any more */
    if (!state->change.text) rille_state_explain(state, TOO_LATE, sizeof TOO_LATE - 1);
    state->change.is_refused = true;
    loop->mend_at_ms = 0;
    return;
  }
  state->change.is_retiring = true;
  state->change.began_ms = loop->clock_ms;
  state->change.drain = (int)m->words[0];
  state->change.jitter_ms = m->words[1];
  state->change.drain_at_ms = m->number == UINT64_MAX ? UINT64_MAX : loop->clock_ms + m->number;
  close_resting(loop, state);
  loop->mend_at_ms = 0;
}

int rille_reload_retire(rille_team *team, uint32_t loop, rille_generation *g, int drain, double deadline_ms,
                        double jitter_ms) {
  rille_message m = {.deliver = deliver_retire,
                     .number = deadline_ms < 0 ? UINT64_MAX : (uint64_t)deadline_ms,
                     .words = {(uint32_t)drain, (uint32_t)jitter_ms}};
  return send_about(team, loop, g, m);
}
