/*
 * fence: bytes that end right in front of a page without any access, so that a reader that goes one byte too far crashes.
 * In an ASan build what is in front of them is out of bounds as well.
 */
#ifndef RILLE_SPEC_FENCE_H
#define RILLE_SPEC_FENCE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, size)   ((void)(at), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#endif

enum { FENCE_SIZE = 1 << 18, FENCE_PAGE = 1 << 16 /* a multiple of every page size */ };

/* Two places, used in turn: what was put there last stands still when the next is put, and is overwritten by the one after. */
typedef struct fence {
  uint8_t *area[2];
  size_t used[2];
  int turn;
} fence;

static inline uint8_t *fence_area(void) {
  uint8_t *area = mmap(NULL, FENCE_SIZE + FENCE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED || mprotect(area + FENCE_SIZE, FENCE_PAGE, PROT_NONE) != 0) abort();
  return area;
}

/* Room for size bytes in front of the fence, at another address than the time before. What lay there is gone. */
static inline uint8_t *fence_room(fence *f, size_t size) {
  if (size > FENCE_SIZE) abort();
  f->turn = !f->turn;
  if (!f->area[f->turn]) f->area[f->turn] = fence_area();
  uint8_t *area = f->area[f->turn], *end = area + FENCE_SIZE;
  ASAN_UNPOISON_MEMORY_REGION(area, FENCE_SIZE);
  memset(end - f->used[f->turn], 0xdd, f->used[f->turn]);
  f->used[f->turn] = size;
  ASAN_POISON_MEMORY_REGION(area, FENCE_SIZE - size);
  return end - size;
}

static inline uint8_t *fence_put(fence *f, const void *bytes, size_t size) {
  uint8_t *at = fence_room(f, size);
  if (size > 0) memcpy(at, bytes, size);
  return at;
}

#endif
