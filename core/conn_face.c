/*
 * conn_face: what Lua calls on a connection; see rille.h for the contract of each and conn.h for the rest. Loop thread only.
 */
#include "http.h"
#include "log.h"
#include "loop.h"
#include "pump.h"
#include "shaper.h"
#include "topic.h"

#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

double rille_conn_id(const rille_conn *c) {
  return (double)((uint64_t)c->loop->id << 44 | (uint64_t)c->epoch << 20 | c->slot);
}

uint32_t rille_conn_slot(const rille_conn *c) { return c->slot; }

uint32_t rille_conn_service(const rille_conn *c) { return c->service->id; }

int rille_conn_know(rille_conn *c) {
  c->flags |= RILLE_CONN_KNOWN;
  return !rille_conn_is_unpacked(c);
}

rille_conn *rille_conn_of(const rille_state *state, uint32_t slot) {
  rille_conn *c = rille_conn_at(state->loop, slot);
  return c && c->state == state ? c : NULL;
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

int rille_conn_ended(const rille_conn *c) {
  if (c->error == RILLE_ERR_RESET) return RILLE_ERR_RESET;
  /* A connection that the server ended (idle, lifetime, shutdown) is closed to its reader: "timeout" would invite it to go on. */
  if (c->error || c->fd < 0 || c->flags & (RILLE_CONN_EOF | RILLE_CONN_CLOSING | RILLE_CONN_FINISHED))
    return RILLE_ERR_CLOSED;
  return RILLE_OK;
}

static int park_reader(rille_conn *c, size_t n) {
  if (c->flags & RILLE_CONN_READ_LATE) {
    c->flags &= ~(uint32_t)RILLE_CONN_READ_LATE;
    return RILLE_ERR_TIMEOUT;
  }
  c->flags |= RILLE_CONN_READER;
  c->want = (uint32_t)n;
  c->parked_ms = c->loop->now_ms; /* a time-out may be set while it is parked */
  if (c->timeouts->read_ms) {
    c->parked_ms = rille_loop_fresh_ms(c->loop);
    rille_conn_arm(c);
  }
  return RILLE_PARK;
}

/* The input limit: bytes that wait plus bytes that the handler holds. */
static int check_limit(const rille_conn *c, size_t n) {
  size_t held = rille_conn_input_held(c);
  size_t limit = c->service->max_input;
  if (n <= limit && held <= limit - n) return RILLE_OK;
  if (held > 0) {
    rille_log_context context = {.label = c->state->label, .conn = rille_conn_id(c), .loop = c->loop->id};
    RILLE_LOG_FOR(RILLE_LOG_WARN, &context,
                  "max_input reached: the handler holds %zu bytes it has read; call conn:release() when done with them",
                  held);
  }
  return RILLE_ERR_TOO_LARGE;
}

bool rille_conn_yield(rille_conn *c, size_t want) {
  if (!rille_conn_over_budget(c)) return false;
  c->flags |= RILLE_CONN_READER | RILLE_CONN_WOKEN;
  c->want = (uint32_t)want;
  c->ops = 0;
  rille_state_emit_later(c->state, RILLE_EVENT_READ, c->slot, 0);
  return true;
}

int rille_conn_want(rille_conn *c, double n) {
  if (!(n >= 0) || floor(n) != n) return RILLE_ERR_INVALID;
  if (c->flags & RILLE_CONN_READER || c->is_http) return RILLE_ERR_BUSY; /* HTTP: the bytes are the request's */
  size_t length = rille_conn_input_len(c);
  if (n <= (double)length) {
    c->flags &= ~(uint32_t)RILLE_CONN_READ_LATE;
    if ((c->flags & (RILLE_CONN_SERVED | RILLE_CONN_BUSY | RILLE_CONN_OPENING)) == RILLE_CONN_SERVED) {
      c->flags |= RILLE_CONN_LEFT;
      rille_conn_mark_dirty(c);
    }
    if (c->flags & RILLE_CONN_EOF) rille_conn_mark_dirty(c);
    return rille_conn_yield(c, (size_t)n) ? RILLE_PARK : RILLE_OK;
  }
  int err = rille_conn_ended(c);
  if (err) return err;
  if (n > (double)RILLE_BLOCK_REQUEST_MAX) return RILLE_ERR_TOO_LARGE;
  err = check_limit(c, (size_t)n);
  return err ? err : park_reader(c, (size_t)n);
}

void rille_conn_unwant(rille_conn *c, int for_good) {
  c->flags &= ~(uint32_t)(RILLE_CONN_READER | RILLE_CONN_WOKEN | (for_good ? RILLE_CONN_READ_LATE : 0));
  if (c->http) rille_http_waited(c);
  if (!for_good) {
    rille_loop_attend(c);
    return;
  }
  rille_conn_mark_dirty(c);
  rille_conn_input_changed(c); /* what it did not take is for on_request, where another task had been reading */
}

double rille_conn_len(const rille_conn *c) { return c->is_http ? 0 : (double)rille_conn_input_len(c); }

int rille_conn_next(rille_conn *c, double n, rille_slice *out) {
  int ready = rille_conn_want(c, n);
  if (ready != RILLE_OK) return ready;
  rille_linkbuffer *in = rille_conn_input(c);
  return in ? rille_linkbuffer_next(in, n, out) : RILLE_ERR_NO_MEMORY;
}

int rille_conn_read(rille_conn *c, double max, rille_slice *out) {
  if (!(max >= 1)) return RILLE_ERR_INVALID;
  int ready = rille_conn_want(c, 1);
  if (ready != RILLE_OK) return ready;
  rille_linkbuffer *in = rille_conn_input(c);
  if (!in) return RILLE_ERR_NO_MEMORY;
  struct iovec area;
  rille_linkbuffer_areas(in, &area, 1);
  double n = (double)area.iov_len;
  return rille_linkbuffer_next(in, n < max ? n : floor(max), out);
}

int rille_conn_read_until(rille_conn *c, const char *delim, size_t delim_size, double max, double *scan,
                          rille_slice *out) {
  if (delim_size == 0 || !(max >= 1)) return RILLE_ERR_INVALID;
  if (c->flags & RILLE_CONN_READER || c->is_http) return RILLE_ERR_BUSY;
  rille_linkbuffer *in = rille_conn_input(c);
  if (!in) return RILLE_ERR_NO_MEMORY;
  double at = rille_linkbuffer_index_of(in, delim, delim_size, *scan);
  double length = rille_linkbuffer_len(in);
  if (at >= 0) {
    double n = at + (double)delim_size;
    if (n > max) return RILLE_ERR_TOO_LARGE;
    *scan = 0;
    return rille_conn_next(c, n, out);
  }
  if (length >= max) return RILLE_ERR_TOO_LARGE;
  /* a delimiter may straddle the next arrival */
  *scan = length >= (double)delim_size ? length - (double)delim_size + 1 : 0;
  return rille_conn_want(c, length + 1);
}

int rille_conn_release(rille_conn *c) {
  if (c->http) rille_http_keep(c->http);
  return rille_conn_release_input(c);
}

int rille_conn_release_input(rille_conn *c) {
  if (!c->in) return RILLE_OK;
  if (rille_linkbuffer_held(c->in) > 0) c->flags |= RILLE_CONN_CONSUMED;
  if (rille_linkbuffer_readable(c->in) == 0) rille_conn_give_input(c);
  else rille_linkbuffer_release(c->in);
  if (c->flags & RILLE_CONN_FULL) rille_conn_mark_dirty(c);
  return RILLE_OK;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

int rille_conn_written(rille_conn *c, int err) {
  if (err) return err;
  return rille_conn_output_len(c) > c->high_water ? rille_conn_wait_output(c, -1) : RILLE_OK;
}

int rille_conn_write(rille_conn *c, const char *bytes, size_t size) {
  int err = c->is_http ? RILLE_ERR_BUSY : RILLE_OK;
  rille_linkbuffer *out = err ? NULL : rille_conn_output(c, &err);
  return out ? rille_conn_written(c, rille_linkbuffer_write(out, bytes, size)) : err;
}

int rille_conn_write_slice(rille_conn *c, const rille_slice *s) {
  int err = c->is_http ? RILLE_ERR_BUSY : RILLE_OK;
  rille_linkbuffer *out = err ? NULL : rille_conn_output(c, &err);
  return out ? rille_conn_written(c, rille_linkbuffer_write_slice(out, s)) : err;
}

int rille_conn_write_view(rille_conn *c, const uint8_t *base, uint32_t size, rille_cell *cell, rille_block *block,
                          uint32_t epoch) {
  rille_slice s = {.base_ = base, .cell_ = cell, .block_ = block, .size_ = size, .epoch_ = epoch};
  return rille_conn_write_slice(c, &s);
}

int rille_conn_write_buffer(rille_conn *c, rille_linkbuffer *from) {
  int err = c->is_http ? RILLE_ERR_BUSY : RILLE_OK;
  rille_linkbuffer *out = err ? NULL : rille_conn_output(c, &err);
  return out ? rille_conn_written(c, rille_linkbuffer_write_buffer(out, from)) : err;
}

int rille_conn_append(rille_conn *c, rille_linkbuffer *from) {
  int err = c->is_http ? RILLE_ERR_BUSY : RILLE_OK;
  rille_linkbuffer *out = err ? NULL : rille_conn_output(c, &err);
  if (out) {
    rille_linkbuffer_flush(from);
    err = rille_linkbuffer_append(out, from);
  }
  if (err) rille_linkbuffer_reset(from);
  return rille_conn_written(c, err);
}

int rille_conn_is_above(const rille_conn *c, double more) {
  return (double)rille_conn_output_len(c) + more > c->high_water;
}

int rille_conn_throttle(rille_conn *c) { return c->is_http ? RILLE_ERR_BUSY : rille_conn_written(c, RILLE_OK); }

int rille_conn_wait_output(rille_conn *c, double level) {
  if (rille_conn_output_len(c) == 0 && !(c->flags & RILLE_CONN_BROKEN) && c->fd >= 0) return RILLE_OK;
  if (c->fd < 0 || c->flags & RILLE_CONN_BROKEN) {
    return c->error == RILLE_ERR_TIMEOUT || c->error == RILLE_ERR_RESET ? c->error : RILLE_ERR_CLOSED;
  }
  if (level < 0) level = c->low_water == UINT32_MAX ? c->high_water / 2 : c->low_water;
  if (level > c->high_water) level = c->high_water;
  if ((double)rille_conn_output_len(c) <= level) return RILLE_OK;
  size_t drain_to = level > 0 ? (size_t)level : 0;
  if (!(c->flags & RILLE_CONN_WRITER) || drain_to > c->drain_to) c->drain_to = (uint32_t)drain_to;
  c->flags |= RILLE_CONN_WRITER;
  return RILLE_PARK;
}

int rille_conn_flush(rille_conn *c) {
  if (!(c->flags & RILLE_CONN_BLOCKED)) {
    int err = rille_conn_send(c);
    if (err) return err;
  }
  return rille_conn_wait_output(c, 0);
}

/* ---- the rest -------------------------------------------------------------------------------------------------- */

int rille_conn_shutdown(rille_conn *c) {
  int err = c->fd < 0 || c->flags & RILLE_CONN_CLOSING ? RILLE_ERR_CLOSED : RILLE_OK;
  if (err || !(c->flags & RILLE_CONN_SOCKET)) return err ? err : RILLE_ERR_NOT_SUPPORTED;
  c->flags |= RILLE_CONN_SHUT;
  rille_topic_leave(c);
  rille_conn_mark_dirty(c);
  return RILLE_OK;
}

int rille_conn_detach(rille_conn *c) {
  if (c->fd < 0 || c->flags & RILLE_CONN_CLOSING) return RILLE_ERR_CLOSED;
  if (rille_conn_output_len(c) > 0 || c->is_http) return RILLE_ERR_BUSY;
  if (c->rare->tls) return RILLE_ERR_NOT_SUPPORTED; /* who gets the descriptor has not the keys */
  if (c->rare->part && (c->rare->part->drain || c->rare->part->feed)) return RILLE_ERR_BUSY;
  int fd = c->fd;
  rille_topic_leave(c);
  rille_binding_leave(c);
  if (c->flags & RILLE_CONN_REGISTERED) rille_poller_remove(&c->loop->poller, fd);
  c->fd = -1;
  c->interest = 0;
  c->flags &= ~(uint32_t)(RILLE_CONN_REGISTERED | RILLE_CONN_BLOCKED);
  c->flags |= RILLE_CONN_CLOSING | RILLE_CONN_PARTED;
  rille_conn_mark_dirty(c);
  return fd;
}

void rille_conn_pause(rille_conn *c, int paused) {
  if (paused) c->flags |= RILLE_CONN_PAUSED;
  else c->flags &= ~(uint32_t)RILLE_CONN_PAUSED;
  rille_conn_mark_dirty(c);
}

int rille_conn_is_http(const rille_conn *c) { return c->is_http; }

int rille_conn_is_active(const rille_conn *c) {
  return c->fd >= 0 && !c->error &&
         !(c->flags & (RILLE_CONN_EOF | RILLE_CONN_CLOSING | RILLE_CONN_FINISHED | RILLE_CONN_BROKEN));
}

static uint32_t *timeout_of(rille_timeouts *t, int setting) {
  switch (setting) {
  case RILLE_SET_READ: return &t->read_ms;
  case RILLE_SET_WRITE: return &t->write_ms;
  case RILLE_SET_IDLE: return &t->idle_ms;
  case RILLE_SET_LIFETIME: return &t->lifetime_ms;
  case RILLE_SET_LINGER: return &t->linger_ms;
  case RILLE_SET_HANDSHAKE: return &t->handshake_ms;
  default: return NULL;
  }
}

/* A span in ms as the 32-bit connection clock can hold it: at most 24 days, and never rounded down to none. */
static uint32_t span_of(double value) {
  if (value > 0 && value < 1) return 1;
  return value > (double)INT32_MAX ? (uint32_t)INT32_MAX : (uint32_t)value;
}

int rille_service_set(rille_service *service, int setting, double value) {
  if (!(value >= 0)) return RILLE_ERR_INVALID;
  uint32_t *timeout = timeout_of(&service->timeouts, setting);
  if (timeout) {
    *timeout = span_of(value);
    return RILLE_OK;
  }
  if (setting >= RILLE_SET_HTTP) return rille_http_set(service, setting, value);
  if (value > (double)UINT32_MAX) return RILLE_ERR_INVALID;
  switch (setting) {
  case RILLE_SET_MAX_INPUT: service->max_input = (uint32_t)value; break;
  case RILLE_SET_HIGH_WATER: service->high_water = (uint32_t)value; break;
  case RILLE_SET_LOW_WATER: service->low_water = (uint32_t)value; break;
  case RILLE_SET_READ_RATE: service->read_rate = value; break;
  case RILLE_SET_WRITE_RATE: service->write_rate = value; break;
  case RILLE_SET_NODELAY: service->nodelay = value != 0; break;
  case RILLE_SET_KEEPALIVE: service->keepalive_s = (uint32_t)value; break;
  default: return RILLE_ERR_INVALID;
  }
  return RILLE_OK;
}

int rille_conn_set(rille_conn *c, int setting, double value) {
  if (!(value >= 0)) return RILLE_ERR_INVALID;
  if (timeout_of(&(rille_timeouts){0}, setting)) {
    if (c->timeouts == &c->service->timeouts) {
      rille_timeouts *own = malloc(sizeof *own);
      if (!own) return RILLE_ERR_NO_MEMORY;
      *own = *c->timeouts;
      c->timeouts = own;
    }
    *timeout_of((rille_timeouts *)(uintptr_t)c->timeouts, setting) = span_of(value);
    if (setting == RILLE_SET_WRITE)
      (void)rille_conn_set_option(c, RILLE_OPTION_USER_TIMEOUT, rille_user_timeout(span_of(value)));
    rille_conn_arm(c);
    return RILLE_OK;
  }
  if (value > (double)UINT32_MAX) return RILLE_ERR_INVALID;
  switch (setting) {
  case RILLE_SET_HIGH_WATER: c->high_water = (uint32_t)value; return RILLE_OK;
  case RILLE_SET_LOW_WATER: c->low_water = (uint32_t)value; return RILLE_OK;
  case RILLE_SET_READ_RATE:
  case RILLE_SET_WRITE_RATE: return c->fd < 0 ? RILLE_ERR_CLOSED : rille_shaper_set(c, setting, value);
  default: break;
  }
  if (setting != RILLE_SET_NODELAY) return RILLE_ERR_INVALID;
  if (c->fd < 0) return RILLE_ERR_CLOSED;
  if (c->peer.family == AF_UNIX) return RILLE_ERR_NOT_SUPPORTED;
  int on = value != 0;
  return setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 ? RILLE_OK : RILLE_ERR_NOT_SUPPORTED;
}

int rille_conn_keepalive(rille_conn *c, int idle_s, int interval_s, int count) {
  if (idle_s < 0 || interval_s < 0 || count < 0) return RILLE_ERR_INVALID;
  if (c->fd < 0) return RILLE_ERR_CLOSED;
  if (!(c->flags & RILLE_CONN_SOCKET) || c->peer.family == AF_UNIX) return RILLE_ERR_NOT_SUPPORTED;
  int on = idle_s > 0;
  bool ok = setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0;
  if (on) ok = ok && setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s) == 0;
  if (on && interval_s) ok = ok && setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s) == 0;
  if (on && count) ok = ok && setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count) == 0;
  return ok ? RILLE_OK : RILLE_ERR_INVALID;
}

void rille_conn_trace(rille_conn *c, int on) {
  if (on) c->flags |= RILLE_CONN_TRACE;
  else c->flags &= ~(uint32_t)RILLE_CONN_TRACE;
}

/* The first bytes of what went over the wire, as hex, in one record. */
void rille_conn_log_bytes(const rille_conn *c, const char *way, const struct iovec *areas, int count, size_t size) {
  enum { SHOWN = 512 };
  static const char digits[] = "0123456789abcdef";
  char hex[SHOWN * 2 + 1];
  size_t shown = 0;
  for (int i = 0; i < count; i++) {
    const uint8_t *bytes = areas[i].iov_base;
    for (size_t k = 0; k < areas[i].iov_len && shown < size && shown < SHOWN; k++, shown++) {
      hex[shown * 2] = digits[bytes[k] >> 4];
      hex[shown * 2 + 1] = digits[bytes[k] & 15];
    }
  }
  hex[shown * 2] = '\0';
  char title[64];
  int length = snprintf(title, sizeof title, "%s %zu bytes%s", way, size, shown < size ? ", the first of them" : "");
  rille_log_context context = {.label = c->state->label, .conn = rille_conn_id(c), .loop = c->loop->id};
  rille_log_field field = {.key = "hex", .value = hex, .size = shown * 2};
  rille_log_write(RILLE_LOG_INFO, 0, &context, title, (size_t)length, &field, 1);
}

size_t rille_conn_peer(const rille_conn *c, char *to, size_t size) { return rille_peer_format(&c->peer, to, size); }

/* An IPv4 client of a listener of both families: as its own address is shown, see peer.c. */
static void unmap(struct sockaddr_storage *storage, socklen_t *length) {
  struct sockaddr_in6 six;
  if (storage->ss_family != AF_INET6) return;
  memcpy(&six, storage, sizeof six);
  if (!IN6_IS_ADDR_V4MAPPED(&six.sin6_addr)) return;
  struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = six.sin6_port};
  memcpy(&four.sin_addr, &six.sin6_addr.s6_addr[12], sizeof four.sin_addr);
  memcpy(storage, &four, sizeof four);
  *length = sizeof four;
}

size_t rille_conn_local(const rille_conn *c, char *to, size_t size) {
  struct sockaddr_storage storage = {.ss_family = AF_UNSPEC};
  socklen_t length = sizeof storage;
  rille_address address;
  if (c->fd < 0 || getsockname(c->fd, (struct sockaddr *)&storage, &length) != 0) return 0;
  unmap(&storage, &length);
  if (rille_address_from_sockaddr(&address, (struct sockaddr *)&storage, length) < 0) return 0;
  return rille_address_format(&address, to, size);
}

/* ---- connections that scripts make ----------------------------------------------------------------------------- */

rille_conn *rille_conn_adopt(rille_service *service, int fd, int *err) {
  rille_loop *loop = service->state->loop;
  struct sockaddr_storage storage;
  socklen_t length = sizeof storage;
  bool is_socket = getpeername(fd, (struct sockaddr *)&storage, &length) == 0;
  if (!is_socket && errno == ENOTCONN) {
    *err = RILLE_ERR_INVALID; /* a listener, or a socket that is not connected */
    return NULL;
  }
  *err = rille_fd_prepare(fd);
  if (*err < 0) return NULL;
  rille_conn *c = rille_conn_new(loop, service, fd, is_socket);
  if (!c) {
    *err = RILLE_ERR_NO_MEMORY;
    return NULL;
  }
  if (is_socket) rille_peer_from_sockaddr(&c->peer, (struct sockaddr *)&storage, length);
  c->flags |= RILLE_CONN_SHARED;
  *err = rille_conn_attach(c);
  if (*err >= 0) return c;
  c->fd = -1; /* still the caller's */
  rille_conn_free(c);
  return NULL;
}

int rille_conn_pair(rille_service *service, rille_conn *pair[2]) {
  int fds[2];
  int err = RILLE_OK;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) return rille_err_from_errno(errno);
  pair[0] = rille_conn_adopt(service, fds[0], &err);
  pair[1] = pair[0] ? rille_conn_adopt(service, fds[1], &err) : NULL;
  if (pair[1]) return RILLE_OK;
  if (pair[0]) rille_conn_free(pair[0]);
  else close(fds[0]);
  close(fds[1]);
  return err;
}
