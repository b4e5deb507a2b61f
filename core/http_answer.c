/*
 * http_answer: what a script writes as the answer to a request; see rille.h for the contract of each and http.h for the rest.
 * The head goes out with the first bytes of the body, so that most answers are one write. Loop thread only.
 */
#include "http.h"

#include "log.h"
#include "loop.h"

#include <stdio.h>
#include <string.h>

/* ---- the head -------------------------------------------------------------------------------------------------- */

/* What the server says by itself: under 300 bytes. */
typedef struct text {
  size_t size;
  char bytes[384];
} text;

static inline void put(text *t, const char *bytes, size_t size) {
  memcpy(t->bytes + t->size, bytes, size);
  t->size += size;
}

#define PUT(t, literal) put((t), (literal), sizeof(literal) - 1)

static void put_number(text *t, uint64_t n) {
  char digits[20];
  size_t at = sizeof digits;
  do {
    digits[--at] = (char)('0' + n % 10);
    n /= 10;
  } while (n > 0);
  put(t, digits + at, sizeof digits - at);
}

static void put_status(text *t, int status) {
  if (status == 200) {
    PUT(t, "HTTP/1.1 200 OK\r\n");
    return;
  }
  const char *reason = rille_http_reason(status);
  PUT(t, "HTTP/1.1 ");
  put_number(t, (uint64_t)status);
  PUT(t, " ");
  put(t, reason, strlen(reason));
  PUT(t, "\r\n");
}

/* RFC 9110 section 6.4.1: these have no body, whatever the script writes. */
static bool status_is_bodiless(int status) { return status == 204 || status == 304; }

static bool is_bodiless(const rille_http *http) {
  return http->head.method == RILLE_HTTP_HEAD || status_is_bodiless(http->status) || http->status == 205;
}

/* The client waits to be asked for the body. When it gets the answer instead, nobody knows whether the body will be sent: RFC 9110
 * section 10.1.1. */
static bool is_held_back(const rille_conn *c, const rille_http *http) {
  if (http->is_continued || rille_http_is_over(http)) return false;
  return http->head.is_chunked || http->body_left > rille_conn_input_len(c);
}

/* A body that is left when the whole answer is sent may be too much to read off: better said now than found out later. */
static void give_up_body(rille_conn *c, rille_http *http) {
  bool is_large = !http->head.is_chunked && http->body_left > rille_conn_input_len(c) + RILLE_HTTP_DISCARD_MAX;
  if (is_large || is_held_back(c, http)) http->keep_alive = false;
}

/* length: of the body, where framing tells it. 0 or an error. */
static int put_head(rille_conn *c, rille_http *http, rille_linkbuffer *out, int framing, uint64_t length) {
  text t = {.size = 0};
  if (c->loop->is_stopping) http->keep_alive = false;
  put_status(&t, http->status);
  if (!http->has_date) {
    PUT(&t, "Date: ");
    put(&t, rille_http_date(c->loop), RILLE_HTTP_DATE_SIZE);
    PUT(&t, "\r\n");
  }
  bool has_length = framing == RILLE_HTTP_WHOLE || framing == RILLE_HTTP_COUNTED;
  if (http->status == 205) length = 0; /* RFC 9110 section 15.3.6 */
  if (!status_is_bodiless(http->status)) {
    if (!http->has_type && (length > 0 || !has_length)) PUT(&t, "Content-Type: text/plain; charset=utf-8\r\n");
    if (has_length) {
      PUT(&t, "Content-Length: ");
      put_number(&t, length);
      PUT(&t, "\r\n");
    } else if (framing == RILLE_HTTP_CHUNKED) {
      PUT(&t, "Transfer-Encoding: chunked\r\n");
    }
  }
  if (!http->keep_alive) PUT(&t, "Connection: close\r\n");
  else if (http->head.minor == 0) PUT(&t, "Connection: keep-alive\r\n");
  if (http->fields_size == 0) PUT(&t, "\r\n");
  int err = rille_linkbuffer_write(out, t.bytes, t.size);
  if (err || http->fields_size == 0) return err;
  err = rille_linkbuffer_write(out, http->fields, http->fields_size);
  return err ? err : rille_linkbuffer_write(out, "\r\n", 2);
}

/* ---- the body -------------------------------------------------------------------------------------------------- */

/* The head is out: the script's mistake, unless the server has answered by itself and closes, which no script foresees. */
static int too_late(const rille_conn *c) {
  return c->flags & RILLE_CONN_CLOSING ? rille_conn_ended(c) : RILLE_ERR_BUSY;
}

/* One of three kinds of bytes. */
typedef struct piece {
  size_t size;
  const char *bytes;
  const rille_slice *slice;
  rille_linkbuffer *buffer;
} piece;

static piece piece_of_buffer(rille_linkbuffer *from) {
  return (piece){.size = (size_t)rille_linkbuffer_len(from), .buffer = from};
}

/* 0, or why its bytes cannot be looked at. */
static int check_piece(const piece *p) {
  if (p->size > RILLE_BLOCK_REQUEST_MAX) return RILLE_ERR_TOO_LARGE;
  if (p->slice && rille_cell_epoch(p->slice->cell_) != p->slice->epoch_) return RILLE_ERR_EXPIRED;
  return p->buffer ? rille_linkbuffer_skip(p->buffer, 0) : RILLE_OK; /* RILLE_ERR_CLOSED */
}

static int put_piece(rille_linkbuffer *out, const piece *p) {
  if (p->slice) return rille_linkbuffer_write_slice(out, p->slice);
  if (p->buffer) return rille_linkbuffer_write_buffer(out, p->buffer);
  return rille_linkbuffer_write(out, p->bytes, p->size);
}

/* A part of an answer could not be written, so what follows would be in the wrong place. */
static int broke(rille_conn *c, int err) {
  rille_conn_fail(c, err);
  return err;
}

static int send_whole(rille_conn *c, const piece *p) {
  rille_http *http = c->http;
  if (http->framing != RILLE_HTTP_UNSENT) return too_late(c);
  int err = check_piece(p);
  if (err) return err;
  rille_linkbuffer *out = rille_conn_output(c, &err);
  if (!out) return err;
  uint64_t length = p->size;
  if (http->head.method == RILLE_HTTP_HEAD && length == 0 && http->has_length) length = http->answer_left;
  give_up_body(c, http);
  http->framing = RILLE_HTTP_WHOLE;
  err = put_head(c, http, out, RILLE_HTTP_WHOLE, length);
  if (err == RILLE_OK && p->size > 0 && !is_bodiless(http)) err = put_piece(out, p);
  return err ? broke(c, err) : rille_conn_written(c, RILLE_OK);
}

/* The head of an answer that comes in pieces. */
static int begin(rille_conn *c, rille_http *http, rille_linkbuffer *out) {
  if (http->status == 205) { /* its head says that nothing follows */
    http->framing = RILLE_HTTP_BODILESS;
    return put_head(c, http, out, RILLE_HTTP_WHOLE, 0);
  }
  int framing = http->has_length        ? RILLE_HTTP_COUNTED
                : http->head.minor == 1 ? RILLE_HTTP_CHUNKED
                                        : RILLE_HTTP_UNTIL_CLOSE;
  if (framing == RILLE_HTTP_UNTIL_CLOSE && !is_bodiless(http)) http->keep_alive = false;
  if (is_held_back(c, http)) http->keep_alive = false;
  int err = put_head(c, http, out, framing, http->answer_left);
  http->framing = (uint8_t)(is_bodiless(http) ? RILLE_HTTP_BODILESS : framing);
  return err;
}

static int put_chunk(rille_linkbuffer *out, const piece *p) {
  char line[24];
  int size = snprintf(line, sizeof line, "%zx\r\n", p->size);
  int err = rille_linkbuffer_write(out, line, (size_t)size);
  if (err == RILLE_OK) err = put_piece(out, p);
  return err ? err : rille_linkbuffer_write(out, "\r\n", 2);
}

static int write_piece(rille_conn *c, const piece *p) {
  rille_http *http = c->http;
  if (http->framing == RILLE_HTTP_WHOLE || http->framing == RILLE_HTTP_UPGRADED) return too_late(c);
  int err = check_piece(p);
  if (err) return err;
  rille_linkbuffer *out = rille_conn_output(c, &err);
  if (!out) return err;
  bool is_counted = http->framing == RILLE_HTTP_COUNTED || (http->framing == RILLE_HTTP_UNSENT && http->has_length);
  if (is_counted && !is_bodiless(http) && p->size > http->answer_left) return RILLE_HTTP_OVER_LENGTH;
  if (http->framing == RILLE_HTTP_UNSENT) err = begin(c, http, out);
  if (err == RILLE_OK && p->size > 0) {
    switch (http->framing) {
    case RILLE_HTTP_CHUNKED: err = put_chunk(out, p); break;
    case RILLE_HTTP_COUNTED:
      http->answer_left -= p->size;
      err = put_piece(out, p);
      break;
    case RILLE_HTTP_UNTIL_CLOSE: err = put_piece(out, p); break;
    default: break;
    }
  }
  return err ? broke(c, err) : rille_conn_written(c, RILLE_OK);
}

int rille_http_open_body(rille_conn *c, double size) {
  rille_http *http = c->http;
  if (http->framing != RILLE_HTTP_UNSENT) return too_late(c);
  http->has_length = true;
  http->answer_left = (uint64_t)size;
  return write_piece(c, &(piece){.size = 0, .bytes = ""});
}

int rille_http_send(rille_conn *c, const char *bytes, size_t size) {
  return send_whole(c, &(piece){.size = size, .bytes = bytes});
}

int rille_http_send_view(rille_conn *c, const uint8_t *base, uint32_t size, rille_cell *cell, rille_block *block,
                         uint32_t epoch) {
  rille_slice s = {.base_ = base, .cell_ = cell, .block_ = block, .size_ = size, .epoch_ = epoch};
  return send_whole(c, &(piece){.size = size, .slice = &s});
}

int rille_http_send_buffer(rille_conn *c, rille_linkbuffer *from) {
  piece p = piece_of_buffer(from);
  return send_whole(c, &p);
}

int rille_http_write(rille_conn *c, const char *bytes, size_t size) {
  return write_piece(c, &(piece){.size = size, .bytes = bytes});
}

int rille_http_write_view(rille_conn *c, const uint8_t *base, uint32_t size, rille_cell *cell, rille_block *block,
                          uint32_t epoch) {
  rille_slice s = {.base_ = base, .cell_ = cell, .block_ = block, .size_ = size, .epoch_ = epoch};
  return write_piece(c, &(piece){.size = size, .slice = &s});
}

int rille_http_write_buffer(rille_conn *c, rille_linkbuffer *from) {
  piece p = piece_of_buffer(from);
  return write_piece(c, &p);
}

/* ---- what the server writes by itself ---------------------------------------------------------------------------- */

void rille_http_continue(rille_conn *c, rille_http *http) {
  static const char line[] = "HTTP/1.1 100 Continue\r\n\r\n";
  int err;
  if (http->is_continued || http->framing != RILLE_HTTP_UNSENT) return;
  rille_linkbuffer *out = rille_conn_output(c, &err);
  if (!out) return;
  http->is_continued = rille_linkbuffer_write(out, line, sizeof line - 1) == RILLE_OK;
}

void rille_http_answer_error(rille_conn *c, int status, const char *text_of_error, size_t size) {
  rille_http *http = c->http;
  char sentence[64];
  http->status = (uint16_t)status;
  http->has_type = http->has_date = http->has_length = false;
  http->fields_size = 0;
  if (!text_of_error) {
    size = (size_t)snprintf(sentence, sizeof sentence, "%d %s\n", status, rille_http_reason(status));
    text_of_error = sentence;
  }
  send_whole(c, &(piece){.size = size, .bytes = text_of_error}); /* it cannot be told anybody if that does not work */
}

/* The client sees an answer that ends too early, and knows it for the connection is closed. */
static void cut_off(rille_conn *c, rille_http *http) {
  rille_log_context context = {.label = c->state->label, .conn = rille_conn_id(c), .loop = c->loop->id};
  RILLE_LOG_FOR(RILLE_LOG_WARN, &context,
                "on_request wrote %llu bytes less than the Content-Length it had set: closing",
                (unsigned long long)http->answer_left);
  http->keep_alive = false;
}

void rille_http_answer_end(rille_conn *c) {
  rille_http *http = c->http;
  int err = RILLE_OK;
  rille_linkbuffer *out;
  switch (http->framing) {
  case RILLE_HTTP_UNSENT: send_whole(c, &(piece){.size = 0, .bytes = ""}); break;
  case RILLE_HTTP_CHUNKED:
    out = rille_conn_output(c, &err);
    if (out && rille_linkbuffer_write(out, "0\r\n\r\n", 5) != RILLE_OK) rille_conn_fail(c, RILLE_ERR_NO_MEMORY);
    break;
  case RILLE_HTTP_COUNTED:
    if (http->answer_left > 0) cut_off(c, http);
    break;
  default: break;
  }
}

int rille_http_upgrade(rille_conn *c, const char *protocol, size_t size) {
  rille_http *http = c->http;
  int err = RILLE_OK;
  bool is_tunnel = http->head.method == RILLE_HTTP_CONNECT;
  if (http->framing != RILLE_HTTP_UNSENT) return too_late(c);
  if (!is_tunnel && (!http->head.wants_upgrade || !rille_http_is_token((const uint8_t *)protocol, size) || size > 64)) {
    return RILLE_ERR_INVALID;
  }
  rille_linkbuffer *out = rille_conn_output(c, &err);
  if (!out) return err;
  text t = {.size = 0};
  put_status(&t, is_tunnel ? 200 : 101);
  if (!is_tunnel) {
    PUT(&t, "Connection: upgrade\r\nUpgrade: ");
    put(&t, protocol, size);
    PUT(&t, "\r\n");
  }
  rille_http_remove_fields(http, "Upgrade", 7);
  rille_http_remove_fields(http, "Connection", 10);
  err = rille_linkbuffer_write(out, t.bytes, t.size);
  if (err == RILLE_OK) err = rille_linkbuffer_write(out, http->fields, http->fields_size);
  if (err == RILLE_OK) err = rille_linkbuffer_write(out, "\r\n", 2);
  if (err) return broke(c, err);
  rille_http_keep(http);
  http->framing = RILLE_HTTP_UPGRADED;
  c->is_http = false;
  return rille_conn_written(c, RILLE_OK);
}
