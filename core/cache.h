/*
 * cache: where free objects of the core wait for their next use. Inside block.c and cell.c; everybody else uses
 * block.h.
 *
 * Free objects of one size stand in a bin, a LIFO list, so that what was given back last (and is still in the
 * processor's cache) is taken first. There is a bin for each block class, for nodes, for handles and for cells. Every
 * thread owns one `struct cache` with a bin of each kind: no lock, no atomic read-modify-write. A bin that is full
 * spills its older half into the shared pool, an empty one refills from there; the shared pool is the only thing
 * under the mutex. A block is counted where it is taken and where it is given back, which may be two threads: only
 * the sum over all caches means something.
 */
#ifndef RILLE_CACHE_H
#define RILLE_CACHE_H

#include "block.h"

#include <pthread.h>

#if defined(__SANITIZE_ADDRESS__)
#define RILLE_CACHE_KEEPS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RILLE_CACHE_KEEPS 0 /* only the later use of a block that is freed for real is reported */
#endif
#endif
#ifndef RILLE_CACHE_KEEPS
#define RILLE_CACHE_KEEPS 1
#endif

enum {
  CLASS_BITS_MIN = 6, /* 64 bytes */
  CLASS_COUNT = 18,   /* 2^6 .. 2^23 */
  CLASS_HUGE = CLASS_COUNT,
  BIN_NODE = CLASS_COUNT,
  BIN_HANDLE,
  BIN_CELL,
  BIN_COUNT,
  BLOCK_HEADER_SIZE = 64
};

struct free_object {
  struct free_object *next;
};

struct bin {
  struct free_object *head;
  _Atomic uint32_t count; /* stored by the owner, read by the statistics */
  uint32_t low;           /* smallest count since the last trim: so many were not needed */
  uint32_t max;
};

struct counts {
  _Atomic int64_t blocks[CLASS_COUNT + 1]; /* taken minus given; the last is CLASS_HUGE */
  _Atomic int64_t huge_bytes;
  _Atomic int64_t other[RILLE_COUNTERS];
};

struct cache {
  struct bin bins[BIN_COUNT]; /* owner thread */
  struct counts counts;       /* stored by the owner thread, read by the statistics */
  struct cache *next;         /* under the lock */
  struct cache **link;        /* under the lock */
};

struct rille_shared {
  pthread_mutex_t lock;
  struct bin bins[BIN_COUNT];
  size_t bytes; /* in all bins but that of the cells */
  size_t bytes_max;
  struct cache *caches;
  uint32_t cache_count;
  uint32_t trims;       /* calls of rille_block_trim since the shared pool was trimmed */
  struct counts counts; /* of threads that ended or never got a cache */
  struct slab *slabs;   /* keeps them reachable for leak checkers */
};

extern struct rille_shared rille_shared;

/* initial-exec: one instruction to reach it, also from a shared library; it costs 8 bytes of the static TLS reserve */
extern _Thread_local struct cache *rille_thread_cache __attribute__((tls_model("initial-exec")));

/* NULL when there is no memory for a cache */
struct cache *rille_cache_make(void);
/* an object for an empty bin from the shared pool, and half a bin more; NULL when that is empty too */
struct free_object *rille_cache_refill(struct cache *cache, unsigned index);
void rille_cache_spill(struct cache *cache, unsigned index);
/* for a thread without a cache (no memory for one), which still has to be able to give back */
void rille_cache_give_shared(unsigned index, void *object);
/* memory from the system, aligned to a cache line; NULL when there is none */
void *rille_cache_alloc(size_t size);
/* bytes of one object of a bin; 0 for cells, which are not counted and never freed */
size_t rille_cache_object_size(unsigned index);

static inline uint32_t bin_count(const struct bin *bin) {
  return atomic_load_explicit(&bin->count, memory_order_relaxed);
}

static inline void bin_set_count(struct bin *bin, uint32_t count) {
  atomic_store_explicit(&bin->count, count, memory_order_relaxed);
}

static inline void add(_Atomic int64_t *counter, int64_t by) {
  /* one thread stores: no read-modify-write needed */
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by, memory_order_relaxed);
}

static inline void bin_push(struct bin *bin, struct free_object *object) {
  object->next = bin->head;
  bin->head = object;
  bin_set_count(bin, bin_count(bin) + 1);
}

static inline struct free_object *bin_pop(struct bin *bin) {
  struct free_object *object = bin->head;
  if (!object) return NULL;
  uint32_t count = bin_count(bin) - 1;
  bin->head = object->next;
  bin_set_count(bin, count);
  if (count < bin->low) bin->low = count;
  return object;
}

static inline struct cache *cache_get(void) {
  struct cache *cache = rille_thread_cache;
  return __builtin_expect(cache != NULL, 1) ? cache : rille_cache_make();
}

static inline struct free_object *object_take(struct cache *cache, unsigned index) {
  struct free_object *object = bin_pop(&cache->bins[index]);
  return __builtin_expect(object != NULL, 1) ? object : rille_cache_refill(cache, index);
}

static inline void object_give(struct cache *cache, unsigned index, void *object) {
  struct bin *bin = &cache->bins[index];
  bin_push(bin, object);
  if (__builtin_expect(bin_count(bin) > bin->max, 0)) rille_cache_spill(cache, index);
}

#endif
