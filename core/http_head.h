/*
 * http_head: decoder of an HTTP/1.0 or 1.1 request head (RFC 9112 sections 2, 3, 5, 6 and 7; RFC 9110 section 5 to 7).
 *
 * Pure functions over bytes: no allocation, no socket, no clock. Nothing is copied or interned; what is found is kept as
 * offsets from the head's first byte, so the bytes may move between two calls. Strict: what two servers in a row could
 * read in two ways is refused.
 */
#ifndef RILLE_HTTP_HEAD_H
#define RILLE_HTTP_HEAD_H

#include "rille.h"

#include <stdbool.h>

/* Limits of what a peer may send; immutable while a service uses them. Lengths in bytes. */
typedef struct rille_http_limits {
  uint32_t head;    /* the whole head, at most INT32_MAX; chunk extensions and trailers of a body as well. 431 */
  uint32_t target;  /* the request-target. 414 */
  uint32_t headers; /* how many fields. 431 */
} rille_http_limits;

enum { RILLE_HTTP_METHOD_SIZE_MAX = 32 }; /* what is longer is no method that anybody has defined: 501 */

/* A run of bytes of the head. */
typedef struct rille_http_span {
  uint32_t at;
  uint32_t size;
} rille_http_span;

typedef struct rille_http_field {
  uint32_t key; /* rille_http_key of the name: fields with different keys have different names */
  rille_http_span name;
  rille_http_span value; /* without the white space around it */
} rille_http_field;

typedef struct rille_http_head {
  /* progress */
  uint32_t at;   /* where the first line begins that is not complete yet */
  uint8_t phase; /* 0: the request line is next; 1: fields */

  /* of the request line */
  uint8_t method; /* enum rille_http_method */
  uint8_t minor;  /* HTTP/1.minor, 0 or 1 */
  rille_http_span method_name;
  rille_http_span target; /* as it was sent */
  rille_http_span path;   /* of the target, not decoded; "*" for OPTIONS *, empty for CONNECT */
  rille_http_span query;  /* behind the "?", without it */
  rille_http_span host;   /* of an absolute target, else of Host; with the port */
  bool has_query;
  bool path_is_plain;  /* nothing to decode or to normalize in it */
  bool path_is_absent; /* an absolute target without one: "/" is meant */

  /* of the fields */
  bool is_chunked;
  bool has_length;
  bool has_host;
  bool keep_alive; /* what version and Connection say */
  bool wants_continue;
  bool wants_upgrade; /* Upgrade and Connection: upgrade in 1.1, and no body: one could switch only behind it */
  bool has_upgrade, has_close, has_keep_alive, has_upgrade_option;
  uint64_t content_length; /* 0 without one */

  uint32_t size; /* of the whole head, once it is complete */
  uint32_t field_count;
  uint32_t field_room;      /* of fields, which belong to the caller */
  rille_http_field *fields; /* borrowed from the caller */
} rille_http_head;

/* Start anew with room for field_room fields. */
void rille_http_head_init(rille_http_head *head, rille_http_field *fields, uint32_t field_room);

/* The results of rille_http_head_decode beside the size of a whole head. */
enum { RILLE_HTTP_PARTIAL = 0, RILLE_HTTP_MORE_FIELDS = 1 /* never a size: the shortest head has 16 bytes */ };

/*
 * Go on decoding the head whose first `size` bytes are at `bytes`: all of them each time, from its first byte.
 *
 * Result: the head's size in bytes (> 0); RILLE_HTTP_PARTIAL: it is not all there; RILLE_HTTP_MORE_FIELDS: field_room is used
 * up and the limit is not, give it a larger `fields` (with the same content) and call again; or a negative HTTP status, the
 * answer that this request gets before the connection is closed. The first wrong byte decides, and a limit strikes as soon as it is
 * passed: the status does not depend on how the bytes were cut.
 *
 *   -400  not the grammar; no or more than one Host in HTTP/1.1; Content-Length that is no number, stands twice or beside
 *         Transfer-Encoding; Transfer-Encoding in HTTP/1.0
 *   -414  the request-target is longer than limits->target
 *   -417  Expect with something else than 100-continue
 *   -431  the head is longer than limits->head, or has more than limits->headers fields
 *   -501  a transfer coding other than chunked, a method longer than any that is defined
 *   -505  HTTP/2.0 and whatever else is not 1.0 or 1.1
 *
 * A further call with the same bytes gives the same result, after an error too; one with fewer than before tells nothing new.
 *
 * Empty lines before the request line are skipped (RFC 9112 section 2.2); they count as part of the head.
 */
int rille_http_head_decode(rille_http_head *head, const uint8_t *bytes, size_t size, const rille_http_limits *limits);

/* What a field is looked up by. Bytes of ASCII letters count as lower case. */
uint32_t rille_http_key(const uint8_t *name, size_t size);
/* The index of the first field called name at or behind `from`, or -1. Case does not matter. */
int rille_http_head_find(const rille_http_head *head, const uint8_t *bytes, const uint8_t *name, size_t size,
                         uint32_t from);
/* The same among any fields. */
int rille_http_fields_find(const rille_http_field *fields, uint32_t count, const uint8_t *bytes, const uint8_t *name,
                           size_t size, uint32_t from);

/* Whether size bytes at a, in any case, are b, which is written in lower case. */
bool rille_http_is(const uint8_t *a, size_t size, const char *b, size_t b_size);
/* Whether every byte is a token character (RFC 9110 section 5.6.2), and there is one. */
bool rille_http_is_token(const uint8_t *bytes, size_t size);
/* Whether no byte is a control character other than HTAB: what a field value may hold (RFC 9110 section 5.5). */
bool rille_http_is_value(const uint8_t *bytes, size_t size);
/* Whether it is host[:port] as a Host field may have it (RFC 9110 section 7.2); empty is none. */
bool rille_http_is_host(const uint8_t *bytes, size_t size);
/* 1*DIGIT, at most 2^63 - 1: true with the number in *value. */
bool rille_http_is_length(const uint8_t *bytes, size_t size, uint64_t *value);

/* Character classes, for the decoders. */
enum { RILLE_HTTP_TOKEN = 1, RILLE_HTTP_TARGET = 2, RILLE_HTTP_HOST = 4, RILLE_HTTP_HEX = 8 };
extern const uint8_t rille_http_class[256];

#endif
