/*
 * listener: how one is opened, alone or with those of other loops, and closed; see listener.h. What it accepts is in accept.c.
 */
#include "listener.h"

#include "conn.h"
#include "given.h"
#include "log.h"
#include "process_note.h"
#include "proxied.h"
#include "shaper.h"
#include "socket.h"
#include "team.h"
#include "udp.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *reason(int error_number) {
  return strerror(error_number); /* NOLINT(concurrency-mt-unsafe): glibc keeps the text by thread */
}

/* ---- opening --------------------------------------------------------------------------------------------------- */

static bool has_path(const rille_address *address) { return rille_socket_path(address) != NULL; }

/* What is set on the listening socket is inherited: no call for each connection. before: whose it was, and what it has set then; or NULL. */
static void set_inherited(const rille_listener *l, const rille_service *before) {
  const rille_service *service = l->service;
  if (l->options.receive_buffer) rille_socket_set(l->fd, SOL_SOCKET, SO_RCVBUF, l->options.receive_buffer);
  if (l->options.send_buffer) rille_socket_set(l->fd, SOL_SOCKET, SO_SNDBUF, l->options.send_buffer);
  if (l->address.family == AF_UNIX) return;
  if (service->nodelay || (before && before->nodelay)) {
    rille_socket_set(l->fd, IPPROTO_TCP, TCP_NODELAY, service->nodelay);
  }
  /* what the kernel holds is the peer's to take in the same time as what waits here */
  if (service->timeouts.write_ms || (before && before->timeouts.write_ms)) {
    rille_socket_set(l->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)rille_user_timeout(service->timeouts.write_ms));
  }
  if (service->keepalive_s || (before && before->keepalive_s)) {
    rille_socket_set(l->fd, SOL_SOCKET, SO_KEEPALIVE, service->keepalive_s > 0);
  }
  if (service->keepalive_s) rille_socket_set(l->fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)service->keepalive_s);
}

static int start_listening(const rille_listener *l) {
  return listen(l->fd, l->options.backlog > 0 ? l->options.backlog : 65535); /* the system cuts it to somaxconn */
}

/* The file of a unix path, so that no other is removed. */
static void learn_file(rille_listener *l) {
  struct stat info;
  if (!has_path(&l->address) || stat(rille_socket_path(&l->address), &info) != 0) return;
  l->device = info.st_dev;
  l->inode = info.st_ino;
}

static void learn_address(rille_listener *l) {
  struct sockaddr_storage storage;
  socklen_t length = sizeof storage;
  int v6only = l->address.ipv6_only;
  if (getsockname(l->fd, (struct sockaddr *)&storage, &length) == 0) {
    int kind = l->address.kind;
    rille_address_from_sockaddr(&l->address, (struct sockaddr *)&storage, length);
    l->address.kind = kind;
    l->address.ipv6_only = v6only;
  }
  learn_file(l);
}

static int open_socket(rille_listener *l, bool reuseport, bool is_first, char *message, size_t size) {
  rille_socket_options options = {
      .type = rille_address_is_datagram(&l->address) ? SOCK_DGRAM : SOCK_STREAM,
      .reuseport = reuseport,
      /* what a reload brings, the other processes of the server have too */
      .is_first = is_first && !(l->options.group && rille_process_number() > 0),
      .ipv6_only = l->options.ipv6_only || l->address.ipv6_only,
      .mode = l->options.mode,
      .device = l->options.device,
  };
  l->fd = rille_given_take(&l->address, &l->is_given, message, size);
  bool is_given = l->fd >= 0;
  if (l->fd == RILLE_ERR_NOT_FOUND) l->fd = rille_socket_bind(&l->address, &options, message, size);
  if (l->fd < 0) return l->fd;
  if (rille_address_is_datagram(&l->address)) {
    rille_udp_prepare(l->fd, &l->address, &l->options);
    learn_address(l);
    return RILLE_OK;
  }
  set_inherited(l, NULL);
  bool is_ours = !is_given || !rille_given_is_passed(l->fd);
  if (is_ours && start_listening(l) != 0) {
    int err = errno;
    close(l->fd);
    if (has_path(&l->address)) unlink(rille_socket_path(&l->address));
    return rille_socket_say(message, size, rille_err_from_errno(err), "%s", reason(err));
  }
  learn_address(l);
  return RILLE_OK;
}

/* ---- groups ---------------------------------------------------------------------------------------------------- */

/* The first member says how the others come to connections. */
static int found(rille_listener *l, rille_group *group, char *message, size_t size) {
  group->accept = rille_given_accept(&l->address, l->options.accept, message, size);
  group->balance = l->options.balance;
  if (group->accept < 0) return group->accept;
  if (!group->id && group->accept == RILLE_ACCEPT_BALANCED) {
    return rille_socket_say(message, size, RILLE_ERR_NOT_SUPPORTED,
                            "balanced is for servers of the configuration; use reuseport, shared or single");
  }
  return RILLE_OK;
}

/* Of datagrams the one that receives is not the only one that sends. */
static bool shares_socket(const rille_listener *l, const rille_group *group) {
  return group->accept == RILLE_ACCEPT_SHARED ||
         (group->accept == RILLE_ACCEPT_BALANCED && rille_address_is_datagram(&l->address));
}

/* The first member binds, and with it the address is known; the others join. */
static int bind_member(rille_listener *l, rille_group *group, bool is_first, char *message, size_t size) {
  if (!is_first) l->address = group->address;
  if (is_first || group->accept == RILLE_ACCEPT_REUSEPORT) {
    return open_socket(l, group->accept == RILLE_ACCEPT_REUSEPORT, is_first, message, size);
  }
  l->fd = group->fd; /* -1 where the first alone accepts; of datagrams, all send through it */
  l->is_given = group->is_given;
  learn_file(l);
  return RILLE_OK;
}

/* With the team's lock: a socket that is bound while others look for it would be an address in use to them. */
static int join(rille_listener *l, rille_group *group, char *message, size_t size) {
  bool is_first = group->refs == 0;
  int err = is_first ? found(l, group, message, size) : RILLE_OK;
  if (err >= 0) err = bind_member(l, group, is_first, message, size);
  if (err < 0) return err;
  if (is_first) {
    group->address = l->address;
    group->is_given = l->is_given;
    if (shares_socket(l, group)) group->fd = l->fd;
    atomic_store(&group->is_accepting, true);
  }
  l->group = group;
  l->is_first = is_first;
  rille_group_add(group, l);
  return RILLE_OK;
}

enum { KEY_MAX = RILLE_ADDRESS_TEXT_MAX + 64 };

/* What calls of rille.listen on several loops have in common that belong together: the script, the address as it was asked for, and what it
 * is to be. */
static void write_key(const rille_listener *l, char key[KEY_MAX]) {
  char address[RILLE_ADDRESS_TEXT_MAX];
  rille_address_format(&l->address, address, sizeof address);
  snprintf(key, KEY_MAX, "%u %d %d %.15s %s", l->service->state->generation->server, l->options.accept,
           l->service->http != NULL, l->options.device, address);
}

static int find_and_join(rille_listener *l, char *message, size_t size) {
  rille_team *team = l->loop->team;
  char key[KEY_MAX];
  int err;
  write_key(l, key);
  pthread_mutex_lock(&team->lock);
  rille_group *group = rille_group_find(team, l->options.group, key, l->loop->id, &err);
  if (group) {
    err = join(l, group, message, size);
    if (err < 0) rille_group_give_up(group);
  } else if (err == RILLE_ERR_FULL) {
    rille_socket_say(message, size, err, "the loops share %d addresses already, which is the limit", RILLE_GROUPS_MAX);
  } else {
    rille_socket_say(message, size, err, "no memory");
  }
  pthread_mutex_unlock(&team->lock);
  return err;
}

/* ---- who counts ------------------------------------------------------------------------------------------------ */

/* The counts by source: those of the address on other loops, or of another address of the same server. */
static rille_sources *known_sources(const rille_listener *l) {
  if (l->group && l->group->sources) return l->group->sources;
  for (const rille_listener *other = l->loop->listeners; other; other = other->next) {
    if (l->options.server && other->options.server == l->options.server && other->admission.sources) {
      return other->admission.sources;
    }
  }
  return NULL;
}

static bool share_sources(rille_listener *l) {
  rille_sources *sources = known_sources(l);
  if (sources) rille_sources_retain(sources);
  else sources = rille_sources_new();
  if (l->group && !l->group->sources) {
    l->group->sources = sources;
    rille_sources_retain(sources);
  }
  l->admission.sources = sources;
  return sources != NULL;
}

/* As the options say, for one that has just been opened or was taken over. False: no memory. */
static bool set_admission(rille_listener *l) {
  rille_admission *a = &l->admission;
  rille_cidr_retain(l->options.allow);
  rille_cidr_retain(l->options.deny);
  rille_cidr_retain(l->options.trusted);
  rille_cidr_release(a->allow);
  rille_cidr_release(a->deny);
  rille_cidr_release(a->trusted);
  a->trusted = l->options.trusted;
  a->allow = l->options.allow;
  a->deny = l->options.deny;
  a->max_per_address = l->options.max_per_address;
  if (a->sources) {
    /* connections on their way here are among those counted, so counting goes on */
    if (!a->max_per_address) a->max_per_address = UINT32_MAX;
    return true;
  }
  if (!a->max_per_address || l->address.family == AF_UNIX) return true;
  if (l->group) pthread_mutex_lock(&l->group->team->lock);
  bool is_shared = share_sources(l);
  if (l->group) pthread_mutex_unlock(&l->group->team->lock);
  return is_shared;
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

/* A server's address belongs to every loop; one that is opened at run time too, unless it is to be single. */
static bool is_shared(const rille_listener *l) {
  const rille_team *team = l->loop->team;
  return team && (l->options.group || (team->count > 1 && l->options.accept != RILLE_ACCEPT_SINGLE));
}

/* It is closed and not on the loop's list. */
static void destroy(rille_listener *l) {
  rille_admission_end(&l->admission);
  if (l->group) rille_group_release(l->group);
  free(l);
}

static bool is_same_address(const rille_address *a, const rille_address *b) {
  return a->kind == b->kind && a->family == b->family && a->length == b->length &&
         memcmp(&a->storage, &b->storage, a->length) == 0;
}

/* The listener of the state that this service's replaces, on the same address: it goes over with its queue. */
static rille_listener *find_former(const rille_service *service, const rille_address *address,
                                   const rille_listen_options *options) {
  for (rille_listener *l = service->state->loop->listeners; l; l = l->next) {
    if (l->is_closed || !l->service->is_former || l->service->state != service->state) continue;
    if (l->options.group != options->group) continue;
    if (!options->group && !is_same_address(&l->address, address)) continue;
    return l;
  }
  return NULL;
}

/* From now on it is as the new state's script wants it; what a socket is bound to stays. */
static int renew(rille_listener *l, rille_service *service, const rille_listen_options *options) {
  const rille_service *before = l->service;
  l->service = service;
  l->options = *options;
  l->is_full = false;
  l->is_held = true;
  if (!set_admission(l)) return RILLE_ERR_NO_MEMORY;
  if (l->fd < 0) return RILLE_OK;
  if (rille_address_is_datagram(&l->address)) {
    rille_udp_prepare(l->fd, &l->address, &l->options);
    return RILLE_OK;
  }
  set_inherited(l, before);
  if (!l->is_given || !rille_given_is_passed(l->fd)) (void)start_listening(l); /* another backlog */
  return RILLE_OK;
}

static int hand_to(rille_listener *l, rille_service *service, const rille_listen_options *options) {
  int err = renew(l, service, options);
  if (err || !rille_address_is_datagram(&l->address)) return err;
  if (l->udp) rille_udp_renew(l->udp);
  else l->udp = rille_udp_listen(l, &err);
  return err;
}

/* The listener on the address that a state on its way in asks for, which the generation before has: its socket and queue go over when the service does. */
static rille_listener *inherit(rille_service *service, const rille_address *address,
                               const rille_listen_options *options) {
  const rille_state *state = service->state;
  if (!state->change.is_incoming) return NULL;
  for (rille_listener *l = state->loop->listeners; l; l = l->next) {
    if (l->is_closed || l->heir || l->service->state == state || l->options.group != options->group) continue;
    /* one of the configuration may be that of a generation before the last, or of another server, too */
    if (!options->group && l->service->state != state->change.before) continue;
    if (!options->group && !is_same_address(&l->address, address)) continue;
    l->heir = service;
    l->other_options = *options;
    return l;
  }
  return NULL;
}

/* Between its service and the other one, that of its heir or the former. */
static void swap(rille_listener *l, rille_service *service) {
  rille_listen_options before = l->options;
  if (renew(l, service, &l->other_options) < 0) {
    RILLE_LOG(RILLE_LOG_WARN, "no memory for the lists of a listener: it lets everybody in");
  }
  l->other_options = before;
  if (before.proxy) rille_proxied_follow(l);
  if (l->udp) rille_udp_renew(l->udp);
}

void rille_listener_to_heir(rille_listener *l) {
  l->former = l->service;
  swap(l, l->heir);
  l->heir = NULL;
}

void rille_listener_to_former(rille_listener *l) {
  swap(l, l->former);
  l->former = NULL;
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
  if (service->state->change.is_incoming) atomic_store(&l->is_away, true); /* until it takes over */
  if (options->stays) service->stays = true;
  char why[256];
  *err = rille_given_resolve(url, &l->address, why, sizeof why);
  if (*err == 0) *err = rille_address_parse(url, &l->address, why, sizeof why);
  rille_listener *inherited = *err >= 0 ? inherit(service, &l->address, options) : NULL;
  if (inherited) {
    free(l);
    return inherited;
  }
  rille_listener *former = *err >= 0 ? find_former(service, &l->address, options) : NULL;
  if (former) {
    free(l);
    *err = hand_to(former, service, options);
    if (*err >= 0) return former;
    /* it stays open, for the next try */
    rille_socket_say(message, message_size, *err, "cannot listen on %s: %s", url, rille_err_text(*err));
    return NULL;
  }
  if (*err >= 0) {
    *err = is_shared(l) ? find_and_join(l, why, sizeof why) : open_socket(l, false, true, why, sizeof why);
  }
  if (*err < 0) {
    rille_socket_say(message, message_size, *err, "cannot listen on %s: %s", url, why);
    free(l);
    return NULL;
  }
  if (!set_admission(l)) {
    *err = rille_socket_say(message, message_size, RILLE_ERR_NO_MEMORY, "cannot listen on %s: no memory", url);
    rille_listener_shut(l);
    destroy(l);
    return NULL;
  }
  rille_reserve_take(&l->loop->reserve);
  if (rille_address_is_datagram(&l->address)) l->udp = rille_udp_listen(l, err);
  l->is_held = true;
  l->next = l->loop->listeners;
  l->loop->listeners = l;
  if (*err < 0) {
    rille_listener_close(l); /* swept at the end of the turn */
    rille_socket_say(message, message_size, *err, "cannot listen on %s: %s", url, rille_err_text(*err));
    return NULL;
  }
  if (l->loop->is_open && !service->state->change.is_incoming) rille_listener_arm(l);
  return l;
}

size_t rille_listener_address(const rille_listener *l, char *to, size_t size) {
  return rille_address_format(&l->address, to, size);
}

/* ---- closing --------------------------------------------------------------------------------------------------- */

/* Others go on at this address: what the kernel has put into this socket's queue would be reset. */
static bool has_heirs(const rille_listener *l) {
  return l->group && !l->group->id && l->group->accept == RILLE_ACCEPT_REUSEPORT && l->loop->is_open;
}

void rille_listener_close(rille_listener *l) {
  l->is_held = false;
  if (has_heirs(l)) rille_listener_drain(l);
  else rille_listener_shut(l);
}

void rille_listener_close_by(const rille_state *state, rille_listener *l) {
  if (l->service->state != state) return;
  if (l->heir) l->is_resting = true; /* another generation is about to take it */
  else rille_listener_close(l);
}

/* is_last: no other loop has it any more. */
static void close_socket(rille_listener *l, bool is_last) {
  bool is_shared_one = l->group && shares_socket(l, l->group);
  if (l->fd >= 0 && (is_last || !is_shared_one)) {
    if (l->is_given && l->is_dropped) rille_given_drop(l->fd);
    if (l->is_given) rille_given_return(l->fd);
    else close(l->fd);
  }
  l->fd = -1;
  if (l->is_given) return;
  struct stat info;
  if (is_last && has_path(&l->address) && stat(rille_socket_path(&l->address), &info) == 0 &&
      info.st_dev == l->device && info.st_ino == l->inode) {
    unlink(rille_socket_path(&l->address));
  }
}

void rille_listener_shut(rille_listener *l) {
  if (l->is_closed) return;
  rille_listener_disarm(l);
  atomic_store(&l->is_away, true);
  l->is_closed = true;
  if (l->udp) rille_udp_shut(l->udp);
  l->udp = NULL;
  if (!l->group) {
    close_socket(l, true);
    return;
  }
  rille_group *group = l->group;
  if (group->accept == RILLE_ACCEPT_BALANCED && l->is_first) atomic_store(&group->is_accepting, false);
  /* with the lock: who looks for the group and does not find it must not find its socket either */
  pthread_mutex_lock(&group->team->lock);
  close_socket(l, rille_group_leave(group, l));
  pthread_mutex_unlock(&group->team->lock);
}

void rille_listener_orphan(rille_listener *l) {
  static rille_state nobody;
  static rille_service none = {.state = &nobody};
  l->service = &none;
  l->is_held = false;
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
    bool is_kept = l->is_held || (l->group && l->group->id);
    if (!l->is_closed || l->connections > 0 || (is_kept && !held_too)) {
      at = &l->next;
      continue;
    }
    *at = l->next;
    destroy(l);
  }
}
