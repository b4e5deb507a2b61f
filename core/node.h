/*
 * node: how a LinkBuffer looks inside; for linkbuffer*.c alone.
 *
 * The list runs from `head` (oldest byte a slice may still show) over `read` and `flush` to `write_node`. Who may touch
 * what while a reader and a writer run at once:
 *
 *   - A node's `read` is the reader's. `write`, `limit` and `fixed` are the writer's. `flushed` and `sealed` are stored
 *     by the writer and read by both. `block` and the first value of `read` are set by the writer before it publishes
 *     the node, `next` before it publishes what is behind; the reader looks at them only then.
 *   - `written` is stored by the writer after everything it covers (release), and the reader loads it first (acquire).
 *     So when bytes are readable that the reader's node does not hold, its `next` is set and final.
 *   - A node is sealed when the writer has moved on for good. The reader may pass an exhausted node without any byte
 *     behind it only when it is sealed (loaded before `flushed`).
 *   - The writer changes nodes only from `flush` on, the reader frees nodes only before `read`.
 *
 * A node that was never armed (block NULL) is empty; the writer may arm it in place while it is the last one.
 */
#ifndef RILLE_NODE_H
#define RILLE_NODE_H

#include "linkbuffer.h"

#include <stdbool.h>

enum {
  RILLE_COPY_MAX = 4096, /* write() copies up to this many bytes of a slice or buffer and links more */
  RILLE_TAIL_MAX = 8192, /* a larger block is not kept as the idle tail of a buffer, unless it was asked for ... */
  RILLE_TAIL_LIMIT = 32 << 10, /* ... by the block size of the buffer, and then up to here */
  RILLE_ROOM_MIN = 64          /* behind linked bytes the tail of a block is used on when at least so much is left */
};

typedef struct rille_node rille_node;
struct rille_node {
  rille_node *next;
  rille_block *block; /* one counted reference; NULL: not armed */
  uint8_t *read;
  _Atomic(uint8_t *) flushed;
  uint8_t *write;
  uint8_t *limit; /* room ends here; no other node may write into write .. limit */
  _Atomic uint8_t sealed;
  bool fixed; /* others may hold these bytes: room that is cut off its end is not written to again */
};

enum rille_buffer_state { RILLE_BUFFER_OPEN, RILLE_BUFFER_READ_ONLY, RILLE_BUFFER_CLOSED };

struct rille_linkbuffer {
  /* reader */
  rille_node *head, *read;
  _Atomic uint64_t consumed; /* bytes, stored by the reader */
  uint64_t released;         /* value of consumed at the last release */
  rille_cell *cell;          /* of the slices; NULL until there is one */
  rille_block *copies;       /* gathered views, newest first; freed at release */
  uint64_t copy_at;          /* the newest copy holds the bytes from this one on (counted as consumed is) ... */
  uint32_t copy_size;        /* ... and so many */
  bool is_borrowed;          /* slices were made since the last release */

  /* writer */
  rille_node *flush __attribute__((aligned(64)));
  rille_node *write_node;
  rille_node *spare;        /* room of rille_linkbuffer_reserve that is not in the list yet */
  _Atomic uint64_t written; /* flushed bytes, stored by the writer */
  uint64_t pending;         /* bytes behind flush */
  uint32_t block_size;      /* immutable after init */
  uint8_t state;            /* enum rille_buffer_state; changes only when nobody else uses the buffer */

  /* The first node stands in the handle, so that a buffer of one block takes no node from the pool. */
  rille_node first __attribute__((aligned(64)));
};

_Static_assert(sizeof(rille_node) <= RILLE_NODE_SIZE, "a node outgrew its place");
_Static_assert(sizeof(rille_linkbuffer) <= RILLE_HANDLE_SIZE, "a LinkBuffer outgrew its place");

/* where the pointers of a node without block point */
extern uint8_t rille_nothing[1];

static inline void node_init(rille_node *node) {
  node->next = NULL;
  node->block = NULL;
  node->read = node->write = node->limit = rille_nothing;
  atomic_store_explicit(&node->flushed, rille_nothing, memory_order_relaxed);
  atomic_store_explicit(&node->sealed, 0, memory_order_relaxed);
  node->fixed = false;
}

/* Give the node its block (owned): bytes from .. write are data that waits for a flush, write .. limit is room. */
static inline void node_arm(rille_node *node, rille_block *block, uint8_t *from, uint8_t *write, uint8_t *limit) {
  node->block = block;
  node->read = from;
  node->write = write;
  node->limit = limit;
  atomic_store_explicit(&node->flushed, from, memory_order_relaxed);
}

static inline void node_free(rille_linkbuffer *b, rille_node *node) {
  if (node->block) rille_block_release(node->block);
  if (node == &b->first) node->block = NULL;
  else rille_node_give(node);
}

static inline bool node_is_sealed(rille_node *node) {
  return atomic_load_explicit(&node->sealed, memory_order_acquire) != 0;
}

static inline void node_seal(rille_node *node) { atomic_store_explicit(&node->sealed, 1, memory_order_release); }

/* reader: bytes of the node that may be read */
static inline size_t node_ready(rille_node *node) {
  return (size_t)(atomic_load_explicit(&node->flushed, memory_order_acquire) - node->read);
}

/* writer: bytes of the node that wait for a flush */
static inline size_t node_pending(rille_node *node) {
  return (size_t)(node->write - atomic_load_explicit(&node->flushed, memory_order_relaxed));
}

static inline size_t node_room(const rille_node *node) { return (size_t)(node->limit - node->write); }

static inline uint64_t buffer_consumed(const rille_linkbuffer *b) {
  return atomic_load_explicit(&b->consumed, memory_order_relaxed);
}

/* bytes that may be read */
static inline uint64_t buffer_len(const rille_linkbuffer *b) {
  return atomic_load_explicit(&b->written, memory_order_acquire) - buffer_consumed(b);
}

/* 0 or why the buffer may not be written to */
static inline int buffer_writable(const rille_linkbuffer *b) {
  if (b->state == RILLE_BUFFER_OPEN) return RILLE_OK;
  return b->state == RILLE_BUFFER_CLOSED ? RILLE_ERR_CLOSED : RILLE_ERR_READ_ONLY;
}

/* A length that Lua passed: 0 or RILLE_ERR_INVALID. Lengths beyond 2^63 become SIZE_MAX, they are never cut. */
static inline int buffer_size(double n, size_t *size) {
  *size = 0;
  if (!(n >= 0) || n > 1e300) return RILLE_ERR_INVALID;
  if (n >= 0x1p63) {
    *size = SIZE_MAX;
    return RILLE_OK;
  }
  *size = (size_t)n;
  return (double)*size == n ? RILLE_OK : RILLE_ERR_INVALID;
}

/* A chain of fixed nodes, not in any list yet. */
typedef struct rille_chain {
  rille_node *first, *last;
  size_t size;
} rille_chain;

/* linkbuffer.c */
rille_linkbuffer *rille_linkbuffer_make(uint32_t block_size);
/* give every block back and start anew with nothing in the list; both sides */
void rille_linkbuffer_clear(rille_linkbuffer *b);
/* one node more at the end of the chain, over size bytes at base in block (which gets a reference) */
int rille_chain_add(rille_chain *chain, rille_block *block, const uint8_t *base, size_t size);
void rille_chain_free(rille_chain *chain);

/* linkbuffer_read.c; reader side */
/* the node that holds the next readable byte; there must be one */
rille_node *rille_linkbuffer_front(rille_linkbuffer *b);
/* the next n readable bytes as nodes of their own over the same blocks; not consumed */
int rille_linkbuffer_share(rille_linkbuffer *b, size_t n, rille_chain *chain);
void rille_linkbuffer_consume(rille_linkbuffer *b, size_t n);
/* expire all slices and free the gathered copies */
void rille_linkbuffer_expire(rille_linkbuffer *b);

#endif
