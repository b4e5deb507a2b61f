/*
 * http_chunk: decoder of the chunked transfer coding (RFC 9112 section 7.1), apart from the bytes of the data itself,
 * which it never touches. Pure; a byte at a time works as well as all at once.
 */
#ifndef RILLE_HTTP_CHUNK_H
#define RILLE_HTTP_CHUNK_H

#include "rille.h"

#include <stdbool.h>

typedef struct rille_http_chunk {
  uint64_t left;  /* bytes of data that come next; the caller subtracts what it took */
  uint64_t size;  /* of the size line that is being read */
  uint32_t extra; /* bytes of extensions and trailers so far */
  uint32_t tail; /* bytes so far behind the last size line: trailers with the ends of their lines, and the empty line */
  uint8_t digits; /* of that size */
  uint8_t phase;
} rille_http_chunk;

void rille_http_chunk_init(rille_http_chunk *chunk);

/*
 * Consume framing from the front of size bytes: size lines, the ends of chunks, trailers. Returns how many bytes that were (0 ..
 * size). Then either the body is over (rille_http_chunk_is_done; what follows is the next request), or chunk->left bytes
 * of data are next, or (left 0) more framing has to come. Or a negative HTTP status:
 *
 *   -400  not the grammar: anything but CR LF at the end of a line, no size, more than 16 hex digits, white space or a sign
 *         before it, an extension without a name, a trailer that is no field
 *   -413  a chunk of 2^63 bytes or more
 *   -431  more than extra_max bytes of extensions and trailers in all
 *
 * Trailers are checked and dropped: none of them is merged into the header (RFC 9110 section 6.5.1). Who wants them finds them in the
 * last bytes that were consumed: as many as chunk->tail has grown by.
 */
int64_t rille_http_chunk_decode(rille_http_chunk *chunk, const uint8_t *bytes, size_t size, uint32_t extra_max);

bool rille_http_chunk_is_done(const rille_http_chunk *chunk);

#endif
