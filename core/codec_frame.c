/*
 * codec_frame: scanners of the framings that know a frame's end by a delimiter or a length; see codec.h. Pure: they read a view and their
 * own progress, nothing else.
 */
#include "codec.h"

#include <string.h>

/* ---- views ----------------------------------------------------------------------------------------------------- */

void rille_view_find(rille_view *v, size_t at) {
  size_t size = rille_linkbuffer_piece(v->buffer, v->base + at, &v->piece);
  if (size > v->size - at) size = v->size - at;
  v->from = at;
  v->to = at + size;
}

size_t rille_view_seek(rille_view *v, uint8_t byte, size_t from, size_t to) {
  while (from < to) {
    if (from < v->from || from >= v->to) rille_view_find(v, from);
    size_t end = v->to < to ? v->to : to;
    const uint8_t *match = memchr(v->piece + (from - v->from), byte, end - from);
    if (match) return v->from + (size_t)(match - v->piece);
    from = end;
  }
  return to;
}

bool rille_view_is(rille_view *v, size_t at, const uint8_t *bytes, size_t size) {
  for (size_t i = 0; i < size; i++) {
    if (rille_view_byte(v, at + i) != bytes[i]) return false;
  }
  return true;
}

/* ---- delimiters ------------------------------------------------------------------------------------------------ */

/* The first byte in from .. to that ends some delimiter, or `to`. */
static size_t seek_last(const rille_codec *c, rille_view *v, size_t from, size_t to) {
  if (c->is_one_last) return rille_view_seek(v, c->last, from, to);
  while (from < to && !c->lasts[rille_view_byte(v, from)]) from++;
  return from;
}

/* Of those that end at `end` the longest; NULL: none does. */
static const rille_delimiter *ending_at(const rille_codec *c, rille_view *v, size_t end) {
  for (uint32_t i = 0; i < c->delimiter_count; i++) {
    const rille_delimiter *d = &c->delimiters[i];
    if (d->size <= end && rille_view_is(v, end - d->size, d->bytes, d->size)) return d;
  }
  return NULL;
}

/* The delimiter that is complete first ends the frame, so it does not matter what comes behind. */
static int scan_delimited(const rille_codec *c, rille_view *v, rille_scan *s, rille_frame *f) {
  size_t limit = c->max + c->longest;
  size_t stop = v->size < limit ? v->size : limit;
  while (s->at < stop) {
    s->at = seek_last(c, v, s->at, stop);
    if (s->at == stop) break;
    const rille_delimiter *d = ending_at(c, v, ++s->at);
    if (!d) continue;
    size_t body = s->at - d->size;
    if (body > c->max) return RILLE_ERR_TOO_LARGE;
    *f = (rille_frame){.body = c->keeps ? s->at : body, .size = s->at};
    return 1;
  }
  return v->size >= limit ? RILLE_ERR_TOO_LARGE : 0;
}

/* ---- lengths --------------------------------------------------------------------------------------------------- */

static uint64_t read_length(const rille_codec *c, rille_view *v) {
  uint64_t value = 0;
  for (size_t i = 0; i < c->width; i++) {
    size_t at = c->is_little ? c->width - 1U - i : i;
    value = value << 8 | rille_view_byte(v, c->offset + at);
  }
  return value;
}

static int scan_length_field(const rille_codec *c, rille_view *v, rille_frame *f) {
  size_t head = c->offset + c->width;
  if (v->size < head) return 0;
  uint64_t value = read_length(c, v);
  if (value > INT64_MAX / 2) return RILLE_ERR_TOO_LARGE; /* what was meant as a negative one, too */
  int64_t total = (int64_t)value + c->adjustment + (int64_t)head;
  if (total < (int64_t)head) return RILLE_ERR_INVALID;
  if (total > (int64_t)c->max) return RILLE_ERR_TOO_LARGE;
  size_t size = (size_t)total;
  if (c->strip > size) return RILLE_ERR_INVALID;
  if (v->size < size) return 0;
  *f = (rille_frame){.skip = c->strip, .body = size - c->strip, .size = size};
  return 1;
}

static int scan_netstring(const rille_codec *c, rille_view *v, rille_frame *f) {
  size_t value = 0, at = 0;
  for (;; at++) {
    if (at == v->size) return 0;
    uint8_t byte = rille_view_byte(v, at);
    if (byte == ':' && at > 0) break;
    if (byte < '0' || byte > '9' || (at == 1 && value == 0)) return RILLE_ERR_INVALID; /* 0 stands alone */
    value = value * 10 + (size_t)(byte - '0');
    if (value > c->max) return RILLE_ERR_TOO_LARGE;
  }
  size_t size = at + 1 + value + 1;
  if (v->size < size) return 0;
  if (rille_view_byte(v, size - 1) != ',') return RILLE_ERR_INVALID;
  *f = (rille_frame){.skip = at + 1, .body = value, .size = size};
  return 1;
}

static int scan_varint(const rille_codec *c, rille_view *v, rille_frame *f) {
  enum { SIZE_OF_64_BITS = 10 };
  uint64_t value = 0;
  for (size_t at = 0; at < v->size; at++) {
    uint8_t byte = rille_view_byte(v, at);
    if (at == SIZE_OF_64_BITS - 1 && byte > 1) return RILLE_ERR_INVALID;
    value |= (uint64_t)(byte & 0x7f) << (7 * at);
    if (byte & 0x80) continue;
    if (value > c->max) return RILLE_ERR_TOO_LARGE;
    size_t size = at + 1 + (size_t)value;
    if (v->size < size) return 0;
    *f = (rille_frame){.skip = at + 1, .body = (size_t)value, .size = size};
    return 1;
  }
  return 0;
}

int rille_codec_scan(const rille_codec *c, rille_view *v, rille_scan *s, rille_frame *f) {
  switch (c->kind) {
  case RILLE_CODEC_DELIMITER: return scan_delimited(c, v, s, f);
  case RILLE_CODEC_LENGTH_FIELD: return scan_length_field(c, v, f);
  case RILLE_CODEC_NETSTRING: return scan_netstring(c, v, f);
  case RILLE_CODEC_VARINT: return scan_varint(c, v, f);
  case RILLE_CODEC_RESP: return rille_resp_scan(c, v, s, f);
  default: break;
  }
  if (v->size < c->max) return 0;
  *f = (rille_frame){.body = c->max, .size = c->max};
  return 1;
}
