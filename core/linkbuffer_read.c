/*
 * linkbuffer_read: the reader's side of a LinkBuffer, one thread at a time. The reader owns head, read, the cell and
 * the gathered copies; node.h says what it may look at while a writer runs.
 */
#include "node.h"

#include <assert.h>
#include <string.h>

/* ---- walking ---- */

rille_node *rille_linkbuffer_front(rille_linkbuffer *b) {
  rille_node *node = b->read;
  while (node_ready(node) == 0) node = node->next;
  b->read = node;
  return node;
}

void rille_linkbuffer_consume(rille_linkbuffer *b, size_t n) {
  if (n == 0) return;
  atomic_store_explicit(&b->consumed, buffer_consumed(b) + n, memory_order_relaxed);
  rille_node *node = rille_linkbuffer_front(b);
  for (;;) {
    size_t k = node_ready(node);
    if (k >= n) break;
    node->read += k;
    n -= k;
    node = node->next;
  }
  node->read += n;
  b->read = node;
}

void rille_linkbuffer_copy(rille_linkbuffer *b, size_t skip, uint8_t *to, size_t n) {
  if (n == 0) return;
  rille_node *node = rille_linkbuffer_front(b);
  for (size_t k = node_ready(node); skip >= k; k = node_ready(node)) {
    skip -= k;
    node = node->next;
  }
  const uint8_t *from = node->read + skip;
  for (size_t k = node_ready(node) - skip; k < n; k = node_ready(node)) {
    memcpy(to, from, k);
    to += k;
    n -= k;
    node = node->next;
    from = node->read;
  }
  memcpy(to, from, n);
}

int rille_linkbuffer_share(rille_linkbuffer *b, size_t n, rille_chain *chain) {
  *chain = (rille_chain){0};
  if (n == 0) return RILLE_OK;
  for (rille_node *node = rille_linkbuffer_front(b);; node = node->next) {
    size_t k = node_ready(node);
    if (k > n) k = n;
    if (k > 0 && rille_chain_add(chain, node->block, node->read, k) != RILLE_OK) {
      rille_chain_free(chain);
      return RILLE_ERR_NO_MEMORY;
    }
    n -= k;
    if (n == 0) return RILLE_OK; /* before looking at next, which may still be the writer's */
  }
}

/* Free the nodes that are read to the end. */
static void free_passed(rille_linkbuffer *b) {
  rille_node *to = b->read;
  while (node_is_sealed(to) && node_ready(to) == 0) to = to->next;
  for (rille_node *node = b->head; node != to;) {
    rille_node *next = node->next;
    node_free(b, node);
    node = next;
  }
  b->head = b->read = to;
}

/* ---- lengths ---- */

/* Everything but a length of at least 1 that is there. */
static __attribute__((noinline, cold)) int unusual(const rille_linkbuffer *b, double n) {
  size_t size;
  if (buffer_size(n, &size) != RILLE_OK) return RILLE_ERR_INVALID;
  if (b->state == RILLE_BUFFER_CLOSED) return RILLE_ERR_CLOSED;
  return n > 0 ? RILLE_ERR_SHORT : RILLE_OK;
}

/* The size of a read: 0, or why it cannot be. */
static inline int want(const rille_linkbuffer *b, double n, size_t *size) {
  *size = 0;
  if (!(n > 0) || n > (double)buffer_len(b)) return unusual(b, n);
  *size = (size_t)n;
  return (double)*size == n ? RILLE_OK : RILLE_ERR_INVALID;
}

double rille_linkbuffer_len(const rille_linkbuffer *b) { return (double)buffer_len(b); }

size_t rille_linkbuffer_readable(const rille_linkbuffer *b) { return (size_t)buffer_len(b); }

size_t rille_linkbuffer_total(const rille_linkbuffer *b) { return (size_t)(buffer_len(b) + b->pending); }

size_t rille_linkbuffer_held(const rille_linkbuffer *b) { return (size_t)(buffer_consumed(b) - b->released); }

int rille_linkbuffer_is_read_only(const rille_linkbuffer *b) { return b->state == RILLE_BUFFER_READ_ONLY; }

/* ---- views ---- */

/* One piece of memory with the next size bytes, which lie in several nodes. The newest copy serves again when it covers
 * them, and grows in place while its block has room: what it holds already stays where slices point to. */
static __attribute__((noinline)) int gather(rille_linkbuffer *b, size_t size, rille_slice *out) {
  if (size > RILLE_BLOCK_REQUEST_MAX) return RILLE_ERR_TOO_LARGE;
  rille_block *copy = b->copies;
  uint64_t offset = buffer_consumed(b) - b->copy_at;
  if (!copy || offset > b->copy_size || offset + size > copy->size) {
    copy = rille_block_take(size);
    if (!copy) return RILLE_ERR_NO_MEMORY;
    copy->next = b->copies;
    b->copies = copy;
    b->copy_at = buffer_consumed(b);
    b->copy_size = 0;
    offset = 0;
  }
  if (offset + size > b->copy_size) {
    size_t have = b->copy_size - (size_t)offset;
    rille_linkbuffer_copy(b, have, copy->data + b->copy_size, size - have);
    b->copy_size += (uint32_t)(size - have);
  }
  out->base_ = copy->data + offset;
  out->block_ = copy;
  return RILLE_OK;
}

static __attribute__((noinline, cold)) int take_cell(rille_linkbuffer *b) {
  b->cell = rille_cell_take();
  return b->cell ? RILLE_OK : RILLE_ERR_NO_MEMORY;
}

static inline int view(rille_linkbuffer *b, size_t size, rille_slice *out) {
  int err;
  if (!b->cell && (err = take_cell(b)) != RILLE_OK) return err;
  if (size > 0) {
    rille_node *node = rille_linkbuffer_front(b);
    if (node_ready(node) >= size) {
      out->base_ = node->read;
      out->block_ = node->block;
    } else if ((err = gather(b, size, out)) != RILLE_OK) {
      return err;
    }
  } else {
    out->base_ = rille_nothing;
    out->block_ = NULL;
  }
  out->cell_ = b->cell;
  out->epoch_ = rille_cell_epoch(b->cell);
  out->size_ = (uint32_t)size;
  b->is_borrowed = true;
  return RILLE_OK;
}

int rille_linkbuffer_peek(rille_linkbuffer *b, double n, rille_slice *out) {
  size_t size;
  int err = want(b, n, &size);
  return err == RILLE_OK ? view(b, size, out) : err;
}

int rille_linkbuffer_next(rille_linkbuffer *b, double n, rille_slice *out) {
  size_t size;
  int err = want(b, n, &size);
  if (err == RILLE_OK) err = view(b, size, out);
  if (err == RILLE_OK) rille_linkbuffer_consume(b, size);
  return err;
}

void rille_linkbuffer_expire(rille_linkbuffer *b) {
  if (!b->is_borrowed) return;
  b->is_borrowed = false;
  b->cell = rille_cell_advance(b->cell);
  for (rille_block *copy = b->copies; copy;) {
    rille_block *next = copy->next;
    rille_block_release(copy);
    copy = next;
  }
  b->copies = NULL;
}

int rille_linkbuffer_release(rille_linkbuffer *b) {
  rille_linkbuffer_expire(b);
  b->released = buffer_consumed(b);
  if (b->state == RILLE_BUFFER_READ_ONLY && buffer_len(b) == 0) rille_linkbuffer_clear(b); /* no writer keeps a tail */
  else free_passed(b);
  return RILLE_OK;
}

/* ---- reading without a view ---- */

int rille_linkbuffer_skip(rille_linkbuffer *b, double n) {
  size_t size;
  int err = want(b, n, &size);
  if (err != RILLE_OK) return err;
  rille_linkbuffer_consume(b, size);
  return RILLE_OK;
}

const uint8_t *rille_linkbuffer_front_bytes(rille_linkbuffer *b, double n) {
  size_t size;
  if (want(b, n, &size) != RILLE_OK || size == 0) return NULL;
  rille_node *node = rille_linkbuffer_front(b);
  return node_ready(node) >= size ? node->read : NULL;
}

int rille_linkbuffer_read_copy(rille_linkbuffer *b, uint8_t *to, double n) {
  size_t size;
  int err = want(b, n, &size);
  if (err != RILLE_OK) return err;
  rille_linkbuffer_copy(b, 0, to, size);
  rille_linkbuffer_consume(b, size);
  return RILLE_OK;
}

int rille_linkbuffer_read_byte(rille_linkbuffer *b) {
  if (buffer_len(b) == 0) return b->state == RILLE_BUFFER_CLOSED ? RILLE_ERR_CLOSED : RILLE_ERR_SHORT;
  rille_node *node = rille_linkbuffer_front(b);
  atomic_store_explicit(&b->consumed, buffer_consumed(b) + 1, memory_order_relaxed);
  return *node->read++;
}

rille_linkbuffer *rille_linkbuffer_take(rille_linkbuffer *b, double n, int *err) {
  size_t size;
  rille_chain chain;
  *err = want(b, n, &size);
  if (*err != RILLE_OK) return NULL;
  *err = rille_linkbuffer_share(b, size, &chain);
  if (*err != RILLE_OK) return NULL;
  rille_linkbuffer *taken = rille_linkbuffer_make(b->block_size);
  if (!taken) {
    rille_chain_free(&chain);
    *err = RILLE_ERR_NO_MEMORY;
    return NULL;
  }
  taken->state = RILLE_BUFFER_READ_ONLY;
  if (size > 0) {
    taken->first.next = chain.first;
    node_seal(&taken->first);
    for (rille_node *node = chain.first; node; node = node->next) {
      atomic_store_explicit(&node->flushed, node->write, memory_order_relaxed);
      if (node != chain.last) node_seal(node);
    }
    taken->flush = taken->write_node = chain.last;
    atomic_store_explicit(&taken->written, size, memory_order_release);
  }
  rille_linkbuffer_consume(b, size);
  return taken;
}

/* ---- searching ---- */

static inline const uint8_t *find_in(const uint8_t *at, size_t size, const uint8_t *delim, size_t delim_size) {
  return delim_size == 1 ? memchr(at, *delim, size) : memmem(at, size, delim, delim_size);
}

/* Do the bytes from `at` in node on, over as many nodes as it takes, equal delim? The caller knows they are there. */
static bool stands_at(rille_node *node, const uint8_t *at, const uint8_t *delim, size_t size) {
  for (;;) {
    size_t k = node_ready(node) - (size_t)(at - node->read);
    if (k > size) k = size;
    if (memcmp(at, delim, k) != 0) return false;
    size -= k;
    if (size == 0) return true;
    delim += k;
    node = node->next;
    at = node->read;
  }
}

/* Offset of the first match at or after from, -1 when there is none. Whole matches inside a node are left to memmem;
 * only the last delim_size - 1 starts of a node are compared across the seam. */
static int64_t find(rille_linkbuffer *b, const uint8_t *delim, size_t delim_size, size_t from) {
  uint64_t length = buffer_len(b);
  if (delim_size > length || from > length - delim_size) return -1;
  uint64_t offset = from; /* of `at` */
  rille_node *node = rille_linkbuffer_front(b);
  size_t ready = node_ready(node);
  while (from >= ready) {
    from -= ready;
    node = node->next;
    ready = node_ready(node);
  }
  const uint8_t *at = node->read + from;
  ready -= from;
  for (;;) {
    if (ready > length - offset) ready = (size_t)(length - offset); /* the writer may have published more */
    const uint8_t *match = find_in(at, ready, delim, delim_size);
    if (match) return (int64_t)offset + (match - at);
    size_t start = ready >= delim_size ? ready - delim_size + 1 : 0;
    for (; start < ready && offset + start + delim_size <= length; start++) {
      if (at[start] == delim[0] && stands_at(node, at + start, delim, delim_size)) return (int64_t)(offset + start);
    }
    offset += ready;
    if (length - offset < delim_size) return -1;
    node = node->next;
    at = node->read;
    ready = node_ready(node);
  }
}

double rille_linkbuffer_index_of(rille_linkbuffer *b, const char *delim, size_t delim_size, double from) {
  size_t start;
  int err = delim_size == 0 ? RILLE_ERR_INVALID : buffer_size(from, &start);
  if (err == RILLE_OK && b->state == RILLE_BUFFER_CLOSED) err = RILLE_ERR_CLOSED;
  if (err != RILLE_OK) return err - 1;
  return (double)find(b, (const uint8_t *)delim, delim_size, start);
}

int rille_linkbuffer_read_until(rille_linkbuffer *b, const char *delim, size_t delim_size, rille_slice *out) {
  if (delim_size == 0) return RILLE_ERR_INVALID;
  if (b->state == RILLE_BUFFER_CLOSED) return RILLE_ERR_CLOSED;
  int64_t at = find(b, (const uint8_t *)delim, delim_size, 0);
  if (at < 0) return RILLE_ERR_SHORT;
  size_t size = (size_t)at + delim_size;
  int err = view(b, size, out);
  if (err == RILLE_OK) rille_linkbuffer_consume(b, size);
  return err;
}

/* ---- for the connection ---- */

int rille_linkbuffer_areas(rille_linkbuffer *b, struct iovec *areas, int max) {
  uint64_t length = buffer_len(b);
  if (length == 0) return 0;
  int count = 0;
  for (rille_node *node = rille_linkbuffer_front(b); count < max; node = node->next) {
    size_t k = node_ready(node);
    if (k > length) k = (size_t)length;
    if (k > 0) areas[count++] = (struct iovec){.iov_base = node->read, .iov_len = k};
    length -= k;
    if (length == 0) break;
  }
  return count;
}

size_t rille_linkbuffer_piece(rille_linkbuffer *b, size_t at, const uint8_t **from) {
  uint64_t length = buffer_len(b);
  if (at >= length) return 0;
  length -= at;
  rille_node *node = rille_linkbuffer_front(b);
  size_t ready = node_ready(node);
  while (at >= ready) {
    at -= ready;
    node = node->next;
    ready = node_ready(node);
  }
  *from = node->read + at;
  return ready - at < length ? ready - at : (size_t)length;
}

uint64_t rille_linkbuffer_position(const rille_linkbuffer *b) { return buffer_consumed(b); }

void rille_linkbuffer_drop(rille_linkbuffer *b, size_t n) {
  assert(n <= buffer_len(b));
  rille_linkbuffer_consume(b, n);
  b->released = buffer_consumed(b);
  free_passed(b);
}
