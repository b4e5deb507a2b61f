/*
 * pool: worker threads for what would block a loop. A pool is known by its name in the whole process; a job is one call, on
 * its way from a Lua state of a loop to one of a worker and back.
 *
 * One mutex a pool guards its queue, its numbers and who has which job: it is taken twice a job, by each side. A job counts
 * its references: its caller has one, and the queue, then the worker, then the message back to the loop have another.
 *
 *   pool.c     the registry, the numbers, the start and the end of workers
 *   job.c      a job's way: queue, abandon, back to the loop
 *   worker.c   what a worker's thread does, with its Lua states
 *   environment.c  what these are made from
 *   parcel.c   what a job carries
 *   stream.c   what a job reads and writes while it runs
 */
#ifndef RILLE_POOL_H
#define RILLE_POOL_H

#include "block.h"
#include "rille.h"
#include "stream.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { RILLE_POOL_ENVIRONMENTS_MAX = 256 };

/* ---- parcel ---------------------------------------------------------------------------------------------------- */

typedef struct rille_parcel_item {
  rille_slice slice;        /* owned, when buffer is NULL */
  rille_linkbuffer *buffer; /* owned; empty until the parcel is closed */
  rille_linkbuffer *from;   /* borrowed until then */
} rille_parcel_item;

struct rille_parcel {
  char *bytes; /* owned */
  size_t size;
  rille_parcel_item *items; /* owned */
  uint32_t count, capacity;
  uint32_t taken; /* so many were handed out */
};

void rille_parcel_free(rille_parcel *parcel);

/* ---- job ------------------------------------------------------------------------------------------------------- */

enum rille_job_phase { RILLE_JOB_NEW, RILLE_JOB_QUEUED, RILLE_JOB_RUNNING, RILLE_JOB_DONE };

/* What a worker makes a Lua state from; the same for every job of one generation of a server. */
struct rille_environment {
  /* immutable after init */
  rille_pool *pool;     /* a reference */
  rille_chunks *chunks; /* a reference; the files of its generation, NULL: it has none */
  char *source;         /* owned */

  /* under the pool's lock */
  rille_environment *next;
  uint32_t users; /* states of loops that make jobs of it, and these jobs; 0: no job comes any more */
  uint32_t kept;  /* Lua states of workers */

  size_t size; /* immutable after init, as what follows */
  char arguments[];
};

/* one user more, who gives it back with rille_environment_release */
void rille_environment_use(rille_environment *e);
/* a Lua state of a worker is made from it, and is closed */
void rille_environment_keep(rille_environment *e);
void rille_environment_let_go(rille_environment *e);

struct rille_job {
  _Atomic uint32_t refs;

  /* immutable after init */
  rille_pool *pool;               /* a reference */
  rille_environment *environment; /* a user; NULL: of a job in C */
  uint32_t state;                 /* its id */
  uint32_t token;
  bool is_post;
  struct rille_io *io; /* owned; what to do in C, see io.h; NULL: a call in Lua */
  char name[96];
  rille_stream *stream; /* a reference; NULL: the job has none */

  /* under the pool's lock */
  rille_loop *loop; /* NULL: it is over, nobody hears of the job */
  enum rille_job_phase phase;
  bool is_abandoned;
  bool has_failed;
  rille_job *next, *before; /* in the queue */

  /* whoever has it: the caller, the worker, the caller again */
  rille_parcel input, output;
  char fault[256];

  rille_job *next_done; /* loop thread: in the state's list */
};

/* under the lock: out of the queue, which gives its reference to the caller */
void rille_job_unlink(rille_job *job);
/* under the lock, which is dropped while a mailbox is full: hand the job (a reference) back; false: nobody hears of it */
bool rille_job_send(rille_job *job);
/* Under the lock: its caller does not wait any more. True: it was queued, and the queue's reference is to be released. */
bool rille_job_give_up(rille_job *job);
/* what has come back to the state and was not taken by it */
void rille_job_forget(rille_state *state);

/* ---- pool ------------------------------------------------------------------------------------------------------ */

struct rille_worker {
  rille_pool *pool; /* a reference */
  pthread_t thread;
  rille_worker *next; /* under the lock: of pool->first_worker or pool->ended */

  /* its thread */
  struct rille_vm *vm; /* borrowed; that of the job, or the one that is made */
  size_t memory;       /* limit of its heap */

  /* under the lock */
  rille_job *job; /* a reference; the one it runs */
  uint64_t since_ns;
  bool is_left; /* nobody will join it */
};

struct rille_pool {
  rille_pool *next; /* under the registry's lock */
  _Atomic uint32_t refs;
  char name[RILLE_POOL_NAME_MAX + 1]; /* immutable after init */

  pthread_mutex_t lock;
  pthread_cond_t work; /* there is some, or a reason to end */
  pthread_cond_t gone; /* a worker has ended */

  /* under the lock */
  rille_pool_options options; /* in force */
  rille_pool_options given;   /* what its first caller with options gave */
  bool is_fixed;
  bool is_closing;
  uint32_t workers; /* that have not ended */
  uint32_t busy;
  uint32_t queued;
  rille_job *first_job, *last_job;
  rille_worker *first_worker;
  rille_worker *ended; /* to be joined */
  rille_environment *environments;
  uint32_t environment_count;
  double done, failed, abandoned;
};

/* under the lock */
bool rille_pool_wants_worker(const rille_pool *pool, uint32_t more_jobs);
int rille_pool_start_worker(rille_pool *pool);
void rille_pool_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns);
/* Join a list of threads that have ended: how many, each had a reference to the pool. */
uint32_t rille_pool_join(rille_worker *ended);
/* Loop thread, before the loop is freed: no worker reaches it afterwards. */
void rille_pools_forget_loop(rille_loop *loop);
/* Any thread: the state goes. Nobody waits for its calls any more, those that are not run yet are not; what was posted runs without it. */
void rille_pools_forget_state(const rille_state *state);
/* any thread: visit each pool, under the lock of the registry */
void rille_pools_each(void (*visit)(void *to, const char *name, const rille_pool_stats *stats), void *to);
/* any thread: the state of each pool to the log */
void rille_pools_dump(void);
/* worker.c */
void *rille_worker_main(void *worker);

#endif
