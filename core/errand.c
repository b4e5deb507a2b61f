/*
 * errand: see errand.h.
 */
#include "errand.h"

#include "loop.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE = 256 << 10 }; /* bytes of a body that are given at a time, and a block more */

/* ---- life ------------------------------------------------------------------------------------------------------ */

void rille_errand_free(rille_errand *e) {
  rille_http_forget_head(e->http);
  rille_http_free(e->http);
  free(e);
}

static rille_errand *make(void) {
  rille_errand *e = calloc(1, sizeof *e);
  if (!e) return NULL;
  e->http = rille_http_new();
  if (!e->http) {
    free(e);
    return NULL;
  }
  e->http->head.fields = e->http->inline_fields;
  e->stub.fd = -1;
  e->stub.http = e->http;
  return e;
}

static bool copy_path(rille_http *to, const rille_http *from) {
  if (to->scratch_room < from->path_size) {
    uint8_t *scratch = realloc(to->scratch, from->path_size);
    if (!scratch) return false;
    to->scratch = scratch;
    to->scratch_room = from->path_size;
  }
  if (from->path_size > 0) memcpy(to->scratch, from->scratch, from->path_size);
  to->path_size = from->path_size;
  return true;
}

/* The head, over the same block. */
static int copy_head(rille_http *to, rille_http *from) {
  uint32_t count = from->head.field_count;
  rille_http_field *fields = to->inline_fields;
  if (!to->cell) to->cell = rille_cell_take();
  if (!to->cell || !from->block || !copy_path(to, from)) return RILLE_ERR_NO_MEMORY;
  if (count > RILLE_HTTP_FIELDS_FIRST) fields = malloc(count * sizeof *fields);
  if (!fields) return RILLE_ERR_NO_MEMORY;
  memcpy(fields, from->head.fields, count * sizeof *fields);
  to->head = from->head;
  to->head.fields = fields;
  to->head.field_room = count;
  to->base = from->base;
  to->block = from->block;
  rille_block_retain(to->block);
  to->is_kept = true;
  return RILLE_OK;
}

/* ---- loop: there ----------------------------------------------------------------------------------------------- */

/* Of the body what is there already, so that a short one need not be asked for. */
static int give_first(rille_stream *s, rille_conn *c) {
  return rille_conn_input_len(c) > 0 ? rille_http_feed(c, s->input.buffer, PIECE, false) : RILLE_OK;
}

int rille_errand_start(rille_stream *s, rille_conn *c) {
  rille_errand *e = s->errand ? s->errand : (s->errand = make());
  if (!e) return RILLE_ERR_NO_MEMORY;
  rille_stream_reset(s);
  rille_http_forget_head(e->http);
  rille_http_start(e->http, 0);
  e->http->keep_alive = true; /* as far as the handler knows */
  e->stub.flags = 0;
  atomic_store(&e->wish, 0);
  atomic_store(&e->is_open, false);
  e->is_told = e->is_set = e->is_begun = false;
  int err = copy_head(e->http, c->http);
  if (err) return err;
  err = give_first(s, c);
  if (err < 0) return err;
  e->is_complete = rille_http_is_over(c->http);
  c->http->job = s;
  atomic_store(&s->output.loop_waits, 1);
  return RILLE_OK;
}

int rille_errand_wish(rille_stream *s) { return (int)atomic_exchange(&s->errand->wish, 0); }

void rille_errand_grant(rille_stream *s, int result) {
  atomic_store(&s->errand->result, result);
  rille_stream_ring_worker(s);
}

const char *rille_errand_path(const rille_stream *s) { return s->errand->path; }

const char *rille_errand_type(const rille_stream *s) { return s->errand->type; }

static int feed_whole(rille_stream *s, rille_conn *c) {
  rille_slice whole;
  int err = rille_http_body(c, &whole);
  if (err) return err;
  err = rille_linkbuffer_write_slice(s->input.buffer, &whole);
  return err ? err : rille_linkbuffer_flush(s->input.buffer);
}

int rille_errand_feed(rille_stream *s, rille_conn *c, int wish) {
  int result = wish == RILLE_ERRAND_WHOLE ? feed_whole(s, c) : rille_http_feed(c, s->input.buffer, PIECE, true);
  if (result == RILLE_PARK) return RILLE_PARK;
  s->errand->is_complete = rille_http_is_over(c->http);
  rille_errand_grant(s, result);
  return result < 0 ? result : RILLE_OK;
}

/* ---- loop: back ------------------------------------------------------------------------------------------------ */

/* A copy, as the worker may still look at what it has set. */
int rille_errand_set_head(rille_stream *s, rille_conn *c) {
  rille_errand *e = s->errand;
  const rille_http *from = e->http;
  rille_http *to = c->http;
  if (e->is_set || to->framing != RILLE_HTTP_UNSENT) return RILLE_OK; /* or the server has answered by itself */
  if (to->fields_room < from->fields_size) {
    char *fields = realloc(to->fields, from->fields_room);
    if (!fields) return RILLE_ERR_NO_MEMORY;
    to->fields = fields;
    to->fields_room = from->fields_room;
  }
  if (from->fields_size > 0) memcpy(to->fields, from->fields, from->fields_size);
  to->fields_size = from->fields_size;
  to->status = from->status;
  to->has_type = from->has_type;
  to->has_date = from->has_date;
  to->has_length = from->has_length;
  to->answer_left = from->answer_left;
  if (!from->keep_alive) to->keep_alive = false;
  e->is_set = true;
  return RILLE_OK;
}

void rille_errand_file_done(rille_stream *s, rille_conn *c, int result) {
  rille_errand *e = s->errand;
  rille_http *http = c ? c->http : NULL;
  e->is_begun = !http || http->framing != RILLE_HTTP_UNSENT;
  if (http && !e->is_begun) { /* the handler may still answer something else */
    http->status = 200;
    http->has_type = http->has_date = http->has_length = false;
    http->fields_size = 0;
    e->is_set = false;
  }
  rille_errand_grant(s, result);
}

/* The head, with a whole body when that is all there. */
static int begin_answer(rille_stream *s, rille_conn *c, rille_linkbuffer *part) {
  rille_errand *e = s->errand;
  int err = rille_errand_set_head(s, c);
  if (err) return err;
  e->is_begun = true;
  if (e->http->framing != RILLE_HTTP_WHOLE) {
    err = rille_http_write(c, "", 0);
    return err < 0 || rille_linkbuffer_readable(part) == 0 ? err : rille_http_write_buffer(c, part);
  }
  if (rille_linkbuffer_readable(part) == e->length) return rille_http_send_buffer(c, part);
  if (e->http->head.method != RILLE_HTTP_HEAD) return rille_http_open_body(c, (double)e->length); /* which takes none */
  c->http->has_length = true;
  c->http->answer_left = e->length;
  return rille_http_send(c, "", 0);
}

int rille_errand_pass(rille_stream *s, rille_conn *c) {
  rille_errand *e = s->errand;
  if (!atomic_load(&e->is_open)) return RILLE_OK;
  int err;
  double n = rille_linkbuffer_len(s->output.buffer);
  if (n == 0 && e->is_begun) return RILLE_OK;
  rille_linkbuffer *part = rille_linkbuffer_take(s->output.buffer, n, &err);
  if (!part) return err;
  err = e->is_begun ? rille_http_write_buffer(c, part) : begin_answer(s, c, part);
  rille_linkbuffer_free(part);
  rille_linkbuffer_release(s->output.buffer);
  atomic_store(&s->output.freed, atomic_load(&s->output.freed) + (uint64_t)n);
  rille_stream_ring_worker(s);
  return err;
}

void rille_errand_end(rille_conn *c) {
  if (c->http) c->http->job = NULL;
}

void rille_http_lost(rille_conn *c) {
  if (c->http->job) rille_stream_refuse(c->http->job, c->error == RILLE_ERR_RESET ? RILLE_ERR_RESET : RILLE_ERR_CLOSED);
}

/* ---- worker ---------------------------------------------------------------------------------------------------- */

rille_conn *rille_errand_conn(rille_stream *s) { return s->errand ? &s->errand->stub : NULL; }

static int look_at_result(rille_stream *s, double unused) {
  (void)unused;
  int result = atomic_load(&s->errand->result);
  if (result != RILLE_PARK) return result;
  int err = atomic_load(&s->aborted);
  return err ? err : RILLE_PARK;
}

static int ask(rille_stream *s, int wish) {
  rille_errand *e = s->errand;
  atomic_store(&e->result, RILLE_PARK);
  atomic_store(&e->wish, (uint32_t)wish);
  rille_stream_publish(s); /* the client may wait for it before it sends more */
  rille_stream_tell_loop(s, RILLE_STREAM_INPUT);
  return rille_stream_await(s, look_at_result, 0);
}

int rille_errand_ask(rille_stream *s, int wish) {
  rille_errand *e = s->errand;
  int err = atomic_load(&s->aborted);
  if (err) return err;
  if (e->is_complete) return RILLE_HTTP_END;
  if (e->stub.flags & RILLE_CONN_CLOSING) return RILLE_ERR_CLOSED;
  int result = ask(s, wish);
  if (result < 0) rille_errand_close(s); /* the server has answered, or nobody hears an answer */
  return result;
}

/* Why nobody takes an answer, or 0. */
static int look(const rille_stream *s) {
  int err = rille_stream_writable(s);
  if (err) return err;
  return s->errand->stub.flags & RILLE_CONN_CLOSING ? RILLE_ERR_CLOSED : RILLE_OK;
}

static bool drops_body(const rille_http *http) {
  return http->head.method == RILLE_HTTP_HEAD || http->status == 204 || http->status == 205 || http->status == 304;
}

static void open_head(rille_stream *s, int framing) {
  s->errand->http->framing = (uint8_t)framing;
  atomic_store(&s->errand->is_open, true);
}

int rille_errand_file(rille_stream *s, const char *path, const char *type) {
  rille_errand *e = s->errand;
  int err = look(s);
  if (err) return err;
  if (e->http->framing != RILLE_HTTP_UNSENT) return RILLE_ERR_BUSY;
  e->path = path;
  e->type = type;
  int result = ask(s, RILLE_ERRAND_FILE);
  if (result != RILLE_OK && atomic_load(&s->aborted)) return result; /* the loop may be at it */
  if (e->is_begun) e->http->framing = RILLE_HTTP_WHOLE;
  return result;
}

int rille_errand_send(rille_stream *s, double size) {
  rille_errand *e = s->errand;
  rille_http *http = e->http;
  int err = look(s);
  if (err) return err;
  if (http->framing != RILLE_HTTP_UNSENT) return RILLE_ERR_BUSY;
  if (size > RILLE_BLOCK_REQUEST_MAX) return RILLE_ERR_TOO_LARGE;
  bool is_set = size == 0 && http->head.method == RILLE_HTTP_HEAD && http->has_length;
  e->length = is_set ? http->answer_left : (uint64_t)size;
  open_head(s, RILLE_HTTP_WHOLE);
  return drops_body(http) ? RILLE_HTTP_END : RILLE_OK;
}

int rille_errand_write(rille_stream *s, double size) {
  rille_errand *e = s->errand;
  rille_http *http = e->http;
  int err = look(s);
  if (err) return err;
  if (http->framing == RILLE_HTTP_WHOLE) return RILLE_ERR_BUSY;
  if (size > RILLE_BLOCK_REQUEST_MAX) return RILLE_ERR_TOO_LARGE;
  bool is_first = http->framing == RILLE_HTTP_UNSENT;
  uint64_t left = is_first ? http->answer_left : e->length;
  if (http->has_length && !drops_body(http)) {
    if (size > (double)left) return RILLE_HTTP_OVER_LENGTH;
    e->length = left - (uint64_t)size;
  }
  if (is_first) open_head(s, http->has_length ? RILLE_HTTP_COUNTED : RILLE_HTTP_CHUNKED);
  return drops_body(http) ? RILLE_HTTP_END : RILLE_OK;
}

int rille_errand_flush(rille_stream *s) {
  rille_errand *e = s->errand;
  int err = look(s);
  if (err) return err;
  if (atomic_load(&e->is_open) && !e->is_told) {
    e->is_told = true;
    rille_stream_publish(s);
    rille_stream_tell_loop(s, RILLE_STREAM_OUTPUT);
  }
  return rille_stream_flush(s);
}

void rille_errand_close(rille_stream *s) { s->errand->stub.flags |= RILLE_CONN_CLOSING; }

void rille_errand_leave(rille_stream *s) { rille_http_forget_head(s->errand->http); }
