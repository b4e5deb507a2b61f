/*
 * dial_attempt: the tries of a dial, one socket each; see dialer.h. The first that connects wins, the others are closed.
 */
#include "dialer.h"

#include "loop.h"
#include "socket.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { UNIX_RETRY_MS = 10, INDEX_BITS = 5 };

_Static_assert(RILLE_DIAL_ATTEMPTS_MAX <= 1 << INDEX_BITS, "an attempt's number stands in its registration");

/* ---- sockets --------------------------------------------------------------------------------------------------- */

static int open_socket(const rille_dial *d, const rille_address *to) {
  int fd = socket(to->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return rille_err_from_errno(errno);
  if (to->family == AF_UNIX) return fd;
  if (d->nodelay) rille_socket_set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  if (d->keepalive_s > 0) {
    rille_socket_set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    rille_socket_set(fd, IPPROTO_TCP, TCP_KEEPIDLE, d->keepalive_s);
  }
  if (d->bound.family == 0) return fd;
  int err = d->bound.family == to->family ? RILLE_OK : RILLE_ERR_NOT_SUPPORTED;
  if (!err) {
    bool any_port = rille_address_port(&d->bound) == 0;
    /* the port is chosen when the other end is known: as many connections as there are pairs, not as there are ports */
    if (any_port) rille_socket_set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    else rille_socket_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(fd, (const struct sockaddr *)&d->bound.storage, d->bound.length) != 0) err = rille_err_from_errno(errno);
  }
  if (!err) return fd;
  close(fd);
  return err;
}

/* Without a listener a connect to a port of this host may meet itself (a simultaneous open with one socket): nobody is there. */
static bool is_self(int fd, int family) {
  if (family == AF_UNIX) return false;
  struct sockaddr_storage own, other;
  socklen_t own_size = sizeof own, other_size = sizeof other;
  memset(&own, 0, sizeof own);
  memset(&other, 0, sizeof other);
  if (getsockname(fd, (struct sockaddr *)&own, &own_size) != 0) return false;
  if (getpeername(fd, (struct sockaddr *)&other, &other_size) != 0) return false;
  return own_size == other_size && memcmp(&own, &other, own_size) == 0;
}

static void close_attempt(const rille_dial *d, struct rille_attempt *a) {
  if (a->fd < 0) return;
  rille_poller_remove(&d->loop->poller, a->fd);
  close(a->fd);
  a->fd = -1;
}

void rille_dial_drop_attempts(rille_dial *d) {
  for (int i = 0; i < d->attempt_count; i++) close_attempt(d, &d->attempts[i]);
  free(d->attempts);
  d->attempts = NULL;
  d->attempt_count = 0;
}

/* ---- which address --------------------------------------------------------------------------------------------- */

static void address_of(const rille_dial *d, int which, const rille_target *target, rille_address *to) {
  memset(to, 0, sizeof *to);
  to->kind = RILLE_ADDRESS_TCP;
  if (which == 0) {
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(d->port)};
    memcpy(&in6.sin6_addr, target->ip, 16);
    memcpy(&to->storage, &in6, sizeof in6);
    to->length = sizeof in6;
    to->family = AF_INET6;
  } else {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(d->port)};
    memcpy(&in.sin_addr, target->ip, 4);
    memcpy(&to->storage, &in, sizeof in);
    to->length = sizeof in;
    to->family = AF_INET;
  }
}

static bool next_address(rille_dial *d, rille_address *to) {
  if (!d->is_named) {
    if (d->targets[0].next > 0) return false;
    d->targets[0].next = 1;
    *to = d->fixed;
    return true;
  }
  for (int i = 0; i < 2; i++) {
    int which = d->turn;
    rille_targets *t = &d->targets[which];
    d->turn = !d->turn;
    if (t->next == t->count) continue;
    address_of(d, which, &t->list[t->next++], to);
    return true;
  }
  return false;
}

static bool may_come(const rille_dial *d) {
  return d->is_named && (!d->targets[0].is_known || !d->targets[1].is_known);
}

int rille_dial_in_flight(const rille_dial *d) {
  int count = 0;
  for (int i = 0; i < d->attempt_count; i++) count += d->attempts[i].fd >= 0;
  return count;
}

static bool has_more(const rille_dial *d) {
  if (!d->is_named) return d->targets[0].next == 0;
  return d->targets[0].next < d->targets[0].count || d->targets[1].next < d->targets[1].count;
}

/* ---- trying ---------------------------------------------------------------------------------------------------- */

/* Of several errors the one that says most: that a host has no IPv6 is no reason where the other family was refused. */
static void note(rille_dial *d, int err) {
  bool is_weak = d->err == RILLE_OK || d->err == RILLE_ERR_UNREACHABLE || d->err == RILLE_ERR_ADDRESS_NOT_AVAILABLE ||
                 d->err == RILLE_ERR_NOT_SUPPORTED || d->err == RILLE_ERR_NOT_FOUND;
  if (is_weak) d->err = err;
}

static void win(rille_dial *d, struct rille_attempt *a) {
  int fd = a->fd;
  d->fixed = a->to;
  rille_poller_remove(&d->loop->poller, fd);
  a->fd = -1;
  rille_dial_finish(d, fd, RILLE_OK);
}

static int watch(const rille_dial *d, int index, int fd) {
  uint64_t data = rille_poller_data(RILLE_TAG_DIAL, d->epoch, d->slot << INDEX_BITS | (uint32_t)index);
  return rille_poller_add(&d->loop->poller, fd, EPOLLOUT, data);
}

/* RILLE_PARK: it is under way; RILLE_OK: it won; RILLE_ERR_BUSY: the queue of a Unix listener is full; or an error */
static int try_address(rille_dial *d, int index, const rille_address *to) {
  struct rille_attempt *a = &d->attempts[index];
  a->to = *to;
  a->fd = -1;
  int fd = open_socket(d, to);
  if (fd < 0) return fd;
  int rc = connect(fd, (const struct sockaddr *)&to->storage, to->length);
  int err = rc == 0 || errno == EINPROGRESS || errno == EINTR ? RILLE_OK : rille_err_from_errno(errno);
  if (!err && rc != 0) err = watch(d, index, fd);
  if (err) {
    close(fd);
    return err;
  }
  a->fd = fd;
  if (rc != 0) return RILLE_PARK;
  if (is_self(fd, to->family)) {
    close_attempt(d, a);
    return RILLE_ERR_ADDRESS_NOT_AVAILABLE;
  }
  win(d, a);
  return RILLE_OK;
}

/* The kernel's choice of a port met itself, or found none free while others were being closed: it may do better next time. */
static bool is_worth_a_retry(const rille_dial *d, const rille_address *to, int err) {
  bool chooses = d->bound.family == 0 || rille_address_port(&d->bound) == 0;
  return err == RILLE_ERR_ADDRESS_NOT_AVAILABLE && to->family != AF_UNIX && chooses &&
         d->retries < RILLE_DIAL_RETRIES_MAX;
}

static void wait_ms(rille_dial *d, uint64_t ms) {
  rille_timer_start(&d->loop->dials->wheel, &d->next.timer, rille_now_ns() / 1000000 + ms);
}

/* The next attempt, as often as it is worth it: RILLE_PARK, RILLE_OK or why not. */
static int attempt(rille_dial *d, const rille_address *to) {
  int err = try_address(d, d->attempt_count, to);
  while (is_worth_a_retry(d, to, err)) {
    d->retries++;
    err = try_address(d, d->attempt_count, to);
  }
  if (err == RILLE_PARK) d->attempt_count++;
  return err;
}

static void queue_is_full(rille_dial *d) {
  d->targets[0].next = 0; /* once more */
  wait_ms(d, UNIX_RETRY_MS);
}

void rille_dial_go_on(rille_dial *d) {
  rille_address to;
  if (!d->attempts) d->attempts = calloc(RILLE_DIAL_ATTEMPTS_MAX, sizeof *d->attempts);
  if (!d->attempts) {
    rille_dial_finish(d, -1, RILLE_ERR_NO_MEMORY);
    return;
  }
  while (!d->is_over && d->attempt_count < RILLE_DIAL_ATTEMPTS_MAX && next_address(d, &to)) {
    int err = attempt(d, &to);
    if (err == RILLE_OK) return;
    if (err == RILLE_PARK) {
      if (has_more(d)) wait_ms(d, RILLE_DIAL_ATTEMPT_MS);
      return;
    }
    if (err == RILLE_ERR_BUSY && to.family == AF_UNIX) {
      queue_is_full(d);
      return;
    }
    note(d, err);
  }
  if (d->is_over || rille_dial_in_flight(d) > 0 || may_come(d)) return;
  rille_dial_finish(d, -1, d->err ? d->err : RILLE_ERR_NOT_FOUND);
}

void rille_dial_next_fired(rille_alarm *alarm) {
  rille_dial *d = (rille_dial *)(void *)((char *)alarm - offsetof(rille_dial, next));
  d->is_early = false;
  rille_dial_go_on(d);
}

/* What became of a connect. One that was reset before anybody looked has no peer any more. */
static int error_of(int fd) {
  int error_number = 0;
  socklen_t size = sizeof error_number;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error_number, &size) != 0) error_number = errno;
  if (error_number) return rille_err_from_errno(error_number);
  struct sockaddr_storage peer;
  socklen_t peer_size = sizeof peer;
  return getpeername(fd, (struct sockaddr *)&peer, &peer_size) == 0 ? RILLE_OK : RILLE_ERR_RESET;
}

void rille_dial_attempt_ready(rille_dial *d, int index) {
  if (index >= d->attempt_count || d->attempts[index].fd < 0) return;
  struct rille_attempt *a = &d->attempts[index];
  rille_address to = a->to;
  int err = error_of(a->fd);
  bool met_itself = !err && is_self(a->fd, to.family);
  if (!err && !met_itself) {
    win(d, a);
    return;
  }
  close_attempt(d, a);
  if (is_worth_a_retry(d, &to, met_itself ? RILLE_ERR_ADDRESS_NOT_AVAILABLE : err)) {
    d->retries++;
    err = try_address(d, index, &to);
    if (err == RILLE_OK || err == RILLE_PARK) return;
  } else if (met_itself) {
    err = RILLE_ERR_REFUSED; /* nobody listened there */
  }
  note(d, err);
  rille_timer_stop(&d->loop->dials->wheel, &d->next.timer);
  rille_dial_go_on(d);
}
