/*
 * http: the life of an exchange, from the first byte of a request to the end of its answer; see http.h. Loop thread only.
 */
#include "http.h"

#include "http_target.h"
#include "log.h"
#include "loop.h"
#include "reload.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum {
  KEPT_MAX = 64,      /* free exchanges a loop keeps */
  KEPT_BYTES = 16384, /* of a buffer that such a one keeps */
  HEAD_MAX = 16384,
  TARGET_MAX = 8192,
  HEADERS_MAX = 100,
  BODY_MAX = 1 << 20,
  HEADER_MS = 10000,
  BODY_MS = 60000,
  BODY_RATE = 1024
};

static const rille_http_settings defaults = {
    .limits = {.head = HEAD_MAX, .target = TARGET_MAX, .headers = HEADERS_MAX},
    .body = BODY_MAX,
    .header_ms = HEADER_MS,
    .body_ms = BODY_MS,
    .body_rate = BODY_RATE,
};

int rille_http_set(rille_service *service, int setting, double value) {
  if (setting == RILLE_SET_HTTP && value == 1 && !service->http) {
    rille_http_settings *settings = malloc(sizeof *settings);
    if (!settings) return RILLE_ERR_NO_MEMORY;
    *settings = defaults;
    service->http = settings;
    return RILLE_OK;
  }
  rille_http_settings *s = (rille_http_settings *)(uintptr_t)service->http; /* still ours: no connection uses it yet */
  if (!s || value > (setting == RILLE_SET_BODY ? 0x1p53 : (double)INT32_MAX)) return RILLE_ERR_INVALID;
  switch (setting) {
  case RILLE_SET_HEAD: s->limits.head = (uint32_t)value; break;
  case RILLE_SET_TARGET: s->limits.target = (uint32_t)value; break;
  case RILLE_SET_HEADERS: s->limits.headers = (uint32_t)value; break;
  case RILLE_SET_BODY: s->body = (uint64_t)value; break;
  case RILLE_SET_HEADER_TIME: s->header_ms = (uint32_t)value; break;
  case RILLE_SET_BODY_TIME: s->body_ms = (uint32_t)value; break;
  case RILLE_SET_BODY_RATE: s->body_rate = (uint32_t)value; break;
  case RILLE_SET_REQUESTS: s->requests = (uint32_t)value; break;
  case RILLE_SET_TUNNEL: s->has_tunnel = value != 0; break;
  default: return RILLE_ERR_INVALID;
  }
  return RILLE_OK;
}

/* ---- exchanges come with a request and go with its answer ------------------------------------------------------- */

/* Buffers stay for it. */
void rille_http_start(rille_http *http, uint32_t now_ms) {
  http->phase = RILLE_HTTP_HEADING;
  http->framing = RILLE_HTTP_UNSENT;
  http->is_kept = http->is_borrowed = http->is_continued = http->keep_alive = false;
  http->since_ms = now_ms;
  http->waited_ms = 0;
  http->block = NULL;
  http->job = NULL;
  http->path_size = 0;
  http->body_left = http->body_read = 0;
  http->has_whole = http->is_waiting = false;
  http->status = 200;
  http->has_type = http->has_date = http->has_length = false;
  http->fields_size = 0;
  rille_http_head_init(&http->head, http->inline_fields, RILLE_HTTP_FIELDS_FIRST);
}

rille_http *rille_http_new(void) {
  rille_http *http = malloc(sizeof *http);
  if (!http) return NULL;
  memset(http, 0, offsetof(rille_http, inline_fields));
  http->cell = rille_cell_take();
  if (http->cell) return http;
  free(http);
  return NULL;
}

static rille_http *take(rille_loop *loop) {
  rille_http *http = loop->exchanges;
  if (http) {
    loop->exchanges = http->next;
    loop->exchange_count--;
  } else {
    http = rille_http_new();
    if (!http) return NULL;
  }
  rille_http_start(http, loop->now_ms);
  return http;
}

void rille_http_free(rille_http *http) {
  if (http->cell) rille_cell_give(http->cell);
  free(http->scratch);
  free(http->fields);
  free(http);
}

void rille_http_forget_head(rille_http *http) {
  if (http->is_borrowed) {
    http->cell = rille_cell_advance(http->cell);
    if (!http->cell) http->cell = rille_cell_take();
  }
  if (http->is_kept) rille_block_release(http->block);
  http->is_borrowed = http->is_kept = false;
  for (rille_block *copy = http->copies; copy;) {
    rille_block *next = copy->next;
    rille_block_release(copy);
    copy = next;
  }
  http->copies = NULL;
  if (http->head.fields != http->inline_fields) free(http->head.fields);
  http->head.fields = http->inline_fields;
}

/* What the exchange holds of connection and loop, at its end. */
static void let_go(rille_loop *loop, rille_http *http) {
  rille_http_forget_head(http);
  if (http->body) rille_loop_buffer_give(loop, http->body);
  http->body = NULL;
}

static void give(rille_loop *loop, rille_http *http) {
  if (loop->exchange_count == KEPT_MAX || !http->cell || http->scratch_room + http->fields_room > KEPT_BYTES) {
    rille_http_free(http);
    return;
  }
  http->next = loop->exchanges;
  loop->exchanges = http;
  loop->exchange_count++;
}

void rille_http_drop(rille_conn *c) {
  if (!c->http) return;
  let_go(c->loop, c->http);
  give(c->loop, c->http);
  c->http = NULL;
}

void rille_http_keep(rille_http *http) {
  if (http->phase != RILLE_HTTP_READY || http->is_kept || !http->block) return;
  rille_block_retain(http->block);
  http->is_kept = true;
}

/* ---- a request arrives ----------------------------------------------------------------------------------------- */

void rille_http_refuse(rille_conn *c, int status, int reason) {
  if (c->flags & (RILLE_CONN_CLOSING | RILLE_CONN_FINISHED)) return;
  rille_log_context context = {.label = c->state->label, .conn = rille_conn_id(c), .loop = c->loop->id};
  RILLE_LOG_FOR(RILLE_LOG_DEBUG, &context, "request refused: %d %s", status, rille_http_reason(status));
  rille_http *http = c->http;
  http->keep_alive = false;
  if (http->framing == RILLE_HTTP_UNSENT) rille_http_answer_error(c, status, NULL, 0);
  if (!c->reason) c->reason = (int16_t)reason;
  c->wants_linger = true;
  rille_conn_close(c);
}

/* What on_close is told of a request that was refused. */
static int reason_of(int status) {
  switch (status) {
  case 408: return RILLE_ERR_TIMEOUT;
  case 413:
  case 414:
  case 431: return RILLE_ERR_TOO_LARGE;
  default: return RILLE_ERR_ERROR;
  }
}

static bool add_field_room(rille_http *http, uint32_t limit) {
  rille_http_head *head = &http->head;
  uint32_t room = head->field_room * 2 < limit ? head->field_room * 2 : limit;
  rille_http_field *fields = malloc(room * sizeof *fields);
  if (!fields) return false;
  memcpy(fields, head->fields, head->field_count * sizeof *fields);
  if (head->fields != http->inline_fields) free(head->fields);
  head->fields = fields;
  head->field_room = room;
  return true;
}

static int decode(rille_http *http, const uint8_t *bytes, size_t size, const rille_http_limits *limits) {
  for (;;) {
    int result = rille_http_head_decode(&http->head, bytes, size, limits);
    if (result != RILLE_HTTP_MORE_FIELDS) return result;
    if (!add_field_room(http, limits->headers)) return -500;
  }
}

/* Decode what is there of the head: mostly in the block where it arrived, else in a gathered copy. */
static int decode_input(rille_conn *c, rille_http *http) {
  const rille_http_limits *limits = &c->service->http->limits;
  struct iovec area;
  if (rille_linkbuffer_areas(c->in, &area, 1) == 0) return RILLE_HTTP_PARTIAL;
  int result = decode(http, area.iov_base, area.iov_len, limits);
  size_t length = rille_conn_input_len(c);
  if (result != RILLE_HTTP_PARTIAL || area.iov_len == length) return result;
  rille_slice whole;
  size_t size = length < limits->head ? length : limits->head;
  if (rille_linkbuffer_peek(c->in, (double)size, &whole) != RILLE_OK) return -500;
  return decode(http, whole.base_, size, limits);
}

static int decode_path(rille_http *http) {
  const rille_http_span *path = &http->head.path;
  if (http->scratch_room < path->size) {
    uint8_t *scratch = realloc(http->scratch, path->size);
    if (!scratch) return -500;
    http->scratch = scratch;
    http->scratch_room = path->size;
  }
  int64_t size = rille_http_path(http->base + path->at, path->size, http->scratch);
  if (size < 0) return (int)size;
  http->path_size = (uint32_t)size;
  return 0;
}

/* The head is complete: consume it, and refuse what this server does not do. 0, or a negative status. */
static int take_head(rille_conn *c, rille_http *http) {
  const rille_http_settings *settings = c->service->http;
  rille_http_head *head = &http->head;
  rille_slice whole;
  if (rille_linkbuffer_next(c->in, head->size, &whole) != RILLE_OK) return -500;
  c->flags &= ~(uint32_t)RILLE_CONN_READ_LATE; /* of the body before, which came just in time after all */
  http->base = whole.base_;
  http->block = whole.block_;
  http->body_left = head->content_length;
  http->is_continued = !head->wants_continue;
  http->keep_alive = head->keep_alive && ++c->requests != settings->requests;
  if (head->is_chunked) rille_http_chunk_init(&http->chunk);
  if (head->method == RILLE_HTTP_CONNECT) http->keep_alive = false; /* what comes may be meant for the tunnel */
  if (head->method == RILLE_HTTP_CONNECT && !settings->has_tunnel) return -501;
  if (head->method == RILLE_HTTP_CONNECT && !rille_http_is_over(http)) return -400; /* it would go into the tunnel */
  if (settings->body > 0 && head->content_length > settings->body) return -413;
  return head->path_is_plain ? 0 : decode_path(http);
}

/* Throw away what is there of the body. */
static int discard(rille_conn *c, rille_http *http) {
  int64_t n;
  while ((n = rille_http_piece(c, http)) > 0) {
    rille_linkbuffer_skip(c->in, (double)n);
    int status = rille_http_took(c, http, (size_t)n);
    if (status) return status;
  }
  return (int)n;
}

/* Of a body that nobody reads, after its answer. True when the next request may follow. */
static bool discard_rest(rille_conn *c, rille_http *http) {
  int status = discard(c, http);
  rille_conn_release_input(c);
  if (rille_http_is_over(http)) return true;
  if (status < 0 || http->body_read > http->discard_until) {
    c->wants_linger = true;
    rille_conn_close(c);
  }
  return false;
}

/* Empty lines and nothing else are no beginning of a request, which would have to be answered: some clients end a body with one. */
static bool forget_blank_lines(rille_conn *c, const rille_http *http) {
  size_t length = rille_conn_input_len(c);
  if (http->head.phase != 0 || http->head.at != length) return false;
  rille_linkbuffer_skip(c->in, (double)length);
  rille_http_drop(c);
  rille_conn_release_input(c);
  return true;
}

bool rille_http_arrived(rille_conn *c) {
  rille_http *http = c->http;
  if (http && http->phase == RILLE_HTTP_DISCARDING) {
    if (!discard_rest(c, http)) return false;
    let_go(c->loop, http);
    rille_http_start(http, c->loop->now_ms);
    if (rille_conn_input_len(c) == 0) {
      rille_http_drop(c);
      return false;
    }
  } else if (!http) {
    http = c->http = take(c->loop);
    if (!http) {
      rille_conn_fail(c, RILLE_ERR_NO_MEMORY);
      return false;
    }
  }
  if (http->phase == RILLE_HTTP_READY) return true;
  int status = decode_input(c, http);
  if (status == RILLE_HTTP_PARTIAL) {
    if (!forget_blank_lines(c, http)) rille_conn_arm(c);
    return false;
  }
  if (status > 0) status = take_head(c, http);
  if (status < 0) {
    rille_http_refuse(c, -status, reason_of(-status));
    return false;
  }
  http->phase = RILLE_HTTP_READY;
  return true;
}

/* ---- on_request ------------------------------------------------------------------------------------------------ */

int rille_http_begin(rille_conn *c) {
  if (!(c->flags & RILLE_CONN_BUSY)) return 0; /* a stale event */
  if (c->flags & RILLE_CONN_CLOSING || !c->http || c->http->phase != RILLE_HTTP_READY) {
    c->flags &= ~(uint32_t)RILLE_CONN_BUSY;
    rille_conn_settle(c);
    return 0;
  }
  if (rille_conn_output_len(c) > c->high_water) return 3;
  if (rille_state_is_observed(c->state) && !rille_reload_begin(c)) return 0;
  c->tasks++;
  c->loop->messages++;
  rille_loop_attend(c);
  return c->http->head.method == RILLE_HTTP_CONNECT ? 2 : 1;
}

/* The connection goes on as what the script made of it. */
static int leave_http(rille_conn *c) {
  rille_http_drop(c);
  return rille_conn_done(c);
}

static void rest(rille_conn *c) {
  c->flags &= ~(uint32_t)RILLE_CONN_BUSY;
  if (c->fd < 0 || c->flags & (RILLE_CONN_EOF | RILLE_CONN_CLOSING)) rille_conn_settle(c);
}

/* A task that the handler left behind still waits for the body. It is told first; true when there was one. */
static bool dismiss_reader(rille_conn *c) {
  if (!(c->flags & RILLE_CONN_READER)) return false;
  if (!(c->flags & RILLE_CONN_WOKEN)) rille_state_emit(c->state, RILLE_EVENT_READ, c->slot, 0);
  c->flags &= ~(uint32_t)(RILLE_CONN_READER | RILLE_CONN_WOKEN);
  return true;
}

/* The answer goes out. Whether the connection goes on behind it. */
static bool end_answer(rille_conn *c, rille_http *http) {
  if (!http || c->flags & RILLE_CONN_CLOSING || c->fd < 0) return false;
  rille_http_answer_end(c);
  if (c->flags & RILLE_CONN_CLOSING) return false;
  if (http->keep_alive && !(c->flags & RILLE_CONN_SHUT)) return true;
  rille_conn_close(c);
  return false;
}

static void end_connection(rille_conn *c, const rille_http *http) {
  /* the client is in the middle of something: what it has still to send must not reset the answer away */
  if (http && (!rille_http_is_over(http) || rille_conn_input_len(c) > 0)) c->wants_linger = true;
  rille_http_drop(c);
  rille_conn_release_input(c);
}

/* Read off what nobody wanted of the body. True when all of it is. */
static bool end_body(rille_conn *c, rille_http *http) {
  if (rille_http_is_over(http)) {
    rille_conn_release_input(c);
    return true;
  }
  http->phase = RILLE_HTTP_DISCARDING;
  http->since_ms = rille_loop_fresh_ms(c->loop);
  http->discard_until = http->body_read + RILLE_HTTP_DISCARD_MAX;
  if (discard_rest(c, http)) return true;
  rille_conn_mark_dirty(c); /* it may have stopped reading */
  rille_conn_arm(c);
  return false;
}

/* True when the next request is there. */
static bool begin_next(rille_conn *c, rille_http *http) {
  if (rille_conn_input_len(c) == 0) {
    give(c->loop, http);
    c->http = NULL;
    return false;
  }
  rille_http_start(http, c->loop->now_ms);
  if (rille_http_arrived(c)) return true;
  if (c->http)
    c->http->since_ms = rille_loop_fresh_ms(c->loop); /* the handler's own time is not taken from the client's */
  return false;
}

int rille_http_done(rille_conn *c) {
  rille_http *http = c->http;
  if (!c->is_http) return leave_http(c);
  if (c->tasks > 0) c->tasks--;
  if (rille_state_is_observed(c->state)) rille_reload_done(c, c->has_failed || (http && http->status >= 500));
  if (!end_answer(c, http)) {
    end_connection(c, http);
    rest(c);
    return 0;
  }
  let_go(c->loop, http);
  if (!http->cell) rille_conn_fail(c, RILLE_ERR_NO_MEMORY);
  bool has_reader = dismiss_reader(c);
  if (!end_body(c, http) || !begin_next(c, http)) {
    rest(c);
    return 0;
  }
  if (c->state->change.after && rille_conn_may_go(c)) {
    rille_conn_go(c);
    return 0;
  }
  if (!has_reader && !rille_conn_over_budget(c)) return 1;
  rille_state_emit_later(c->state, RILLE_EVENT_REQUEST, c->slot, 0);
  return 0;
}

void rille_http_failed(rille_conn *c, const char *text, size_t size) {
  rille_http *http = c->http;
  c->has_failed = true;
  if (!c->is_http || !http || http->framing != RILLE_HTTP_UNSENT || c->loop->is_ending) {
    rille_conn_raise(c);
  } else if (!(c->flags & RILLE_CONN_CLOSING)) {
    rille_http_answer_error(c, 500, text, size);
  }
}

/* ---- time ------------------------------------------------------------------------------------------------------ */

bool rille_http_is_busy(const rille_conn *c) { return c->http && c->http->phase != RILLE_HTTP_DISCARDING; }

void rille_http_waited(rille_conn *c) {
  rille_http *http = c->http;
  if (!http->is_waiting) return;
  http->is_waiting = false;
  http->waited_ms += rille_loop_fresh_ms(c->loop) - c->parked_ms;
}

uint32_t rille_http_patience(const rille_conn *c, uint32_t *since) {
  const rille_http *http = c->http;
  const rille_http_settings *settings = c->service->http;
  if (http->phase != RILLE_HTTP_READY) {
    *since = http->since_ms;
    return settings->header_ms;
  }
  bool is_waiting = c->flags & RILLE_CONN_READER && !(c->flags & RILLE_CONN_WOKEN);
  if (!is_waiting || settings->body_ms == 0) return 0;
  uint64_t span = settings->body_ms;
  if (settings->body_rate > 0) span += (http->body_read + rille_conn_input_len(c)) * 1000 / settings->body_rate;
  *since = c->parked_ms;
  if (span <= http->waited_ms) return 1;
  span -= http->waited_ms;
  return span < INT32_MAX ? (uint32_t)span : INT32_MAX;
}

void rille_http_expire(rille_conn *c) {
  switch (c->http->phase) {
  case RILLE_HTTP_HEADING: rille_http_refuse(c, 408, RILLE_ERR_TIMEOUT); return;
  case RILLE_HTTP_DISCARDING: rille_conn_close(c); return;
  default:
    c->flags |= RILLE_CONN_READ_LATE | RILLE_CONN_WOKEN;
    rille_state_emit(c->state, RILLE_EVENT_READ, c->slot, 0);
  }
}

/* A reader gets what it waits for; nobody else makes the server store more than a little ahead. What the script holds already
 * does not count: bodies are read piece by piece, or as a whole within their limit. */
size_t rille_http_input_limit(const rille_conn *c) {
  size_t ahead = c->service->max_input < RILLE_HTTP_AHEAD ? c->service->max_input : RILLE_HTTP_AHEAD;
  if (ahead < c->service->http->limits.head) ahead = c->service->http->limits.head;
  if (c->flags & RILLE_CONN_READER && c->want > ahead) ahead = c->want;
  return ahead + rille_conn_input_held(c);
}
