/*
 * generation: one load of a server's script, with everything it requires: a Lua state for each loop that runs it, all of the same number, label
 * and place. Shared by these and by whoever deploys it, counted by references.
 *
 * While it is watched, its messages are counted and timed here, by every loop; one whose errors pass the guard is broken, and each of its
 * loops goes back to the generation before without being told (reload.c).
 */
#ifndef RILLE_GENERATION_H
#define RILLE_GENERATION_H

#include "histogram.h"
#include "rille.h"

#include <stdatomic.h>
#include <stdbool.h>

enum rille_verdict {
  RILLE_VERDICT_NONE,
  RILLE_VERDICT_BROKEN, /* more errors than the guard allows: a loop has found so */
  RILLE_VERDICT_PASSED  /* whoever deploys it has decided that it stays */
};

struct rille_generation {
  /* immutable after init */
  uint32_t server;      /* number among the servers, the same for all its generations; 0 is the host's */
  uint32_t number;      /* 1.. */
  uint32_t place;       /* of its states among those of a loop, the same on every loop; nobody else's meanwhile */
  char label[64];       /* name@number */
  rille_chunks *chunks; /* a reference; its files */

  /* any thread, atomic */
  _Atomic uint32_t refs;
  _Atomic bool is_watched;
  _Atomic int verdict;           /* enum rille_verdict: the first one stays */
  _Atomic uint32_t guard_after;  /* messages before the guard looks; 0: there is none */
  _Atomic uint32_t guard_errors; /* of a million messages, at most */
  _Atomic uint64_t messages, errors;
  _Atomic(char *) faults[RILLE_GENERATION_FAULTS]; /* owned; the first that its handlers raised while it was watched */
  _Atomic uint32_t spans[RILLE_HISTOGRAM_BUCKETS]; /* from the begin of a handler to its end */
};

static inline bool rille_generation_is_broken(const rille_generation *g) {
  return atomic_load_explicit(&g->verdict, memory_order_relaxed) == RILLE_VERDICT_BROKEN;
}

/* A message that began at began_ns (0: before it was watched) is over. True when that broke it just now. */
bool rille_generation_count(rille_generation *g, bool has_failed, uint64_t began_ns, uint64_t now_ns);

/* Give it up; false: it was decided already that it stays. */
bool rille_generation_break(rille_generation *g);

#endif
