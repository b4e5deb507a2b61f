/*
 * linkbuffer_write: the writer's side of a LinkBuffer, one thread at a time. The writer owns everything from `flush`
 * on; node.h says what it may touch while a reader runs. Nothing is changed before all that can fail has worked.
 */
#include "node.h"

#include <assert.h>
#include <string.h>

/* ---- room ---- */

/* Where room for a request of size bytes ends in a block: a block size below the smallest class is honoured too. */
static uint8_t *room_end(const rille_block *block, size_t size) {
  if (size > RILLE_BLOCK_MIN / 2) return block->data + block->size;
  size_t room = 1;
  while (room < size) room *= 2;
  return block->data + room;
}

/* A node with a new block of at least size bytes: the write node itself when it has none yet, else one that is not in
 * the list. NULL with *err. */
static rille_node *fresh_node(rille_linkbuffer *b, size_t size, int *err) {
  *err = buffer_writable(b);
  if (*err == RILLE_OK && size > RILLE_BLOCK_REQUEST_MAX) *err = RILLE_ERR_TOO_LARGE;
  if (*err != RILLE_OK) return NULL;
  rille_node *node = b->write_node;
  rille_block *block = rille_block_take(size);
  if (block && node->block) {
    node = rille_node_take();
    if (node) node_init(node);
    else rille_block_release(block);
  }
  if (!block || !node) {
    *err = RILLE_ERR_NO_MEMORY;
    return NULL;
  }
  node_arm(node, block, block->data, block->data, room_end(block, size));
  return node;
}

/* Make the write node have room for n contiguous bytes. */
static __attribute__((noinline)) int extend(rille_linkbuffer *b, size_t n) {
  int err = RILLE_OK;
  rille_node *node = b->spare;
  if (node && node_room(node) >= n) b->spare = NULL;
  else node = fresh_node(b, n > b->block_size ? n : b->block_size, &err);
  if (node && node != b->write_node) {
    b->write_node->next = node;
    b->write_node = node;
  }
  return err;
}

/* n contiguous bytes that now wait for a flush; n > 0. */
static inline uint8_t *allocate(rille_linkbuffer *b, size_t n, int *err) {
  if (node_room(b->write_node) < n && (*err = extend(b, n)) != RILLE_OK) return NULL;
  rille_node *node = b->write_node;
  uint8_t *at = node->write;
  node->write += n;
  b->pending += n;
  *err = RILLE_OK;
  return at;
}

uint8_t *rille_linkbuffer_malloc(rille_linkbuffer *b, double n, int *err) {
  size_t size;
  *err = buffer_size(n, &size);
  if (*err == RILLE_OK && size == 0) *err = buffer_writable(b);
  if (*err != RILLE_OK) return NULL;
  return size > 0 ? allocate(b, size, err) : rille_nothing;
}

double rille_linkbuffer_malloc_len(const rille_linkbuffer *b) { return (double)b->pending; }

/* ---- publishing ---- */

static inline void publish(rille_linkbuffer *b) {
  rille_node *last = b->write_node;
  for (rille_node *node = b->flush; node != last;) {
    rille_node *next = node->next;
    atomic_store_explicit(&node->flushed, node->write, memory_order_release);
    node_seal(node); /* from here on the reader may free it */
    node = next;
  }
  atomic_store_explicit(&last->flushed, last->write, memory_order_release);
  b->flush = last;
  uint64_t written = atomic_load_explicit(&b->written, memory_order_relaxed);
  atomic_store_explicit(&b->written, written + b->pending, memory_order_release);
  b->pending = 0;
}

/* A large block is not kept for the little that may come next: an empty node behind it lets the reader free it. */
static void leave_large_tail(rille_linkbuffer *b) {
  rille_node *last = b->write_node;
  if (!last->block || last->block->size <= RILLE_TAIL_MAX) return;
  if (last->block->size <= RILLE_TAIL_LIMIT && last->block->size / 2 < b->block_size) return;
  rille_node *node = rille_node_take();
  if (!node) return; /* no harm: the block is freed later */
  node_init(node);
  last->next = node;
  b->flush = b->write_node = node;
  node_seal(last);
}

int rille_linkbuffer_flush(rille_linkbuffer *b) {
  int err = buffer_writable(b);
  if (err != RILLE_OK) return err;
  if (b->pending > 0) publish(b);
  leave_large_tail(b);
  return RILLE_OK;
}

/* ---- positions among the unflushed bytes ---- */

/* The node with the end of the first n unflushed bytes; *at points behind them. */
static rille_node *locate(rille_linkbuffer *b, uint64_t n, uint8_t **at) {
  rille_node *node = b->flush;
  for (size_t k = node_pending(node); n > k; k = node_pending(node)) {
    n -= k;
    node = node->next;
  }
  *at = atomic_load_explicit(&node->flushed, memory_order_relaxed) + n;
  return node;
}

int rille_linkbuffer_malloc_ack(rille_linkbuffer *b, double n) {
  size_t size;
  int err = buffer_size(n, &size);
  if (err == RILLE_OK) err = buffer_writable(b);
  if (err == RILLE_OK && size > b->pending) err = RILLE_ERR_INVALID;
  if (err != RILLE_OK) return err;

  uint8_t *at;
  rille_node *last = locate(b, size, &at);
  last->write = at;
  if (last->fixed) last->limit = at;
  for (rille_node *node = last->next; node;) {
    rille_node *next = node->next;
    /* a block that write_direct had split grows together again */
    uint8_t *from = atomic_load_explicit(&node->flushed, memory_order_relaxed);
    if (node->block == last->block && from == last->limit && !last->fixed && !node->fixed) last->limit = node->limit;
    node_free(b, node);
    node = next;
  }
  last->next = NULL;
  b->write_node = last;
  b->pending = size;
  return RILLE_OK;
}

/* Put the chain in front of the last `remain` unflushed bytes. A node that this splits keeps its block in both halves;
 * the room at the end belongs to the second. */
static int insert(rille_linkbuffer *b, const rille_chain *chain, uint64_t remain) {
  uint8_t *at;
  rille_node *node = locate(b, b->pending - remain, &at);
  bool splits = at < node->write || (node == b->write_node && node_room(node) >= RILLE_ROOM_MIN);
  if (splits) {
    rille_node *rest = rille_node_take();
    if (!rest) return RILLE_ERR_NO_MEMORY;
    node_init(rest);
    node_arm(rest, node->block, at, node->write, node->limit);
    rest->fixed = node->fixed;
    rille_block_retain(node->block);
    node->write = node->limit = at;
    chain->last->next = rest;
    rest->next = node->next;
    if (node == b->write_node) b->write_node = rest;
  } else {
    chain->last->next = node->next;
    if (node == b->write_node) b->write_node = chain->last;
  }
  node->next = chain->first;
  b->pending += chain->size;
  return RILLE_OK;
}

static int insert_or_free(rille_linkbuffer *b, rille_chain *chain, uint64_t remain) {
  int err = chain->size > 0 ? insert(b, chain, remain) : RILLE_OK;
  if (err != RILLE_OK) rille_chain_free(chain);
  return err;
}

/* ---- write ---- */

int rille_linkbuffer_write(rille_linkbuffer *b, const char *bytes, size_t size) {
  int err;
  if (size == 0) return buffer_writable(b);
  uint8_t *to = allocate(b, size, &err);
  if (to) memcpy(to, bytes, size);
  return err;
}

static inline bool is_expired(const rille_slice *s) { return !s->cell_ || rille_cell_epoch(s->cell_) != s->epoch_; }

static int link_slice(rille_linkbuffer *b, const rille_slice *s, uint64_t remain) {
  rille_chain chain = {0};
  int err = rille_chain_add(&chain, s->block_, s->base_, s->size_);
  return err == RILLE_OK ? insert_or_free(b, &chain, remain) : err;
}

int rille_linkbuffer_write_slice(rille_linkbuffer *b, const rille_slice *s) {
  int err = buffer_writable(b);
  if (err != RILLE_OK) return err;
  if (is_expired(s)) return RILLE_ERR_EXPIRED;
  if (s->size_ <= RILLE_COPY_MAX) return rille_linkbuffer_write(b, (const char *)s->base_, s->size_);
  return link_slice(b, s, 0);
}

/* What both ways to write a buffer check; *size is what can be read of it. */
static int source(const rille_linkbuffer *b, const rille_linkbuffer *from, size_t *size) {
  int err = buffer_writable(b);
  if (err != RILLE_OK) return err;
  if (!from) return RILLE_ERR_INVALID;
  if (from->state == RILLE_BUFFER_CLOSED) return RILLE_ERR_CLOSED;
  *size = (size_t)buffer_len(from);
  return RILLE_OK;
}

static int link_buffer(rille_linkbuffer *b, rille_linkbuffer *from, size_t size, uint64_t remain) {
  rille_chain chain;
  int err = rille_linkbuffer_share(from, size, &chain);
  return err == RILLE_OK ? insert_or_free(b, &chain, remain) : err;
}

int rille_linkbuffer_write_buffer(rille_linkbuffer *b, rille_linkbuffer *from) {
  size_t size;
  int err = source(b, from, &size);
  if (err != RILLE_OK || size == 0) return err;
  if (size > RILLE_COPY_MAX) return link_buffer(b, from, size, 0);
  uint8_t *to = allocate(b, size, &err);
  if (to) rille_linkbuffer_copy(from, 0, to, size);
  return err;
}

/* ---- write_direct ---- */

static int check_remain(const rille_linkbuffer *b, double remain, size_t *size) {
  int err = buffer_size(remain, size);
  if (err == RILLE_OK) err = buffer_writable(b);
  if (err == RILLE_OK && *size > b->pending) err = RILLE_ERR_INVALID;
  return err;
}

int rille_linkbuffer_write_direct(rille_linkbuffer *b, const char *bytes, size_t size, double remain) {
  size_t behind;
  int err = check_remain(b, remain, &behind);
  if (err != RILLE_OK || size == 0) return err;
  if (behind == 0) return rille_linkbuffer_write(b, bytes, size);
  if (size > RILLE_BLOCK_REQUEST_MAX) return RILLE_ERR_TOO_LARGE;
  rille_block *block = rille_block_take(size);
  if (!block) return RILLE_ERR_NO_MEMORY;
  memcpy(block->data, bytes, size);
  rille_chain chain = {0};
  err = rille_chain_add(&chain, block, block->data, size);
  rille_block_release(block); /* the chain has a reference of its own */
  return err == RILLE_OK ? insert_or_free(b, &chain, behind) : err;
}

int rille_linkbuffer_write_direct_slice(rille_linkbuffer *b, const rille_slice *s, double remain) {
  size_t behind;
  int err = check_remain(b, remain, &behind);
  if (err != RILLE_OK) return err;
  if (is_expired(s)) return RILLE_ERR_EXPIRED;
  return s->size_ > 0 ? link_slice(b, s, behind) : RILLE_OK;
}

int rille_linkbuffer_write_direct_buffer(rille_linkbuffer *b, rille_linkbuffer *from, double remain) {
  size_t behind, size;
  int err = check_remain(b, remain, &behind);
  if (err == RILLE_OK) err = source(b, from, &size);
  return err == RILLE_OK ? link_buffer(b, from, size, behind) : err;
}

/* ---- scalars ---- */

int rille_linkbuffer_write_scalar(rille_linkbuffer *b, uint64_t value, int size, int little) {
  int err;
  if (size < 1 || size > 8) return RILLE_ERR_INVALID;
  uint8_t *to = allocate(b, (size_t)size, &err);
  if (!to) return err;
  for (int i = 0; i < size; i++) {
    to[little ? i : size - 1 - i] = (uint8_t)value;
    value >>= 8;
  }
  return RILLE_OK;
}

int rille_linkbuffer_write_varint(rille_linkbuffer *b, uint64_t value) {
  char bytes[10];
  size_t size = 0;
  for (; value >= 0x80; value >>= 7) bytes[size++] = (char)(value | 0x80);
  bytes[size++] = (char)value;
  return rille_linkbuffer_write(b, bytes, size);
}

/* ---- for the connection ---- */

int rille_linkbuffer_reserve(rille_linkbuffer *b, size_t min_size, size_t new_size, struct iovec areas[2]) {
  rille_node *last = b->write_node;
  size_t room = node_room(last);
  if (min_size == 0) min_size = 1;
  bool is_enough = room >= min_size;
  if (!is_enough && (!b->spare || node_room(b->spare) < min_size)) {
    int err;
    rille_node *node = fresh_node(b, new_size > min_size ? new_size : min_size, &err);
    if (!node) return err;
    if (node == last) {
      room = node_room(last);
      is_enough = true;
    } else {
      if (b->spare) node_free(b, b->spare);
      b->spare = node;
    }
  }
  int count = 0;
  if (room > 0) areas[count++] = (struct iovec){.iov_base = last->write, .iov_len = room};
  if (!is_enough) areas[count++] = (struct iovec){.iov_base = b->spare->write, .iov_len = node_room(b->spare)};
  return count;
}

void rille_linkbuffer_commit(rille_linkbuffer *b, size_t n) {
  rille_node *last = b->write_node;
  size_t room = node_room(last);
  assert(n <= room || (b->spare && n - room <= node_room(b->spare)));
  b->pending += n;
  if (n > room) {
    last->write = last->limit;
    last->next = b->spare;
    last = b->write_node = b->spare;
    b->spare = NULL;
    n -= room;
  }
  last->write += n;
  if (b->pending > 0) publish(b);
  if (b->spare && b->spare->block->size > RILLE_TAIL_MAX) {
    node_free(b, b->spare);
    b->spare = NULL;
  }
}
