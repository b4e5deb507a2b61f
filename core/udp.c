/*
 * udp: the life of datagram sockets, and where the loop calls; see udp.h. Receiving is in datagram.c, sending in udp_send.c, what can be
 * set in udp_option.c, sessions in udp_session.c.
 */
#include "udp.h"

#include "listener.h"
#include "log.h"
#include "loop.h"
#include "socket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SOCKETS_FIRST = 16, EPOCH_MASK = 0xffffff };

/* ---- the side of a loop ---------------------------------------------------------------------------------------- */

rille_udp_side *rille_udp_side_of(rille_loop *loop) {
  if (loop->udp) return loop->udp;
  rille_udp_side *side = aligned_alloc(_Alignof(rille_udp_side), sizeof *side);
  if (!side) return NULL;
  memset(side, 0, sizeof *side);
  side->block_size = RILLE_UDP_BLOCK_FIRST;
  side->free_session = UINT32_MAX;
  rille_wheel_init(&side->wheel, loop->clock_ms);
  loop->udp = side;
  return side;
}

static bool grow(rille_udp_side *side, uint32_t slot) {
  if (slot < side->socket_count) return true;
  uint32_t count = side->socket_count ? side->socket_count * 2 : SOCKETS_FIRST;
  if (slot >= RILLE_UDP_SOCKETS_MAX) return false;
  rille_udp **sockets = realloc(side->sockets, count * sizeof(rille_udp *));
  if (!sockets) return false;
  memset(sockets + side->socket_count, 0, (count - side->socket_count) * sizeof(rille_udp *));
  side->sockets = sockets;
  side->socket_count = count;
  return true;
}

static rille_udp *make(rille_state *state, int *err) {
  rille_udp_side *side = rille_udp_side_of(state->loop);
  rille_udp *u = side ? calloc(1, sizeof *u) : NULL;
  uint32_t slot = 0;
  while (u && slot < side->socket_count && side->sockets[slot]) slot++;
  if (!u || !grow(side, slot)) {
    free(u);
    *err = RILLE_ERR_NO_MEMORY;
    return NULL;
  }
  side->epoch = side->epoch == EPOCH_MASK ? 1 : side->epoch + 1;
  u->loop = state->loop;
  u->state = state;
  u->slot = slot;
  u->epoch = side->epoch;
  u->fd = -1;
  u->is_held = true;
  u->run = 1;
  side->sockets[slot] = u;
  return u;
}

rille_udp *rille_udp_of(rille_loop *loop, uint32_t slot, uint32_t epoch) {
  const rille_udp_side *side = loop->udp;
  rille_udp *u = side && slot < side->socket_count ? side->sockets[slot] : NULL;
  return u && u->epoch == epoch && !u->is_closed ? u : NULL;
}

uint32_t rille_udp_slot(const rille_udp *u) { return u->slot; }

uint32_t rille_udp_epoch(const rille_udp *u) { return u->epoch; }

/* ---- what epoll looks for --------------------------------------------------------------------------------------- */

/* Handlers that park keep their datagrams: beyond the limit the rest stays with the kernel, until half of them have returned. Sessions
 * drop what they have no room for, so that some that do not look at theirs cannot stop the others. */
static bool has_room(const rille_udp *u) {
  uint32_t most = u->options.max_datagrams;
  if (u->has_gro && u->interest & EPOLLIN) most -= RILLE_UDP_RUN_MAX - 1; /* as many may come at once */
  return u->options.session_max || u->in_flight < (u->interest & EPOLLIN ? most : most / 2 + 1);
}

static uint32_t room_of(const rille_udp *u) {
  if (u->options.session_max) return RILLE_UDP_BATCH;
  uint32_t room = u->options.max_datagrams > u->in_flight ? u->options.max_datagrams - u->in_flight : 0;
  if (u->has_gro) room = room / RILLE_UDP_RUN_MAX * u->run;
  return room < RILLE_UDP_BATCH ? room : RILLE_UDP_BATCH;
}

void rille_udp_look(rille_udp *u) {
  if (u->fd < 0) return;
  bool reads = u->listener ? u->is_reading && has_room(u) : u->is_wanted && !u->is_woken;
  /* A Unix socket is always ready to send, whatever the peer's queue says: that is looked at again by time. */
  bool writes = u->is_blocked && u->address.family != AF_UNIX;
  uint32_t interest = (reads ? (uint32_t)EPOLLIN : 0) | (writes ? (uint32_t)EPOLLOUT : 0);
  if (interest == u->interest) return;
  rille_poller *poller = &u->loop->poller;
  uint64_t data = rille_poller_data(RILLE_TAG_UDP, u->epoch, u->slot);
  /* what is registered as exclusive cannot be changed */
  bool can_change = u->interest && interest && !u->is_shared;
  if (can_change && rille_poller_change(poller, u->fd, interest, data) != RILLE_OK) return;
  if (!can_change && u->interest) rille_poller_remove(poller, u->fd);
  if (!can_change && interest) {
    uint32_t exclusive = u->is_shared ? (uint32_t)EPOLLEXCLUSIVE : 0;
    if (rille_poller_add(poller, u->fd, interest | exclusive, data) != RILLE_OK) interest = 0;
  }
  u->interest = (uint8_t)interest;
}

static void wake_receiver(rille_udp *u) {
  if (!u->is_wanted || u->is_woken) return;
  u->is_woken = rille_state_emit(u->state, RILLE_EVENT_UDP, u->slot, 0);
}

void rille_udp_ready(rille_loop *loop, uint32_t slot, uint32_t epoch, uint32_t events) {
  rille_udp *u = rille_udp_of(loop, slot, epoch);
  if (!u) return;
  if (events & EPOLLOUT) {
    u->is_blocked = false;
    rille_udp_flush(u);
  }
  if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
    if (!u->listener) wake_receiver(u);
    else if (u->is_reading) rille_udp_pull(u, room_of(u));
  }
  rille_udp_look(u);
}

/* ---- a listener's ----------------------------------------------------------------------------------------------- */

rille_udp *rille_listener_udp(rille_listener *l) { return l->udp; }

int rille_udp_is_first(const rille_udp *u) { return !u->group || u->listener->is_first; }

rille_udp *rille_udp_listen(rille_listener *l, int *err) {
  rille_udp *u = make(l->service->state, err);
  if (!u) return NULL;
  u->service = l->service;
  u->listener = l;
  u->group = l->group;
  u->address = l->address;
  u->options = l->options;
  u->fd = l->fd;
  u->is_shared = l->group && l->group->accept == RILLE_ACCEPT_SHARED;
  u->has_gro = rille_udp_set_gro(l);
  return u;
}

void rille_udp_renew(rille_udp *u) {
  const rille_listener *l = u->listener;
  u->service = l->service;
  u->state = l->service->state->lua ? l->service->state : NULL;
  u->options = l->options;
  u->has_gro = rille_udp_set_gro(l);
  u->is_reading = u->is_reading && u->state;
  rille_udp_look(u);
}

void rille_udp_arm(rille_udp *u) {
  bool receives = !u->group || u->group->accept != RILLE_ACCEPT_BALANCED || rille_udp_is_first(u);
  u->is_reading = receives && u->state && !u->is_closed;
  rille_udp_look(u);
}

void rille_udp_disarm(rille_udp *u) {
  u->is_reading = false;
  rille_udp_look(u);
}

void rille_udp_drain(rille_udp *u) {
  if (u->is_closed) return;
  for (int left = RILLE_UDP_LAST; u->is_reading && left > 0; left -= RILLE_UDP_BATCH) {
    if (rille_udp_pull(u, RILLE_UDP_BATCH) <= 0) break;
  }
  rille_udp_disarm(u);
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

static void shut(rille_udp *u) {
  if (u->is_closed) return;
  u->is_blocked = false;
  rille_udp_flush(u);
  u->is_closed = true;
  u->is_reading = u->is_blocked = false;
  if (u->interest) rille_poller_remove(&u->loop->poller, u->fd);
  u->interest = 0;
  rille_udp_drop_output(u);
  while (u->first_in) {
    rille_dgram *d = u->first_in;
    u->first_in = d->next;
    rille_udp_free_dgram(d);
  }
  if (u->current) rille_udp_free_dgram(u->current);
  u->current = NULL;
  u->loop->udp->has_closed = true;
}

void rille_udp_shut(rille_udp *u) {
  shut(u);
  u->fd = -1;
  u->listener = NULL;
  u->is_held = false;
  rille_sessions_end(u, RILLE_ERR_CLOSED);
}

void rille_udp_close(rille_udp *u) {
  bool had_fd = u->fd >= 0;
  const char *path = had_fd ? rille_socket_path(&u->address) : NULL;
  struct stat info;
  shut(u);
  u->is_held = false;
  if (had_fd) close(u->fd);
  u->fd = -1;
  if (path && stat(path, &info) == 0 && info.st_dev == u->device && info.st_ino == u->inode) unlink(path);
}

void rille_udp_abandon(rille_loop *loop, uint32_t slot, uint32_t epoch) {
  rille_udp *u = rille_udp_of(loop, slot, epoch);
  if (u) rille_udp_close(u);
}

static void forget(rille_udp_side *side, rille_udp *u) {
  for (rille_udp **at = &side->dirty; *at; at = &(*at)->next_dirty) {
    if (*at != u) continue;
    *at = u->next_dirty;
    break;
  }
  side->sockets[u->slot] = NULL;
  free(u->out);
  free(u->buckets);
  free(u);
}

void rille_udp_sweep(rille_loop *loop) {
  rille_udp_side *side = loop->udp;
  if (!side || !side->has_closed) return;
  side->has_closed = false;
  for (uint32_t i = 0; i < side->socket_count; i++) {
    rille_udp *u = side->sockets[i];
    if (!u || !u->is_closed || u->is_held) continue;
    if (u->in_flight == 0 && u->session_count == 0) forget(side, u);
    else side->has_closed = true;
  }
}

/* The socket of a listener stays that one's: the state that comes next may take it. Others may still have datagrams and sessions of it. */
void rille_udp_evict(rille_loop *loop, rille_state *state) {
  rille_udp_side *side = loop->udp;
  if (!side) return;
  rille_sessions_forget(state);
  rille_udp_forget_dgrams(side, state);
  for (uint32_t i = 0; i < side->socket_count; i++) {
    rille_udp *u = side->sockets[i];
    if (!u || u->state != state) continue;
    u->state = NULL;
    if (u->listener) {
      rille_udp_disarm(u);
      continue;
    }
    if (!u->is_closed) rille_udp_close(u);
    u->is_held = false;
    if (u->in_flight == 0 && u->session_count == 0) forget(side, u);
    else side->has_closed = true;
  }
}

void rille_udp_end_loop(rille_loop *loop) {
  rille_udp_side *side = loop->udp;
  if (!side) return;
  rille_sessions_free(side);
  for (uint32_t i = 0; i < side->socket_count; i++) {
    if (side->sockets[i] && !side->sockets[i]->is_closed) rille_udp_close(side->sockets[i]);
  }
  for (uint32_t i = 0; i < side->slab_count; i++) {
    for (uint32_t k = 0; k < RILLE_DGRAM_SLAB; k++) {
      rille_dgram *d = &side->slabs[i][k];
      if (d->block) rille_block_release(d->block);
      if (!d->face.slice_.cell_) continue;
      ((rille_cell_slot *)d->face.slice_.cell_)->block = NULL;
      rille_cell_give(d->face.slice_.cell_);
    }
    free(side->slabs[i]);
  }
  for (uint32_t i = 0; i < side->socket_count; i++) {
    if (side->sockets[i]) forget(side, side->sockets[i]);
  }
  if (side->room) rille_block_release(side->room);
  free(side->overflow);
  free(side->sockets);
  free(side);
  loop->udp = NULL;
}

/* ---- in a turn -------------------------------------------------------------------------------------------------- */

void rille_udp_tidy(rille_loop *loop) {
  rille_udp_side *side = loop->udp;
  while (side && side->dirty) {
    rille_udp *u = side->dirty;
    side->dirty = u->next_dirty;
    u->is_dirty = false;
    if (!u->is_closed) rille_udp_flush(u);
  }
}

void rille_udp_timers(rille_loop *loop) {
  rille_udp_side *side = loop->udp;
  if (!side) return;
  rille_wheel_advance(&side->wheel, loop->clock_ms, rille_session_fired, loop);
  if (!side->has_waiting) return;
  side->has_waiting = false;
  for (uint32_t i = 0; i < side->socket_count; i++) {
    rille_udp *u = side->sockets[i];
    if (!u || u->is_closed || !u->retry_ms) continue;
    if (loop->clock_ms >= u->retry_at_ms) {
      u->is_blocked = false;
      rille_udp_flush(u);
    } else {
      side->has_waiting = true;
    }
  }
}

uint64_t rille_udp_next(const rille_loop *loop) {
  const rille_udp_side *side = loop->udp;
  if (!side) return UINT64_MAX;
  uint64_t next = rille_wheel_next(&side->wheel);
  for (uint32_t i = 0; side->has_waiting && i < side->socket_count; i++) {
    const rille_udp *u = side->sockets[i];
    if (u && !u->is_closed && u->retry_ms && u->retry_at_ms < next) next = u->retry_at_ms;
  }
  return next;
}

/* The loop is idle: blocks that stand ready are not needed for now. */
void rille_udp_trim(rille_loop *loop) {
  rille_udp_side *side = loop->udp;
  if (!side) return;
  rille_udp_unready(side);
  if (side->room) rille_block_release(side->room);
  side->room = NULL;
  free(side->overflow);
  side->overflow = NULL;
}

uint32_t rille_udp_stop(rille_loop *loop, bool force) {
  const rille_udp_side *side = loop->udp;
  if (!side) return 0;
  uint32_t left = rille_sessions_stop(loop, force);
  for (uint32_t i = 0; i < side->socket_count; i++) {
    const rille_udp *u = side->sockets[i];
    if (!u || u->is_closed) continue;
    left += u->out_count;
    if (u->listener) left += u->in_flight;
  }
  return left;
}

/* ---- a script's own ---------------------------------------------------------------------------------------------- */

/* Learn what the socket is bound to. */
static void learn_address(rille_udp *u) {
  socklen_t size = sizeof u->address.storage;
  if (getsockname(u->fd, (struct sockaddr *)&u->address.storage, &size) == 0) u->address.length = size;
  const char *path = rille_socket_path(&u->address);
  struct stat info;
  if (u->address.length <= sizeof(sa_family_t) || !path || stat(path, &info) != 0) return;
  u->device = info.st_dev;
  u->inode = info.st_ino;
}

static int bind_to(rille_udp *u, const rille_address *address, char *message, size_t size) {
  rille_socket_options options = {
      .type = SOCK_DGRAM,
      .ipv6_only = u->options.ipv6_only || address->ipv6_only,
      .mode = u->options.mode,
      .device = u->options.device,
  };
  int fd = rille_socket_bind(address, &options, message, size);
  if (fd < 0) return fd;
  u->fd = fd;
  u->address = *address;
  rille_udp_prepare(fd, address, &u->options);
  learn_address(u);
  return RILLE_OK;
}

/* An address of the peer's family that the kernel picks. */
static int bind_for(rille_udp *u, const rille_address *peer, char *message, size_t size) {
  rille_address any = {.kind = peer->kind, .family = peer->family};
  any.storage.ss_family = (sa_family_t)peer->family;
  any.length = peer->family == AF_INET    ? sizeof(struct sockaddr_in)
               : peer->family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                          : sizeof(sa_family_t); /* the kernel makes up an abstract name */
  return bind_to(u, &any, message, size);
}

rille_udp *rille_udp_open(rille_state *state, const char *url, const rille_listen_options *options, int *err,
                          char *message, size_t message_size) {
  rille_udp *u = make(state, err);
  if (!u) {
    rille_socket_say(message, message_size, *err, "no memory, or too many sockets");
    return NULL;
  }
  u->options = *options;
  if (!url[0]) return u;
  rille_address address;
  char why[256];
  *err = rille_address_parse_numeric(url, &address, why, sizeof why);
  if (!*err && !rille_address_is_datagram(&address)) {
    *err = rille_socket_say(why, sizeof why, RILLE_ERR_BAD_ADDRESS,
                            "not an address for datagrams; expected udp or unixgram");
  }
  if (!*err) *err = bind_to(u, &address, why, sizeof why);
  if (!*err) return u;
  rille_socket_say(message, message_size, *err, "cannot bind to %s: %s", url, why);
  forget(state->loop->udp, u);
  return NULL;
}

size_t rille_udp_address(const rille_udp *u, char *to, size_t size) {
  return u->fd >= 0 ? rille_address_format(&u->address, to, size) : 0;
}

/* The end that a URL names; makes the socket where there is none yet. */
static int resolve(rille_udp *u, const char *url, rille_udp_end *out, char *message, size_t size) {
  rille_address address;
  int err = rille_address_parse_numeric(url, &address, message, size);
  if (err == RILLE_ERR_BUSY) err = RILLE_ERR_NOT_SUPPORTED; /* a name: looking it up would hold up the loop */
  if (!err && !rille_address_is_datagram(&address)) err = RILLE_ERR_BAD_ADDRESS;
  if (!err && u->fd < 0) err = bind_for(u, &address, message, size);
  if (err) return err;
  *out = (rille_udp_end){.name_size = address.length};
  if (address.family == u->address.family) {
    memcpy(&out->name, &address.storage, address.length);
    return RILLE_OK;
  }
  if (address.family != AF_INET || u->address.family != AF_INET6) return RILLE_ERR_INVALID;
  rille_udp_peer peer = {.family_ = AF_INET, .port_ = rille_address_port(&address)};
  memcpy(peer.ip_, &((const struct sockaddr_in *)&address.storage)->sin_addr, 4);
  return rille_udp_end_of(u, &peer, out);
}

int rille_udp_connect(rille_udp *u, const char *url, char *message, size_t message_size) {
  rille_udp_end end;
  if (u->is_closed) return RILLE_ERR_CLOSED;
  int err = resolve(u, url, &end, message, message_size);
  if (err) return err;
  if (connect(u->fd, &end.name.any, end.name_size) != 0) return rille_err_from_errno(errno);
  u->is_connected = true;
  u->error = 0;
  learn_address(u);
  return RILLE_OK;
}

int rille_udp_send_url(rille_udp *u, const char *url, const char *bytes, double size, rille_block *block) {
  rille_udp_end end;
  char why[256];
  if (u->is_closed) return RILLE_ERR_CLOSED;
  int err = resolve(u, url, &end, why, sizeof why);
  return err ? err : rille_udp_put(u, &end, bytes, size, block);
}

int rille_udp_send(rille_udp *u, const char *bytes, double size, rille_block *block) {
  rille_udp_end end = {.name_size = 0};
  return u->is_connected ? rille_udp_put(u, &end, bytes, size, block) : RILLE_ERR_INVALID;
}

const rille_datagram *rille_udp_receive(rille_udp *u, int *err) {
  *err = u->is_closed ? RILLE_ERR_CLOSED : u->fd < 0 ? RILLE_ERR_INVALID : RILLE_OK;
  if (*err) return NULL;
  u->is_woken = false;
  if (!u->first_in && !u->error) rille_udp_pull(u, RILLE_UDP_BATCH / 4);
  rille_dgram *d = u->first_in;
  if (!d) {
    *err = u->error ? u->error : RILLE_PARK;
    u->error = 0;
    u->is_wanted = *err == RILLE_PARK;
    rille_udp_look(u);
    return NULL;
  }
  u->first_in = d->next;
  if (u->current) rille_udp_free_dgram(u->current);
  u->current = d;
  u->is_wanted = false;
  rille_udp_look(u);
  return &d->face;
}

void rille_udp_unwant(rille_udp *u) {
  u->is_wanted = u->is_woken = false;
  if (!u->is_closed) rille_udp_look(u);
}
