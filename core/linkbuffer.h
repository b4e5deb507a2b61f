/*
 * linkbuffer: a list of nodes over reference-counted blocks with four cursors, head <= read <= flush <= write.
 *
 * One reader and one writer, each on its own thread, may work at once without a lock: the reader owns head and read,
 * the writer owns flush and write; what crosses is a node's `flushed` end, its `sealed` mark and the two byte totals,
 * each stored by one side only. close needs both sides, append needs both of its source and the writer's of its
 * target.
 *
 * This header holds what the rest of the core uses besides rille.h.
 */
#ifndef RILLE_LINKBUFFER_H
#define RILLE_LINKBUFFER_H

#include "block.h"

#include <sys/uio.h>

/* Writer side: room for at least min_size bytes at the end, as one or two areas: what is left of the tail, and a new
 * block of at least new_size bytes. The tail is used alone when it holds min_size; so no read lands in a one-byte tail.
 * Returns the number of areas (1 or 2) or a negative error. */
int rille_linkbuffer_reserve(rille_linkbuffer *b, size_t min_size, size_t new_size, struct iovec areas[2]);
/* Writer side: the first n reserved bytes are now data, and are published with whatever else was unflushed. The rest of
 * the room is kept for the next time, unless that would keep a large block that nothing came into. */
void rille_linkbuffer_commit(rille_linkbuffer *b, size_t n);

/* Reader side: the readable bytes as at most max areas, not consumed. Returns how many. */
int rille_linkbuffer_areas(rille_linkbuffer *b, struct iovec *areas, int max);
/* Reader side: consume n <= len bytes and free what is wholly consumed without expiring anything (nobody borrows from
 * an output buffer). */
void rille_linkbuffer_drop(rille_linkbuffer *b, size_t n);

/* Reader side: the readable bytes from the `at`-th on that stand in one piece, not consumed: how many, 0: there are none. */
size_t rille_linkbuffer_piece(rille_linkbuffer *b, size_t at, const uint8_t **from);
/* Reader side: copy the n readable bytes behind the next `skip`; not consumed. */
void rille_linkbuffer_copy(rille_linkbuffer *b, size_t skip, uint8_t *to, size_t n);
/* Reader side: bytes consumed since the buffer was made, or made as new. */
uint64_t rille_linkbuffer_position(const rille_linkbuffer *b);

/* rille_linkbuffer_len as C counts: bytes that may be read. */
size_t rille_linkbuffer_readable(const rille_linkbuffer *b);
/* Both sides: bytes that may be read or wait for a flush. */
size_t rille_linkbuffer_total(const rille_linkbuffer *b);
/* Bytes consumed since the last release: what a handler holds. */
size_t rille_linkbuffer_held(const rille_linkbuffer *b);
/* Both sides: make the buffer as new, slices expired, blocks given back; keeps the handle for another connection. */
void rille_linkbuffer_reset(rille_linkbuffer *b);

#endif
