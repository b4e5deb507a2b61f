/*
 * environment: what workers make their Lua states from, the same for all jobs of one generation of one server. Whoever makes jobs of it (a
 * state of a loop) and each such job uses it; the Lua states that workers have made of it keep it. When nobody uses it any more no
 * further job comes, and the workers are woken to close those. Any thread.
 */
#include "pool.h"

#include <stdlib.h>
#include <string.h>

static rille_environment *make(const char *source, const char *arguments, size_t size, double chunks) {
  rille_environment *e = calloc(1, sizeof *e + size);
  char *copy = strdup(source);
  if (!e || !copy) {
    free(e);
    free(copy);
    return NULL;
  }
  e->source = copy;
  e->size = size;
  if (size > 0) memcpy(e->arguments, arguments, size);
  e->chunks = chunks > 0 ? rille_chunks_find(chunks) : NULL; /* a job may come when its generation is over */
  return e;
}

/* Not under the lock, for the pool may go with it. */
static void destroy(rille_environment *e) {
  if (e->chunks) rille_chunks_release(e->chunks);
  if (e->pool) rille_pool_release(e->pool);
  free(e->source);
  free(e);
}

/* Under the lock: whether nobody has it any more. It is off the pool's list then, and to be destroyed. */
static bool is_gone(rille_environment *e) {
  rille_pool *pool = e->pool;
  if (e->users > 0 || e->kept > 0) return false;
  rille_environment **at = &pool->environments;
  while (*at != e) at = &(*at)->next;
  *at = e->next;
  pool->environment_count--;
  return true;
}

static rille_environment *find(const rille_pool *pool, const rille_environment *like) {
  rille_environment *e = pool->environments;
  while (e && (e->size != like->size || memcmp(e->arguments, like->arguments, e->size) != 0 ||
               strcmp(e->source, like->source) != 0))
    e = e->next;
  return e;
}

rille_environment *rille_pool_environment(rille_pool *pool, const char *source, const char *arguments, size_t size,
                                          double chunks, int *err) {
  rille_environment *fresh = make(source, arguments, size, chunks);
  *err = fresh ? RILLE_OK : RILLE_ERR_NO_MEMORY;
  if (!fresh) return NULL;
  pthread_mutex_lock(&pool->lock);
  rille_environment *e = find(pool, fresh);
  if (!e && pool->environment_count < RILLE_POOL_ENVIRONMENTS_MAX) {
    e = fresh;
    e->pool = pool;
    atomic_fetch_add(&pool->refs, 1);
    e->next = pool->environments;
    pool->environments = e;
    pool->environment_count++;
  }
  if (e) e->users++;
  pthread_mutex_unlock(&pool->lock);
  if (e != fresh) destroy(fresh);
  if (!e) *err = RILLE_ERR_FULL;
  return e;
}

void rille_environment_use(rille_environment *e) {
  pthread_mutex_lock(&e->pool->lock);
  e->users++;
  pthread_mutex_unlock(&e->pool->lock);
}

void rille_environment_release(rille_environment *e) {
  pthread_mutex_t *lock = &e->pool->lock;
  pthread_mutex_lock(lock);
  if (--e->users == 0 && e->kept > 0) pthread_cond_broadcast(&e->pool->work);
  bool is_last = is_gone(e);
  pthread_mutex_unlock(lock);
  if (is_last) destroy(e);
}

void rille_environment_keep(rille_environment *e) {
  pthread_mutex_lock(&e->pool->lock);
  e->kept++;
  pthread_mutex_unlock(&e->pool->lock);
}

void rille_environment_let_go(rille_environment *e) {
  pthread_mutex_t *lock = &e->pool->lock;
  pthread_mutex_lock(lock);
  e->kept--;
  bool is_last = is_gone(e);
  pthread_mutex_unlock(lock);
  if (is_last) destroy(e);
}
