/*
 * udp_hand: a session goes over from one generation of its server to another, between two datagrams: the same peer, queue and timer with
 * another Lua state behind them. What its script keeps of it goes along; see luggage.h. Datagrams without sessions do not go anywhere: each is
 * handled where it was delivered. Loop thread.
 */
#include "udp_session.h"

#include "conn.h"
#include "loop.h"
#include "reload.h"

/* What stands for its service in another state; NULL: that does not serve its socket, or without sessions. */
static rille_service *counterpart(const rille_session *s, const rille_state *to) {
  const rille_udp *u = s->udp;
  if (u->is_closed || u->service->is_former || !u->options.session_max) return NULL;
  return u->service->state == to ? u->service : NULL;
}

static bool may_go(const rille_session *s) {
  enum { RUNS = RILLE_SESSION_OPENING | RILLE_SESSION_READER | RILLE_SESSION_ENDED };
  const rille_state *to = s->state->change.after;
  if (!to || !to->lua || s->is_bound || s->tasks > 0 || s->flags & RUNS) return false;
  return counterpart(s, to) != NULL;
}

static void go(rille_session *s) {
  const rille_state *state = s->state;
  bool is_asked = state->migrates && rille_luggage_is_new_to(&s->luggage, state->change.after->id);
  if (s->flags & RILLE_SESSION_KNOWN || is_asked) rille_session_emit(s, RILLE_SESSION_MIGRATE);
  else rille_session_hand_on(s, NULL, 0, NULL, 0, NULL);
}

bool rille_session_went(rille_session *s) {
  if (!s->state->change.after || !may_go(s)) return false;
  go(s);
  return true;
}

/* It stays; the datagram that it was to go with is handled here. */
static int stay(rille_session *s) {
  if (s->flags & RILLE_SESSION_BUSY && s->tasks == 0) rille_session_emit(s, RILLE_SESSION_REQUEST);
  return 0;
}

int rille_session_hand_on(rille_session *s, const char *ctx, size_t size, const char *home, size_t home_size,
                          rille_holding *holding) {
  if (!may_go(s)) return stay(s);
  rille_state *from = s->state, *to = from->change.after;
  rille_ctx packed = {.bytes = ctx, .size = size, .home = home, .home_size = home_size, .key = "", .holding = holding};
  if (!rille_luggage_pack(&s->luggage, from->id, to->id, &packed)) {
    rille_session_close(s, RILLE_ERR_NO_MEMORY);
    return stay(s); /* which ends it */
  }
  from->sessions--;
  to->sessions++;
  s->state = to;
  s->service = counterpart(s, to);
  s->is_told = false;
  s->flags &= ~(uint32_t)RILLE_SESSION_KNOWN;
  if (!s->has_own_idle) s->idle_ms = s->udp->options.session_idle_ms;
  rille_session_arm(s);
  if (s->flags & RILLE_SESSION_BUSY) rille_session_emit(s, RILLE_SESSION_REQUEST);
  else rille_session_kick(s);
  return 1;
}

int rille_session_returns(const rille_session *s) {
  const rille_state *to = s->state->change.after;
  return to && rille_luggage_returns(&s->luggage, to->id);
}

void rille_session_bind(rille_session *s) {
  s->is_bound = true;
  stay(s);
}

const char *rille_session_luggage(rille_session *s, double *size) { return rille_luggage_take(&s->luggage, size); }

void rille_session_unpacked(rille_session *s) { rille_luggage_done(&s->luggage); }

const rille_holding *rille_session_holding(const rille_session *s) { return rille_luggage_holding(&s->luggage); }

/* ---- the end of a generation ----------------------------------------------------------------------------------- */

static void end_patience(rille_session *s) {
  rille_state *state = s->state;
  switch ((enum rille_drain)state->change.drain) {
  case RILLE_DRAIN_STAY:
  case RILLE_DRAIN_LEAVE: return;
  case RILLE_DRAIN_MIGRATE:
    if (s->is_told) return;
    s->is_told = true;
    s->is_bound = false;
    rille_session_emit(s, RILLE_SESSION_LET_GO);
    return;
  case RILLE_DRAIN_CLOSE:
    if (s->flags & RILLE_SESSION_ENDED) return;
    state->change.handed++;
    rille_session_close(s, RILLE_ERR_SHUTDOWN);
    return;
  }
}

/* Its socket is nobody's any more, so nothing comes for it. */
static bool is_left_over(const rille_session *s) {
  return !s->state->change.after || !counterpart(s, s->state->change.after);
}

static void retire(rille_session *s, void *arg) {
  const rille_state *state = arg;
  if (s->state != state) return;
  if (!(s->flags & RILLE_SESSION_BUSY) && may_go(s)) go(s);
  else if (is_left_over(s) && rille_session_is_quiet(s)) rille_session_close(s, RILLE_ERR_CLOSED);
  else if (rille_reload_is_late(state, s->slot)) end_patience(s);
}

uint32_t rille_sessions_retire(rille_state *state) {
  if (state->sessions > 0) rille_sessions_each(state->loop->udp, retire, state);
  return state->sessions;
}

static void stop_keeping(rille_session *s, void *arg) { rille_luggage_stay(&s->luggage, *(const uint32_t *)arg); }

void rille_sessions_stay(rille_loop *loop, uint32_t from) {
  if (loop->udp) rille_sessions_each(loop->udp, stop_keeping, &from);
}
