/*
 * rille_pool.h: the part of rille.h that worker pools need; same rules, included at its end.
 */
#ifndef RILLE_RILLE_POOL_H
#define RILLE_RILLE_POOL_H

#include "rille.h"

typedef struct rille_pool rille_pool;
typedef struct rille_job rille_job;
typedef struct rille_parcel rille_parcel;
typedef struct rille_worker rille_worker;
typedef struct rille_environment rille_environment;

enum { RILLE_POOL_NAME_MAX = 63, RILLE_POOL_WORKERS_MAX = 1024, RILLE_POOL_QUEUE_MAX = 1 << 20 };

/* Below 0: not given. */
typedef struct rille_pool_options {
  double max;             /* workers */
  double scale_threshold; /* jobs that wait for nobody before another worker is started */
  double queue;           /* jobs that wait */
  double idle_ms;         /* after which a worker ends */
  double memory;          /* bytes of a worker's Lua state; 0: no limit */
} rille_pool_options;

typedef struct rille_pool_stats {
  double workers, busy, queued; /* now */
  double done, failed;          /* jobs that returned, that raised or could not be run; without the abandoned */
  double abandoned;             /* jobs whose caller was cancelled or had no more time */
  double lost;                  /* workers that are busy with such a job */
  double states;                /* Lua states of workers */
  rille_pool_options options;   /* in force */
} rille_pool_stats;

/* ---- pools: any thread ----------------------------------------------------------------------------------------- */

/* owned, a reference; NULL with *err. The pool of that name, made when there is none. The first caller that gives options
 * fixes them; RILLE_ERR_INVALID: others were given. */
rille_pool *rille_pool_open(const char *name, const rille_pool_options *options, int *err);
void rille_pool_release(rille_pool *pool);
int rille_pool_resize(rille_pool *pool, double max);
void rille_pool_stats_read(rille_pool *pool, rille_pool_stats *out);
/* Which job the lost worker number index (0..) is busy with, and for how long: its length in `to`, 0 when there are not
 * so many. */
int rille_pool_lost_job(rille_pool *pool, int index, char *to, size_t size, double *seconds);
/* owned, to be given back with rille_environment_release: what Lua states of workers are made from, the same for the same source and
 * arguments. chunks: the id of the set of files, which lives as long; 0: none. NULL with *err, RILLE_ERR_FULL: the pool has too
 * many. When nobody has it any more, workers close the Lua states they made of it. */
rille_environment *rille_pool_environment(rille_pool *pool, const char *source, const char *arguments, size_t size,
                                          double chunks, int *err);
void rille_environment_release(rille_environment *e);
/* The end of a run, when no loop of it runs any more: every worker is told to end. Those that do not within the time that was set last are
 * named in the log and left alone. */
void rille_pools_stop(void);
void rille_pools_set_patience(double ms);

/* ---- jobs: the thread of the state they come from -------------------------------------------------------------- */

/* owned, a reference; NULL when there is no memory. environment: NULL for a request in C. name is for people; is_post: nobody waits for it. */
rille_job *rille_job_new(rille_pool *pool, rille_state *from, rille_environment *environment, uint32_t token,
                         int is_post, const char *name);
void rille_job_release(rille_job *job);
/* Into the queue. RILLE_ERR_FULL, RILLE_ERR_SHUTDOWN, RILLE_ERR_CLOSED (a LinkBuffer in it): nothing has changed, but for want of memory. */
int rille_job_submit(rille_job *job);
/* Nobody waits for it any more: a queued one is taken out (1: it will not run), what a running one returns is thrown away. */
int rille_job_abandon(rille_job *job);
/* owned, a reference; the next one that RILLE_EVENT_JOB was for: a call that is done, any job that failed, a request in C */
rille_job *rille_job_take(rille_state *state);
int rille_job_is_io(const rille_job *job); /* such a request, see rille_fs.h */
uint32_t rille_job_token(const rille_job *job);
const char *rille_job_name(const rille_job *job); /* lives as long as the job */
const char *rille_job_pool(const rille_job *job); /* its name; the same */
/* what kept the job from being run, for people; NULL: nothing did. Lives as long as the job */
const char *rille_job_fault(const rille_job *job);
rille_parcel *rille_job_input(rille_job *job);
rille_parcel *rille_job_output(rille_job *job);

/* ---- parcels: bytes that Lua encoded, and what crosses without a copy; whoever has the job --------------------- */

int rille_parcel_set(rille_parcel *parcel, const char *bytes, size_t size);
int rille_parcel_add_slice(rille_parcel *parcel, const rille_slice *s);
/* what is in `from` moves when the parcel is closed; until then `from` has to live */
int rille_parcel_add_buffer(rille_parcel *parcel, rille_linkbuffer *from);
/* Move what is in the LinkBuffers, those that have not been yet. Submitting a job closes its input. */
int rille_parcel_close(rille_parcel *parcel);
const char *rille_parcel_bytes(const rille_parcel *parcel, double *size); /* NULL: nothing was set */
/* In the order they were added. 1: taken */
int rille_parcel_take_slice(rille_parcel *parcel, rille_slice *out /* owned */);
rille_linkbuffer *rille_parcel_take_buffer(rille_parcel *parcel); /* owned */

/* ---- workers: their own thread --------------------------------------------------------------------------------- */

rille_job *rille_worker_job(rille_worker *worker); /* borrowed until rille_worker_answer */
/* What the names of the library's own files begin with. */
void rille_worker_set_library(rille_worker *worker, const char *prefix);
int rille_worker_is_short(const rille_worker *worker); /* the job has passed the limit of the Lua state's memory */
/* The job is done, its output packed. 0: nobody will hear of it. */
int rille_worker_answer(rille_worker *worker, int failed);

#endif
