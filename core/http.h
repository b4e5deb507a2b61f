/*
 * http: HTTP/1 over a connection. A rille_http is one exchange: the request that is being read or handled and its answer. It comes
 * from the loop with the first byte of a request and goes back with the end of its answer, so an idle connection has none.
 *
 * Its way: the loop decodes what arrives (rille_http_arrived) until a whole head is there; only then does the state hear of
 * it. on_request runs between rille_http_begin and rille_http_done. What the decoder refuses is answered here, without Lua.
 * Loop thread only. Sources: http.c life and time, http_request.c what the script reads, http_answer.c what it writes.
 */
#ifndef RILLE_HTTP_H
#define RILLE_HTTP_H

#include "conn.h"
#include "http_chunk.h"
#include "http_head.h"

enum {
  RILLE_HTTP_AHEAD = 64 << 10,       /* bytes of input that are read while nobody waits for them */
  RILLE_HTTP_DISCARD_MAX = 64 << 10, /* of a body that nobody read, to keep the connection in step; more closes it */
  RILLE_HTTP_FIELDS_FIRST = 32,      /* fields there is room for at first */
  RILLE_HTTP_DATE_SIZE = 29,
  RILLE_HTTP_ANSWER_FIELDS_MAX = 65536 /* bytes of the fields that a script sets */
};

/* Settings of a service; immutable once a connection uses them. */
typedef struct rille_http_settings {
  rille_http_limits limits;
  uint64_t body;      /* bytes of a request body; 0: no limit */
  uint32_t header_ms; /* for a whole head, from its first byte; 0: no limit */
  uint32_t body_ms;   /* that a handler waits for a body in all; 0: no limit */
  uint32_t body_rate; /* bytes of body that have come give a second more for each so many; 0: none */
  uint32_t requests;  /* of a connection; 0: no limit */
  bool has_tunnel;    /* the script takes CONNECT */
} rille_http_settings;

enum rille_http_phase {
  RILLE_HTTP_HEADING,   /* the head is not complete */
  RILLE_HTTP_READY,     /* it is, on_request is to be called or runs */
  RILLE_HTTP_DISCARDING /* answered; the rest of the body is thrown away */
};

enum rille_http_framing {
  RILLE_HTTP_UNSENT,   /* the head of the answer is not out */
  RILLE_HTTP_WHOLE,    /* all of the answer is */
  RILLE_HTTP_BODILESS, /* what is written is dropped: HEAD, 204, 304 */
  RILLE_HTTP_CHUNKED,
  RILLE_HTTP_COUNTED,     /* answer_left bytes are to come */
  RILLE_HTTP_UNTIL_CLOSE, /* HTTP/1.0: the end of the connection is the end of the body */
  RILLE_HTTP_UPGRADED     /* what follows is no HTTP */
};

typedef struct rille_http rille_http;

struct rille_http {
  rille_http *next;   /* on the loop's free list */
  rille_stream *job;  /* borrowed; of a handler that runs on a worker, see errand.h */
  uint8_t phase;      /* enum rille_http_phase */
  uint8_t framing;    /* enum rille_http_framing, of the answer */
  bool is_kept;       /* block is a counted reference */
  bool is_borrowed;   /* a slice of the head went to the script */
  bool is_continued;  /* 100 (Continue) was sent, or is not wanted */
  bool keep_alive;    /* what it comes to: another request may follow */
  uint32_t since_ms;  /* loop->now_ms of the head's first byte, or when discarding began */
  uint32_t waited_ms; /* that the handler has waited for the body, before the present wait */

  /* the request */
  rille_http_head head;
  const uint8_t *base; /* the head's first byte; borrowed from the connection's input, or kept alive by block */
  rille_block *block;
  rille_cell *cell;    /* what slices of the head answer to */
  rille_block *copies; /* of values that stood in several fields, each behind a copy_head; by block->next */
  uint8_t *scratch;    /* owned; the decoded path, where it is not the one that was sent */
  uint32_t scratch_room;
  uint32_t path_size; /* of the decoded path in scratch */

  /* its body */
  rille_http_chunk chunk;
  uint64_t body_left;     /* of Content-Length */
  uint64_t body_read;     /* bytes of it so far */
  uint64_t discard_until; /* of body_read, when nobody reads it */
  rille_linkbuffer *body; /* owned; a chunked one that is wanted as a whole */
  rille_slice whole;      /* what rille_http_body returned */
  bool has_whole;
  bool is_waiting; /* a wait for the body began and was not accounted for yet */

  /* the answer */
  uint16_t status;
  bool has_type, has_date, has_length;
  uint64_t answer_left;
  char *fields;         /* owned; the script's header fields as they will be sent */
  uint32_t fields_size; /* of them */
  uint32_t fields_room;

  rille_http_field inline_fields[RILLE_HTTP_FIELDS_FIRST];
};

/* Input came (or was there already): true when a whole head is there and on_request is to be called. */
bool rille_http_arrived(rille_conn *c);
/* The handler that has made it speak HTTP has returned: in place of rille_conn_done. */
int rille_http_adopted(rille_conn *c);
/* The connection is over. */
void rille_http_drop(rille_conn *c);
/* How many ms the exchange may wait for what it waits for, from *since on (loop->now_ms); 0: no limit, or it waits for nothing. */
uint32_t rille_http_patience(const rille_conn *c, uint32_t *since);
/* A request is being received or answered. */
bool rille_http_is_busy(const rille_conn *c);
/* The wait for a body is over, however it ended. */
void rille_http_waited(rille_conn *c);
/* That time is over. */
void rille_http_expire(rille_conn *c);
/* The bytes of input after which the connection stops reading. */
size_t rille_http_input_limit(const rille_conn *c);
/* The input is about to be released: what the script holds of the head stays. */
void rille_http_keep(rille_http *http);
void rille_http_free(rille_http *http);
/* owned; NULL when there is no memory */
rille_http *rille_http_new(void);
/* Ready for a request's first byte, which comes at now_ms. */
void rille_http_start(rille_http *http, uint32_t now_ms);
/* Slices of the head expire, and its memory is given back. */
void rille_http_forget_head(rille_http *http);
/* The connection broke: a worker that handles its request is told. */
void rille_http_lost(rille_conn *c);
/* rille_service_set for the settings from RILLE_SET_HTTP on */
int rille_http_set(rille_service *service, int setting, double value);

static inline bool rille_http_is_over(const rille_http *http) {
  return http->head.is_chunked ? rille_http_chunk_is_done(&http->chunk) : http->body_left == 0;
}

/* inside http*.c and errand.c */

/* Answer with this status, where that is still possible, and close. reason: enum rille_err for on_close. */
void rille_http_refuse(rille_conn *c, int status, int reason);
/* Step over framing: how many bytes of body stand in one piece at the front of the input, 0: none, or a negative status. */
int64_t rille_http_piece(rille_conn *c, rille_http *http);
/* What has come of the body, to the end of a LinkBuffer, which is flushed: until at least max bytes were moved. How many, or a negative
 * status. Gives back the input. */
int64_t rille_http_move_body(rille_conn *c, rille_http *http, rille_linkbuffer *to, size_t max);
/* The same for a reader: 0, RILLE_PARK (if it may wait, else 0), RILLE_HTTP_END or an error, as rille_http_read. */
int rille_http_feed(rille_conn *c, rille_linkbuffer *to, size_t max, bool may_wait);
/* n bytes of that piece were consumed. 0, or a negative status: the body is larger than allowed. */
int rille_http_took(const rille_conn *c, rille_http *http, size_t n);
/* An answer of the server itself, instead of what the script has set. text: the body. */
void rille_http_answer_error(rille_conn *c, int status, const char *text, size_t size);
/* on_request has returned: whatever is missing of the answer. */
void rille_http_answer_end(rille_conn *c);
/* The IMF-fixdate of now (RFC 9110 section 5.6.7), made once a second; borrowed until the next call. */
const char *rille_http_date(rille_loop *loop);
/* Fields that the script has set under this name, away. */
void rille_http_remove_fields(rille_http *http, const char *name, size_t size);
/* 100 (Continue), if the client waits for it. */
void rille_http_continue(rille_conn *c, rille_http *http);

#endif
