/*
 * http_request: what a script reads of a request; see rille.h for the contract of each and http.h for the rest. Loop thread only.
 */
#include "http.h"

#include "http_target.h"
#include "loop.h"

#include <math.h>
#include <string.h>

int rille_http_method(const rille_conn *c) { return c->http->head.method; }

int rille_http_minor(const rille_conn *c) { return c->http->head.minor; }

/* ---- the head -------------------------------------------------------------------------------------------------- */

static void view(rille_http *http, rille_slice *out, const uint8_t *bytes, size_t size, rille_block *block) {
  *out = (rille_slice){.base_ = bytes,
                       .cell_ = http->cell,
                       .block_ = block,
                       .size_ = (uint32_t)size,
                       .epoch_ = rille_cell_epoch(http->cell)};
  http->is_borrowed = true;
}

static void view_span(rille_http *http, rille_slice *out, rille_http_span span) {
  view(http, out, http->base + span.at, span.size, span.size > 0 ? http->block : NULL);
}

/* What stands in a copy before the combined value. */
typedef struct copy_head {
  int first; /* of its fields */
  uint32_t size;
} copy_head;

static const copy_head *find_copy(const rille_http *http, int first, rille_block **block) {
  for (rille_block *copy = http->copies; copy; copy = copy->next) {
    const copy_head *head = (const copy_head *)(const void *)copy->data;
    *block = copy;
    if (head->first == first) return head;
  }
  return NULL;
}

static copy_head *take_copy(rille_http *http, size_t size) {
  rille_block *copy = rille_block_take(sizeof(copy_head) + size);
  if (!copy) return NULL;
  copy->next = http->copies;
  http->copies = copy;
  return (copy_head *)(void *)copy->data;
}

int rille_http_part(rille_conn *c, int part, rille_slice *out) {
  rille_http *http = c->http;
  const rille_http_head *head = &http->head;
  switch (part) {
  case RILLE_HTTP_PART_METHOD: view_span(http, out, head->method_name); break;
  case RILLE_HTTP_PART_TARGET: view_span(http, out, head->target); break;
  case RILLE_HTTP_PART_HOST: view_span(http, out, head->host); break;
  case RILLE_HTTP_PART_QUERY:
    if (!head->has_query) return RILLE_ERR_NOT_FOUND;
    view_span(http, out, head->query);
    break;
  case RILLE_HTTP_PART_PATH:
    if (head->path_is_absent) view(http, out, (const uint8_t *)"/", 1, NULL);
    else if (head->path_is_plain) view_span(http, out, head->path);
    else view(http, out, http->scratch, http->path_size, NULL);
    break;
  default: return RILLE_ERR_INVALID;
  }
  return RILLE_OK;
}

/* All values of a name that stands in more than one field, as RFC 9110 section 5.3 and RFC 6265 section 5.4 combine them; once. */
static const copy_head *combine(rille_http *http, const uint8_t *name, size_t size, int first) {
  const rille_http_head *head = &http->head;
  const char *between = rille_http_is(name, size, "cookie", 6) ? "; " : ", ";
  size_t total = 0;
  for (int i = first; i >= 0; i = rille_http_head_find(head, http->base, name, size, (uint32_t)i + 1)) {
    total += head->fields[i].value.size + 2;
  }
  copy_head *copy = take_copy(http, total);
  if (!copy) return NULL;
  uint8_t *to = (uint8_t *)(copy + 1);
  size_t at = 0;
  for (int i = first; i >= 0; i = rille_http_head_find(head, http->base, name, size, (uint32_t)i + 1)) {
    const rille_http_span *value = &head->fields[i].value;
    if (i > first) {
      memcpy(to + at, between, 2);
      at += 2;
    }
    memcpy(to + at, http->base + value->at, value->size);
    at += value->size;
  }
  *copy = (copy_head){.first = first, .size = (uint32_t)at};
  return copy;
}

static int view_combined(rille_http *http, const uint8_t *name, size_t size, int first, rille_slice *out) {
  rille_block *block = NULL;
  const copy_head *copy = find_copy(http, first, &block);
  if (!copy) {
    copy = combine(http, name, size, first);
    block = http->copies;
  }
  if (!copy) return RILLE_ERR_NO_MEMORY;
  view(http, out, (const uint8_t *)(copy + 1), copy->size, block);
  return RILLE_OK;
}

int rille_http_header(rille_conn *c, const char *name, size_t size, rille_slice *out) {
  rille_http *http = c->http;
  const uint8_t *wanted = (const uint8_t *)name;
  int first = rille_http_head_find(&http->head, http->base, wanted, size, 0);
  if (first < 0) return RILLE_ERR_NOT_FOUND;
  if (rille_http_head_find(&http->head, http->base, wanted, size, (uint32_t)first + 1) >= 0) {
    return view_combined(http, wanted, size, first, out);
  }
  view_span(http, out, http->head.fields[first].value);
  return RILLE_OK;
}

int rille_http_field_at(rille_conn *c, uint32_t i, rille_slice *name, rille_slice *value) {
  rille_http *http = c->http;
  if (i >= http->head.field_count) return RILLE_ERR_NOT_FOUND;
  view_span(http, name, http->head.fields[i].name);
  view_span(http, value, http->head.fields[i].value);
  return RILLE_OK;
}

double rille_http_query_value(const uint8_t *query, double query_size, const char *name, size_t name_size,
                              uint8_t *to) {
  return (double)rille_http_query(query, (size_t)query_size, (const uint8_t *)name, name_size, to);
}

double rille_http_query_decode(const uint8_t *from, double size, uint8_t *to) {
  return (double)rille_http_unescape(from, (size_t)size, to);
}

/* ---- the body -------------------------------------------------------------------------------------------------- */

int64_t rille_http_piece(rille_conn *c, rille_http *http) {
  struct iovec area;
  while (!rille_http_is_over(http) && c->in && rille_linkbuffer_areas(c->in, &area, 1) > 0) {
    uint64_t left = http->head.is_chunked ? http->chunk.left : http->body_left;
    if (left > 0) return (int64_t)(area.iov_len < left ? area.iov_len : left);
    int64_t used = rille_http_chunk_decode(&http->chunk, area.iov_base, area.iov_len, c->service->http->limits.head);
    if (used < 0) return used;
    rille_linkbuffer_skip(c->in, (double)used);
  }
  return 0;
}

int rille_http_took(const rille_conn *c, rille_http *http, size_t n) {
  uint64_t limit = c->service->http->body;
  http->body_read += n;
  if (http->head.is_chunked) http->chunk.left -= n;
  else http->body_left -= n;
  return limit > 0 && http->body_read > limit ? -413 : 0;
}

static int refuse_body(rille_conn *c, int64_t status) {
  rille_http_refuse(c, (int)-status, status == -400 ? RILLE_ERR_ERROR : RILLE_ERR_TOO_LARGE);
  return status == -400 ? RILLE_ERR_INVALID : RILLE_ERR_TOO_LARGE;
}

/* The body has to come from the network: park until n bytes of input are there. */
static int wait_for(rille_conn *c, rille_http *http, size_t n) {
  if (c->flags & RILLE_CONN_READ_LATE) {
    c->flags &= ~(uint32_t)RILLE_CONN_READ_LATE;
    rille_http_refuse(c, 408, RILLE_ERR_TIMEOUT);
    return RILLE_ERR_TIMEOUT;
  }
  int err = rille_conn_ended(c);
  if (err) {
    rille_http_refuse(c, 400, err);
    return err;
  }
  rille_http_continue(c, http);
  c->flags |= RILLE_CONN_READER;
  c->want = (uint32_t)n;
  c->parked_ms = rille_loop_fresh_ms(c->loop);
  http->is_waiting = true;
  rille_conn_mark_dirty(c); /* it may have stopped reading, for nobody waited */
  rille_conn_arm(c);
  return RILLE_PARK;
}

/* What both ways to read begin with: 0, or why there is nothing to read. */
static int look(rille_conn *c, rille_http *http) {
  if (c->flags & RILLE_CONN_READER) return RILLE_ERR_BUSY;
  if (rille_http_is_over(http)) return RILLE_OK;
  rille_http_keep(http);
  return c->flags & RILLE_CONN_CLOSING ? rille_conn_ended(c) : RILLE_OK;
}

int64_t rille_http_move_body(rille_conn *c, rille_http *http, rille_linkbuffer *to, size_t max) {
  int64_t n = 0, moved = 0;
  while ((uint64_t)moved < max && (n = rille_http_piece(c, http)) > 0) {
    rille_slice piece;
    int err = rille_linkbuffer_next(c->in, (double)n, &piece);
    if (err == RILLE_OK) err = rille_linkbuffer_write_slice(to, &piece);
    if (err != RILLE_OK) return -500;
    int status = rille_http_took(c, http, (size_t)n);
    if (status) return status;
    moved += n;
  }
  rille_linkbuffer_flush(to);
  if (c->in) rille_conn_release_input(c);
  return n < 0 ? n : moved;
}

/* Move what has come of a chunked body to a buffer of its own, where it is in one piece. 0, or a negative status. */
static int64_t collect(rille_conn *c, rille_http *http) {
  if (!http->body) http->body = rille_loop_buffer_take(c->loop);
  if (!http->body) return -500;
  int64_t n = rille_http_move_body(c, http, http->body, SIZE_MAX);
  return rille_linkbuffer_total(http->body) > RILLE_BLOCK_REQUEST_MAX ? -413 : n; /* it could not be one piece */
}

static int read_chunked(rille_conn *c, rille_http *http) {
  int64_t status = collect(c, http);
  if (status < 0) return refuse_body(c, status);
  if (!rille_http_is_over(http)) return wait_for(c, http, 1);
  return rille_linkbuffer_next(http->body, rille_linkbuffer_len(http->body), &http->whole);
}

static int read_counted(rille_conn *c, rille_http *http) {
  if (http->body_left > RILLE_BLOCK_REQUEST_MAX) return refuse_body(c, -413);
  size_t n = (size_t)http->body_left;
  if (rille_conn_input_len(c) < n) return wait_for(c, http, n);
  int err = rille_linkbuffer_next(c->in, (double)n, &http->whole);
  if (err == RILLE_OK) rille_http_took(c, http, n);
  return err;
}

int rille_http_body(rille_conn *c, rille_slice *out) {
  rille_http *http = c->http;
  if (!http->has_whole) {
    int err = look(c, http);
    if (err) return err;
    if (rille_http_is_over(http)) view(http, &http->whole, http->base, 0, NULL);
    else err = http->head.is_chunked ? read_chunked(c, http) : read_counted(c, http);
    if (err) return err;
    http->has_whole = true;
  }
  *out = http->whole;
  return RILLE_OK;
}

int rille_http_feed(rille_conn *c, rille_linkbuffer *to, size_t max, bool may_wait) {
  rille_http *http = c->http;
  int err = look(c, http);
  if (err) return err;
  int64_t moved = rille_http_move_body(c, http, to, max);
  if (moved < 0) return refuse_body(c, moved);
  if (moved > 0) return RILLE_OK;
  if (rille_http_is_over(http)) return RILLE_HTTP_END;
  return may_wait ? wait_for(c, http, 1) : RILLE_OK;
}

int rille_http_read(rille_conn *c, double max, rille_slice *out) {
  rille_http *http = c->http;
  if (!(max >= 1)) return RILLE_ERR_INVALID;
  int err = look(c, http);
  if (err) return err;
  if (!rille_http_is_over(http) && c->in) rille_conn_release_input(c); /* the piece before */
  int64_t n = rille_http_piece(c, http);
  if (n < 0) return refuse_body(c, n);
  if (rille_http_is_over(http)) return RILLE_HTTP_END;
  if (n == 0) return wait_for(c, http, 1);
  if (rille_conn_yield(c, 1)) return RILLE_PARK;
  if ((double)n > max) n = (int64_t)floor(max);
  err = rille_linkbuffer_next(c->in, (double)n, out);
  if (err) return err;
  int status = rille_http_took(c, http, (size_t)n);
  return status ? refuse_body(c, status) : RILLE_OK;
}
