/*
 * process: children of this process; see rille_process.h. One mutex guards the list of those that were not reaped, and with it
 * each child's being reaped: whoever signals one by its pid holds the mutex and finds it unreaped, so that the pid is still its
 * own. The rest of a child is its holder's.
 *
 *   spawn.c     the start
 *   process.c   the end
 */
#ifndef RILLE_PROCESS_H
#define RILLE_PROCESS_H

#include "io.h"
#include "rille.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

struct rille_process {
  /* immutable after init */
  pid_t pid;
  bool has_group;
  bool is_detached;

  /* the holder */
  int streams[3]; /* owned; -1: none */

  /* under the lock */
  int exit_fd; /* owned; the holder reads it without */
  rille_process *next;
  bool has_ended; /* and was reaped */
  int status;     /* exit status, or the signal below 0 */
};

struct rille_spawn {
  char *args, *env, *cwd; /* owned */
  char **argv, **envp;    /* owned; envp NULL: as it is */
  int stdio[3];           /* a descriptor (owned), or enum rille_stdio */
  int pty, rows, columns, group, detach;
  rille_process *process; /* owned; the result */
};

typedef struct rille_process_counts {
  double running; /* those that have ended, but were not waited for, are not among them */
  double started; /* so far */
} rille_process_counts;

/* any thread */
void rille_processes_count(rille_process_counts *out);

/* A place among those that may run: 0, or RILLE_ERR_FULL. */
int rille_process_reserve(void);
void rille_process_unreserve(void);
/* The child runs, and has taken its place: from now on it is known. */
void rille_process_add(rille_process *p);

#endif
