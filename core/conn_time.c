/*
 * conn_time: the deadlines of a connection. It has one timer, at the nearest of them; see conn.h.
 */
#include "conn.h"

#include "conn_tls.h"
#include "http.h"
#include "loop.h"
#include "proxied.h"
#include "pump.h"
#include "shaper.h"

enum due {
  DUE_NOTHING,
  DUE_HTTP,
  DUE_LINGER,
  DUE_LIFETIME,
  DUE_WRITE,
  DUE_READ,
  DUE_IDLE_READ,
  DUE_IDLE_WRITE,
  DUE_SHAPER,
  DUE_HANDSHAKE,
  DUE_PUMP,
  DUE_PROXIED
};

static void earliest(int32_t *left, enum due *due, uint32_t since, uint32_t span, uint32_t now, enum due what) {
  int32_t rest = (int32_t)(since + span - now);
  if (*due != DUE_NOTHING && rest >= *left) return;
  *left = rest;
  *due = what;
}

/* Of a connection that is being closed: its output has time as long as the peer takes some of it, what comes after that a linger
 * time. A client of HTTP, which did not ask for the end, is given the time that any answer gets. */
static void closing_due(const rille_conn *c, int32_t *left, enum due *due) {
  const rille_timeouts *t = c->timeouts;
  bool drains = rille_conn_output_len(c) > 0 && !(c->flags & RILLE_CONN_LINGERING);
  if (drains && c->flags & RILLE_CONN_SHAPED && rille_shaper_holds_output(c)) return; /* it is not the peer's time */
  bool has_progress = drains && (int32_t)(c->written_ms - c->closing_ms) > 0;
  uint32_t since = has_progress ? c->written_ms : c->closing_ms;
  uint32_t span = drains && c->is_http && t->write_ms > t->linger_ms ? t->write_ms : t->linger_ms;
  earliest(left, due, since, span, c->loop->now_ms, DUE_LINGER);
}

/* What is due next, and in how many ms (0 or less: now). */
static enum due next_due(const rille_conn *c, int32_t *left) {
  const rille_timeouts *t = c->timeouts;
  uint32_t now = c->loop->now_ms;
  enum due due = DUE_NOTHING;
  *left = 0;
  if (rille_proxied_is_awaited(c)) {
    if (c->fd >= 0) earliest(left, &due, c->opened_ms, c->rare->proxied->wait_ms, now, DUE_PROXIED);
    return due;
  }
  bool is_shaped = c->flags & RILLE_CONN_SHAPED && c->fd >= 0;
  bool holds_input = is_shaped && rille_shaper_holds_input(c);
  bool holds_output = is_shaped && rille_shaper_holds_output(c);
  if (holds_input) earliest(left, &due, c->rare->shaper->in.until_ms, 0, now, DUE_SHAPER);
  if (holds_output) earliest(left, &due, c->rare->shaper->out.until_ms, 0, now, DUE_SHAPER);
  if (c->flags & RILLE_CONN_READER && !(c->flags & RILLE_CONN_WOKEN) && t->read_ms && !holds_input) {
    earliest(left, &due, c->parked_ms, t->read_ms, now, DUE_READ);
  }
  if (c->fd < 0) return due;
  if (c->flags & RILLE_CONN_CLOSING) {
    closing_due(c, left, &due);
    return due;
  }
  const rille_pump *pump = c->rare->part ? c->rare->part->own : NULL;
  if (pump && !pump->is_over && pump->idle_ms) earliest(left, &due, pump->moved_ms, pump->idle_ms, now, DUE_PUMP);
  if (c->http && c->is_http && !holds_input) {
    uint32_t since, span = rille_http_patience(c, &since);
    if (span > 0) earliest(left, &due, since, span, now, DUE_HTTP);
  }
  if (c->rare->tls && c->rare->tls->is_shaking && c->rare->tls->patience_ms) {
    earliest(left, &due, c->rare->tls->since_ms, c->rare->tls->patience_ms, now, DUE_HANDSHAKE);
  }
  if (t->lifetime_ms) earliest(left, &due, c->opened_ms, t->lifetime_ms, now, DUE_LIFETIME);
  if (t->write_ms && c->flags & RILLE_CONN_BLOCKED) earliest(left, &due, c->written_ms, t->write_ms, now, DUE_WRITE);
  if (t->idle_ms && !(c->flags & RILLE_CONN_IDLE_TOLD) && !holds_input && !holds_output) {
    bool read_later = (int32_t)(c->read_ms - c->written_ms) >= 0;
    if (c->service->hooks & RILLE_HOOK_IDLE) {
      if (read_later) earliest(left, &due, c->written_ms, t->idle_ms, now, DUE_IDLE_WRITE);
      else earliest(left, &due, c->read_ms, t->idle_ms, now, DUE_IDLE_READ);
    } else {
      earliest(left, &due, read_later ? c->read_ms : c->written_ms, t->idle_ms, now, DUE_IDLE_READ);
    }
  }
  return due;
}

/* One timer a connection, at its nearest deadline. Traffic does not touch it: when it fires too early it is set anew. */
void rille_conn_arm(rille_conn *c) {
  if (c->flags & RILLE_CONN_FINISHED) return;
  int32_t left;
  if (next_due(c, &left) == DUE_NOTHING) return;
  uint64_t expiry = c->loop->clock_ms + (uint64_t)(left > 0 ? left : 0);
  if (rille_timer_is_running(&c->timer) && c->timer.expiry_ms <= expiry) return;
  rille_timer_start(&c->loop->wheel, &c->timer, expiry);
}

static void expire(rille_conn *c, enum due due) {
  bool has_hook = c->service->hooks & RILLE_HOOK_IDLE && c->flags & RILLE_CONN_SERVED;
  switch (due) {
  case DUE_HTTP: rille_http_expire(c); return;
  case DUE_SHAPER: rille_shaper_fire(c); return;
  case DUE_HANDSHAKE: rille_conn_tls_fail(c, RILLE_ERR_TIMEOUT, "it took too long"); return;
  case DUE_PUMP: rille_pump_expire(c->rare->part->own); return;
  case DUE_PROXIED: rille_proxied_expire(c); return;
  case DUE_READ:
    c->flags |= RILLE_CONN_READ_LATE | RILLE_CONN_WOKEN;
    rille_state_emit(c->state, RILLE_EVENT_READ, c->slot, 0);
    return;
  case DUE_IDLE_READ:
  case DUE_IDLE_WRITE:
    if (has_hook) {
      c->flags |= RILLE_CONN_IDLE_TOLD;
      c->tasks++; /* until the hook has returned */
      rille_state_emit(c->state, RILLE_EVENT_IDLE, c->slot, due == DUE_IDLE_READ ? 1 : 2);
      return;
    }
    /* A handler that computes or waits for something else is no idle connection, one that waits for input is. */
    if (c->tasks > 0 && !(c->flags & RILLE_CONN_READER)) {
      c->read_ms = c->loop->now_ms;
      return;
    }
    break;
  case DUE_LINGER:
    if (rille_conn_output_len(c) == 0) {
      rille_conn_drop_socket(c);
      rille_conn_settle(c);
      return;
    }
    break;
  default: break;
  }
  /* What the peer does not take would stay queued in the kernel after a plain close. */
  if (due == DUE_WRITE || due == DUE_LINGER) rille_conn_reset_on_close(c);
  c->reason = c->reason ? c->reason : RILLE_ERR_TIMEOUT;
  rille_conn_fail(c, RILLE_ERR_TIMEOUT);
}

/* A moment more than 24 days ago would pass for one in the future: a connection that is only written to has such a read_ms. */
static void limit_age(uint32_t *since, uint32_t now) {
  if (now - *since > INT32_MAX) *since = now - INT32_MAX;
}

void rille_conn_timer(rille_conn *c) {
  if (c->flags & RILLE_CONN_FINISHED) return;
  limit_age(&c->read_ms, c->loop->now_ms);
  limit_age(&c->written_ms, c->loop->now_ms);
  int32_t left;
  enum due due = next_due(c, &left);
  if (due != DUE_NOTHING && left <= 0) expire(c, due);
  rille_conn_arm(c);
}

void rille_conn_idle_done(rille_conn *c) {
  c->flags &= ~(uint32_t)RILLE_CONN_IDLE_TOLD;
  if ((int32_t)(c->read_ms - c->written_ms) >= 0) c->written_ms = c->loop->now_ms;
  else c->read_ms = c->loop->now_ms;
  rille_conn_leave(c);
  rille_conn_arm(c);
}
