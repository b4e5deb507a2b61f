/*
 * parcel: what a job carries, there and back: bytes that Lua encoded, and slices and LinkBuffers that cross as they are. One
 * thread at a time has it; it changes hands under the pool's lock.
 *
 * A slice gets a counted reference of its own; the sender's is not touched. What is in a LinkBuffer moves to one that belongs to
 * the parcel, so the sender's handle stays his, and empty.
 */
#include "pool.h"

#include <stdlib.h>
#include <string.h>

enum { ITEMS_FIRST = 4, ITEMS_MAX = 4096 };

int rille_parcel_set(rille_parcel *parcel, const char *bytes, size_t size) {
  char *copy = malloc(size > 0 ? size : 1);
  if (!copy) return RILLE_ERR_NO_MEMORY;
  memcpy(copy, bytes, size);
  free(parcel->bytes);
  parcel->bytes = copy;
  parcel->size = size;
  return RILLE_OK;
}

const char *rille_parcel_bytes(const rille_parcel *parcel, double *size) {
  *size = (double)parcel->size;
  return parcel->bytes;
}

static rille_parcel_item *add(rille_parcel *parcel, int *err) {
  *err = parcel->count < ITEMS_MAX ? RILLE_ERR_NO_MEMORY : RILLE_ERR_TOO_LARGE;
  if (parcel->count == ITEMS_MAX) return NULL;
  if (parcel->count == parcel->capacity) {
    uint32_t capacity = parcel->capacity ? parcel->capacity * 2 : ITEMS_FIRST;
    rille_parcel_item *items = realloc(parcel->items, sizeof *items * capacity);
    if (!items) return NULL;
    parcel->items = items;
    parcel->capacity = capacity;
  }
  *err = RILLE_OK;
  rille_parcel_item *item = &parcel->items[parcel->count];
  memset(item, 0, sizeof *item);
  return item;
}

int rille_parcel_add_slice(rille_parcel *parcel, const rille_slice *s) {
  int err;
  rille_parcel_item *item = add(parcel, &err);
  if (!item) return err;
  err = rille_slice_copy(s, &item->slice);
  if (!err) parcel->count++;
  return err;
}

int rille_parcel_add_buffer(rille_parcel *parcel, rille_linkbuffer *from) {
  int err;
  rille_parcel_item *item = add(parcel, &err);
  if (!item) return err;
  if (rille_linkbuffer_skip(from, 0) == RILLE_ERR_CLOSED) return RILLE_ERR_CLOSED;
  item->buffer = rille_linkbuffer_new(4096, &err);
  if (!item->buffer) return err;
  item->from = from;
  parcel->count++;
  return RILLE_OK;
}

int rille_parcel_close(rille_parcel *parcel) {
  for (uint32_t i = 0; i < parcel->count; i++) {
    rille_parcel_item *item = &parcel->items[i];
    if (!item->from) continue;
    int err = rille_linkbuffer_append(item->buffer, item->from);
    if (err) return err;
    item->from = NULL;
  }
  return RILLE_OK;
}

int rille_parcel_take_slice(rille_parcel *parcel, rille_slice *out) {
  if (parcel->taken == parcel->count || parcel->items[parcel->taken].buffer) return 0;
  *out = parcel->items[parcel->taken++].slice;
  return 1;
}

rille_linkbuffer *rille_parcel_take_buffer(rille_parcel *parcel) {
  if (parcel->taken == parcel->count || !parcel->items[parcel->taken].buffer) return NULL;
  return parcel->items[parcel->taken++].buffer;
}

void rille_parcel_free(rille_parcel *parcel) {
  for (uint32_t i = parcel->taken; i < parcel->count; i++) {
    rille_parcel_item *item = &parcel->items[i];
    if (item->buffer) rille_linkbuffer_free(item->buffer);
    else rille_slice_release(&item->slice);
  }
  free(parcel->items);
  free(parcel->bytes);
  memset(parcel, 0, sizeof *parcel);
}
