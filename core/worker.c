/*
 * worker: a thread of a pool: takes jobs one after the other and runs each in a Lua state of its own, made on this thread, used by
 * it alone and closed by it. States are kept, one for each environment (what a server's state, of one generation, finds with
 * require), so that modules are loaded once; until no job can come for it any more.
 */
#include "cpu.h"
#include "io.h"
#include "log.h"
#include "loop.h"
#include "pool.h"
#include "vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATES_MAX = 4 };

static const uint64_t TIDY_NS = 1000000000; /* so long idle: collect what jobs left, give memory back */

/* What the thread has on its stack. */
typedef struct bench {
  rille_worker *worker;
  struct {
    rille_environment *environment; /* kept; NULL: free */
    rille_vm vm;
    uint64_t used; /* when, in jobs */
  } places[STATES_MAX];
  uint64_t jobs;
} bench;

/* ---- Lua states ------------------------------------------------------------------------------------------------ */

static void close_place(bench *b, int i) {
  if (!b->places[i].environment) return;
  rille_vm_close(&b->places[i].vm);
  rille_environment_let_go(b->places[i].environment);
  b->places[i].environment = NULL;
}

/* The place of the state for a job, or -1 with a message. The one that was not used for longest makes room. */
static int find_place(bench *b, rille_environment *e, char *message, size_t size) {
  int oldest = 0;
  b->jobs++;
  for (int i = 0; i < STATES_MAX; i++) {
    if (b->places[i].environment == e) {
      b->places[i].used = b->jobs;
      b->worker->vm = &b->places[i].vm;
      return i;
    }
    if (!b->places[i].environment) b->places[i].used = 0;
    if (b->places[i].used < b->places[oldest].used) oldest = i;
  }
  close_place(b, oldest);
  rille_vm *vm = b->worker->vm = &b->places[oldest].vm;
  if (!rille_vm_open(vm, e->source, e->arguments, e->size, b->worker, b->worker->memory, message, size)) return -1;
  rille_environment_keep(e);
  b->places[oldest].environment = e;
  b->places[oldest].used = b->jobs;
  return oldest;
}

void rille_worker_set_library(rille_worker *worker, const char *prefix) {
  snprintf(worker->vm->heap.library, sizeof worker->vm->heap.library, "%s", prefix);
}

int rille_worker_is_short(const rille_worker *worker) { return worker->vm->heap.is_passed; }

/* After a job, which may have left more than there is room for. The job's name: of a job that is gone. */
static bool is_worn_out(bench *b, int i, const char *name) {
  const rille_worker *w = b->worker;
  rille_vm *vm = &b->places[i].vm;
  if (rille_vm_settle(vm)) return false;
  RILLE_LOG(
      RILLE_LOG_ERROR,
      "pool %s: memory (%zu bytes) is used up after %s, %zu bytes are in use after a collection: the worker's Lua "
      "state is replaced",
      w->pool->name, vm->heap.limit, name, vm->heap.used);
  return true;
}

/* ---- jobs ------------------------------------------------------------------------------------------------------ */

rille_job *rille_worker_job(rille_worker *worker) { return worker->job; }

int rille_worker_answer(rille_worker *w, int failed) {
  rille_pool *pool = w->pool;
  rille_job *job = w->job;
  pthread_mutex_lock(&pool->lock);
  job->phase = RILLE_JOB_DONE;
  job->has_failed = failed || job->fault[0];
  if (!job->is_abandoned && job->has_failed) pool->failed++;
  if (!job->is_abandoned && !job->has_failed) pool->done++;
  bool is_sent = rille_job_send(job);
  w->job = NULL; /* only now: whoever ends a loop looks here for jobs of it */
  pool->busy--;
  pthread_mutex_unlock(&pool->lock);
  if (!is_sent) rille_job_release(job);
  return is_sent;
}

/* The Lua side has not answered: it could not be made, or broke. */
static void answer_for(rille_worker *w, const char *why) {
  char name[sizeof w->job->name];
  rille_job *job = w->job;
  rille_parcel_free(&job->output);
  snprintf(job->fault, sizeof job->fault, "%s", why);
  memcpy(name, job->name, sizeof name);
  if (!rille_worker_answer(w, 1)) RILLE_LOG(RILLE_LOG_ERROR, "pool %s: %s failed: %s", w->pool->name, name, why);
}

static void run(bench *b) {
  char message[1024];
  rille_worker *w = b->worker;
  if (w->job->io) {
    rille_io_run(w->job->io);
    rille_worker_answer(w, 0);
    return;
  }
  int i = find_place(b, w->job->environment, message, sizeof message);
  if (i < 0) {
    answer_for(w, message);
    return;
  }
  char name[sizeof w->job->name];
  memcpy(name, w->job->name, sizeof name);
  bool is_good = rille_vm_call(&b->places[i].vm, message, sizeof message);
  if (w->job) answer_for(w, message[0] ? message : "no answer");
  if (!is_good || is_worn_out(b, i, name)) close_place(b, i); /* the next job gets a new one */
}

/* ---- the thread ------------------------------------------------------------------------------------------------ */

static void tidy(bench *b) {
  for (int i = 0; i < STATES_MAX; i++) {
    if (b->places[i].environment) rille_vm_collect(&b->places[i].vm);
  }
  rille_block_trim();
}

static void take(rille_worker *w) {
  rille_job *job = w->pool->first_job;
  rille_job_unlink(job);
  job->phase = RILLE_JOB_RUNNING;
  w->job = job;
  w->since_ns = rille_now_ns();
  w->memory = (size_t)w->pool->options.memory;
  w->pool->busy++;
}

/* Under the lock, which it drops meanwhile: close the Lua states that no job comes for any more. */
static void clear(bench *b) {
  pthread_mutex_t *lock = &b->worker->pool->lock;
  for (int i = 0; i < STATES_MAX; i++) {
    if (!b->places[i].environment || b->places[i].environment->users > 0) continue;
    pthread_mutex_unlock(lock);
    close_place(b, i);
    pthread_mutex_lock(lock);
  }
}

/* Under the lock: wait for a job; false: there is a reason to end. */
static bool await_job(bench *b) {
  rille_worker *w = b->worker;
  rille_pool *pool = w->pool;
  uint64_t since = rille_now_ns();
  uint64_t end = since + (uint64_t)(pool->options.idle_ms * 1e6);
  bool is_tidy = false;
  for (;;) {
    clear(b);
    if (pool->workers > pool->options.max) return false;
    if (pool->first_job) {
      take(w);
      return true;
    }
    uint64_t now = rille_now_ns();
    if (pool->is_closing || now >= end) return false;
    if (!is_tidy && now >= since + TIDY_NS) {
      pthread_mutex_unlock(&pool->lock);
      tidy(b);
      pthread_mutex_lock(&pool->lock);
      is_tidy = true;
      continue;
    }
    rille_pool_wait(&pool->work, &pool->lock, is_tidy || since + TIDY_NS > end ? end : since + TIDY_NS);
  }
}

/* Under the lock, which it drops: off the list of workers, and onto that of threads to join. Those that ended before are
 * joined here, so that at most one waits for that. */
static void leave(rille_worker *w) {
  rille_pool *pool = w->pool;
  rille_worker **at = &pool->first_worker;
  while (*at != w) at = &(*at)->next;
  *at = w->next;
  rille_worker *ended = pool->ended;
  bool is_left = w->is_left;
  w->next = NULL;
  pool->ended = is_left ? NULL : w;
  pthread_cond_broadcast(&pool->gone);
  pthread_mutex_unlock(&pool->lock);
  atomic_fetch_sub(&pool->refs, rille_pool_join(ended)); /* this thread has one more */
  rille_block_thread_end();
  if (!is_left) return;
  rille_pool_release(pool);
  free(w);
}

void *rille_worker_main(void *arg) {
  bench b = {.worker = arg};
  rille_pool *pool = b.worker->pool;
  rille_cpu_roam(); /* a loop that has started it may be pinned */
  /* A process that is started inherits it, so those of "io", which mostly wait, do without. */
  if (strcmp(pool->name, RILLE_IO_POOL) != 0) rille_cpu_give_way();
  pthread_mutex_lock(&pool->lock);
  while (await_job(&b)) {
    pthread_mutex_unlock(&pool->lock);
    run(&b);
    pthread_mutex_lock(&pool->lock);
  }
  pool->workers--; /* so that a job that comes now gets another one */
  pthread_mutex_unlock(&pool->lock);
  for (int i = 0; i < STATES_MAX; i++) close_place(&b, i);
  pthread_mutex_lock(&pool->lock);
  leave(b.worker);
  return NULL;
}
