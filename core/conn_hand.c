/*
 * conn_hand: a connection goes over from one generation of its server to another, between two messages: the same descriptor, buffers and
 * timers with another Lua state behind them. What its script keeps of it goes along; see luggage.h. Loop thread.
 */
#include "conn_tls.h"
#include "listener.h"
#include "reload.h"

/* What stands for the connection's service in another state of its server. */
static rille_service *counterpart(const rille_conn *c, const rille_state *to) {
  if (c->listener) {
    const rille_listener *l = c->listener;
    if (l->service->state == to) return l->service;
    return l->former && l->former->state == to ? l->former : NULL; /* on the way back, whose turn is not over */
  }
  for (rille_service *s = to->services; s; s = s->next) { /* one that a script made: the first of each state */
    if (s->id == c->service->id && s->id == 1) return s;
  }
  return NULL;
}

static bool fits(const rille_conn *c, const rille_service *service) { return !c->is_http || service->http; }

bool rille_conn_may_go(const rille_conn *c) {
  enum { RUNS = RILLE_CONN_OPENING | RILLE_CONN_CLOSING | RILLE_CONN_FINISHED | RILLE_CONN_READER | RILLE_CONN_WRITER };
  const rille_state *to = c->state->change.after;
  if (!to || !to->lua || c->is_bound || c->tasks > 0 || c->owes) return false;
  if (!(c->flags & RILLE_CONN_SERVED) || c->flags & RUNS || c->fd < 0 || c->error) return false;
  if (c->rare->tls && c->rare->tls->is_shaking) return false; /* its certificate may just be asked for */
  if (rille_conn_is_inside(c)) return false;                  /* in the middle of a frame of frames */
  const rille_service *service = counterpart(c, to);
  return service && fits(c, service);
}

void rille_conn_go(rille_conn *c) {
  const rille_state *state = c->state;
  bool is_asked = state->migrates && rille_luggage_is_new_to(&c->luggage, state->change.after->id);
  if (c->flags & RILLE_CONN_KNOWN || is_asked) rille_state_emit(c->state, RILLE_EVENT_MIGRATE, c->slot, 0);
  else rille_conn_hand_on(c, NULL, 0, NULL, 0, "", NULL);
}

int rille_conn_returns(const rille_conn *c) {
  const rille_state *to = c->state->change.after;
  return to && rille_luggage_returns(&c->luggage, to->id);
}

void rille_conn_bind(rille_conn *c) {
  c->is_bound = true;
  if (c->flags & RILLE_CONN_BUSY) rille_state_emit(c->state, RILLE_EVENT_REQUEST, c->slot, 0);
}

static void serve_by(rille_conn *c, rille_service *service) {
  const rille_service *old = c->service;
  if (c->timeouts == &old->timeouts) c->timeouts = &service->timeouts;
  if (c->high_water == old->high_water) c->high_water = service->high_water;
  if (c->low_water == old->low_water) c->low_water = service->low_water;
  bool is_cut = c->is_framed && old->codec; /* by the service's codec, not by one of its own: those are bound */
  c->state->conn_count--;
  c->state = service->state;
  c->state->conn_count++;
  c->service = service;
  if (is_cut || service->codec) rille_conn_recut(c);
  bool has_key = rille_luggage_key(&c->luggage)[0];
  if (!(service->hooks & RILLE_HOOK_REQUEST) && !has_key) c->flags &= ~(uint32_t)RILLE_CONN_SERVED;
  c->flags &= ~(uint32_t)RILLE_CONN_KNOWN;
}

int rille_conn_hand_on(rille_conn *c, const char *ctx, size_t size, const char *home, size_t home_size, const char *key,
                       rille_holding *holding) {
  if (!rille_conn_may_go(c)) {
    if (c->flags & RILLE_CONN_BUSY && c->tasks == 0) rille_state_emit(c->state, RILLE_EVENT_REQUEST, c->slot, 0);
    return 0;
  }
  rille_state *from = c->state, *to = from->change.after;
  rille_ctx packed = {.bytes = ctx, .size = size, .home = home, .home_size = home_size, .key = key, .holding = holding};
  if (!rille_luggage_pack(&c->luggage, from->id, to->id, &packed)) {
    rille_conn_fail(c, RILLE_ERR_NO_MEMORY);
    return 0;
  }
  serve_by(c, counterpart(c, to));
  rille_conn_arm(c);
  if (c->flags & RILLE_CONN_BUSY) rille_state_emit(c->state, RILLE_EVENT_REQUEST, c->slot, 0);
  else rille_conn_input_changed(c);
  return 1;
}

bool rille_conn_is_unpacked(const rille_conn *c) { return !rille_luggage_waits(&c->luggage); }

const char *rille_conn_luggage(rille_conn *c, double *size) { return rille_luggage_take(&c->luggage, size); }

void rille_conn_unpacked(rille_conn *c) { rille_luggage_done(&c->luggage); }

const rille_holding *rille_conn_holding(const rille_conn *c) { return rille_luggage_holding(&c->luggage); }

const char *rille_conn_luggage_key(const rille_conn *c) { return rille_luggage_key(&c->luggage); }
