/*
 * proxied: see proxied.h.
 *
 * The header is looked at where it is, in the kernel's queue, and taken in one piece when it is whole: what follows it is the
 * connection's, untouched. Edge-triggered, so that a part of one is reported once.
 */
#include "proxied.h"

#include "listener.h"
#include "log.h"
#include "loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

bool rille_proxied_trusts(const rille_listener *l, const rille_peer *peer) {
  if (l->options.proxy == RILLE_PROXY_OFF) return false;
  return l->address.family == AF_UNIX || (l->admission.trusted && rille_cidr_has(l->admission.trusted, peer));
}

bool rille_proxied_await(rille_conn *c) {
  const rille_listen_options *options = &c->listener->options;
  rille_rare *rare = rille_conn_rare(c);
  rille_proxied *proxied = rare ? calloc(1, sizeof *proxied + options->proxy_max) : NULL;
  if (!proxied) return false;
  proxied->is_awaited = true;
  proxied->is_optional = options->proxy == RILLE_PROXY_OPTIONAL;
  proxied->wait_ms = options->proxy_ms;
  proxied->max = options->proxy_max;
  proxied->via = c->peer;
  rare->proxied = proxied;
  uint64_t data = rille_poller_data(RILLE_TAG_CONN, c->epoch, c->slot);
  if (rille_poller_add(&c->loop->poller, c->fd, EPOLLIN | EPOLLRDHUP | EPOLLET, data) < 0) return false;
  c->flags |= RILLE_CONN_REGISTERED;
  c->interest = EPOLLIN;
  rille_conn_arm(c);
  return true;
}

static void refuse(rille_conn *c, const char *why) {
  char from[RILLE_PEER_TEXT_MAX], at[RILLE_ADDRESS_TEXT_MAX];
  c->listener->admission.refused_by_list++;
  rille_peer_format(&c->rare->proxied->via, from, sizeof from);
  rille_address_format(&c->listener->address, at, sizeof at);
  RILLE_LOG(RILLE_LOG_WARN, "refused %s on %s: %s", from, at, why);
  rille_conn_abort(c);
}

/* As if it had been accepted for this one. */
static void serve_by(rille_conn *c, rille_service *service) {
  const rille_service *old = c->service;
  if (old == service) return;
  if (c->timeouts == &old->timeouts) c->timeouts = &service->timeouts;
  c->state = service->state;
  c->service = service;
  c->high_water = service->high_water;
  c->low_water = service->low_water;
  c->is_http = service->http != NULL;
  c->is_framed = service->codec != NULL;
}

void rille_proxied_follow(rille_listener *l) {
  for (uint32_t slot = 0; slot < l->loop->slab_count * RILLE_CONN_SLAB; slot++) {
    rille_conn *c = rille_conn_at(l->loop, slot);
    if (c && c->listener == l && rille_proxied_is_awaited(c)) serve_by(c, l->service);
  }
}

static void start(rille_conn *c) {
  rille_proxied *proxied = c->rare->proxied;
  rille_listener *l = c->listener;
  if (!l->service->state->is_serving) {
    refuse(c, "its server failed meanwhile");
    return;
  }
  rille_poller_remove(&c->loop->poller, c->fd);
  c->flags &= ~(uint32_t)RILLE_CONN_REGISTERED;
  c->interest = 0;
  proxied->is_awaited = false;
  c->read_ms = c->loop->now_ms;
  rille_listener_launch(c);
}

/* The client is another one than who connected: it has to pass, too. */
static bool admit_client(rille_conn *c) {
  rille_proxied *proxied = c->rare->proxied;
  const rille_proxy_head *head = &proxied->head;
  bool is_inet = head->family == RILLE_PROXY_INET;
  if (head->family == RILLE_PROXY_UNIX) c->peer = (rille_peer){.family = AF_UNIX};
  if (!is_inet && head->family != RILLE_PROXY_INET6) return true;
  rille_peer peer = {.family = is_inet ? AF_INET : AF_INET6, .port = (uint16_t)head->source_port};
  memcpy(peer.ip, head->source, sizeof peer.ip);
  if (!is_inet && IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)peer.ip)) {
    peer.family = AF_INET;
    memmove(peer.ip, peer.ip + 12, 4);
    memset(peer.ip + 4, 0, 12);
  }
  c->peer = peer;
  if (!rille_admission_check(&c->listener->admission, &peer, &c->listener->address)) return false;
  proxied->counted = peer;
  return true;
}

static void take(rille_conn *c, int size) {
  rille_proxied *proxied = c->rare->proxied;
  ssize_t got = recv(c->fd, proxied->bytes, (size_t)size, MSG_DONTWAIT);
  if (got != size) { /* it was there a moment ago */
    refuse(c, "its PROXY header cannot be read");
    return;
  }
  proxied->size = (uint32_t)size;
  c->loop->bytes_in += size;
  if (!admit_client(c)) {
    rille_conn_abort(c);
    return;
  }
  start(c);
}

bool rille_proxied_ready(rille_conn *c, uint32_t events) {
  rille_proxied *proxied = c->rare->proxied;
  if (!proxied->is_awaited) return false;
  ssize_t got;
  do got = recv(c->fd, proxied->bytes, proxied->max, MSG_PEEK | MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  bool is_over = got == 0 || events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
  int size = got > 0 ? rille_proxy_decode(proxied->bytes, (double)got, &proxied->head) : 0;
  if (size > 0) take(c, size);
  else if (size == RILLE_PROXY_NONE && proxied->is_optional) start(c);
  else if (size < 0) refuse(c, rille_proxy_fault_text(size));
  else if (is_over) refuse(c, "it ended before its PROXY header did");
  else if (got == (ssize_t)proxied->max) refuse(c, "its PROXY header is longer than proxy.max");
  return true;
}

void rille_proxied_expire(rille_conn *c) {
  int waiting = 0;
  bool is_silent = recv(c->fd, &waiting, 1, MSG_PEEK | MSG_DONTWAIT) < 0;
  if (c->rare->proxied->is_optional && is_silent) start(c); /* it may be waiting for the server to speak */
  else refuse(c, "its PROXY header took longer than proxy.timeout");
}

const uint8_t *rille_conn_proxied(const rille_conn *c, rille_proxy_head *out, char *via) {
  if (!c->rare->proxied || c->rare->proxied->size == 0) return NULL;
  *out = c->rare->proxied->head;
  rille_peer_format(&c->rare->proxied->via, via, RILLE_PEER_TEXT_MAX);
  return c->rare->proxied->bytes;
}
