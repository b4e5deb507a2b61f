/*
 * http_drive: the HTTP decoders fed as a server feeds them: bytes that arrive in pieces and move in between, an array of fields
 * that grows, data that is taken as it comes. One answer at the end, to compare with that of another way of cutting.
 *
 * Steps say how many bytes more there are at each call; the last one counts for all further calls.
 */
#ifndef RILLE_SPEC_HTTP_DRIVE_H
#define RILLE_SPEC_HTTP_DRIVE_H

#include "fence.h"
#include "http_chunk.h"
#include "http_head.h"

enum { DRIVE_FIELDS = 256 };

typedef struct drive_head {
  int status; /* of the last call */
  rille_http_head head;
  rille_http_field fields[DRIVE_FIELDS];
} drive_head;

typedef struct drive_chunk {
  int64_t status;   /* 0: partial, 1: the body is over, < 0: error */
  size_t consumed;  /* framing and data */
  size_t data_size; /* of the chunks together */
  uint64_t digest;  /* of the data */
  rille_http_chunk chunk;
} drive_chunk;

static inline size_t drive_next(size_t at, size_t size, const size_t *steps, size_t *turn, size_t count) {
  size_t step = steps[*turn];
  if (*turn + 1 < count) (*turn)++;
  return step > size - at ? size : at + step;
}

/* Room for one field more, elsewhere, with the content of before. */
static inline void drive_grow(rille_http_head *head, fence *rooms) {
  uint32_t room = head->field_room + 1;
  if (room > DRIVE_FIELDS) abort();
  rille_http_field *fields = (rille_http_field *)(void *)fence_room(rooms, room * sizeof *fields);
  if (head->field_count > 0) memcpy(fields, head->fields, head->field_count * sizeof *fields);
  head->fields = fields;
  head->field_room = room;
}

static inline void drive_head_by(drive_head *out, const void *bytes, size_t size, const rille_http_limits *limits,
                                 const size_t *steps, size_t count) {
  static fence inputs, rooms;
  rille_http_head *head = &out->head;
  rille_http_head_init(head, NULL, 0);
  size_t at = 0, turn = 0;
  do {
    at = drive_next(at, size, steps, &turn, count);
    const uint8_t *moved = fence_put(&inputs, bytes, at);
    while ((out->status = rille_http_head_decode(head, moved, at, limits)) == RILLE_HTTP_MORE_FIELDS)
      drive_grow(head, &rooms);
  } while (out->status == RILLE_HTTP_PARTIAL && at < size);
  if (head->field_count > 0) memcpy(out->fields, head->fields, head->field_count * sizeof *out->fields);
  head->fields = out->fields;
}

static inline int drive_head_whole(drive_head *out, const void *bytes, size_t size, const rille_http_limits *limits) {
  drive_head_by(out, bytes, size, limits, (const size_t[]){SIZE_MAX}, 1);
  return out->status;
}

static inline bool drive_span_is(rille_http_span a, rille_http_span b) { return a.at == b.at && a.size == b.size; }

/* Whether both got the same answer: the same status, and all of a head that is complete. */
static inline bool drive_head_same(const drive_head *a, const drive_head *b) {
  const rille_http_head *x = &a->head, *y = &b->head;
  if (a->status != b->status) return false;
  if (a->status <= 0) return true;
  for (uint32_t i = 0; i < x->field_count && i < y->field_count; i++) {
    const rille_http_field *f = &a->fields[i], *g = &b->fields[i];
    if (f->key != g->key || !drive_span_is(f->name, g->name) || !drive_span_is(f->value, g->value)) return false;
  }
  return x->field_count == y->field_count && x->size == y->size && x->method == y->method && x->minor == y->minor &&
         drive_span_is(x->method_name, y->method_name) && drive_span_is(x->target, y->target) &&
         drive_span_is(x->path, y->path) && drive_span_is(x->query, y->query) && drive_span_is(x->host, y->host) &&
         x->has_query == y->has_query && x->path_is_plain == y->path_is_plain &&
         x->path_is_absent == y->path_is_absent && x->is_chunked == y->is_chunked && x->has_length == y->has_length &&
         x->has_host == y->has_host && x->keep_alive == y->keep_alive && x->wants_continue == y->wants_continue &&
         x->wants_upgrade == y->wants_upgrade && x->content_length == y->content_length;
}

/* FNV-1a, for it can be continued */
static inline uint64_t drive_digest(uint64_t digest, const uint8_t *bytes, size_t size) {
  for (size_t i = 0; i < size; i++) digest = (digest ^ bytes[i]) * UINT64_C(0x100000001b3);
  return digest;
}

/* What is there of one piece: framing and data in turn. False when no more can be taken. */
static inline bool drive_chunk_piece(drive_chunk *out, const uint8_t *piece, size_t size, uint32_t extra_max) {
  for (size_t at = 0; at < size;) {
    int64_t taken = rille_http_chunk_decode(&out->chunk, piece + at, size - at, extra_max);
    if (taken > (int64_t)(size - at)) abort();
    if (taken < 0) out->status = taken;
    if (taken < 0) return false;
    at += (size_t)taken;
    out->consumed += (size_t)taken;
    if (rille_http_chunk_is_done(&out->chunk)) out->status = 1;
    if (out->status == 1) return false;
    size_t data = out->chunk.left < size - at ? (size_t)out->chunk.left : size - at;
    if (taken == 0 && data == 0) abort(); /* it stands still */
    out->digest = drive_digest(out->digest, piece + at, data);
    out->chunk.left -= data;
    out->data_size += data;
    out->consumed += data;
    at += data;
  }
  return true;
}

static inline void drive_chunk_by(drive_chunk *out, const void *bytes, size_t size, uint32_t extra_max,
                                  const size_t *steps, size_t count) {
  static fence inputs;
  *out = (drive_chunk){.digest = UINT64_C(0xcbf29ce484222325)};
  rille_http_chunk_init(&out->chunk);
  size_t at = 0, turn = 0;
  while (at < size) {
    size_t to = drive_next(at, size, steps, &turn, count);
    const uint8_t *piece = fence_put(&inputs, (const uint8_t *)bytes + at, to - at);
    if (!drive_chunk_piece(out, piece, to - at, extra_max)) return;
    at = to;
  }
}

static inline int64_t drive_chunk_whole(drive_chunk *out, const void *bytes, size_t size, uint32_t extra_max) {
  drive_chunk_by(out, bytes, size, extra_max, (const size_t[]){SIZE_MAX}, 1);
  return out->status;
}

/* How much framing was consumed before an error depends on the cut; status and data do not. */
static inline bool drive_chunk_same(const drive_chunk *a, const drive_chunk *b) {
  if (a->status != b->status || a->data_size != b->data_size || a->digest != b->digest) return false;
  return a->status < 0 || (a->consumed == b->consumed && a->chunk.tail == b->chunk.tail);
}

#endif
