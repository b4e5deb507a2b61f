/*
 * cell: the epochs that slices compare with their own. A cell comes from a slab that is never returned to the system,
 * because a stale slice may look at the epoch at any time, on any thread. A cell belongs to one LinkBuffer or to one
 * retained slice, and is advanced and given back by the thread that uses that.
 */
#include "cache.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS_PER_SLAB = 128 };

static const uint32_t EPOCH_FIRST = 1;         /* a zeroed slice is never valid */
static const uint32_t EPOCH_DEAD = UINT32_MAX; /* no slice carries it */

_Static_assert(sizeof(rille_cell_slot) == 32, "128 cells fill a slab of 4 KiB");
_Static_assert(offsetof(rille_cell_slot, cell) == 0, "a cell pointer is a slot pointer");

struct slab {
  struct slab *next;
};

/* The free list of cells goes through next_free, so that the epoch stays readable. */
static inline rille_cell_slot *slot_of_link(struct free_object *link) {
  return (rille_cell_slot *)(void *)((char *)link - offsetof(rille_cell_slot, next_free));
}

static inline void slot_give(struct cache *cache, rille_cell_slot *slot) {
  if (cache) object_give(cache, BIN_CELL, &slot->next_free);
  else rille_cache_give_shared(BIN_CELL, &slot->next_free);
}

static __attribute__((noinline, cold)) rille_cell_slot *slab_make(struct cache *cache) {
  size_t size = CELLS_PER_SLAB * sizeof(rille_cell_slot);
  rille_cell_slot *slots = rille_cache_alloc(size);
  if (!slots) return NULL;
  memset(slots, 0, size);
  struct slab *slab = (struct slab *)(void *)slots; /* the first place holds the link of the slabs */
  pthread_mutex_lock(&rille_shared.lock);
  slab->next = rille_shared.slabs;
  rille_shared.slabs = slab;
  pthread_mutex_unlock(&rille_shared.lock);
  for (unsigned i = 1; i < CELLS_PER_SLAB; i++) {
    slots[i].cell.epoch = EPOCH_FIRST;
    if (i > 1) slot_give(cache, &slots[i]);
  }
  return &slots[1];
}

rille_cell *rille_cell_take(void) {
  struct cache *cache = cache_get();
  if (!cache) return NULL;
  struct free_object *link = object_take(cache, BIN_CELL);
  rille_cell_slot *slot = link ? slot_of_link(link) : slab_make(cache);
  if (!slot) return NULL;
  slot->refs = 0;
  slot->base = NULL;
  slot->block = NULL;
  slot->size = 0;
  return &slot->cell;
}

rille_cell *rille_cell_advance(rille_cell *cell) {
  uint32_t epoch = rille_cell_epoch(cell) + 1;
  __atomic_store_n(&cell->epoch, epoch, __ATOMIC_RELEASE);
  return __builtin_expect(epoch != EPOCH_DEAD, 1) ? cell : NULL;
}

void rille_cell_give(rille_cell *cell) {
  if (rille_cell_advance(cell)) slot_give(cache_get(), (rille_cell_slot *)cell);
}
