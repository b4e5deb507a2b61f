/*
 * listener: see listener.h.
 */
#include "listener.h"

#include "conn.h"
#include "log.h"
#include "team.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FULL_RECHECK_MS = 10 };

static int say(char *message, size_t size, int err, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, size, format, arguments);
  va_end(arguments);
  return err;
}

static const char *reason(int error_number) {
  return strerror(error_number); /* NOLINT(concurrency-mt-unsafe): glibc keeps the text by thread */
}

/* ---- opening --------------------------------------------------------------------------------------------------- */

static const struct sockaddr_un *unix_name(const rille_address *address) {
  return (const struct sockaddr_un *)&address->storage;
}

static bool has_path(const rille_address *address) {
  return address->family == AF_UNIX && unix_name(address)->sun_path[0] != '\0';
}

/* A socket file that a server left behind: it is one, and nobody answers. */
static bool is_stale_path(const rille_address *address) {
  struct stat info;
  if (lstat(unix_name(address)->sun_path, &info) != 0 || !S_ISSOCK(info.st_mode)) return false;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  int result = connect(fd, (const struct sockaddr *)&address->storage, address->length);
  bool refused = result != 0 && errno == ECONNREFUSED;
  close(fd);
  return refused;
}

static void set_option(int fd, int level, int name, int value) {
  (void)setsockopt(fd, level, name, &value, sizeof value);
}

static int make_socket(const rille_listener *l, bool reuseport, char *message, size_t size) {
  const rille_listen_options *o = &l->options;
  int fd = socket(l->address.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return say(message, size, rille_err_from_errno(errno), "no socket: %s", reason(errno));
  if (l->address.family != AF_UNIX) {
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (reuseport) set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    if (l->address.family == AF_INET6) set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, o->ipv6_only || l->address.ipv6_only);
    /* What is set on the listening socket is inherited: no call for each connection. */
    if (l->service->nodelay) set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (l->service->keepalive_s) {
      set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
      set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)l->service->keepalive_s);
    }
  }
  if (o->receive_buffer) set_option(fd, SOL_SOCKET, SO_RCVBUF, o->receive_buffer);
  if (o->send_buffer) set_option(fd, SOL_SOCKET, SO_SNDBUF, o->send_buffer);
  if (o->device[0] &&
      setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, o->device, (socklen_t)strnlen(o->device, sizeof o->device)) != 0) {
    int err = errno;
    close(fd);
    return say(message, size, rille_err_from_errno(err), "cannot bind to device %.15s: %s", o->device, reason(err));
  }
  if (bind(fd, (const struct sockaddr *)&l->address.storage, l->address.length) == 0) return fd;
  int err = errno;
  close(fd);
  if (err == EADDRINUSE)
    return say(message, size, RILLE_ERR_ADDRESS_IN_USE,
               "address in use; stop what listens there, or choose another address");
  return say(message, size, rille_err_from_errno(err), "%s", reason(err));
}

static int bind_socket(rille_listener *l, bool reuseport, bool is_first, char *message, size_t size) {
  if (reuseport && is_first && rille_address_port(&l->address) != 0) {
    /* With SO_REUSEPORT a second server of the same user binds silently; the first bind without it finds a busy port. */
    int probe = make_socket(l, false, message, size);
    if (probe < 0) return probe;
    close(probe);
  }
  int fd = make_socket(l, reuseport, message, size);
  if (fd == RILLE_ERR_ADDRESS_IN_USE && has_path(&l->address) && is_stale_path(&l->address)) {
    unlink(unix_name(&l->address)->sun_path);
    fd = make_socket(l, reuseport, message, size);
  }
  return fd;
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
  if (has_path(&l->address) && stat(unix_name(&l->address)->sun_path, &info) == 0) {
    l->device = info.st_dev;
    l->inode = info.st_ino;
  }
}

static int open_socket(rille_listener *l, bool reuseport, bool is_first, char *message, size_t size) {
  l->fd = bind_socket(l, reuseport, is_first, message, size);
  if (l->fd < 0) return l->fd;
  if (has_path(&l->address) && l->options.mode) (void)chmod(unix_name(&l->address)->sun_path, l->options.mode);
  if (listen(l->fd, l->options.backlog > 0 ? l->options.backlog : 65535) != 0) { /* the system cuts it to somaxconn */
    int err = errno;
    close(l->fd);
    if (has_path(&l->address)) unlink(unix_name(&l->address)->sun_path);
    return say(message, size, rille_err_from_errno(err), "%s", reason(err));
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
      return say(message, size, RILLE_ERR_NOT_SUPPORTED, "a Unix socket has no reuseport; use shared or balanced");
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
  return group ? join(l, group, message, size) : say(message, size, RILLE_ERR_NO_MEMORY, "no memory");
}

rille_listener *rille_listener_open(rille_service *service, const char *url, const rille_listen_options *options,
                                    int *err, char *message, size_t message_size) {
  rille_listener *l = calloc(1, sizeof *l);
  if (!l) {
    *err = say(message, message_size, RILLE_ERR_NO_MEMORY, "no memory");
    return NULL;
  }
  l->loop = service->state->loop;
  l->service = service;
  l->options = *options;
  char why[256];
  *err = rille_address_parse(url, &l->address, why, sizeof why);
  bool is_shared = l->loop->team && options->group;
  if (*err >= 0) *err = is_shared ? find_and_join(l, why, sizeof why) : open_socket(l, false, true, why, sizeof why);
  if (*err < 0) {
    say(message, message_size, *err, "cannot listen on %s: %s", url, why);
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
  if (has_path(&l->address) && stat(unix_name(&l->address)->sun_path, &info) == 0 && info.st_dev == l->device &&
      info.st_ino == l->inode) {
    unlink(unix_name(&l->address)->sun_path);
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
