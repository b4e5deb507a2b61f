/*
 * conn: the life of a connection, from its slot to its end; see conn.h. Reading and writing are in conn_io.c, deadlines in
 * conn_time.c, the calls that Lua makes in conn_face.c.
 *
 * The end has three steps. Something asks for it: close(), the peer's FIN, an error, a time-out. Then the socket goes,
 * after its output is drained where that is still possible. Then, when no handler runs any more, the state gets CLOSE,
 * exactly once, and answers with rille_conn_free. rille_conn_settle looks which step is due and is called after anything
 * that may make one so.
 */
#include "conn.h"

#include "conn_tls.h"
#include "http.h"
#include "listener.h"
#include "log.h"
#include "loop.h"
#include "proxied.h"
#include "pump.h"
#include "reload.h"
#include "topic.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_SIZE_FIRST = 8192 };

static rille_conn *slot_at(const rille_loop *loop, uint32_t slot) {
  return &loop->slabs[slot / RILLE_CONN_SLAB][slot % RILLE_CONN_SLAB];
}

rille_conn *rille_conn_at(rille_loop *loop, uint32_t slot) {
  if (slot >= loop->slab_count * RILLE_CONN_SLAB) return NULL;
  rille_conn *c = slot_at(loop, slot);
  return c->flags & RILLE_CONN_USED ? c : NULL;
}

/* A slab more; its slots go on the free list, lowest first. */
static bool add_slab(rille_loop *loop) {
  if (loop->slab_count == RILLE_CONN_SLABS_MAX) return false;
  rille_conn *slab = calloc(RILLE_CONN_SLAB, sizeof *slab);
  if (!slab) return false;
  uint32_t first = loop->slab_count * RILLE_CONN_SLAB;
  loop->slabs[loop->slab_count++] = slab;
  for (uint32_t i = 0; i < RILLE_CONN_SLAB; i++) {
    slab[i].epoch = 1;
    slab[i].slot = i + 1 < RILLE_CONN_SLAB ? first + i + 1 : UINT32_MAX; /* while free: the next free one */
  }
  loop->free_slot = first;
  return true;
}

rille_conn *rille_conn_new(rille_loop *loop, rille_service *service, int fd, bool is_socket) {
  if (loop->free_slot == UINT32_MAX && !add_slab(loop)) return NULL;
  uint32_t slot = loop->free_slot;
  rille_conn *c = slot_at(loop, slot);
  loop->free_slot = c->slot;
  uint32_t epoch = c->epoch;
  *c = (rille_conn){
      .loop = loop,
      .state = service->state,
      .service = service,
      .slot = slot,
      .epoch = epoch,
      .fd = fd,
      .rare = &rille_rare_none,
      .flags = RILLE_CONN_USED | (is_socket ? RILLE_CONN_SOCKET : 0),
      .read_size = READ_SIZE_FIRST,
      .high_water = service->high_water,
      .low_water = service->low_water,
      .opened_ms = loop->now_ms,
      .read_ms = loop->now_ms,
      .written_ms = loop->now_ms,
      .timeouts = &service->timeouts,
      .is_http = service->http != NULL,
      .is_framed = service->codec != NULL,
  };
  loop->conn_count++;
  c->state->conn_count++;
  return c;
}

int rille_conn_attach(rille_conn *c) {
  c->interest = 0;
  if (c->fd < 0) return RILLE_OK;
  uint32_t events = EPOLLIN | EPOLLRDHUP;
  int err = rille_poller_add(&c->loop->poller, c->fd, events, rille_poller_data(RILLE_TAG_CONN, c->epoch, c->slot));
  if (err < 0) return err;
  c->flags |= RILLE_CONN_REGISTERED;
  c->interest = EPOLLIN;
  rille_conn_arm(c);
  return RILLE_OK;
}

void rille_conn_start(rille_conn *c) {
  uint32_t hooks = c->service->hooks;
  if (hooks & RILLE_HOOK_REQUEST) c->flags |= RILLE_CONN_SERVED;
  if (hooks & (RILLE_HOOK_PREPARE | RILLE_HOOK_CONNECT)) {
    c->flags |= RILLE_CONN_OPENING;
    /* without on_prepare the state hears of it when TLS is open */
    if (!c->rare->tls || hooks & RILLE_HOOK_PREPARE) rille_state_emit(c->state, RILLE_EVENT_OPEN, c->slot, 0);
  }
  if (!(hooks & RILLE_HOOK_PREPARE)) rille_conn_admit(c);
}

void rille_conn_admit(rille_conn *c) {
  int err = rille_conn_attach(c);
  if (err < 0) rille_conn_fail(c, err);
  if (c->flags & RILLE_CONN_PAUSED) rille_conn_mark_dirty(c); /* on_prepare did that */
}

void rille_conn_refuse(rille_conn *c) {
  c->flags &= ~(uint32_t)(RILLE_CONN_OPENING | RILLE_CONN_SERVED);
  if (c->tasks > 0) c->tasks--;
  rille_conn_close(c);
  rille_conn_settle(c); /* on_prepare may have closed it, and parked since */
}

void rille_conn_opened(rille_conn *c) {
  c->flags &= ~(uint32_t)RILLE_CONN_OPENING;
  if (c->tasks > 0) c->tasks--;
  rille_conn_release(c);
  rille_conn_input_changed(c);
  rille_conn_settle(c);
}

void rille_conn_enter(rille_conn *c) {
  c->tasks++;
  rille_loop_attend(c);
}

void rille_conn_leave(rille_conn *c) {
  if (c->tasks > 0) c->tasks--;
  rille_conn_settle(c);
}

/* ---- on_request ------------------------------------------------------------------------------------------------ */

int rille_conn_begin(rille_conn *c) {
  if (!(c->flags & RILLE_CONN_BUSY)) return 0; /* a stale event */
  if (c->flags & RILLE_CONN_CLOSING || !(c->flags & RILLE_CONN_SERVED) || rille_conn_input_len(c) == 0) {
    c->flags &= ~(uint32_t)RILLE_CONN_BUSY;
    rille_conn_settle(c);
    return 0;
  }
  if (rille_state_is_observed(c->state) && !rille_reload_begin(c)) return 0;
  c->flags &= ~(uint32_t)(RILLE_CONN_CONSUMED | RILLE_CONN_ARRIVED);
  c->tasks++;
  c->loop->messages++;
  rille_loop_attend(c);
  return 1;
}

/* on_request took nothing of as much input as there may be. No more will be read, so it would never be called again. */
static void refuse_input(rille_conn *c) {
  enum { WAITS = RILLE_CONN_READER | RILLE_CONN_PAUSED | RILLE_CONN_CLOSING };
  if (c->fd < 0 || c->flags & WAITS || !(c->flags & RILLE_CONN_SERVED)) return;
  rille_log_context context = {.label = c->state->label, .conn = rille_conn_id(c), .loop = c->loop->id};
  RILLE_LOG_FOR(RILLE_LOG_WARN, &context, "max_input (%u bytes) reached, and on_request takes none of it: closing",
                c->service->max_input);
  if (!c->reason) c->reason = RILLE_ERR_TOO_LARGE;
  rille_conn_close(c);
}

int rille_conn_done(rille_conn *c) {
  if (c->is_http) return rille_http_adopted(c);
  if (c->tasks > 0) c->tasks--;
  bool again = c->flags & (RILLE_CONN_CONSUMED | RILLE_CONN_ARRIVED) || rille_conn_input_held(c) > 0;
  rille_conn_release(c);
  if (rille_state_is_observed(c->state)) rille_reload_done(c, c->has_failed);
  if (again && c->flags & RILLE_CONN_SERVED && !(c->flags & RILLE_CONN_CLOSING) && rille_conn_input_len(c) > 0 &&
      (!c->is_framed || rille_conn_has_frame(c))) {
    if (c->state->change.after && rille_conn_may_go(c)) {
      rille_conn_go(c);
      return 0;
    }
    if (!rille_conn_over_budget(c)) return 1;
    rille_state_emit_later(c->state, RILLE_EVENT_REQUEST, c->slot, 0);
    return 0;
  }
  c->flags &= ~(uint32_t)RILLE_CONN_BUSY;
  if (!again && rille_conn_input_len(c) >= c->service->max_input) refuse_input(c);
  if (c->fd < 0 || c->flags & (RILLE_CONN_EOF | RILLE_CONN_CLOSING)) rille_conn_settle(c);
  return 0;
}

void rille_conn_serve(rille_conn *c, int served) {
  if (served) {
    c->flags |= RILLE_CONN_SERVED;
    rille_conn_input_changed(c);
    rille_conn_mark_dirty(c); /* it may have ended already */
  } else {
    c->flags &= ~(uint32_t)RILLE_CONN_SERVED;
  }
}

/* Input, its end or an error arrived: who is to hear of it? */
void rille_conn_input_changed(rille_conn *c) {
  uint32_t flags = c->flags;
  if (flags & RILLE_CONN_READER) {
    if (flags & RILLE_CONN_WOKEN) return;
    bool is_at_end = flags & (RILLE_CONN_EOF | RILLE_CONN_CLOSING | RILLE_CONN_FULL) || c->error;
    if (rille_conn_input_len(c) >= c->want || is_at_end) {
      c->flags |= RILLE_CONN_WOKEN;
      rille_state_emit(c->state, RILLE_EVENT_READ, c->slot, 0);
    }
    return;
  }
  uint32_t never = RILLE_CONN_BUSY | RILLE_CONN_OPENING | RILLE_CONN_CLOSING | RILLE_CONN_FINISHED;
  if (flags & RILLE_CONN_SERVED && !(flags & never) && rille_conn_input_len(c) > 0) {
    if (c->is_http && !rille_http_arrived(c)) return;
    if (c->is_framed && !rille_conn_has_frame(c)) return;
    c->flags |= RILLE_CONN_BUSY;
    if (c->state->change.after && rille_conn_may_go(c)) {
      rille_conn_go(c);
      return;
    }
    rille_state_emit(c->state, RILLE_EVENT_REQUEST, c->slot, 0);
  }
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

/* The peer will get RST, and the kernel keeps nothing of our output. */
void rille_conn_reset_on_close(const rille_conn *c) {
  struct linger reset = {.l_onoff = 1, .l_linger = 0};
  if (c->fd >= 0 && c->flags & RILLE_CONN_SOCKET) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

void rille_conn_drop_socket(rille_conn *c) {
  rille_topic_leave(c);
  rille_binding_leave(c);
  if (c->fd < 0) return;
  if (c->rare->tls) rille_conn_tls_leave_socket(c);
  if (c->rare->part) rille_conn_mark_dirty(c); /* a pump is to know */
  if (c->flags & RILLE_CONN_SHARED && c->flags & RILLE_CONN_REGISTERED) rille_poller_remove(&c->loop->poller, c->fd);
  close(c->fd); /* takes it out of epoll too */
  c->fd = -1;
  c->flags &= ~(uint32_t)(RILLE_CONN_REGISTERED | RILLE_CONN_BLOCKED);
  c->interest = 0;
  rille_conn_give_output(c);
  rille_conn_wake_writers(c);
}

/* on_disconnect, once, after on_request had every byte. A time-out is this side's doing, not the peer's. */
static void part(rille_conn *c) {
  if (c->flags & RILLE_CONN_PARTED) return;
  c->flags |= RILLE_CONN_PARTED;
  if (!(c->service->hooks & RILLE_HOOK_DISCONNECT && c->flags & RILLE_CONN_SERVED)) return;
  if (c->reason == RILLE_ERR_TIMEOUT && !(c->flags & RILLE_CONN_EOF)) return;
  c->tasks++; /* until the hook has returned */
  rille_state_emit(c->state, RILLE_EVENT_DISCONNECT, c->slot, 0);
}

static void finish(rille_conn *c) {
  int err = c->reason ? c->reason : c->error;
  if (!err && c->flags & RILLE_CONN_EOF && !(c->flags & RILLE_CONN_CLOSING) && rille_conn_input_len(c) > 0) {
    err = RILLE_ERR_CLOSED;
  }
  c->flags |= RILLE_CONN_FINISHED;
  rille_timer_stop(&c->loop->wheel, &c->timer);
  rille_conn_input_changed(c);
  rille_conn_wake_writers(c);
  if (!rille_proxied_is_awaited(c) && (c->flags & RILLE_CONN_KNOWN || c->service->hooks & RILLE_HOOK_CLOSE)) {
    rille_state_emit(c->state, RILLE_EVENT_CLOSE, c->slot, err);
  } else {
    rille_conn_free(c);
  }
}

/* Output is out: is there input the peer sent that a plain close would answer with RST, taking our last bytes with it? */
static bool has_unread_input(const rille_conn *c) {
  if (c->flags & RILLE_CONN_EOF || !(c->flags & RILLE_CONN_SOCKET)) return false;
  if (c->flags & (RILLE_CONN_FULL | RILLE_CONN_PAUSED) || (c->rare->tls && c->rare->tls->has_more)) return true;
  int waiting = 0;
  return ioctl(c->fd, FIONREAD, &waiting) == 0 && waiting > 0;
}

static void end_closing(rille_conn *c) {
  if (c->flags & RILLE_CONN_LINGERING) {
    if (c->flags & RILLE_CONN_EOF) rille_conn_drop_socket(c);
    return;
  }
  bool is_unread =
      c->wants_linger ? !(c->flags & RILLE_CONN_EOF) : c->reason != RILLE_ERR_TIMEOUT && has_unread_input(c);
  if (is_unread && c->timeouts->linger_ms > 0) {
    shutdown(c->fd, SHUT_WR);
    c->closing_ms = rille_loop_fresh_ms(c->loop);
    c->flags |= RILLE_CONN_LINGERING | RILLE_CONN_SHUT_DONE;
    if (c->tasks == 0) rille_conn_give_input(c); /* else a handler may hold slices of it */
    rille_conn_mark_dirty(c);
    rille_conn_arm(c); /* what is left is sooner over than an answer may take */
    return;
  }
  rille_conn_drop_socket(c);
}

void rille_conn_settle(rille_conn *c) {
  if (c->flags & RILLE_CONN_FINISHED) return;
  bool ended = c->error || c->flags & RILLE_CONN_EOF;
  if (ended || c->flags & RILLE_CONN_CLOSING) {
    if (c->flags & RILLE_CONN_READER) rille_conn_input_changed(c);
    if (c->error || c->fd < 0) {
      rille_conn_wake_writers(c);
      if (c->http) rille_http_lost(c);
    }
  }
  if (ended && (rille_conn_input_len(c) == 0 || !(c->flags & (RILLE_CONN_BUSY | RILLE_CONN_OPENING)))) part(c);

  bool quiet = c->tasks == 0 && !(c->flags & (RILLE_CONN_BUSY | RILLE_CONN_OPENING));
  if (c->fd >= 0) {
    if (c->error) {
      rille_conn_drop_socket(c);
    } else if (rille_conn_output_len(c) == 0) {
      bool is_left = c->flags & RILLE_CONN_EOF && c->flags & RILLE_CONN_SERVED && quiet;
      bool may_end = !c->rare->tls || !(is_left || c->flags & RILLE_CONN_CLOSING) || rille_conn_tls_goodbye(c);
      if (c->flags & RILLE_CONN_CLOSING && may_end) end_closing(c);
      else if (is_left && may_end) rille_conn_drop_socket(c);
    }
  }
  /* One that a script reads by itself stays, socket or not, until the script closes it: there may be bytes left to read. */
  if (c->fd < 0 && quiet && c->flags & (RILLE_CONN_SERVED | RILLE_CONN_CLOSING)) finish(c);
}

void rille_conn_fail(rille_conn *c, int err) {
  if (!c->error) c->error = (int16_t)err;
  rille_conn_settle(c);
}

void rille_conn_free(rille_conn *c) {
  if (c->flags & RILLE_CONN_DEAD) return;
  c->flags |= RILLE_CONN_FINISHED;
  rille_pump_forget(c);
  rille_conn_drop_socket(c);
  rille_timer_stop(&c->loop->wheel, &c->timer);
  rille_http_drop(c);
  rille_conn_drop_codec(c);
  rille_conn_give_input(c);
  rille_conn_give_output(c);
  c->flags |= RILLE_CONN_DEAD;
  if (c->flags & RILLE_CONN_DIRTY) return; /* still on that list; rille_conn_tidy moves it on */
  c->next_dirty = c->loop->dead;
  c->loop->dead = c;
}

void rille_conn_bury(rille_conn *c) {
  rille_loop *loop = c->loop;
  if (c->timeouts != &c->service->timeouts) free((void *)(uintptr_t)c->timeouts);
  rille_luggage_drop(&c->luggage);
  if (c->listener) rille_listener_left(c->listener, rille_proxied_counted(c));
  rille_rare_free(c->rare);
  loop->conn_count--;
  c->state->conn_count--;
  uint32_t slot = c->slot;
  c->flags = 0;
  c->epoch = c->epoch == 0xffffffu ? 1 : c->epoch + 1;
  c->slot = loop->free_slot;
  loop->free_slot = slot;
}

void rille_conn_close(rille_conn *c) {
  if (c->flags & (RILLE_CONN_CLOSING | RILLE_CONN_FINISHED)) return;
  if (!c->reason && c->flags & RILLE_CONN_EOF && rille_conn_input_len(c) > 0) {
    c->reason = RILLE_ERR_CLOSED; /* the peer left in the middle of a message, and the script draws the line */
  }
  c->flags |= RILLE_CONN_CLOSING;
  rille_topic_leave(c);
  rille_binding_leave(c);
  c->closing_ms = rille_loop_fresh_ms(c->loop); /* the handler's own time is not taken from the drain's */
  /* sends what is there, then settles */
  rille_conn_mark_dirty(c);
  rille_conn_arm(c);
}

void rille_conn_raise(rille_conn *c) {
  c->has_failed = true;
  if (!c->reason) c->reason = c->loop->is_ending ? RILLE_ERR_SHUTDOWN : RILLE_ERR_ERROR; /* cancelled, or a fault */
  rille_conn_close(c);
}

void rille_conn_abort(rille_conn *c) {
  if (c->flags & RILLE_CONN_FINISHED) return;
  rille_conn_reset_on_close(c);
  rille_conn_drop_socket(c);
  c->flags |= RILLE_CONN_CLOSING;
  c->closing_ms = c->loop->now_ms;
  rille_conn_mark_dirty(c);
}

void rille_conn_abandon(rille_loop *loop, double id) {
  uint32_t slot = (uint32_t)((uint64_t)id & 0xfffffu);
  rille_conn *c = rille_conn_at(loop, slot);
  if (c && rille_conn_id(c) == id) rille_conn_close(c);
}

void rille_conn_own(rille_conn *c, int own) { c->is_own = own; }

void rille_conn_owe(rille_conn *c, int owes) { c->owes = owes; }

bool rille_conn_holds_up(const rille_conn *c) {
  if (c->flags & RILLE_CONN_CLOSING) return true;
  return c->flags & RILLE_CONN_SERVED && !c->is_own;
}

bool rille_conn_stop(rille_conn *c, bool force) {
  if (c->flags & RILLE_CONN_FINISHED) return true;
  if (force) {
    if (!c->reason) c->reason = RILLE_ERR_SHUTDOWN;
    c->tasks = 0; /* no handler runs any more */
    c->flags &= ~(uint32_t)(RILLE_CONN_BUSY | RILLE_CONN_OPENING);
    rille_conn_abort(c);
    return true;
  }
  if (rille_proxied_is_awaited(c)) return true; /* it was accepted, and has its time */
  if (!rille_conn_holds_up(c)) return false;
  if (c->rare->tls && c->rare->tls->is_shaking &&
      (c->rare->tls->line || c->rare->tls->job || c->tasks > 0 || has_unread_input(c)))
    return true; /* bounded by its time-out */
  if (c->rare->tls && c->rare->tls->is_shaking && !(c->flags & RILLE_CONN_CLOSING)) {
    c->reason = RILLE_ERR_SHUTDOWN;
    rille_conn_tls_fail(c, RILLE_ERR_SHUTDOWN, "the server stops");
    return true;
  }
  if (c->service->stays)
    return c->is_http && rille_http_is_busy(c); /* its next request is welcome, but not waited for */
  bool is_quiet = c->tasks == 0 && !c->owes && !(c->flags & (RILLE_CONN_BUSY | RILLE_CONN_OPENING));
  bool is_waiting = c->flags & RILLE_CONN_READER && !(c->flags & RILLE_CONN_WOKEN);
  if (c->is_http && rille_http_is_busy(c))
    return true; /* a request is under way, even if nothing of its body is here */
  /* what came by the mailbox in this turn was not looked at yet */
  bool may_arrive = c->interest & EPOLLIN && has_unread_input(c);
  if ((is_quiet || is_waiting) && rille_conn_input_len(c) == 0 && !may_arrive && !(c->flags & RILLE_CONN_CLOSING)) {
    if (!c->reason) c->reason = RILLE_ERR_SHUTDOWN;
    rille_conn_close(c);
  }
  return true;
}
