/*
 * proxied: a connection that came by a proxy, whose PROXY header says from where. Until the header is there no Lua hears of it. Made when
 * the listener trusts the address it comes from, owned by the connection. Loop thread only.
 */
#ifndef RILLE_PROXIED_H
#define RILLE_PROXIED_H

#include "conn.h"
#include "rille.h"

#include <stdbool.h>

typedef struct rille_proxied {
  bool is_awaited;
  bool is_optional;
  uint32_t wait_ms;
  rille_peer via;     /* the proxy */
  rille_peer counted; /* whom the limit by source address counts; family 0: nobody */
  rille_proxy_head head;
  uint32_t max, size; /* of bytes, used */
  uint8_t bytes[];
} rille_proxied;

/* Who connects from there is to send a header, or may. */
bool rille_proxied_trusts(const rille_listener *l, const rille_peer *peer);
/* Wait for it, then start. False: no memory. */
bool rille_proxied_await(rille_conn *c);
/* True: it was about the header. */
bool rille_proxied_ready(rille_conn *c, uint32_t events);
void rille_proxied_expire(rille_conn *c);
/* The listener has another service: those that wait for their header are its. */
void rille_proxied_follow(rille_listener *l);

static inline bool rille_proxied_is_awaited(const rille_conn *c) {
  return c->rare->proxied && c->rare->proxied->is_awaited;
}

static inline const rille_peer *rille_proxied_counted(const rille_conn *c) {
  return c->rare->proxied ? &c->rare->proxied->counted : &c->peer;
}

#endif
