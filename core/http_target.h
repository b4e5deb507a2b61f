/*
 * http_target: percent-decoding and normalizing of what a request-target holds (RFC 3986). Pure.
 */
#ifndef RILLE_HTTP_TARGET_H
#define RILLE_HTTP_TARGET_H

#include "rille.h"

/*
 * The path that is meant by one that was sent: percent-decoded once, "//" as "/", "." and ".." resolved (after decoding, so
 * that %2e%2e is seen as well). to has room for size bytes. Returns the length, or -400 for a bad escape, an encoded NUL or
 * another control character, and for ".." above the root. The path begins with "/" and so does the result.
 */
int64_t rille_http_path(const uint8_t *path, size_t size, uint8_t *to);

/*
 * The value of the first parameter called name (not encoded) in a query such as a=1&b=2: decoded to `to`, which has room for
 * query_size bytes, "+" as a space. Returns its length (0 for "a" and "a="), -1 when there is none. An escape that is none stays
 * as it was sent.
 */
int64_t rille_http_query(const uint8_t *query, size_t query_size, const uint8_t *name, size_t name_size, uint8_t *to);

/* Decode one piece of a query in the same way; returns the length. to may be from. */
size_t rille_http_unescape(const uint8_t *from, size_t size, uint8_t *to);

#endif
