/*
 * linkbuffer: life of a LinkBuffer (new, close, free, reset, shrink) and append, which splices one into another. All of
 * it needs both sides of the buffer: the caller sees to it that nobody reads or writes it at the same time. Only the
 * target of append may be read meanwhile, for append does to it what a writer does.
 */
#include "node.h"

uint8_t rille_nothing[1];

static void start(rille_linkbuffer *b) {
  node_init(&b->first);
  b->head = b->read = b->flush = b->write_node = &b->first;
}

rille_linkbuffer *rille_linkbuffer_make(uint32_t block_size) {
  rille_linkbuffer *b = rille_handle_take();
  if (!b) return NULL;
  start(b);
  atomic_init(&b->consumed, 0);
  b->released = 0;
  b->cell = NULL;
  b->copies = NULL;
  b->copy_at = 0;
  b->copy_size = 0;
  b->is_borrowed = false;
  b->spare = NULL;
  atomic_init(&b->written, 0);
  b->pending = 0;
  b->block_size = block_size;
  b->state = RILLE_BUFFER_OPEN;
  rille_count(RILLE_COUNT_BUFFERS, 1);
  return b;
}

rille_linkbuffer *rille_linkbuffer_new(double block_size, int *err) {
  size_t size;
  *err = buffer_size(block_size, &size);
  if (*err == RILLE_OK && (size < 1 || size > RILLE_BLOCK_MAX)) *err = RILLE_ERR_INVALID;
  if (*err != RILLE_OK) return NULL;
  rille_linkbuffer *b = rille_linkbuffer_make((uint32_t)size);
  if (!b) *err = RILLE_ERR_NO_MEMORY;
  return b;
}

void rille_linkbuffer_clear(rille_linkbuffer *b) {
  for (rille_node *node = b->head; node;) {
    rille_node *next = node->next;
    node_free(b, node);
    node = next;
  }
  if (b->spare) node_free(b, b->spare);
  b->spare = NULL;
  b->pending = 0;
  uint64_t written = atomic_load_explicit(&b->written, memory_order_relaxed);
  atomic_store_explicit(&b->consumed, written, memory_order_relaxed);
  b->released = written;
  start(b);
}

void rille_linkbuffer_close(rille_linkbuffer *b) {
  if (b->state == RILLE_BUFFER_CLOSED) return;
  rille_linkbuffer_expire(b);
  rille_linkbuffer_clear(b);
  if (b->cell) rille_cell_give(b->cell);
  b->cell = NULL;
  b->state = RILLE_BUFFER_CLOSED;
  rille_count(RILLE_COUNT_BUFFERS, -1);
}

void rille_linkbuffer_free(rille_linkbuffer *b) {
  rille_linkbuffer_close(b);
  rille_handle_give(b);
}

void rille_linkbuffer_reset(rille_linkbuffer *b) {
  if (b->state == RILLE_BUFFER_CLOSED) rille_count(RILLE_COUNT_BUFFERS, 1);
  rille_linkbuffer_expire(b);
  rille_linkbuffer_clear(b);
  b->state = RILLE_BUFFER_OPEN;
}

/* ---- chains ---- */

int rille_chain_add(rille_chain *chain, rille_block *block, const uint8_t *base, size_t size) {
  rille_node *node = rille_node_take();
  if (!node) return RILLE_ERR_NO_MEMORY;
  uint8_t *from = block->data + (base - block->data);
  node_init(node);
  node_arm(node, block, from, from + size, from + size);
  node->fixed = true;
  rille_block_retain(block);
  if (chain->last) chain->last->next = node;
  else chain->first = node;
  chain->last = node;
  chain->size += size;
  return RILLE_OK;
}

void rille_chain_free(rille_chain *chain) {
  for (rille_node *node = chain->first; node;) {
    rille_node *next = node->next;
    rille_block_release(node->block);
    rille_node_give(node);
    node = next;
  }
}

/* ---- append ---- */

/* The node in the handle of `other` cannot move: `node` takes its place. */
static void replace_first(rille_linkbuffer *other, rille_node *node) {
  rille_node *from = &other->first;
  node_init(node);
  node_arm(node, from->block, from->read, from->write, from->limit);
  atomic_store_explicit(&node->flushed, atomic_load_explicit(&from->flushed, memory_order_relaxed),
                        memory_order_relaxed);
  atomic_store_explicit(&node->sealed, atomic_load_explicit(&from->sealed, memory_order_relaxed), memory_order_relaxed);
  node->fixed = from->fixed;
  node->next = from->next;
  if (other->flush == from) other->flush = node;
  if (other->write_node == from) other->write_node = node;
}

/* Bytes that could be read in the source wait for a flush in the target. Somebody may hold them (a slice, a taken
 * buffer), so what malloc_ack cuts off them must not be written to again. */
static void unpublish(rille_node *first, rille_node *last) {
  for (rille_node *node = first;; node = node->next) {
    if (node_ready(node) > 0) {
      atomic_store_explicit(&node->flushed, node->read, memory_order_relaxed);
      node->fixed = true;
    }
    atomic_store_explicit(&node->sealed, 0, memory_order_relaxed);
    if (node == last) return;
  }
}

int rille_linkbuffer_append(rille_linkbuffer *b, rille_linkbuffer *other) {
  int err = buffer_writable(b);
  if (err != RILLE_OK) return err;
  if (!other || other == b) return RILLE_ERR_INVALID;
  if (other->state == RILLE_BUFFER_CLOSED) return RILLE_ERR_CLOSED;
  uint64_t ready = buffer_len(other), pending = other->pending;
  if (ready + pending == 0) return RILLE_OK;

  rille_node *first = other->read; /* the first node that moves */
  while (node_ready(first) == 0 && node_pending(first) == 0) first = first->next;
  rille_node *replacement = NULL;
  if (first == &other->first && !(replacement = rille_node_take())) return RILLE_ERR_NO_MEMORY;

  rille_linkbuffer_expire(other);
  for (rille_node *node = other->head; node != first;) {
    rille_node *next = node->next;
    node_free(other, node);
    node = next;
  }
  if (replacement) {
    replace_first(other, replacement);
    first = replacement;
  }
  rille_node *last = other->write_node;
  other->head = NULL; /* what is left of the list goes to b */

  b->write_node->next = first;
  if (b->pending > 0) {
    unpublish(first, last);
    b->pending += ready + pending;
    b->write_node = last;
  } else {
    if (ready > 0) {
      node_seal(b->write_node);
      b->flush = other->flush;
    }
    b->write_node = last;
    b->pending = pending;
    uint64_t written = atomic_load_explicit(&b->written, memory_order_relaxed);
    atomic_store_explicit(&b->written, written + ready, memory_order_release);
  }
  rille_linkbuffer_clear(other);
  return RILLE_OK;
}
