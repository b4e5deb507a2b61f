/*
 * http_reply_drive: the decoder of answers fed as a client feeds it: bytes that arrive in pieces and move in between, an array of fields
 * that grows. See http_drive.h.
 */
#ifndef RILLE_SPEC_HTTP_REPLY_DRIVE_H
#define RILLE_SPEC_HTTP_REPLY_DRIVE_H

#include "http_drive.h"
#include "http_reply.h"

typedef struct drive_reply {
  int status; /* of the last call */
  rille_http_reply reply;
  rille_http_field fields[DRIVE_FIELDS];
} drive_reply;

static inline void drive_reply_grow(rille_http_reply *reply, fence *rooms) {
  uint32_t room = reply->field_room + 1;
  if (room > DRIVE_FIELDS) abort();
  rille_http_field *fields = (rille_http_field *)(void *)fence_room(rooms, room * sizeof *fields);
  if (reply->field_count > 0) memcpy(fields, reply->fields, reply->field_count * sizeof *fields);
  reply->fields = fields;
  reply->field_room = room;
}

static inline void drive_reply_by(drive_reply *out, const void *bytes, size_t size, const rille_http_limits *limits,
                                  const size_t *steps, size_t count) {
  static fence inputs, rooms;
  rille_http_reply *reply = &out->reply;
  rille_http_reply_init(reply, NULL, 0);
  size_t at = 0, turn = 0;
  do {
    at = drive_next(at, size, steps, &turn, count);
    const uint8_t *moved = fence_put(&inputs, bytes, at);
    while ((out->status = rille_http_reply_decode(reply, moved, at, limits)) == RILLE_HTTP_MORE_FIELDS)
      drive_reply_grow(reply, &rooms);
  } while (out->status == RILLE_HTTP_PARTIAL && at < size);
  if (reply->field_count > 0) memcpy(out->fields, reply->fields, reply->field_count * sizeof *out->fields);
  reply->fields = out->fields;
}

static inline int drive_reply_whole(drive_reply *out, const void *bytes, size_t size, const rille_http_limits *limits) {
  drive_reply_by(out, bytes, size, limits, (const size_t[]){SIZE_MAX}, 1);
  return out->status;
}

/* Whether both got the same answer. */
static inline bool drive_reply_same(const drive_reply *a, const drive_reply *b) {
  const rille_http_reply *x = &a->reply, *y = &b->reply;
  if (a->status != b->status) return false;
  if (a->status <= 0) return true;
  for (uint32_t i = 0; i < x->field_count && i < y->field_count; i++) {
    const rille_http_field *f = &a->fields[i], *g = &b->fields[i];
    if (f->key != g->key || !drive_span_is(f->name, g->name) || !drive_span_is(f->value, g->value)) return false;
  }
  return x->field_count == y->field_count && x->size == y->size && x->status == y->status && x->minor == y->minor &&
         drive_span_is(x->reason, y->reason) && x->is_chunked == y->is_chunked && x->has_length == y->has_length &&
         x->keep_alive == y->keep_alive && x->content_length == y->content_length;
}

#endif
