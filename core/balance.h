/*
 * balance: the way of a connection from the loop that accepts, of RILLE_ACCEPT_BALANCED, to the one that serves it. Thread of the loop that
 * accepts.
 *
 * With RILLE_BALANCE_SCRIPT the socket is kept here while on_balance of the script is asked. It has this turn to answer: a hook that parks,
 * fails or names no loop leaves the connection to round robin, so nothing waits longer than a turn, and what waits is bounded.
 */
#ifndef RILLE_BALANCE_H
#define RILLE_BALANCE_H

#include "group.h"
#include "rille.h"

#include <stdbool.h>

enum { RILLE_UNDECIDED_MAX = 1024 };

typedef struct rille_undecided {
  rille_listener *l; /* borrowed: one of the configuration, which the loop frees; NULL: decided */
  rille_peer peer;
  int fd; /* owned */
} rille_undecided;

/* Of a loop; the array is made when it is needed. */
typedef struct rille_undecided_list {
  rille_undecided *items; /* owned */
  uint32_t count;
  double first; /* the ticket of the first: a connection's ticket is never used again */
} rille_undecided_list;

/* The member that the next connection or datagram goes to: l itself, which took it in, when no other can take one. */
rille_listener *rille_balance_pick(rille_group *group, rille_listener *l, const rille_peer *peer);
/* The member that every datagram of this peer goes to. */
rille_listener *rille_balance_home(const rille_group *group, const rille_peer *peer);
/* Hand a connection that l accepted, which is not counted yet, to the loop it is for. False: it is for l's own loop, or no other has room. */
bool rille_balance_hand_on(rille_listener *l, int fd, const rille_peer *peer);
/* End of a turn: what was not decided goes to the next in turn. */
void rille_balance_settle(rille_loop *loop);
void rille_balance_end(rille_loop *loop);

#endif
