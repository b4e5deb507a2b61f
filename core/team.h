/*
 * team: the loops of one server, and the addresses they listen on together. Made and freed by the thread that starts the server; the
 * loops only read it, apart from what is marked atomic or has a lock.
 */
#ifndef RILLE_TEAM_H
#define RILLE_TEAM_H

#include "group.h"
#include "loop.h"

#include <pthread.h>

enum { RILLE_GROUPS_MAX = 1024 };

struct rille_team {
  /* immutable after init */
  uint32_t count;
  rille_loop *loops[RILLE_LOOP_MAX];

  /* with the lock; each loop's thread, and the one that builds */
  pthread_mutex_t lock;
  rille_group *groups; /* owned */
  uint32_t group_count;

  /* any thread, atomic */
  _Atomic uint32_t starting;  /* loops whose on_start has not returned */
  _Atomic uint32_t accepting; /* loops that have begun to */
};

/* loop thread: every state of the loop has started. When that is so for all of them, all accept. */
void rille_team_started(rille_team *team);
/* any thread: every loop begins to stop; drain_ms below 0: what each was set to */
void rille_team_stop(rille_team *team, double drain_ms);

#endif
