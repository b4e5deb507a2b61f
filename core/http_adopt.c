/*
 * http_adopt: a connection whose script has looked at its first bytes, or has done something else before, goes on as one of HTTP; see rille.h for
 * the contract. It stays with its generation: what it goes over to in another one could be known by the listener alone. Loop thread only.
 */
#include "conn_tls.h"
#include "http.h"
#include "loop.h"
#include "reload.h"

static bool may_change(const rille_conn *c) {
  bool is_shaking = c->rare->tls && c->rare->tls->is_shaking;
  return !c->is_http && !is_shaking && !(c->flags & RILLE_CONN_READER) && c->tasks <= 1 && !rille_conn_is_inside(c);
}

int rille_http_adopt(rille_conn *c, rille_service *service) {
  if (c->fd < 0 || c->error || c->flags & (RILLE_CONN_CLOSING | RILLE_CONN_FINISHED | RILLE_CONN_BROKEN)) {
    return RILLE_ERR_CLOSED; /* one whose peer has ended its side may have a request left */
  }
  if (!service->http || service->state != c->state) return RILLE_ERR_INVALID;
  if (!may_change(c)) return RILLE_ERR_BUSY;
  const rille_service *old = c->service;
  if (c->timeouts == &old->timeouts) c->timeouts = &service->timeouts;
  rille_conn_drop_codec(c);
  c->service = service;
  c->is_http = true;
  c->is_bound = true;
  return RILLE_OK;
}

int rille_http_adopted(rille_conn *c) {
  if (c->tasks > 0) c->tasks--;
  rille_conn_release_input(c);
  if (rille_state_is_observed(c->state)) rille_reload_done(c, c->has_failed);
  c->flags &= ~(uint32_t)RILLE_CONN_BUSY;
  rille_conn_input_changed(c);
  if (c->fd < 0 || c->flags & (RILLE_CONN_EOF | RILLE_CONN_CLOSING)) rille_conn_settle(c);
  return 0;
}
