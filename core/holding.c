/*
 * holding: what of a ctx cannot go as bytes: retained slices and LinkBuffers. Both are views of blocks that are counted, so whoever gets
 * something of it gets a handle of his own, and the holding keeps its: a connection that goes back gets the same once more. Loop thread.
 */
#include "luggage.h"
#include "node.h"

#include <stdlib.h>

enum { ITEMS_FIRST = 4 };

typedef struct item {
  rille_slice slice;        /* owned, when buffer is NULL */
  rille_linkbuffer *buffer; /* owned; what could be read of the script's */
} item;

struct rille_holding {
  uint32_t count, capacity;
  item *items; /* owned */
};

rille_holding *rille_holding_new(void) { return calloc(1, sizeof(rille_holding)); }

void rille_holding_free(rille_holding *h) {
  if (!h) return;
  for (uint32_t i = 0; i < h->count; i++) {
    if (h->items[i].buffer) rille_linkbuffer_free(h->items[i].buffer);
    else rille_slice_release(&h->items[i].slice);
  }
  free(h->items);
  free(h);
}

/* Room for one more; it counts once the caller says so. */
static item *next_item(rille_holding *h, int *err) {
  *err = h->count < RILLE_HOLDING_MAX ? RILLE_ERR_NO_MEMORY : RILLE_ERR_FULL;
  if (h->count == RILLE_HOLDING_MAX) return NULL;
  if (h->count == h->capacity) {
    uint32_t capacity = h->capacity ? h->capacity * 2 : ITEMS_FIRST;
    item *items = realloc(h->items, sizeof *items * capacity);
    if (!items) return NULL;
    h->items = items;
    h->capacity = capacity;
  }
  *err = RILLE_OK;
  h->items[h->count] = (item){0};
  return &h->items[h->count];
}

int rille_holding_add_slice(rille_holding *h, const rille_slice *s) {
  int err;
  item *one = next_item(h, &err);
  if (one) err = rille_slice_copy(s, &one->slice);
  return err ? err : (int)h->count++;
}

/* Another buffer over the same blocks. */
static rille_linkbuffer *copy_of(rille_linkbuffer *b, int *err) {
  *err = rille_linkbuffer_skip(b, 0); /* RILLE_ERR_CLOSED */
  rille_linkbuffer *copy = *err ? NULL : rille_linkbuffer_new(b->block_size, err);
  if (!copy) return NULL;
  *err = rille_linkbuffer_write_buffer(copy, b);
  if (!*err) *err = rille_linkbuffer_flush(copy);
  if (!*err) return copy;
  rille_linkbuffer_free(copy);
  return NULL;
}

int rille_holding_add_buffer(rille_holding *h, rille_linkbuffer *b) {
  int err;
  item *one = next_item(h, &err);
  if (one) one->buffer = copy_of(b, &err);
  return err ? err : (int)h->count++;
}

int rille_holding_slice(const rille_holding *h, uint32_t index, rille_slice *out) {
  if (index >= h->count || h->items[index].buffer) return RILLE_ERR_NOT_FOUND;
  return rille_slice_copy(&h->items[index].slice, out);
}

rille_linkbuffer *rille_holding_buffer(const rille_holding *h, uint32_t index, int *err) {
  *err = RILLE_ERR_NOT_FOUND;
  if (index >= h->count || !h->items[index].buffer) return NULL;
  return copy_of(h->items[index].buffer, err);
}
