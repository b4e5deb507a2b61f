/*
 * group: one address that the loops of a team share, and the way its connections come to the loops: a socket for each loop, one
 * socket for all of them, or one loop that accepts and hands on to the others' mailboxes (balance.h).
 *
 * Each loop has a listener in it, its member. The groups of the configuration are joined on the thread that builds the team, one loop after
 * the other, or by the loops when a reload brings them, and live
 * as long as the team does, since mail to their members may be under way. Those of rille.listen are joined by the loops while they run, and go with their last member.
 */
#ifndef RILLE_GROUP_H
#define RILLE_GROUP_H

#include "address.h"
#include "rille.h"
#include "sources.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

enum { RILLE_LOOP_MAX = 256 };

typedef struct rille_group rille_group;

struct rille_group {
  /* immutable after the first member has joined */
  rille_team *team; /* borrowed */
  uint32_t id;      /* of the configuration; 0: made at run time */
  char *key;        /* owned; of one made at run time: what its members have in common */
  int accept;       /* enum rille_accept */
  int balance;      /* enum rille_balance */
  uint32_t loop_count;
  rille_address address; /* with the port that was picked */
  bool is_given;         /* the socket is a given one; see given.h */
  int fd;                /* owned; of RILLE_ACCEPT_SHARED, else -1 */

  /* with the team's lock */
  rille_group *next;      /* of the team */
  uint32_t open;          /* members that have not closed */
  uint32_t refs;          /* members that are not freed; each keeps the group */
  rille_sources *sources; /* a reference */
  /* with the team's lock while members come and go; those of a configured group stay until the loops are freed */
  _Atomic(rille_listener *) members[RILLE_LOOP_MAX]; /* borrowed; by loop */

  /* thread of the loop that accepts, of RILLE_ACCEPT_BALANCED */
  uint32_t turn; /* member for the next connection */
  uint32_t seed;

  /* any thread, atomic */
  _Atomic bool is_accepting;              /* the first member has not closed */
  _Atomic uint32_t loads[RILLE_LOOP_MAX]; /* connections by loop, those on their way included */
};

/* With the team's lock: the group that a listener of this loop joins next; one that nobody has joined yet when there is none. id: of the
 * configuration, or 0 and a key: then the oldest one of that key that the loop is not in. NULL with *err. */
rille_group *rille_group_find(rille_team *team, uint32_t id, const char *key, uint32_t loop_id, int *err);
/* With the team's lock: l is a member; or, after an error, the group may go again. */
void rille_group_add(rille_group *group, rille_listener *l);
void rille_group_give_up(rille_group *group);
/* With the team's lock: l closes. True when it was the last one open. */
bool rille_group_leave(rille_group *group, rille_listener *l);
/* l is being freed */
void rille_group_release(rille_group *group);
/* the end of the team */
void rille_group_free_all(rille_team *team);

/* A connection came to, or left, this loop. */
void rille_group_came(rille_group *group, const rille_loop *loop);
void rille_group_left(rille_group *group, const rille_loop *loop);
/* connections of a loop (from 0), and in all */
uint32_t rille_group_load_of(const rille_group *group, uint32_t i);
uint32_t rille_group_load(const rille_group *group);

#endif
