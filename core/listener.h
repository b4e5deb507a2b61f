/*
 * listener: a listening TCP or Unix socket of one loop. It accepts in batches and hands each connection that admission.h lets in to its
 * service. When descriptors run out it steps back for a while instead of spinning, then closes what comes. Loop thread only.
 */
#ifndef RILLE_LISTENER_H
#define RILLE_LISTENER_H

#include "address.h"
#include "admission.h"
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
  rille_service *heir;   /* of a state on its way in, which asked for the same address; NULL: nobody */
  rille_service *former; /* of the generation before, while there is a way back */
  rille_group *group;    /* a reference; NULL: the address is this loop's alone */
  rille_address address;
  rille_listen_options options;
  rille_listen_options other_options; /* of the heir, later of the former */
  rille_admission admission;
  uint32_t connections; /* that came by it, and keep it */
  double accepted, shed;
  int fd;
  rille_udp *udp;       /* owned by the loop; NULL: of streams */
  bool is_first;        /* it has bound the socket of its group */
  bool is_armed;        /* in epoll */
  bool is_closed;       /* freed at the end of the event batch, when it is not held any more */
  bool is_held;         /* by who opened it, until rille_listener_close */
  bool is_full;         /* max_connections reached */
  bool is_resting;      /* the state that serves does not want it, the one before may again */
  bool is_dropped;      /* the configuration has its address no more */
  bool is_given;        /* a socket, which is open beyond it; see given.h */
  _Atomic bool is_away; /* any thread: the state behind it failed, and is not replaced yet */
  uint32_t retry_ms;    /* the present back-off, 0: none */
  uint64_t retry_at_ms;
  uint64_t short_since_ms; /* no accept worked for want of a descriptor since then; 0: they do */
  uint64_t short_last_ms;  /* when the last one did not */
  dev_t device;            /* of the unix path, so that only our own file is removed */
  ino_t inode;
};

/* what comes by it is the heir's from now on, or the former's again, as that wants it */
void rille_listener_to_heir(rille_listener *l);
void rille_listener_to_former(rille_listener *l);
void rille_listener_arm(rille_listener *l);
void rille_listener_disarm(rille_listener *l);
void rille_listener_accept(rille_listener *l);
/* It is let in, and known for whose it is: TLS, or its hooks. */
void rille_listener_launch(rille_conn *c);
/* A connection that was accepted, by this member of the group or another, and counts here already: serve it. */
void rille_listener_receive(rille_listener *l, int fd, const rille_peer *peer);
/* Such a connection is lost instead. Any thread, when l's loop is over. */
void rille_listener_lose(rille_listener *l, const rille_peer *peer);
/* One less of this peer (of no family: nobody was counted), wherever it was served. */
void rille_listener_uncount(rille_listener *l, const rille_peer *counted);
/* The connection of this peer is over. */
void rille_listener_left(rille_listener *l, const rille_peer *peer);
/* A connection of the service went, or the back-off is over: accept again where that was the reason. Returns when to look again, in
 * ms, or UINT64_MAX. */
uint64_t rille_listener_revive(rille_loop *loop, uint64_t now_ms);
/* accept what the kernel has completed, then close */
void rille_listener_drain(rille_listener *l);
/* close for the loop's sake, whoever holds it */
void rille_listener_shut(rille_listener *l);
/* The state behind one that is closed goes; mail for it may be under way. */
void rille_listener_orphan(rille_listener *l);
/* Whether another loop may still hand it a connection. */
bool rille_listener_may_receive(const rille_loop *loop);
/* free what is closed, has no connections and is not held, or whoever holds it; end of an event batch. Those of the configuration stay to
 * the end of the loop, as others may send them connections. */
void rille_listener_sweep(rille_loop *loop, bool held_too);

#endif
