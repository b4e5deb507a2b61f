/*
 * block: taking and giving back reference-counted memory, LinkBuffer nodes and handles, and the statistics of it all.
 * Any thread may call everything here; a block that its last owner drops goes to the cache of that owner's thread.
 */
#include "cache.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(rille_block) <= BLOCK_HEADER_SIZE, "the header of a block outgrew its place");
_Static_assert(RILLE_BLOCK_MAX == 1 << (CLASS_BITS_MIN + CLASS_COUNT - 1), "classes end at RILLE_BLOCK_MAX");

/* ---- blocks ---- */

static inline unsigned class_of(size_t size) {
  if (size <= RILLE_BLOCK_MIN) return 0;
  return (unsigned)(64 - __builtin_clzll((unsigned long long)size - 1)) - CLASS_BITS_MIN;
}

static inline void poison(rille_block *block, int pattern) {
#ifdef RILLE_CHECKED
  memset(block->data, pattern, block->size);
#else
  (void)block;
  (void)pattern;
#endif
}

static __attribute__((noinline)) rille_block *block_make(unsigned index, size_t size) {
  rille_block *block = rille_cache_alloc(BLOCK_HEADER_SIZE + size);
  if (!block) return NULL;
  block->data = (uint8_t *)block + BLOCK_HEADER_SIZE;
  block->size = size;
  block->class_index = index;
  atomic_init(&block->refs, 1);
  return block;
}

rille_block *rille_block_take(size_t size) {
  struct cache *cache = cache_get();
  if (!cache || size > RILLE_BLOCK_REQUEST_MAX) return NULL;
  rille_block *block;
  if (__builtin_expect(size <= RILLE_BLOCK_MAX, 1)) {
    unsigned index = class_of(size);
    block = (rille_block *)(void *)object_take(cache, index);
    if (block) atomic_store_explicit(&block->refs, 1, memory_order_relaxed);
    else if (!(block = block_make(index, (size_t)RILLE_BLOCK_MIN << index))) return NULL;
    add(&cache->counts.blocks[index], 1);
  } else {
    block = block_make(CLASS_HUGE, (size + 63) & ~(size_t)63);
    if (!block) return NULL;
    add(&cache->counts.blocks[CLASS_HUGE], 1);
    add(&cache->counts.huge_bytes, (int64_t)block->size);
  }
  block->next = NULL;
  poison(block, 0xA5);
  return block;
}

void rille_block_retain(rille_block *block) { atomic_fetch_add_explicit(&block->refs, 1, memory_order_relaxed); }

/* The thread has no cache: count and keep under the lock. */
static __attribute__((noinline, cold)) void block_give_shared(rille_block *block) {
  unsigned index = block->class_index;
  pthread_mutex_lock(&rille_shared.lock);
  add(&rille_shared.counts.blocks[index], -1);
  if (index == CLASS_HUGE) add(&rille_shared.counts.huge_bytes, -(int64_t)block->size);
  pthread_mutex_unlock(&rille_shared.lock);
  if (index == CLASS_HUGE) free(block);
  else rille_cache_give_shared(index, block);
}

void rille_block_release(rille_block *block) {
  /* The last owner needs no read-modify-write: nobody else is left who could add a reference. */
  if (atomic_load_explicit(&block->refs, memory_order_acquire) != 1 &&
      atomic_fetch_sub_explicit(&block->refs, 1, memory_order_acq_rel) != 1)
    return;
  poison(block, 0xDB);
  struct cache *cache = cache_get();
  unsigned index = block->class_index;
  if (!cache) {
    block_give_shared(block);
    return;
  }
  add(&cache->counts.blocks[index], -1);
  if (index == CLASS_HUGE) {
    add(&cache->counts.huge_bytes, -(int64_t)block->size);
    free(block);
    return;
  }
  object_give(cache, index, block);
}

/* ---- nodes and handles ---- */

static inline void *small_take(unsigned index) {
  struct cache *cache = cache_get();
  if (!cache) return NULL;
  void *object = object_take(cache, index);
  return object ? object : rille_cache_alloc(rille_cache_object_size(index));
}

static inline void small_give(unsigned index, void *object) {
  struct cache *cache = cache_get();
  if (cache) object_give(cache, index, object);
  else rille_cache_give_shared(index, object);
}

void *rille_node_take(void) { return small_take(BIN_NODE); }

void rille_node_give(void *node) { small_give(BIN_NODE, node); }

void *rille_handle_take(void) { return small_take(BIN_HANDLE); }

void rille_handle_give(void *handle) { small_give(BIN_HANDLE, handle); }

/* ---- statistics ---- */

void rille_count(enum rille_counter counter, int by) {
  struct cache *cache = cache_get();
  if (cache) {
    add(&cache->counts.other[counter], by);
    return;
  }
  pthread_mutex_lock(&rille_shared.lock);
  add(&rille_shared.counts.other[counter], by);
  pthread_mutex_unlock(&rille_shared.lock);
}

struct sums {
  int64_t blocks[CLASS_COUNT + 1], huge_bytes, other[RILLE_COUNTERS], cached[CLASS_COUNT];
};

static void sum_up(struct sums *sums, const struct counts *counts, const struct bin *bins) {
  for (unsigned i = 0; i <= CLASS_COUNT; i++)
    sums->blocks[i] += atomic_load_explicit(&counts->blocks[i], memory_order_relaxed);
  for (unsigned i = 0; i < CLASS_COUNT; i++) sums->cached[i] += bin_count(&bins[i]);
  sums->huge_bytes += atomic_load_explicit(&counts->huge_bytes, memory_order_relaxed);
  for (unsigned i = 0; i < RILLE_COUNTERS; i++)
    sums->other[i] += atomic_load_explicit(&counts->other[i], memory_order_relaxed);
}

void rille_block_stats_read(rille_block_stats *out) {
  struct sums sums = {0};

  pthread_mutex_lock(&rille_shared.lock);
  sum_up(&sums, &rille_shared.counts, rille_shared.bins);
  for (const struct cache *cache = rille_shared.caches; cache; cache = cache->next)
    sum_up(&sums, &cache->counts, cache->bins);
  pthread_mutex_unlock(&rille_shared.lock);

  *out = (rille_block_stats){
      .blocks_in_use = (double)sums.blocks[CLASS_HUGE],
      .bytes_in_use = (double)sums.huge_bytes,
      .slices_retained = (double)sums.other[RILLE_COUNT_RETAINED],
      .slices_leaked = (double)sums.other[RILLE_COUNT_LEAKED],
      .buffers_in_use = (double)sums.other[RILLE_COUNT_BUFFERS],
  };
  for (unsigned i = 0; i < CLASS_COUNT; i++) {
    double size = (double)((size_t)RILLE_BLOCK_MIN << i);
    out->blocks_in_use += (double)sums.blocks[i];
    out->bytes_in_use += (double)sums.blocks[i] * size;
    out->cached_blocks += (double)sums.cached[i];
    out->cached_bytes += (double)sums.cached[i] * size;
  }
}
