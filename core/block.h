/*
 * block: reference-counted memory in power-of-two classes (64 B .. 8 MiB; larger goes straight to the system), and the
 * small objects that LinkBuffers are made of: nodes, handles and epoch cells.
 *
 * Each thread has a cache of free objects, reached through one thread-local pointer and used without a lock; it
 * spills to and refills from a shared pool under a mutex. Both are bounded. An object may be given back on another
 * thread than the one that took it.
 */
#ifndef RILLE_BLOCK_H
#define RILLE_BLOCK_H

#include "rille.h"

#include <stdatomic.h>

enum {
  RILLE_BLOCK_MIN = 64,
  RILLE_BLOCK_MAX = 8 << 20,         /* largest class that is pooled */
  RILLE_BLOCK_REQUEST_MAX = 1 << 30, /* a request above it is RILLE_ERR_TOO_LARGE before any allocation */
  RILLE_NODE_SIZE = 64,              /* of one object of rille_node_take */
  RILLE_HANDLE_SIZE = 192            /* of one object of rille_handle_take */
};

struct rille_block {
  rille_block *next;     /* the one list the block stands in: free blocks, or the copies of a LinkBuffer */
  uint8_t *data;         /* immutable after init */
  size_t size;           /* immutable after init; bytes at data, the class size */
  _Atomic uint32_t refs; /* any thread */
  uint32_t class_index;  /* immutable after init */
};

/* owned, one reference; size in bytes, at most RILLE_BLOCK_REQUEST_MAX; NULL when there is no memory. The bytes are not
 * zeroed. */
rille_block *rille_block_take(size_t size);
void rille_block_retain(rille_block *block);
/* drop a reference; the last one gives the block back to the cache of the calling thread */
void rille_block_release(rille_block *block);

/* owned; uninitialised, aligned to a cache line; NULL when there is no memory */
void *rille_node_take(void);
void rille_node_give(void *node);
void *rille_handle_take(void);
void rille_handle_give(void *handle);

/*
 * What a slice points to with cell_. A slice reads nothing but the epoch as long as that does not match its own, so the
 * rest may change hands. While refs is 0 the cell belongs to a LinkBuffer; else it is that of one retained slice.
 */
typedef struct rille_cell_slot {
  rille_cell cell;
  uint32_t refs;
  union {
    const uint8_t *base; /* of the slice that was retained; a sub slice of it differs in base or size */
    void *next_free;
  };
  rille_block *block; /* one counted reference; NULL for an empty slice */
  uint32_t size;
} rille_cell_slot;

/* owned; a cell whose epoch no live slice carries; NULL when there is no memory */
rille_cell *rille_cell_take(void);
/* Expire every slice of the cell. Returns the cell to go on with: a cell whose epochs are used up is left for good, and
 * the result is NULL (take another one when it is needed). */
rille_cell *rille_cell_advance(rille_cell *cell);
/* expire every slice of the cell and give it back */
void rille_cell_give(rille_cell *cell);

static inline uint32_t rille_cell_epoch(const rille_cell *cell) {
  return __atomic_load_n(&cell->epoch, __ATOMIC_RELAXED); /* a stale slice may look while another thread advances it */
}

/* What else the statistics count; each thread counts in its own cache, so a single counter may be negative. */
enum rille_counter { RILLE_COUNT_RETAINED, RILLE_COUNT_LEAKED, RILLE_COUNT_BUFFERS, RILLE_COUNTERS };
void rille_count(enum rille_counter counter, int by);

/* Give back what the calling thread's cache (and, on its turn, the shared pool) did not need since the last call. A
 * loop calls it about once a second and whenever it becomes idle. */
void rille_block_trim(void);
/* Hand the calling thread's cache to the shared pool; also runs by itself when the thread ends. */
void rille_block_thread_end(void);
/* Free what the calling thread's cache and the shared pool hold; for the end of a process and for tests. The caches of
 * other running threads are theirs alone and stay. */
void rille_block_purge(void);

/* For tests: the next n allocations from the system work, then all fail; below 0 (as it starts) none does. */
void rille_block_fail_after(int n);

/* upper bound of the shared pool in bytes; 0 keeps nothing */
void rille_block_limit(size_t shared_bytes_max);

#endif
