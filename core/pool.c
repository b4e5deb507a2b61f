/*
 * pool: see pool.h. The registry of pools, their numbers, the start and the end of their workers. Any thread.
 */
#include "pool.h"

#include "log.h"
#include "loop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { QUEUE = 1024, IDLE_MS = 60000, MEMORY = 1 << 30 };

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static rille_pool *pools; /* under it; each is a reference */

/* Lock order: the registry's, then a pool's. */

void rille_pool_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns) {
  struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u), .tv_nsec = (long)(until_ns % 1000000000u)};
  pthread_cond_timedwait(cond, lock, &until);
}

/* ---- the registry ---------------------------------------------------------------------------------------------- */

static rille_pool *make(const char *name) {
  rille_pool *pool = calloc(1, sizeof *pool);
  if (!pool) return NULL;
  snprintf(pool->name, sizeof pool->name, "%s", name);
  atomic_store(&pool->refs, 1);
  pool->options = (rille_pool_options){
      .max = rille_cpu_count(), .scale_threshold = 1, .queue = QUEUE, .idle_ms = IDLE_MS, .memory = MEMORY};
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->work, &monotonic);
  pthread_cond_init(&pool->gone, &monotonic);
  pthread_condattr_destroy(&monotonic);
  return pool;
}

static void release(rille_pool *pool, uint32_t refs) {
  if (atomic_fetch_sub(&pool->refs, refs) != refs) return;
  pthread_cond_destroy(&pool->work);
  pthread_cond_destroy(&pool->gone);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

void rille_pool_release(rille_pool *pool) { release(pool, 1); }

static bool differs(double wanted, double given) { return wanted >= 0 && wanted != given; }

static void set(double *option, double wanted) {
  if (wanted >= 0) *option = wanted;
}

/* Under the lock: the first options that are given hold, for good; the same may be given again. */
static int fix(rille_pool *pool, const rille_pool_options *o) {
  const rille_pool_options *given = &pool->given;
  if (o->max < 0 && o->scale_threshold < 0 && o->queue < 0 && o->idle_ms < 0 && o->memory < 0) return RILLE_OK;
  if (pool->is_fixed) {
    bool is_other = differs(o->max, given->max) || differs(o->scale_threshold, given->scale_threshold) ||
                    differs(o->queue, given->queue) || differs(o->idle_ms, given->idle_ms) ||
                    differs(o->memory, given->memory);
    return is_other ? RILLE_ERR_INVALID : RILLE_OK;
  }
  set(&pool->options.max, o->max);
  set(&pool->options.scale_threshold, o->scale_threshold);
  set(&pool->options.queue, o->queue);
  set(&pool->options.idle_ms, o->idle_ms);
  set(&pool->options.memory, o->memory);
  pool->given = pool->options; /* what was left out stands as its default; resize changes only the other copy */
  pool->is_fixed = true;
  return RILLE_OK;
}

rille_pool *rille_pool_open(const char *name, const rille_pool_options *options, int *err) {
  *err = RILLE_OK;
  pthread_mutex_lock(&registry_lock);
  rille_pool *pool = pools;
  while (pool && strcmp(pool->name, name) != 0) pool = pool->next;
  if (!pool) {
    pool = make(name);
    if (pool) {
      pool->next = pools;
      pools = pool;
    }
  }
  if (pool) {
    pthread_mutex_lock(&pool->lock);
    *err = fix(pool, options);
    pthread_mutex_unlock(&pool->lock);
    if (!*err) atomic_fetch_add(&pool->refs, 1);
  } else {
    *err = RILLE_ERR_NO_MEMORY;
  }
  pthread_mutex_unlock(&registry_lock);
  return *err ? NULL : pool;
}

/* ---- numbers --------------------------------------------------------------------------------------------------- */

static void read_stats(const rille_pool *pool, rille_pool_stats *out) {
  *out = (rille_pool_stats){.workers = pool->workers,
                            .busy = pool->busy,
                            .queued = pool->queued,
                            .done = pool->done,
                            .failed = pool->failed,
                            .abandoned = pool->abandoned,
                            .options = pool->options};
  for (const rille_worker *w = pool->first_worker; w; w = w->next) out->lost += w->job && w->job->is_abandoned;
  for (const rille_environment *e = pool->environments; e; e = e->next) out->states += e->kept;
}

void rille_pool_stats_read(rille_pool *pool, rille_pool_stats *out) {
  pthread_mutex_lock(&pool->lock);
  read_stats(pool, out);
  pthread_mutex_unlock(&pool->lock);
}

static double seconds_of(const rille_worker *w) { return (double)(rille_now_ns() - w->since_ns) / 1e9; }

int rille_pool_lost_job(rille_pool *pool, int index, char *to, size_t size, double *seconds) {
  int length = 0;
  pthread_mutex_lock(&pool->lock);
  for (const rille_worker *w = pool->first_worker; w && length == 0; w = w->next) {
    if (!w->job || !w->job->is_abandoned || index-- > 0) continue;
    length = snprintf(to, size, "%s", w->job->name);
    *seconds = seconds_of(w);
  }
  pthread_mutex_unlock(&pool->lock);
  return length;
}

void rille_pools_each(void (*visit)(void *to, const char *name, const rille_pool_stats *stats), void *to) {
  pthread_mutex_lock(&registry_lock);
  for (rille_pool *pool = pools; pool; pool = pool->next) {
    rille_pool_stats stats;
    rille_pool_stats_read(pool, &stats);
    visit(to, pool->name, &stats);
  }
  pthread_mutex_unlock(&registry_lock);
}

void rille_pools_dump(void) {
  pthread_mutex_lock(&registry_lock);
  for (rille_pool *pool = pools; pool; pool = pool->next) {
    pthread_mutex_lock(&pool->lock);
    rille_pool_stats s;
    read_stats(pool, &s);
    RILLE_LOG(RILLE_LOG_INFO,
              "pool %s: %.0f of %.0f workers, %.0f busy, %.0f lost; jobs: %.0f queued, %.0f done, "
              "%.0f failed, %.0f abandoned",
              pool->name, s.workers, s.options.max, s.busy, s.lost, s.queued, s.done, s.failed, s.abandoned);
    for (const rille_worker *w = pool->first_worker; w; w = w->next) {
      if (!w->job || !w->job->is_abandoned) continue;
      RILLE_LOG(RILLE_LOG_INFO, "pool %s: a worker is lost to %s for %.1f s", pool->name, w->job->name, seconds_of(w));
    }
    pthread_mutex_unlock(&pool->lock);
  }
  pthread_mutex_unlock(&registry_lock);
}

/* ---- workers --------------------------------------------------------------------------------------------------- */

bool rille_pool_wants_worker(const rille_pool *pool, uint32_t more_jobs) {
  if (pool->workers >= pool->options.max) return false;
  uint32_t jobs = pool->queued + more_jobs, idle = pool->workers - pool->busy;
  return jobs > idle && (pool->workers == 0 || jobs - idle >= pool->options.scale_threshold);
}

int rille_pool_start_worker(rille_pool *pool) {
  rille_worker *w = calloc(1, sizeof *w);
  if (!w) return RILLE_ERR_NO_MEMORY;
  w->pool = pool;
  w->since_ns = rille_now_ns();
  atomic_fetch_add(&pool->refs, 1);
  int error_number = pthread_create(&w->thread, NULL, rille_worker_main, w);
  if (error_number) {
    int err = rille_err_from_errno(error_number);
    RILLE_LOG(RILLE_LOG_WARN, "pool %s: cannot start a worker: %s", pool->name, rille_err_text(err));
    atomic_fetch_sub(&pool->refs, 1); /* not the last: the caller has one */
    free(w);
    return err;
  }
  char name[16];
  snprintf(name, sizeof name, "rille-pool-%.4s", pool->name);
  pthread_setname_np(w->thread, name);
  w->next = pool->first_worker;
  pool->first_worker = w;
  pool->workers++;
  return RILLE_OK;
}

int rille_pool_resize(rille_pool *pool, double max) {
  if (!(max >= 1 && max <= RILLE_POOL_WORKERS_MAX)) return RILLE_ERR_INVALID;
  pthread_mutex_lock(&pool->lock);
  pool->options.max = max;
  int err = RILLE_OK;
  while (!err && rille_pool_wants_worker(pool, 0)) err = rille_pool_start_worker(pool);
  pthread_cond_broadcast(&pool->work); /* those beyond max end */
  pthread_mutex_unlock(&pool->lock);
  return err;
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

static void forget_loop(rille_job *job, const rille_loop *loop) {
  if (!job) return;
  if (job->loop == loop) job->loop = NULL;
  if (!job->stream || job->stream->loop != loop) return;
  job->stream->loop = NULL;
  rille_stream_abort(job->stream, RILLE_ERR_SHUTDOWN);
}

void rille_pools_forget_loop(rille_loop *loop) {
  pthread_mutex_lock(&registry_lock);
  for (rille_pool *pool = pools; pool; pool = pool->next) {
    pthread_mutex_lock(&pool->lock);
    for (rille_job *job = pool->first_job; job; job = job->next) forget_loop(job, loop);
    for (rille_worker *w = pool->first_worker; w; w = w->next) forget_loop(w->job, loop);
    pthread_mutex_unlock(&pool->lock);
  }
  pthread_mutex_unlock(&registry_lock);
}

/* Under the lock. True: the job was queued and nobody wants it; the queue's reference is to be released. */
static bool forget_state(rille_job *job, uint32_t state) {
  if (!job || job->state != state) return false;
  job->loop = NULL;
  return !job->is_post && !job->io && !job->is_abandoned && rille_job_give_up(job);
}

/* Jobs that nobody wants any more, a list of references. */
static rille_job *forget_state_in(rille_pool *pool, uint32_t state) {
  rille_job *dropped = NULL, *job, *next;
  pthread_mutex_lock(&pool->lock);
  for (job = pool->first_job; job; job = next) {
    next = job->next;
    if (!forget_state(job, state)) continue;
    job->next = dropped;
    dropped = job;
  }
  for (rille_worker *w = pool->first_worker; w; w = w->next) forget_state(w->job, state);
  pthread_mutex_unlock(&pool->lock);
  return dropped;
}

void rille_pools_forget_state(const rille_state *state) {
  if (!state->has_made_jobs) return; /* without a wait for workers that hold a lock and have no processor */
  pthread_mutex_lock(&registry_lock);
  for (rille_pool *pool = pools; pool; pool = pool->next) {
    rille_job *dropped = forget_state_in(pool, state->id);
    while (dropped) {
      rille_job *job = dropped;
      dropped = job->next;
      rille_job_release(job); /* not the pool's last reference */
    }
  }
  pthread_mutex_unlock(&registry_lock);
}

/* Under the lock, which it drops meanwhile: a job that goes needs it. */
static void drop_queue(rille_pool *pool) {
  uint32_t posts = 0;
  while (pool->first_job) {
    rille_job *job = pool->first_job;
    rille_job_unlink(job);
    posts += job->is_post;
    pthread_mutex_unlock(&pool->lock);
    rille_job_release(job); /* not the pool's last reference */
    pthread_mutex_lock(&pool->lock);
  }
  if (posts > 0) RILLE_LOG(RILLE_LOG_WARN, "pool %s: %u posted jobs were not run", pool->name, posts);
}

uint32_t rille_pool_join(rille_worker *ended) {
  uint32_t count = 0;
  while (ended) {
    rille_worker *w = ended;
    ended = w->next;
    pthread_join(w->thread, NULL);
    free(w);
    count++;
  }
  return count;
}

/* The number of references to the pool that are to be released. */
static uint32_t stop(rille_pool *pool, uint64_t until_ns) {
  pthread_mutex_lock(&pool->lock);
  while (pool->first_worker && rille_now_ns() < until_ns) rille_pool_wait(&pool->gone, &pool->lock, until_ns);
  drop_queue(pool);
  for (rille_worker *w = pool->first_worker; w; w = w->next) {
    w->is_left = true;
    pthread_detach(w->thread);
    RILLE_LOG(RILLE_LOG_WARN, "pool %s: a worker does not come back from %s after %.1f s: left behind", pool->name,
              w->job ? w->job->name : "its own start or end", seconds_of(w));
  }
  rille_worker *ended = pool->ended;
  pool->ended = NULL;
  pthread_mutex_unlock(&pool->lock);
  return rille_pool_join(ended);
}

static _Atomic uint64_t patience_ns;

void rille_pools_set_patience(double ms) { atomic_store(&patience_ns, (uint64_t)(ms * 1e6)); }

void rille_pools_stop(void) {
  uint64_t until_ns = rille_now_ns() + atomic_load(&patience_ns);
  pthread_mutex_lock(&registry_lock);
  rille_pool *list = pools;
  pools = NULL;
  pthread_mutex_unlock(&registry_lock);
  for (rille_pool *pool = list; pool; pool = pool->next) {
    pthread_mutex_lock(&pool->lock);
    pool->is_closing = true; /* what is posted is still run while there is time */
    for (rille_worker *w = pool->first_worker; w; w = w->next) {
      if (w->job && w->job->stream) rille_stream_abort(w->job->stream, RILLE_ERR_SHUTDOWN);
    }
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
  }
  while (list) {
    rille_pool *pool = list;
    list = pool->next;
    release(pool, stop(pool, until_ns) + 1);
  }
}
