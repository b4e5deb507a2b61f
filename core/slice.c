/*
 * slice: borrowed views of bytes. A slice is a plain struct that Lua holds by value; it is valid while the epoch in its
 * cell is its own. A retained slice has a cell of its own with a counted reference to the block, so it outlives the
 * buffer, and whoever holds it may hand it to another thread; one thread at a time uses it.
 */
#include "block.h"

#include <stdbool.h>
#include <string.h>

_Static_assert(sizeof(rille_slice) == 32, "Lua builds slices field by field");

static bool is_valid(const rille_slice *s) { return s->cell_ && rille_cell_epoch(s->cell_) == s->epoch_; }

/* The slot when s itself holds the references of a retained slice, NULL when it borrows: a sub slice of a retained one
 * has the same cell but differs in its extent. */
static rille_cell_slot *owned_slot(const rille_slice *s) {
  if (!is_valid(s)) return NULL;
  rille_cell_slot *slot = (rille_cell_slot *)s->cell_;
  return slot->refs > 0 && slot->base == s->base_ && slot->size == s->size_ ? slot : NULL;
}

int rille_slice_copy(const rille_slice *s, rille_slice *out) {
  if (!is_valid(s)) return RILLE_ERR_EXPIRED;
  rille_cell *cell = rille_cell_take();
  if (!cell) return RILLE_ERR_NO_MEMORY;
  rille_block *block = s->size_ > 0 ? s->block_ : NULL;
  if (block) rille_block_retain(block);
  rille_cell_slot *slot = (rille_cell_slot *)cell;
  slot->refs = 1;
  slot->base = s->base_;
  slot->block = block;
  slot->size = s->size_;
  *out = (rille_slice){
      .base_ = s->base_, .cell_ = cell, .block_ = block, .size_ = s->size_, .epoch_ = rille_cell_epoch(cell)};
  rille_count(RILLE_COUNT_RETAINED, 1);
  return RILLE_OK;
}

int rille_slice_retain(rille_slice *s) {
  rille_cell_slot *slot = owned_slot(s);
  if (!slot) return rille_slice_copy(s, s);
  if (slot->refs == UINT32_MAX) return RILLE_ERR_FULL;
  slot->refs++;
  return RILLE_OK;
}

static void end(rille_cell_slot *slot) {
  rille_block *block = slot->block;
  slot->refs = 0;
  rille_cell_give(&slot->cell); /* before the block goes: whoever looks now sees an expired slice */
  if (block) rille_block_release(block);
  rille_count(RILLE_COUNT_RETAINED, -1);
}

int rille_slice_release(rille_slice *s) {
  rille_cell_slot *slot = owned_slot(s);
  if (!slot) return 0;
  if (--slot->refs > 0) return 1;
  end(slot);
  return 0;
}

void rille_slice_collect(rille_slice *s) {
  rille_cell_slot *slot = owned_slot(s);
  if (!slot) return;
  end(slot);
  rille_count(RILLE_COUNT_LEAKED, 1);
}

int rille_slice_is_retained(const rille_slice *s) { return owned_slot(s) != NULL; }

/* A whole slot: who retains a slice, or asks whether it is of a datagram, looks at more than the epoch. */
rille_cell *rille_cell_of_nothing(void) {
  static rille_cell_slot nothing;
  return &nothing.cell;
}

double rille_bytes_find(const uint8_t *base, double size, const char *needle, size_t needle_size, double from) {
  if (!(from >= 0) || from > size) return -1;
  const uint8_t *at = base + (size_t)from;
  const uint8_t *match = memmem(at, (size_t)size - (size_t)from, needle, needle_size);
  return match ? (double)(match - base) : -1;
}

int rille_bytes_compare(const uint8_t *a, double a_size, const uint8_t *b, double b_size) {
  int order = memcmp(a, b, (size_t)(a_size < b_size ? a_size : b_size));
  if (order != 0) return order;
  return (a_size > b_size) - (a_size < b_size);
}
