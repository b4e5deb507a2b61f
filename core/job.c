/*
 * job: one call and its way through a pool; see pool.h. Made, submitted and abandoned on the thread of the loop it comes
 * from, run on a worker's, and handed back through the loop's mailbox.
 */
#include "pool.h"

#include "io.h"
#include "log.h"
#include "loop.h"
#include "tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_NS = 1000000 };

rille_job *rille_job_new(rille_pool *pool, rille_state *from, rille_environment *environment, uint32_t token,
                         int is_post, const char *name) {
  rille_job *job = calloc(1, sizeof *job);
  if (!job) return NULL;
  atomic_store(&job->refs, 1);
  atomic_fetch_add(&pool->refs, 1);
  job->pool = pool;
  if (environment) rille_environment_use(environment);
  job->environment = environment;
  job->loop = from->loop;
  job->state = from->id;
  from->has_made_jobs = true;
  job->token = token;
  job->is_post = is_post;
  snprintf(job->name, sizeof job->name, "%s", name);
  return job;
}

void rille_job_release(rille_job *job) {
  if (atomic_fetch_sub(&job->refs, 1) != 1) return;
  rille_parcel_free(&job->input);
  rille_parcel_free(&job->output);
  if (job->stream) rille_stream_release(job->stream);
  if (job->io) rille_io_free(job->io);
  if (job->environment) rille_environment_release(job->environment);
  rille_pool_release(job->pool);
  free(job);
}

int rille_job_is_io(const rille_job *job) { return job->io != NULL; }

uint32_t rille_job_token(const rille_job *job) { return job->token; }

const char *rille_job_name(const rille_job *job) { return job->name; }

const char *rille_job_pool(const rille_job *job) { return job->pool->name; }

const char *rille_job_fault(const rille_job *job) { return job->fault[0] ? job->fault : NULL; }

rille_parcel *rille_job_input(rille_job *job) { return &job->input; }

rille_parcel *rille_job_output(rille_job *job) { return &job->output; }

/* ---- there ----------------------------------------------------------------------------------------------------- */

/* Idle workers are about to take a job each, so these do not wait. */
static bool is_full(const rille_pool *pool) {
  return pool->queued >= pool->options.queue + (double)(pool->workers - pool->busy);
}

static int enqueue(rille_pool *pool, rille_job *job) {
  if (pool->is_closing) return RILLE_ERR_SHUTDOWN;
  if (rille_pool_wants_worker(pool, 1)) {
    int err = rille_pool_start_worker(pool);
    if (err && pool->workers == 0) return err; /* else the others have to do */
  }
  if (is_full(pool)) return RILLE_ERR_FULL;
  int err = rille_parcel_close(&job->input);
  if (err) return err;
  atomic_fetch_add(&job->refs, 1);
  job->phase = RILLE_JOB_QUEUED;
  job->before = pool->last_job;
  if (pool->last_job) pool->last_job->next = job;
  else pool->first_job = job;
  pool->last_job = job;
  pool->queued++;
  pthread_cond_signal(&pool->work);
  return RILLE_OK;
}

int rille_job_submit(rille_job *job) {
  rille_pool *pool = job->pool;
  pthread_mutex_lock(&pool->lock);
  int err = enqueue(pool, job);
  pthread_mutex_unlock(&pool->lock);
  return err;
}

void rille_job_unlink(rille_job *job) {
  rille_pool *pool = job->pool;
  if (job->before) job->before->next = job->next;
  else pool->first_job = job->next;
  if (job->next) job->next->before = job->before;
  else pool->last_job = job->before;
  job->next = job->before = NULL;
  pool->queued--;
}

bool rille_job_give_up(rille_job *job) {
  rille_pool *pool = job->pool;
  bool was_queued = job->phase == RILLE_JOB_QUEUED;
  if (was_queued) rille_job_unlink(job);
  if (was_queued || job->phase == RILLE_JOB_RUNNING) pool->abandoned++;
  if (was_queued) job->phase = RILLE_JOB_DONE;
  job->is_abandoned = true;
  if (job->stream) rille_stream_abort(job->stream, RILLE_ERR_CANCELLED);
  return was_queued;
}

int rille_job_abandon(rille_job *job) {
  rille_pool *pool = job->pool;
  pthread_mutex_lock(&pool->lock);
  bool was_queued = !job->is_abandoned && rille_job_give_up(job);
  pthread_mutex_unlock(&pool->lock);
  if (was_queued) rille_job_release(job); /* the queue's reference */
  return was_queued;
}

/* ---- and back -------------------------------------------------------------------------------------------------- */

static void drop(const rille_message *m) { rille_job_release(m->what); }

/* It comes too late for the state that would have heard of it. */
static void lose(rille_job *job) {
  if (job->is_post && job->has_failed)
    RILLE_LOG(RILLE_LOG_ERROR, "pool %s: %s failed; the Lua state that posted it is closed", job->pool->name,
              job->name);
  rille_job_release(job);
}

static void deliver(rille_loop *loop, const rille_message *m) {
  rille_job *job = m->what;
  if (job->io && job->io->line) {
    rille_tls_come_back(loop, job);
    return;
  }
  rille_state *state = rille_loop_state(loop, job->state); /* NULL: what took its place does not know the job */
  if (!state || !rille_state_emit(state, RILLE_EVENT_JOB, 0, 0)) {
    lose(job);
    return;
  }
  job->next_done = NULL;
  if (state->last_job) state->last_job->next_done = job;
  else state->first_job = job;
  state->last_job = job;
}

/* A mailbox that is full is emptied by its loop, so the worker waits for that: no result is lost. The lock keeps the loop from
 * being freed while it is looked at. */
bool rille_job_send(rille_job *job) {
  rille_message m = {.deliver = deliver, .drop = drop, .what = job};
  pthread_mutex_t *lock = &job->pool->lock;
  for (;;) {
    bool is_wanted = job->io || job->has_failed || !(job->is_post || job->is_abandoned);
    if (!is_wanted || !job->loop || job->pool->is_closing) return false;
    if (rille_mailbox_send(&job->loop->mailbox, &m) == RILLE_OK) return true;
    pthread_mutex_unlock(lock);
    nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
    pthread_mutex_lock(lock);
  }
}

rille_job *rille_job_take(rille_state *state) {
  rille_job *job = state->first_job;
  if (!job) return NULL;
  state->first_job = job->next_done;
  if (!job->next_done) state->last_job = NULL;
  return job;
}

void rille_job_forget(rille_state *state) {
  rille_job *job;
  while ((job = rille_job_take(state))) lose(job);
}
