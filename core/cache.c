/*
 * cache: the slow side of the free lists: making and ending the cache of a thread, the traffic between a cache and the
 * shared pool, trimming. See cache.h for how it hangs together.
 */
#include "cache.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
  BIN_OBJECTS_MAX = 256,   /* of one bin of one thread */
  BIN_BYTES_MAX = 2 << 20, /* of one bin of one thread */
  SHARED_BYTES_DEFAULT = 64 << 20
};

struct rille_shared rille_shared = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .bytes_max = RILLE_CACHE_KEEPS ? SHARED_BYTES_DEFAULT : 0,
};
_Thread_local struct cache *rille_thread_cache;

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int key_error;

/* ---- objects ---- */

size_t rille_cache_object_size(unsigned index) {
  switch (index) {
  case BIN_NODE: return RILLE_NODE_SIZE;
  case BIN_HANDLE: return RILLE_HANDLE_SIZE;
  case BIN_CELL: return 0; /* not counted and never freed */
  default: return BLOCK_HEADER_SIZE + ((size_t)RILLE_BLOCK_MIN << index);
  }
}

static uint32_t bin_max(unsigned index) {
  size_t size = rille_cache_object_size(index);
  if (size == 0) return BIN_OBJECTS_MAX; /* cells stay mapped anyway */
  size_t fit = RILLE_CACHE_KEEPS ? BIN_BYTES_MAX / size : 0;
  return (uint32_t)(fit < BIN_OBJECTS_MAX ? fit : BIN_OBJECTS_MAX);
}

static _Atomic int allocations_left = -1;

void rille_block_fail_after(int n) { atomic_store_explicit(&allocations_left, n, memory_order_relaxed); }

void *rille_cache_alloc(size_t size) {
  int left = atomic_load_explicit(&allocations_left, memory_order_relaxed);
  if (left == 0) return NULL;
  if (left > 0) atomic_store_explicit(&allocations_left, left - 1, memory_order_relaxed);
  return aligned_alloc(64, (size + 63) & ~(size_t)63);
}

/* Cut the list after `keep` objects; the older rest is returned. */
static struct free_object *bin_cut(struct bin *bin, uint32_t keep) {
  struct free_object **at = &bin->head;
  for (uint32_t i = 0; i < keep && *at; i++) at = &(*at)->next;
  struct free_object *rest = *at;
  *at = NULL;
  if (bin_count(bin) > keep) bin_set_count(bin, keep);
  if (bin->low > keep) bin->low = keep;
  return rest;
}

static void free_list(struct free_object *list) {
  while (list) {
    struct free_object *next = list->next;
    free(list);
    list = next;
  }
}

/* Under rille_shared.lock: keep of the list what fits; the rest is returned, to be freed outside of the lock. */
static struct free_object *shared_put(unsigned index, struct free_object *list) {
  size_t size = rille_cache_object_size(index);
  struct bin *bin = &rille_shared.bins[index];
  while (list && (size == 0 || rille_shared.bytes + size <= rille_shared.bytes_max)) {
    struct free_object *next = list->next;
    bin_push(bin, list);
    rille_shared.bytes += size;
    list = next;
  }
  return list;
}

/* Under rille_shared.lock: take all but `keep` objects out of the shared bin. */
static struct free_object *shared_cut(unsigned index, uint32_t keep) {
  struct bin *bin = &rille_shared.bins[index];
  uint32_t before = bin_count(bin);
  struct free_object *rest = bin_cut(bin, keep);
  rille_shared.bytes -= (before - bin_count(bin)) * rille_cache_object_size(index);
  return rest;
}

/* ---- thread caches ---- */

static void cache_end(void *value) {
  struct cache *cache = value;
  struct free_object *surplus[BIN_COUNT];

  rille_thread_cache = NULL;
  pthread_mutex_lock(&rille_shared.lock);
  *cache->link = cache->next;
  if (cache->next) cache->next->link = cache->link;
  rille_shared.cache_count--;
  for (unsigned i = 0; i <= CLASS_COUNT; i++)
    add(&rille_shared.counts.blocks[i], atomic_load_explicit(&cache->counts.blocks[i], memory_order_relaxed));
  add(&rille_shared.counts.huge_bytes, atomic_load_explicit(&cache->counts.huge_bytes, memory_order_relaxed));
  for (unsigned i = 0; i < RILLE_COUNTERS; i++)
    add(&rille_shared.counts.other[i], atomic_load_explicit(&cache->counts.other[i], memory_order_relaxed));
  for (unsigned i = 0; i < BIN_COUNT; i++) surplus[i] = shared_put(i, cache->bins[i].head);
  pthread_mutex_unlock(&rille_shared.lock);

  for (unsigned i = 0; i < BIN_COUNT; i++) free_list(surplus[i]);
  free(cache);
}

static void key_make(void) { key_error = pthread_key_create(&key, cache_end); }

/* NULL when there is no memory for a cache. */
__attribute__((noinline, cold)) struct cache *rille_cache_make(void) {
  pthread_once(&key_once, key_make);
  if (key_error) return NULL;
  struct cache *cache = rille_cache_alloc(sizeof *cache);
  if (!cache) return NULL;
  memset(cache, 0, sizeof *cache);
  for (unsigned i = 0; i < BIN_COUNT; i++) cache->bins[i].max = bin_max(i);
  if (pthread_setspecific(key, cache) != 0) {
    free(cache);
    return NULL;
  }
  pthread_mutex_lock(&rille_shared.lock);
  cache->next = rille_shared.caches;
  cache->link = &rille_shared.caches;
  if (cache->next) cache->next->link = &cache->next;
  rille_shared.caches = cache;
  rille_shared.cache_count++;
  pthread_mutex_unlock(&rille_shared.lock);
  rille_thread_cache = cache;
  return cache;
}

/* Fill an empty bin up to its half from the shared pool. */
__attribute__((noinline)) struct free_object *rille_cache_refill(struct cache *cache, unsigned index) {
  struct bin *bin = &cache->bins[index];
  struct bin *from = &rille_shared.bins[index];
  size_t size = rille_cache_object_size(index);

  if (!RILLE_CACHE_KEEPS && size != 0) return NULL;
  pthread_mutex_lock(&rille_shared.lock);
  struct free_object *taken = bin_pop(from);
  if (taken) rille_shared.bytes -= size;
  while (bin_count(bin) < bin->max / 2 && from->head) {
    bin_push(bin, bin_pop(from));
    rille_shared.bytes -= size;
  }
  pthread_mutex_unlock(&rille_shared.lock);
  bin->low = 0;
  return taken;
}

__attribute__((noinline)) void rille_cache_spill(struct cache *cache, unsigned index) {
  struct bin *bin = &cache->bins[index];
  struct free_object *rest = bin_cut(bin, bin->max / 2);
  if (RILLE_CACHE_KEEPS || index == BIN_CELL) {
    pthread_mutex_lock(&rille_shared.lock);
    rest = shared_put(index, rest);
    pthread_mutex_unlock(&rille_shared.lock);
  }
  free_list(rest);
}

/* A thread without a cache (no memory for one) still has to be able to give back. */
__attribute__((noinline, cold)) void rille_cache_give_shared(unsigned index, void *object) {
  struct free_object *list = object;
  list->next = NULL;
  pthread_mutex_lock(&rille_shared.lock);
  list = shared_put(index, list);
  pthread_mutex_unlock(&rille_shared.lock);
  free_list(list);
}

/* ---- upkeep ---- */

void rille_block_trim(void) {
  struct cache *cache = rille_thread_cache;
  struct free_object *surplus[BIN_COUNT] = {0};
  struct free_object *shared_surplus[BIN_COUNT] = {0};

  for (unsigned i = 0; cache && i < BIN_CELL; i++) {
    struct bin *bin = &cache->bins[i];
    surplus[i] = bin_cut(bin, bin_count(bin) - bin->low);
    bin->low = bin_count(bin);
  }
  pthread_mutex_lock(&rille_shared.lock);
  /* every thread called once: a period of the shared pool is over */
  bool is_over = ++rille_shared.trims >= rille_shared.cache_count;
  if (is_over) rille_shared.trims = 0;
  for (unsigned i = 0; i < BIN_CELL; i++) {
    struct bin *bin = &rille_shared.bins[i];
    if (is_over) {
      shared_surplus[i] = shared_cut(i, bin_count(bin) - bin->low);
      bin->low = bin_count(bin);
    }
    surplus[i] = shared_put(i, surplus[i]);
  }
  pthread_mutex_unlock(&rille_shared.lock);
  for (unsigned i = 0; i < BIN_CELL; i++) {
    free_list(surplus[i]);
    free_list(shared_surplus[i]);
  }
}

void rille_block_thread_end(void) {
  struct cache *cache = rille_thread_cache;
  if (!cache) return;
  pthread_setspecific(key, NULL);
  cache_end(cache);
}

void rille_block_limit(size_t shared_bytes_max) {
  struct free_object *surplus[BIN_COUNT] = {0};
  pthread_mutex_lock(&rille_shared.lock);
  rille_shared.bytes_max = RILLE_CACHE_KEEPS ? shared_bytes_max : 0;
  for (unsigned i = BIN_CELL; i-- > 0 && rille_shared.bytes > rille_shared.bytes_max;) {
    size_t size = rille_cache_object_size(i);
    size_t excess = (rille_shared.bytes - rille_shared.bytes_max + size - 1) / size;
    uint32_t count = bin_count(&rille_shared.bins[i]);
    surplus[i] = shared_cut(i, excess < count ? count - (uint32_t)excess : 0);
  }
  pthread_mutex_unlock(&rille_shared.lock);
  for (unsigned i = 0; i < BIN_CELL; i++) free_list(surplus[i]);
}

void rille_block_purge(void) {
  struct free_object *surplus[BIN_CELL];

  rille_block_thread_end();
  pthread_mutex_lock(&rille_shared.lock);
  for (unsigned i = 0; i < BIN_CELL; i++) surplus[i] = shared_cut(i, 0);
  pthread_mutex_unlock(&rille_shared.lock);
  for (unsigned i = 0; i < BIN_CELL; i++) free_list(surplus[i]);
}
