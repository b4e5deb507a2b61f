/*
 * pages: memory straight from the system, zeroed, for what is large and comes and goes with a loop. A reload makes a loop for each state it
 * stages; out of the heap they would leave holes between what lives longer, and the process would grow.
 */
#ifndef RILLE_PAGES_H
#define RILLE_PAGES_H

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef RILLE_CHECKED /* the sanitizers see what is in the heap only */
static inline void *rille_pages_new(size_t size) {
  size_t whole = (size + 63) & ~(size_t)63;
  void *pages = aligned_alloc(64, whole);
  return pages ? memset(pages, 0, whole) : NULL;
}

static inline void rille_pages_free(void *pages, size_t size) {
  (void)size;
  free(pages);
}
#else
static inline void *rille_pages_new(size_t size) {
  void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return pages == MAP_FAILED ? NULL : pages;
}

static inline void rille_pages_free(void *pages, size_t size) {
  if (pages) munmap(pages, size);
}
#endif

#endif
