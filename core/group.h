/*
 * group: one address of a server that the loops of a team share, and the way its connections come to the loops: a socket for each loop, one
 * socket for all of them, or one loop that accepts and hands on to the others' mailboxes.
 *
 * Each loop has a listener in it, its member. Members join on the thread that builds the team, one loop after the other.
 */
#ifndef RILLE_GROUP_H
#define RILLE_GROUP_H

#include "address.h"
#include "rille.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

enum { RILLE_LOOP_MAX = 256 };

typedef struct rille_group {
  /* immutable after the last loop has joined */
  uint32_t id;
  int accept;                              /* enum rille_accept */
  int balance;                             /* enum rille_balance */
  rille_address address;                   /* with the port that was picked */
  int fd;                                  /* owned; of RILLE_ACCEPT_SHARED, else -1 */
  rille_listener *members[RILLE_LOOP_MAX]; /* borrowed; by loop */
  uint32_t count;

  /* thread of the loop that accepts, of RILLE_ACCEPT_BALANCED */
  uint32_t next; /* member for the next connection */
  uint32_t seed;

  /* any thread, atomic */
  _Atomic bool is_accepting;              /* the first member has not closed */
  _Atomic uint32_t open;                  /* members that have not closed */
  _Atomic uint32_t loads[RILLE_LOOP_MAX]; /* connections by loop, those on their way included */
} rille_group;

/* The member that the next connection goes to: l itself, which accepted it, when no other can take one. */
rille_listener *rille_group_pick(rille_group *group, rille_listener *l, const rille_peer *peer);
/* Hand a connection that l accepted to another member. False: that has no room, fd is still the caller's. */
bool rille_group_hand(rille_group *group, rille_listener *to, int fd, const rille_peer *peer);
/* A connection came to, or left, this loop. */
void rille_group_came(rille_group *group, const rille_loop *loop);
void rille_group_left(rille_group *group, const rille_loop *loop);
/* connections on one loop, and in all */
uint32_t rille_group_load_of(const rille_group *group, const rille_loop *loop);
uint32_t rille_group_load(const rille_group *group);

#endif
