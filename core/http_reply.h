/*
 * http_reply: decoder of the head of an answer of HTTP/1.0 or 1.1 (RFC 9112 sections 4, 5 and 6), as http_head is of a request's: pure,
 * strict, offsets instead of copies, progress that is kept while bytes come and move.
 */
#ifndef RILLE_HTTP_REPLY_H
#define RILLE_HTTP_REPLY_H

#include "http_head.h"

/* What is wrong with an answer. */
enum rille_http_reply_flaw {
  RILLE_REPLY_BAD_LINE = 1,      /* no status line */
  RILLE_REPLY_BAD_VERSION,       /* neither 1.0 nor 1.1 */
  RILLE_REPLY_BAD_FIELD,         /* not the grammar */
  RILLE_REPLY_FOLDED,            /* a line that begins with white space (obs-fold) */
  RILLE_REPLY_BLANK_NAME,        /* white space before the colon */
  RILLE_REPLY_BAD_LENGTH,        /* Content-Length that is no number */
  RILLE_REPLY_TWO_LENGTHS,       /* more than one */
  RILLE_REPLY_LENGTH_AND_CODING, /* beside Transfer-Encoding: RFC 9112 section 6.3 */
  RILLE_REPLY_BAD_CODING,        /* a transfer coding other than chunked */
  RILLE_REPLY_OLD_CODING,        /* Transfer-Encoding in HTTP/1.0 */
  RILLE_REPLY_HEAD_TOO_LARGE,
  RILLE_REPLY_TOO_MANY_FIELDS,
  /* of its body */
  RILLE_REPLY_BAD_CHUNK,
  RILLE_REPLY_TRAILER_TOO_LARGE,
  RILLE_REPLY_LAST = RILLE_REPLY_TRAILER_TOO_LARGE
};

typedef struct rille_http_reply {
  /* progress */
  uint32_t at;   /* where the first line begins that is not complete yet */
  uint8_t phase; /* 0: the status line is next; 1: fields */

  uint8_t minor; /* HTTP/1.minor, 0 or 1 */
  uint16_t status;
  rille_http_span reason;

  bool is_chunked, has_length;
  bool has_close, has_keep_alive; /* in Connection */
  bool keep_alive;                /* what version and Connection say */
  uint64_t content_length;        /* 0 without one */

  uint32_t size; /* of the whole head, once it is complete */
  uint32_t field_count;
  uint32_t field_room;      /* of fields, which belong to the caller */
  rille_http_field *fields; /* borrowed from the caller */
} rille_http_reply;

/* Start anew with room for field_room fields. */
void rille_http_reply_init(rille_http_reply *reply, rille_http_field *fields, uint32_t field_room);

/*
 * Go on decoding the head whose first `size` bytes are at `bytes`: all of them each time, from its first byte. limits->target does not
 * count.
 *
 * Result: the head's size in bytes (> 1); RILLE_HTTP_PARTIAL; RILLE_HTTP_MORE_FIELDS: as rille_http_head_decode; or minus an enum
 * rille_http_reply_flaw. The first wrong byte decides, and a limit strikes as soon as it is passed.
 *
 * More is accepted of servers than of clients in one point: the space behind the status may be missing where there is no reason.
 */
int rille_http_reply_decode(rille_http_reply *reply, const uint8_t *bytes, size_t size,
                            const rille_http_limits *limits);

/* static; what a flaw is called */
const char *rille_http_reply_flaw_text(int flaw);

#endif
