/*
 * codec_write: frames for output: what a framing puts in front of a body and behind it; see codec.h. All of a frame is written, or nothing.
 */
#include "codec.h"

#include <stdio.h>
#include <string.h>

/* A body: bytes in one piece, of a slice if it is to be linked rather than copied; or all that can be read of a buffer. */
typedef struct body {
  const uint8_t *bytes;
  size_t size;
  const rille_slice *slice;
  rille_linkbuffer *buffer;
} body;

/* What surrounds it. */
typedef struct wrapping {
  size_t at; /* `before` stands behind so many bytes of the body */
  uint8_t before[24];
  size_t before_size;
  const uint8_t *after;
  size_t after_size;
} wrapping;

/* ---- what a framing adds --------------------------------------------------------------------------------------- */

static bool has_inside(const body *x, const rille_delimiter *d) {
  if (x->buffer) return rille_linkbuffer_index_of(x->buffer, (const char *)d->bytes, d->size, 0) >= 0;
  return rille_bytes_find(x->bytes, (double)x->size, (const char *)d->bytes, d->size, 0) >= 0;
}

/* Whether the body and the delimiter behind it, read again, end where they do: not before, as ...a + ab would for "aa". */
static bool ends_early(const rille_codec *c, const body *x, const rille_delimiter *d) {
  uint8_t seam[2 * RILLE_CODEC_DELIMITER_SIZE_MAX];
  size_t tail = c->longest - 1 < x->size ? c->longest - 1 : x->size;
  if (x->buffer) rille_linkbuffer_copy(x->buffer, x->size - tail, seam, tail);
  else if (tail > 0) memcpy(seam, x->bytes + x->size - tail, tail);
  memcpy(seam + tail, d->bytes, d->size);
  size_t size = tail + d->size;
  for (uint32_t i = 0; i < c->delimiter_count; i++) {
    const rille_delimiter *one = &c->delimiters[i];
    for (size_t end = one->size; end <= size; end++) {
      if (memcmp(seam + end - one->size, one->bytes, one->size) != 0) continue;
      if (end < size || one->size > d->size) return true;
    }
  }
  return false;
}

/* The shortest delimiter ends it: of lines "\n", where they may end in two ways. */
static int wrap_delimited(const rille_codec *c, const body *x, wrapping *w) {
  const rille_delimiter *d = &c->delimiters[c->first];
  if (x->size > c->max) return RILLE_ERR_TOO_LARGE;
  for (uint32_t i = 0; i < c->delimiter_count; i++) {
    if (has_inside(x, &c->delimiters[i])) return RILLE_ERR_INVALID;
  }
  if (ends_early(c, x, d)) return RILLE_ERR_INVALID;
  w->after = d->bytes;
  w->after_size = d->size;
  return RILLE_OK;
}

static int wrap_length_field(const rille_codec *c, const body *x, wrapping *w) {
  if (x->size < c->offset) return RILLE_ERR_INVALID;
  if (x->size + c->width > c->max) return RILLE_ERR_TOO_LARGE;
  int64_t value = (int64_t)(x->size - c->offset) - c->adjustment;
  if (value < 0) return RILLE_ERR_INVALID;
  if (c->width < 8 && value >> (8 * c->width) != 0) return RILLE_ERR_TOO_LARGE;
  w->at = c->offset;
  w->before_size = c->width;
  for (size_t i = 0; i < c->width; i++) {
    size_t at = c->is_little ? i : c->width - 1U - i;
    w->before[at] = (uint8_t)((uint64_t)value >> (8 * i));
  }
  return RILLE_OK;
}

static int wrap_netstring(const rille_codec *c, const body *x, wrapping *w) {
  static const uint8_t comma[] = ",";
  if (x->size > c->max) return RILLE_ERR_TOO_LARGE;
  w->before_size = (size_t)snprintf((char *)w->before, sizeof w->before, "%zu:", x->size);
  w->after = comma;
  w->after_size = 1;
  return RILLE_OK;
}

static int wrap_varint(const rille_codec *c, const body *x, wrapping *w) {
  if (x->size > c->max) return RILLE_ERR_TOO_LARGE;
  size_t rest = x->size;
  do {
    w->before[w->before_size++] = (uint8_t)((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    rest >>= 7;
  } while (rest > 0);
  return RILLE_OK;
}

static int wrap(const rille_codec *c, const body *x, wrapping *w) {
  switch (c->kind) {
  case RILLE_CODEC_DELIMITER: return wrap_delimited(c, x, w);
  case RILLE_CODEC_LENGTH_FIELD: return wrap_length_field(c, x, w);
  case RILLE_CODEC_NETSTRING: return wrap_netstring(c, x, w);
  case RILLE_CODEC_VARINT: return wrap_varint(c, x, w);
  case RILLE_CODEC_RESP: return x->size > c->max ? RILLE_ERR_TOO_LARGE : RILLE_OK; /* Lua has written it out */
  default: return x->size == c->max ? RILLE_OK : RILLE_ERR_INVALID;
  }
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

static int put(rille_linkbuffer *out, const body *x, size_t from, size_t size) {
  if (size == 0) return RILLE_OK;
  if (x->buffer) return rille_linkbuffer_write_buffer(out, x->buffer);
  if (!x->slice) return rille_linkbuffer_write(out, (const char *)x->bytes + from, size);
  rille_slice part = *x->slice;
  part.base_ += from;
  part.size_ = (uint32_t)size;
  return rille_linkbuffer_write_slice(out, &part);
}

static int put_all(rille_linkbuffer *out, const body *x, const wrapping *w) {
  int err = put(out, x, 0, w->at);
  if (!err && w->before_size > 0) err = rille_linkbuffer_write(out, (const char *)w->before, w->before_size);
  if (!err) err = put(out, x, w->at, x->size - w->at);
  if (!err && w->after_size > 0) err = rille_linkbuffer_write(out, (const char *)w->after, w->after_size);
  return err;
}

/* One framing's. */
static int write_one(const rille_codec *c, rille_linkbuffer *out, body x) {
  wrapping w = {0};
  int err = wrap(c, &x, &w);
  rille_slice whole;
  if (!err && w.at > 0 && x.buffer) { /* it is to be cut in two */
    err = rille_linkbuffer_peek(x.buffer, (double)x.size, &whole);
    if (!err) x = (body){.bytes = whole.base_, .size = x.size, .slice = &whole};
  }
  if (err) return err;
  double before = rille_linkbuffer_malloc_len(out);
  err = put_all(out, &x, &w);
  if (err) rille_linkbuffer_malloc_ack(out, before);
  return err;
}

/* From the innermost framing outwards, through buffers of their own. */
static int write_chain(const rille_codec *c, rille_linkbuffer *out, body x) {
  int err = RILLE_OK;
  rille_linkbuffer *inner = NULL;
  for (uint32_t level = c->member_count; level-- > 1 && !err;) {
    rille_linkbuffer *next = rille_linkbuffer_new(4096, &err);
    if (next) err = write_one(c->members[level], next, x);
    if (next && !err) err = rille_linkbuffer_flush(next);
    if (inner) rille_linkbuffer_free(inner);
    inner = next;
    if (next) x = (body){.buffer = next, .size = rille_linkbuffer_readable(next)};
  }
  if (!err) err = write_one(c->members[0], out, x);
  if (inner) rille_linkbuffer_free(inner);
  return err;
}

static int write_body(const rille_codec *c, rille_linkbuffer *out, body x) {
  return c->kind == RILLE_CODEC_CHAIN ? write_chain(c, out, x) : write_one(c, out, x);
}

int rille_codec_write(const rille_codec *c, rille_linkbuffer *out, const char *bytes, size_t size) {
  return write_body(c, out, (body){.bytes = (const uint8_t *)bytes, .size = size});
}

int rille_codec_write_slice(const rille_codec *c, rille_linkbuffer *out, const rille_slice *s) {
  if (rille_cell_epoch(s->cell_) != s->epoch_) return RILLE_ERR_EXPIRED;
  return write_body(c, out, (body){.bytes = s->base_, .size = s->size_, .slice = s});
}

int rille_codec_write_buffer(const rille_codec *c, rille_linkbuffer *out, rille_linkbuffer *from) {
  if (from == out) return RILLE_ERR_INVALID;
  return write_body(c, out, (body){.buffer = from, .size = rille_linkbuffer_readable(from)});
}

/* ---- sizes ----------------------------------------------------------------------------------------------------- */

double rille_codec_largest(const rille_codec *c) {
  enum { NETSTRING_EXTRA = 12, VARINT_EXTRA = 10 };
  if (c->kind == RILLE_CODEC_CHAIN && c->member_count > 0) c = c->members[0];
  if (!c->is_named) return 0;
  switch (c->kind) {
  case RILLE_CODEC_DELIMITER: return (double)(c->max + c->longest);
  case RILLE_CODEC_NETSTRING: return (double)c->max + NETSTRING_EXTRA;
  case RILLE_CODEC_VARINT: return (double)c->max + VARINT_EXTRA;
  default: return (double)c->max;
  }
}
