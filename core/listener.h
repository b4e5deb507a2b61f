/*
 * listener: a listening TCP or Unix socket of one loop. It accepts in batches, hands each connection to its service, and
 * steps back for a while when descriptors run out instead of spinning. Loop thread only.
 */
#ifndef RILLE_LISTENER_H
#define RILLE_LISTENER_H

#include "address.h"
#include "group.h"
#include "state.h"

#include <stdbool.h>
#include <sys/types.h>

enum {
  RILLE_ACCEPT_BATCH = 64, /* connections a turn */
  /* taken from the queue when it closes; more than that come faster than they can be taken */
  RILLE_ACCEPT_LAST = 1 << 16,
  RILLE_ACCEPT_RETRY_FIRST_MS = 10,
  RILLE_ACCEPT_RETRY_MAX_MS = 1000
};

struct rille_listener {
  rille_listener *next; /* of the loop */
  rille_loop *loop;
  rille_service *service;
  rille_group *group; /* borrowed; NULL: the address is this loop's alone */
  rille_address address;
  rille_listen_options options;
  int fd;
  bool is_armed;     /* in epoll */
  bool is_closed;    /* freed at the end of the event batch, when it is not held any more */
  bool is_held;      /* by who opened it, until rille_listener_close */
  bool is_full;      /* max_connections reached */
  double accepted;   /* connections that came to this loop by it */
  uint32_t retry_ms; /* the present back-off, 0: none */
  uint64_t retry_at_ms;
  dev_t device; /* of the unix path, so that only our own file is removed */
  ino_t inode;
};

void rille_listener_arm(rille_listener *l);
void rille_listener_accept(rille_listener *l);
/* A connection that another member of the group has accepted. */
void rille_listener_receive(rille_listener *l, int fd, const rille_peer *peer);
/* A connection of the service went, or the back-off is over: accept again where that was the reason. Returns when to look again, in
 * ms, or UINT64_MAX. */
uint64_t rille_listener_revive(rille_loop *loop, uint64_t now_ms);
/* accept what the kernel has completed, then close */
void rille_listener_drain(rille_listener *l);
/* close for the loop's sake, whoever holds it */
void rille_listener_shut(rille_listener *l);
/* Whether another loop may still hand it a connection. */
bool rille_listener_may_receive(const rille_loop *loop);
/* free what is closed and not held, or all that is closed; end of an event batch */
void rille_listener_sweep(rille_loop *loop, bool held_too);

#endif
