/*
 * accept: what a listener does with its queue: it accepts in batches, steps back when that does not work, and hands connections to the loop
 * that serves them; see listener.h.
 */
#include "listener.h"

#include "balance.h"
#include "conn_tls.h"
#include "given.h"
#include "log.h"
#include "proxied.h"
#include "shaper.h"
#include "team.h"
#include "udp.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { FULL_RECHECK_MS = 10 };

static const char *reason(int error_number) {
  return strerror(error_number); /* NOLINT(concurrency-mt-unsafe): glibc keeps the text by thread */
}

/* ---- stepping back --------------------------------------------------------------------------------------------- */

void rille_listener_disarm(rille_listener *l) {
  if (l->udp) rille_udp_disarm(l->udp);
  if (l->is_armed) rille_poller_remove(&l->loop->poller, l->fd);
  l->is_armed = false;
}

void rille_listener_arm(rille_listener *l) {
  if (l->is_closed || !l->service->state->is_serving) return;
  if (l->udp) rille_udp_arm(l->udp);
  if (l->udp || l->is_armed || l->fd < 0) return;
  uint64_t data = (uint64_t)RILLE_TAG_LISTENER << 56 | (uint64_t)(uintptr_t)l; /* user addresses have 47 bits */
  bool has_others = l->is_given || (l->group && l->group->accept == RILLE_ACCEPT_SHARED && l->group->loop_count > 1);
  uint32_t events =
      EPOLLIN | (has_others ? (uint32_t)EPOLLEXCLUSIVE : 0); /* one loop wakes for a connection, not all */
  l->is_armed = rille_poller_add(&l->loop->poller, l->fd, events, data) == RILLE_OK;
}

static void back_off(rille_listener *l, int error_number) {
  l->retry_ms = l->retry_ms ? l->retry_ms * 2 : RILLE_ACCEPT_RETRY_FIRST_MS;
  if (l->retry_ms > RILLE_ACCEPT_RETRY_MAX_MS) l->retry_ms = RILLE_ACCEPT_RETRY_MAX_MS;
  l->retry_at_ms = l->loop->clock_ms + l->retry_ms;
  l->loop->listeners_wait = true;
  rille_listener_disarm(l);
  char address[RILLE_ADDRESS_TEXT_MAX];
  rille_listener_address(l, address, sizeof address);
  RILLE_LOG(RILLE_LOG_WARN, "cannot accept on %s: %s; new connections wait, next try in %u ms", address,
            reason(error_number), l->retry_ms);
}

static uint32_t load(const rille_listener *l) { return l->group ? rille_group_load(l->group) : l->connections; }

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
  rille_listener_disarm(l);
  return true;
}

/* ---- connections ----------------------------------------------------------------------------------------------- */

void rille_listener_lose(rille_listener *l, const rille_peer *peer) {
  if (l->group) rille_group_left(l->group, l->loop);
  if (!rille_proxied_trusts(l, peer)) rille_admission_left(&l->admission, peer); /* else nobody was counted yet */
}

void rille_listener_uncount(rille_listener *l, const rille_peer *counted) {
  if (l->group) rille_group_left(l->group, l->loop);
  rille_admission_left(&l->admission, counted);
}

void rille_listener_left(rille_listener *l, const rille_peer *peer) {
  l->connections--;
  rille_listener_uncount(l, peer);
}

/* Without memory for it the connection is served all the same. */
static void shape(rille_conn *c) {
  (void)rille_shaper_set(c, RILLE_SET_READ_RATE, c->service->read_rate);
  (void)rille_shaper_set(c, RILLE_SET_WRITE_RATE, c->service->write_rate);
}

void rille_listener_launch(rille_conn *c) {
  if (c->service->is_tls && !rille_conn_tls_accept(c)) rille_conn_abort(c);
  else rille_conn_start(c);
}

/* fd becomes a connection of this loop; false: there is no memory, and fd is closed. */
static bool serve(rille_listener *l, int fd, const rille_peer *peer) {
  rille_conn *c = rille_conn_new(l->loop, l->service, fd, true);
  if (!c) {
    close(fd);
    rille_listener_lose(l, peer);
    return false;
  }
  c->peer = *peer;
  c->listener = l;
  if (l->service->read_rate > 0 || l->service->write_rate > 0) shape(c);
  l->connections++;
  l->accepted++;
  l->loop->accepted++;
  if (!rille_proxied_trusts(l, peer)) {
    rille_listener_launch(c);
  } else if (!rille_proxied_await(c)) {
    RILLE_LOG(RILLE_LOG_WARN, "no memory for the PROXY header of a connection: closed");
    rille_conn_abort(c);
  }
  return true;
}

/* A proxy is let in for what it says of others. */
static bool admit(rille_listener *l, int fd, const rille_peer *peer) {
  if (rille_proxied_trusts(l, peer)) return true;
  if (l->options.proxy != RILLE_PROXY_REQUIRED) return rille_admission_admit(&l->admission, fd, peer, &l->address);
  rille_admission_refuse(&l->admission, fd, peer, &l->address, "not among proxy.trusted");
  return false;
}

void rille_listener_receive(rille_listener *l, int fd, const rille_peer *peer) {
  if (!l->service->state->is_serving) { /* it failed while the connection was on its way */
    close(fd);
    rille_listener_lose(l, peer);
    return;
  }
  if (!serve(l, fd, peer)) RILLE_LOG(RILLE_LOG_WARN, "no memory for a connection: closed");
}

void rille_listener_stats_read(const rille_listener *l, rille_listener_stats *out) {
  *out = (rille_listener_stats){
      .accepted = l->accepted,
      .connections = l->connections,
      .refused_by_list = l->admission.refused_by_list,
      .refused_by_address = l->admission.refused_by_address,
      .shed = l->shed,
  };
}

/* ---- accepting ------------------------------------------------------------------------------------------------- */

/*
 * No descriptor is free. At first connections wait in the queue, as most shortages pass; when one has lasted, whoever waits there is told
 * by an end, one after the other. False: nothing more to do in this turn.
 */
static bool out_of_descriptors(rille_listener *l, int error_number) {
  uint64_t now = l->loop->clock_ms, patience = l->options.shed_after_ms;
  /* nobody came for so long that it may have passed: this is another one */
  if (now - l->short_last_ms > patience + RILLE_ACCEPT_RETRY_MAX_MS) l->short_since_ms = 0;
  if (!l->short_since_ms) l->short_since_ms = now;
  l->short_last_ms = now;
  int done = patience && now - l->short_since_ms >= patience ? rille_reserve_shed(&l->loop->reserve, l->fd) : -1;
  if (done == 0) return false; /* the kernel looks for a descriptor before it looks into the queue, which is empty */
  if (done == 1) {
    char address[RILLE_ADDRESS_TEXT_MAX];
    l->shed++;
    rille_listener_address(l, address, sizeof address);
    RILLE_LOG(RILLE_LOG_WARN, "closed a connection to %s unserved: %s", address, reason(error_number));
    return true;
  }
  back_off(l, error_number);
  if (patience && l->retry_at_ms > l->short_since_ms + patience && now < l->short_since_ms + patience) {
    l->retry_at_ms = l->short_since_ms + patience;
  }
  return false;
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
    case EMFILE:
    case ENFILE: return out_of_descriptors(l, errno);
    default: back_off(l, errno); return false; /* it passes; what does not is no reason to spin */
    }
  }
  l->retry_ms = 0;
  l->short_since_ms = 0;
  rille_peer peer = {.family = AF_UNIX}; /* a client's own name is of no use here */
  if (l->address.family != AF_UNIX) rille_peer_from_sockaddr(&peer, (struct sockaddr *)&storage, length);
  if (!admit(l, fd, &peer)) return true;
  if (rille_balance_hand_on(l, fd, &peer)) return true;
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
    if (l->is_closed || l->is_armed || l->udp || !loop->is_open) continue;
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

/* Of datagrams the socket stays, for answers, until the loop has come to its end. */
static void drain_datagrams(rille_listener *l) {
  rille_udp_drain(l->udp);
  if (l->group && l->is_first) atomic_store(&l->group->is_accepting, false);
}

void rille_listener_drain(rille_listener *l) {
  if (l->is_closed) return;
  if (l->udp) {
    drain_datagrams(l);
    return;
  }
  /* of a socket that stays, what waits in the queue is for the next process */
  bool is_ours = !l->is_given || rille_given_is_ending(l->fd) || (l->is_dropped && !rille_given_is_passed(l->fd));
  bool takes = l->fd >= 0 && l->service->state->is_serving && is_ours;
  for (int i = 0; takes && i < RILLE_ACCEPT_LAST && !is_full(l) && accept_one(l); i++) {
  }
  rille_listener_shut(l);
}
