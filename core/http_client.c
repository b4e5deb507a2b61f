/*
 * http_client: the answers that a client reads from one connection; see rille_http_client.h for the contract of each. The decoders are
 * http_reply.c and http_chunk.c. A rille_reply is the script's and knows no connection: it is given one with each call. The head is copied
 * out of the input, for it is wanted longer; bodies are not.
 */
#include "conn.h"
#include "http_chunk.h"
#include "http_line.h"
#include "http_reply.h"

#include <math.h>
#include <stdlib.h>

enum { FIELDS_FIRST = 32, BYTES_FIRST = 512 };

enum framing { NO_BODY, COUNTED, CHUNKED, UNTIL_CLOSE };

/* A part of an answer with fields in it. */
typedef struct part {
  uint8_t *bytes; /* owned */
  size_t size, room;
  rille_http_field *fields; /* owned */
  uint32_t count, field_room;
} part;

struct rille_reply {
  rille_http_limits limits;
  rille_http_reply head; /* its fields are those of the part */
  part top;              /* the head */
  part tail;             /* trailers, as they came; with the empty line behind them */
  rille_http_chunk chunk;
  uint64_t left; /* of a counted body */
  uint8_t framing;
  uint8_t flaw; /* enum rille_http_reply_flaw */
  bool has_begun;
  bool is_ended; /* a body until the end of the connection is over */
};

/* ---- life ------------------------------------------------------------------------------------------------------ */

rille_reply *rille_reply_new(uint32_t head, uint32_t fields) {
  rille_reply *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  r->limits = (rille_http_limits){.head = head, .headers = fields};
  rille_reply_start(r);
  return r;
}

void rille_reply_free(rille_reply *r) {
  if (!r) return;
  free(r->top.bytes);
  free(r->top.fields);
  free(r->tail.bytes);
  free(r->tail.fields);
  free(r);
}

void rille_reply_start(rille_reply *r) {
  rille_http_reply_init(&r->head, r->top.fields, r->top.field_room);
  rille_http_chunk_init(&r->chunk);
  r->top.size = r->tail.size = 0;
  r->top.count = r->tail.count = 0;
  r->left = 0;
  r->framing = NO_BODY;
  r->flaw = 0;
  r->has_begun = r->is_ended = false;
}

/* ---- parts ----------------------------------------------------------------------------------------------------- */

/* Room for one field more, of at most `most`. */
static bool grow_fields(part *p, uint32_t most) {
  uint32_t room = p->field_room > 0 ? p->field_room * 2 : FIELDS_FIRST;
  if (room > most) room = most;
  rille_http_field *fields = realloc(p->fields, room * sizeof *fields);
  if (!fields) return false;
  p->fields = fields;
  p->field_room = room;
  return true;
}

static bool append(part *p, const uint8_t *bytes, size_t size) {
  if (size > p->room - p->size) {
    size_t room = p->room > 0 ? p->room : BYTES_FIRST;
    while (room < p->size + size) room *= 2;
    uint8_t *larger = realloc(p->bytes, room);
    if (!larger) return false;
    p->bytes = larger;
    p->room = room;
  }
  if (size > 0) memcpy(p->bytes + p->size, bytes, size);
  p->size += size;
  return true;
}

static int refuse(rille_reply *r, int flaw) {
  r->flaw = (uint8_t)flaw;
  bool is_large = flaw == RILLE_REPLY_HEAD_TOO_LARGE || flaw == RILLE_REPLY_TOO_MANY_FIELDS ||
                  flaw == RILLE_REPLY_TRAILER_TOO_LARGE;
  return is_large ? RILLE_ERR_TOO_LARGE : RILLE_ERR_SERVER_FAILURE;
}

/* ---- the head -------------------------------------------------------------------------------------------------- */

/* What rille_http_reply_decode says, with as many fields as it takes; RILLE_ERR_NO_MEMORY is below every flaw. */
enum { NO_MEMORY = -1000 };

static int decode(rille_reply *r, const uint8_t *bytes, size_t size) {
  int result;
  while ((result = rille_http_reply_decode(&r->head, bytes, size, &r->limits)) == RILLE_HTTP_MORE_FIELDS) {
    if (!grow_fields(&r->top, r->limits.headers)) return NO_MEMORY;
    r->head.fields = r->top.fields;
    r->head.field_room = r->top.field_room;
  }
  return result;
}

/* The same of the input: what stands in one piece, and all of it when that is not enough. *from: where the head begins. */
static int decode_input(rille_reply *r, rille_conn *c, size_t length, const uint8_t **from) {
  size_t size = rille_linkbuffer_piece(c->in, 0, from);
  int result = decode(r, *from, size);
  if (result != RILLE_HTTP_PARTIAL || size == length) return result;
  rille_slice all;
  if (length > r->limits.head) length = r->limits.head;
  if (rille_linkbuffer_peek(c->in, (double)length, &all) != RILLE_OK) return NO_MEMORY;
  *from = all.base_;
  return decode(r, all.base_, length);
}

static void frame(rille_reply *r, int is_head) {
  const rille_http_reply *head = &r->head;
  bool is_empty =
      is_head || head->status < 200 || head->status == 204 || head->status == 304; /* RFC 9112 section 6.3 */
  r->left = head->content_length;
  r->framing = is_empty ? NO_BODY : head->is_chunked ? CHUNKED : head->has_length ? COUNTED : UNTIL_CLOSE;
}

int rille_reply_head(rille_reply *r, rille_conn *c, int is_head) {
  size_t length = rille_conn_input_len(c);
  r->has_begun |= length > 0;
  const uint8_t *from = NULL;
  int size = length > 0 ? decode_input(r, c, length, &from) : RILLE_HTTP_PARTIAL;
  if (size == RILLE_HTTP_PARTIAL) return rille_conn_want(c, (double)length + 1);
  if (size == NO_MEMORY) return RILLE_ERR_NO_MEMORY;
  if (size < 0) return refuse(r, -size);
  if (!append(&r->top, from, (size_t)size)) return RILLE_ERR_NO_MEMORY;
  r->top.count = r->head.field_count;
  rille_linkbuffer_skip(c->in, size);
  frame(r, is_head);
  return RILLE_OK;
}

/* ---- the body -------------------------------------------------------------------------------------------------- */

int rille_reply_is_over(const rille_reply *r) {
  switch ((enum framing)r->framing) {
  case COUNTED: return r->left == 0;
  case CHUNKED: return rille_http_chunk_is_done(&r->chunk);
  case UNTIL_CLOSE: return r->is_ended;
  case NO_BODY: break;
  }
  return 1;
}

/* The decoder of chunks has found the trailers good; here they get their places. */
static int split_trailers(rille_reply *r) {
  part *p = &r->tail;
  size_t at = 0;
  while (at + 2 < p->size) { /* the empty line */
    if (p->count == r->limits.headers) return refuse(r, RILLE_REPLY_TOO_MANY_FIELDS);
    if (p->count == p->field_room && !grow_fields(p, r->limits.headers)) return RILLE_ERR_NO_MEMORY;
    int next = rille_http_line_field(p->bytes, at, p->size, &p->fields[p->count]);
    if (next <= 0) return refuse(r, RILLE_REPLY_BAD_CHUNK);
    p->count++;
    at = (size_t)next;
  }
  return RILLE_OK;
}

/* Framing at the front of the input: 0, or an error. */
static int step_over(rille_reply *r, rille_conn *c, const uint8_t *from, size_t size) {
  uint32_t tail = r->chunk.tail;
  int64_t used = rille_http_chunk_decode(&r->chunk, from, size, r->limits.head);
  if (used < 0) return refuse(r, used == -431 ? RILLE_REPLY_TRAILER_TOO_LARGE : RILLE_REPLY_BAD_CHUNK);
  size_t more = r->chunk.tail - tail;
  if (!append(&r->tail, from + used - more, more)) return RILLE_ERR_NO_MEMORY;
  rille_linkbuffer_skip(c->in, (double)used);
  return rille_http_chunk_is_done(&r->chunk) ? split_trailers(r) : RILLE_OK;
}

/* How many bytes of body stand in one piece at the front of the input, 0: none, or an error. */
static int64_t find_piece(rille_reply *r, rille_conn *c) {
  const uint8_t *from;
  size_t size;
  while (!rille_reply_is_over(r) && c->in && (size = rille_linkbuffer_piece(c->in, 0, &from)) > 0) {
    if (r->framing == UNTIL_CLOSE) return (int64_t)size;
    uint64_t left = r->framing == CHUNKED ? r->chunk.left : r->left;
    if (left > 0) return (int64_t)(size < left ? size : left);
    int err = step_over(r, c, from, size);
    if (err) return err;
  }
  return 0;
}

/* Nothing of it is there. */
static int wait_for_more(rille_reply *r, rille_conn *c) {
  int err = rille_conn_ended(c);
  if (err == RILLE_ERR_CLOSED && r->framing == UNTIL_CLOSE && c->flags & RILLE_CONN_EOF && !c->error) {
    r->is_ended = true;
    return RILLE_HTTP_END;
  }
  return err ? err : rille_conn_want(c, 1);
}

int rille_reply_read(rille_reply *r, rille_conn *c, double max, rille_slice *out) {
  if (!(max >= 1)) return RILLE_ERR_INVALID;
  if (c->flags & RILLE_CONN_READER) return RILLE_ERR_BUSY;
  if (c->in) rille_conn_release_input(c); /* the piece before */
  int64_t n = find_piece(r, c);
  if (n < 0) return (int)n;
  if (rille_reply_is_over(r)) return RILLE_HTTP_END;
  if (n == 0) return wait_for_more(r, c);
  if (rille_conn_yield(c, 1)) return RILLE_PARK;
  c->flags &= ~(uint32_t)RILLE_CONN_READ_LATE;
  if ((double)n > max) n = (int64_t)floor(max);
  int err = rille_linkbuffer_next(c->in, (double)n, out);
  if (err) return err;
  if (r->framing == CHUNKED) r->chunk.left -= (uint64_t)n;
  else if (r->framing == COUNTED) r->left -= (uint64_t)n;
  return RILLE_OK;
}

/* ---- what is in it --------------------------------------------------------------------------------------------- */

int rille_reply_has_begun(const rille_reply *r) { return r->has_begun; }

int rille_reply_keeps_alive(const rille_reply *r) { return r->head.keep_alive && r->framing != UNTIL_CLOSE; }

int rille_reply_status(const rille_reply *r) { return r->head.status; }

int rille_reply_minor(const rille_reply *r) { return r->head.minor; }

double rille_reply_length(const rille_reply *r) {
  return r->head.has_length && !r->head.is_chunked ? (double)r->head.content_length : -1;
}

const char *rille_reply_flaw(const rille_reply *r) { return rille_http_reply_flaw_text(r->flaw); }

static double give(const part *p, rille_http_span span, const char **out) {
  *out = (const char *)p->bytes + span.at;
  return (double)span.size;
}

double rille_reply_reason(const rille_reply *r, const char **out) { return give(&r->top, r->head.reason, out); }

static const part *part_of(const rille_reply *r, int trailer) { return trailer ? &r->tail : &r->top; }

int rille_reply_fields(const rille_reply *r, int trailer) { return (int)part_of(r, trailer)->count; }

int rille_reply_find(const rille_reply *r, int trailer, const char *name, size_t size, int from) {
  const part *p = part_of(r, trailer);
  return rille_http_fields_find(p->fields, p->count, p->bytes, (const uint8_t *)name, size, (uint32_t)from);
}

double rille_reply_name(const rille_reply *r, int trailer, int i, const char **out) {
  const part *p = part_of(r, trailer);
  return give(p, p->fields[i].name, out);
}

double rille_reply_value(const rille_reply *r, int trailer, int i, const char **out) {
  const part *p = part_of(r, trailer);
  return give(p, p->fields[i].value, out);
}

/* ---- what is to be sent ---------------------------------------------------------------------------------------- */

int rille_http_check_field(const char *name, size_t name_size, const char *value, size_t value_size) {
  if (!rille_http_is_token((const uint8_t *)name, name_size)) return RILLE_HTTP_BAD_NAME;
  return rille_http_is_value((const uint8_t *)value, value_size) ? 0 : RILLE_HTTP_BAD_VALUE;
}

int rille_http_check_target(const char *target, size_t size) {
  const uint8_t *bytes = (const uint8_t *)target;
  return size > 0 && rille_http_run_end(bytes, 0, size, RILLE_HTTP_TARGET) == size;
}

int rille_http_check_host(const char *host, size_t size) { return rille_http_is_host((const uint8_t *)host, size); }

double rille_http_query_encode(const char *from, size_t size, uint8_t *to) {
  static const char digits[] = "0123456789ABCDEF";
  size_t length = 0;
  for (size_t i = 0; i < size; i++) {
    uint8_t c = (uint8_t)from[i];
    bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (is_letter || c == '-' || c == '.' || c == '_' || c == '~') {
      to[length++] = c;
      continue;
    }
    to[length++] = '%';
    to[length++] = (uint8_t)digits[c >> 4];
    to[length++] = (uint8_t)digits[c & 15];
  }
  return (double)length;
}
