/*
 * listener: see listener.h.
 */
#include "listener.h"

#include "conn.h"
#include "log.h"
#include "socket.h"
#include "team.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FULL_RECHECK_MS = 10 };

static const char *reason(int error_number) {
  return strerror(error_number); /* NOLINT(concurrency-mt-unsafe): glibc keeps the text by thread */
}

/* ---- opening --------------------------------------------------------------------------------------------------- */

static bool has_path(const rille_address *address) { return rille_socket_path(address) != NULL; }

/* What is set on the listening socket is inherited: no call for each connection. */
static void set_inherited(const rille_listener *l) {
  const rille_service *service = l->service;
  if (l->options.receive_buffer) rille_socket_set(l->fd, SOL_SOCKET, SO_RCVBUF, l->options.receive_buffer);
  if (l->options.send_buffer) rille_socket_set(l->fd, SOL_SOCKET, SO_SNDBUF, l->options.send_buffer);
  if (l->address.family == AF_UNIX) return;
  if (service->nodelay) rille_socket_set(l->fd, IPPROTO_TCP, TCP_NODELAY, 1);
  if (service->keepalive_s) {
    rille_socket_set(l->fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    rille_socket_set(l->fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)service->keepalive_s);
  }
}

static void learn_address(rille_listener *l) {
  struct sockaddr_storage storage;
  socklen_t length = sizeof storage;
  int v6only = l->address.ipv6_only;
  if (getsockname(l->fd, (struct sockaddr *)&storage, &length) == 0) {
    rille_address_from_sockaddr(&l->address, (struct sockaddr *)&storage, length);
    l->address.ipv6_only = v6only;
  }
  struct stat info;
  if (has_path(&l->address) && stat(rille_socket_path(&l->address), &info) == 0) {
    l->device = info.st_dev;
    l->inode = info.st_ino;
  }
}

static int open_socket(rille_listener *l, bool reuseport, bool is_first, char *message, size_t size) {
  rille_socket_options options = {
      .type = SOCK_STREAM,
      .reuseport = reuseport,
      .is_first = is_first,
      .ipv6_only = l->options.ipv6_only || l->address.ipv6_only,
      .mode = l->options.mode,
      .device = l->options.device,
  };
  l->fd = rille_socket_bind(&l->address, &options, message, size);
  if (l->fd < 0) return l->fd;
  set_inherited(l);
  if (listen(l->fd, l->options.backlog > 0 ? l->options.backlog : 65535) != 0) { /* the system cuts it to somaxconn */
    int err = errno;
    close(l->fd);
    if (has_path(&l->address)) unlink(rille_socket_path(&l->address));
    return rille_socket_say(message, size, rille_err_from_errno(err), "%s", reason(err));
  }
  learn_address(l);
  return RILLE_OK;
}

/* The first member binds, and with it the address is known; the others join. */
static int join(rille_listener *l, rille_group *group, char *message, size_t size) {
  bool is_first = group->count == 0;
  int err = RILLE_OK;
  if (is_first) {
    group->accept = l->options.accept;
    group->balance = l->options.balance;
    if (l->address.family == AF_UNIX && group->accept == RILLE_ACCEPT_REUSEPORT) {
      return rille_socket_say(message, size, RILLE_ERR_NOT_SUPPORTED,
                              "a Unix socket has no reuseport; use shared or balanced");
    }
  } else {
    const rille_listener *first = group->members[0];
    l->address = group->address;
    l->device = first->device;
    l->inode = first->inode;
  }
  if (is_first || group->accept == RILLE_ACCEPT_REUSEPORT) {
    err = open_socket(l, group->accept == RILLE_ACCEPT_REUSEPORT, is_first, message, size);
  } else {
    l->fd = group->fd; /* -1 where the first alone accepts */
  }
  if (err < 0) return err;
  group->address = l->address;
  if (is_first && group->accept == RILLE_ACCEPT_SHARED) group->fd = l->fd;
  if (is_first) atomic_store(&group->is_accepting, true);
  l->group = group;
  group->members[group->count++] = l;
  atomic_fetch_add(&group->open, 1);
  return RILLE_OK;
}

static int find_and_join(rille_listener *l, char *message, size_t size) {
  rille_group *group = rille_team_group(l->loop->team, l->options.group);
  return group ? join(l, group, message, size) : rille_socket_say(message, size, RILLE_ERR_NO_MEMORY, "no memory");
}

rille_listener *rille_listener_open(rille_service *service, const char *url, const rille_listen_options *options,
                                    int *err, char *message, size_t message_size) {
  rille_listener *l = calloc(1, sizeof *l);
  if (!l) {
    *err = rille_socket_say(message, message_size, RILLE_ERR_NO_MEMORY, "no memory");
    return NULL;
  }
  l->loop = service->state->loop;
  l->service = service;
  l->options = *options;
  if (options->stays) service->stays = true;
  char why[256];
  *err = rille_address_parse(url, &l->address, why, sizeof why);
  bool is_shared = l->loop->team && options->group;
  if (*err >= 0) *err = is_shared ? find_and_join(l, why, sizeof why) : open_socket(l, false, true, why, sizeof why);
  if (*err < 0) {
    rille_socket_say(message, message_size, *err, "cannot listen on %s: %s", url, why);
    free(l);
    return NULL;
  }
  l->is_held = true;
  l->next = l->loop->listeners;
  l->loop->listeners = l;
  if (l->loop->is_open) rille_listener_arm(l);
  return l;
}

size_t rille_listener_address(const rille_listener *l, char *to, size_t size) {
  return rille_address_format(&l->address, to, size);
}

/* ---- accepting ------------------------------------------------------------------------------------------------- */

static void disarm(rille_listener *l) {
  if (l->is_armed) rille_poller_remove(&l->loop->poller, l->fd);
  l->is_armed = false;
}

void rille_listener_arm(rille_listener *l) {
  if (l->is_armed || l->is_closed || l->fd < 0) return;
  uint64_t data = (uint64_t)RILLE_TAG_LISTENER << 56 | (uint64_t)(uintptr_t)l; /* user addresses have 47 bits */
  bool is_shared = l->group && l->group->accept == RILLE_ACCEPT_SHARED && l->group->count > 1;
  uint32_t events = EPOLLIN | (is_shared ? (uint32_t)EPOLLEXCLUSIVE : 0); /* one loop wakes for a connection, not all */
  l->is_armed = rille_poller_add(&l->loop->poller, l->fd, events, data) == RILLE_OK;
}

static void back_off(rille_listener *l, int error_number) {
  l->retry_ms = l->retry_ms ? l->retry_ms * 2 : RILLE_ACCEPT_RETRY_FIRST_MS;
  if (l->retry_ms > RILLE_ACCEPT_RETRY_MAX_MS) l->retry_ms = RILLE_ACCEPT_RETRY_MAX_MS;
  l->retry_at_ms = l->loop->clock_ms + l->retry_ms;
  l->loop->listeners_wait = true;
  disarm(l);
  char address[RILLE_ADDRESS_TEXT_MAX];
  rille_listener_address(l, address, sizeof address);
  RILLE_LOG(RILLE_LOG_WARN, "cannot accept on %s: %s; new connections wait, next try in %u ms", address,
            reason(error_number), l->retry_ms);
}

static uint32_t load(const rille_listener *l) {
  return l->group ? rille_group_load(l->group) : l->service->connections;
}

static bool is_full(rille_listener *l) {
  if (!l->options.max_connections || load(l) < l->options.max_connections) return false;
  if (!l->is_full) {
    char address[RILLE_ADDRESS_TEXT_MAX];
    rille_listener_address(l, address, sizeof address);
    RILLE_LOG(RILLE_LOG_WARN, "max_connections (%u) reached on %s: new connections wait", l->options.max_connections,
              address);
  }
  l->is_full = true;
  l->loop->listeners_wait = true;
  disarm(l);
  return true;
}

/* fd becomes a connection of this loop; false: there is no memory, and fd is closed. */
static bool serve(rille_listener *l, int fd, const rille_peer *peer) {
  rille_conn *c = rille_conn_new(l->loop, l->service, fd, true);
  if (!c) {
    close(fd);
    if (l->group) rille_group_left(l->group, l->loop);
    return false;
  }
  c->peer = *peer;
  c->group = l->group;
  l->loop->accepted++;
  l->accepted++;
  rille_conn_start(c);
  return true;
}

void rille_listener_receive(rille_listener *l, int fd, const rille_peer *peer) {
  if (!serve(l, fd, peer)) RILLE_LOG(RILLE_LOG_WARN, "no memory for a connection: closed");
}

static bool hand_on(rille_listener *l, int fd, const rille_peer *peer) {
  if (!l->group || l->group->accept != RILLE_ACCEPT_BALANCED || l->loop->is_stopping) return false;
  rille_listener *to = rille_group_pick(l->group, l, peer);
  return to != l && rille_group_hand(l->group, to, fd, peer);
}

/* false: nothing more to accept now */
static bool accept_one(rille_listener *l) {
  struct sockaddr_storage storage;
  socklen_t length = sizeof storage;
  int fd = accept4(l->fd, (struct sockaddr *)&storage, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    switch (errno) {
    case EAGAIN: return false;
    case EINTR:
    case ECONNABORTED: /* the connection died in the queue; the rest are network errors that belong to it */
    case EPROTO:
    case ENOPROTOOPT:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENONET: return true;
    default: back_off(l, errno); return false; /* EMFILE and the like pass; what does not is no reason to spin */
    }
  }
  l->retry_ms = 0;
  rille_peer peer = {.family = AF_UNIX}; /* a client's own name is of no use here */
  if (l->address.family != AF_UNIX) rille_peer_from_sockaddr(&peer, (struct sockaddr *)&storage, length);
  if (hand_on(l, fd, &peer)) return true;
  if (l->group) rille_group_came(l->group, l->loop);
  if (serve(l, fd, &peer)) return true;
  back_off(l, ENOMEM);
  return false;
}

void rille_listener_accept(rille_listener *l) {
  for (int i = 0; i < RILLE_ACCEPT_BATCH && !l->is_closed; i++) {
    if (is_full(l) || !accept_one(l)) return;
  }
}

uint64_t rille_listener_revive(rille_loop *loop, uint64_t now_ms) {
  uint64_t next = UINT64_MAX;
  if (!loop->listeners_wait) return next;
  loop->listeners_wait = false;
  for (rille_listener *l = loop->listeners; l; l = l->next) {
    if (l->is_closed || l->is_armed || !loop->is_open) continue;
    if (l->is_full && load(l) >= l->options.max_connections) {
      loop->listeners_wait = true; /* a connection of this loop that goes wakes it; one of another does not */
      if (l->group && now_ms + FULL_RECHECK_MS < next) next = now_ms + FULL_RECHECK_MS;
      continue;
    }
    if (l->retry_ms && now_ms < l->retry_at_ms) {
      loop->listeners_wait = true;
      if (l->retry_at_ms < next) next = l->retry_at_ms;
      continue;
    }
    l->is_full = false;
    rille_listener_arm(l);
  }
  return next;
}

/* ---- closing --------------------------------------------------------------------------------------------------- */

void rille_listener_close(rille_listener *l) {
  l->is_held = false;
  rille_listener_shut(l);
}

void rille_listener_shut(rille_listener *l) {
  if (l->is_closed) return;
  disarm(l);
  l->is_closed = true;
  bool is_last = !l->group || atomic_fetch_sub(&l->group->open, 1) == 1;
  bool is_shared = l->group && l->group->accept == RILLE_ACCEPT_SHARED;
  if (l->fd >= 0 && (is_last || !is_shared)) close(l->fd);
  l->fd = -1;
  if (l->group && l == l->group->members[0]) atomic_store(&l->group->is_accepting, false);
  if (!is_last) return;
  struct stat info;
  if (has_path(&l->address) && stat(rille_socket_path(&l->address), &info) == 0 && info.st_dev == l->device &&
      info.st_ino == l->inode) {
    unlink(rille_socket_path(&l->address));
  }
}

void rille_listener_drain(rille_listener *l) {
  if (l->is_closed) return;
  for (int i = 0; i < RILLE_ACCEPT_LAST && l->fd >= 0 && !is_full(l) && accept_one(l); i++) {
  }
  rille_listener_shut(l);
}

bool rille_listener_may_receive(const rille_loop *loop) {
  for (const rille_listener *l = loop->listeners; l; l = l->next) {
    if (!l->group || l->group->accept != RILLE_ACCEPT_BALANCED) continue;
    if (atomic_load(&l->group->is_accepting)) return true;
  }
  return false;
}

void rille_listener_sweep(rille_loop *loop, bool held_too) {
  for (rille_listener **at = &loop->listeners; *at;) {
    rille_listener *l = *at;
    if (!l->is_closed || (l->is_held && !held_too)) {
      at = &l->next;
      continue;
    }
    *at = l->next;
    free(l);
  }
}
