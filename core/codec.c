/*
 * codec: the life of codecs and decoders, and chains; see codec.h.
 */
#include "codec.h"

#include <stdlib.h>
#include <string.h>

/* ---- codecs ---------------------------------------------------------------------------------------------------- */

static bool is_in(double n, double low, double high) { return n >= low && n <= high && n == (double)(int64_t)n; }

static bool is_width(int width) { return (width >= 1 && width <= 4) || width == 8; }

static bool are_valid(const rille_codec_options *o) {
  if (o->kind < RILLE_CODEC_DELIMITER || o->kind > RILLE_CODEC_CHAIN) return false;
  if (o->kind == RILLE_CODEC_CHAIN) return true;
  if (!is_in(o->max, 1, RILLE_CODEC_MAX)) return false;
  if (o->kind == RILLE_CODEC_RESP) return is_in(o->depth, 1, RILLE_CODEC_DEPTH_MAX);
  if (o->kind != RILLE_CODEC_LENGTH_FIELD) return true;
  return is_width(o->width) && is_in(o->offset, 0, RILLE_CODEC_OFFSET_MAX) && is_in(o->strip, 0, RILLE_CODEC_MAX) &&
         is_in(o->adjustment, -(double)RILLE_CODEC_MAX, RILLE_CODEC_MAX) && o->offset + o->width <= o->max;
}

rille_codec *rille_codec_new(const rille_codec_options *o, int *err) {
  *err = RILLE_ERR_INVALID;
  if (!are_valid(o)) return NULL;
  *err = RILLE_ERR_NO_MEMORY;
  rille_codec *c = calloc(1, sizeof *c);
  if (!c) return NULL;
  *err = RILLE_OK;
  c->refs = 1;
  c->kind = (uint8_t)o->kind;
  c->width = (uint8_t)o->width;
  c->is_little = o->is_little != 0;
  c->keeps = o->keeps != 0;
  c->is_named = o->is_named != 0;
  c->depth = o->kind == RILLE_CODEC_RESP ? (uint32_t)o->depth : 0;
  c->max = (size_t)o->max;
  c->offset = (size_t)o->offset;
  c->strip = (size_t)o->strip;
  c->adjustment = (int64_t)o->adjustment;
  return c;
}

static void free_one(rille_codec *c) {
  free(c->delimiters);
  free(c);
}

void rille_codec_release(rille_codec *c) {
  if (--c->refs > 0) return;
  for (uint32_t i = 0; i < c->member_count; i++) { /* which have none themselves */
    if (--c->members[i]->refs == 0) free_one(c->members[i]);
  }
  free_one(c);
}

/* Shorter ones stand behind longer ones. */
static void insert(rille_codec *c, const char *bytes, size_t size) {
  uint32_t at = c->delimiter_count++;
  for (; at > 0 && c->delimiters[at - 1].size < size; at--) c->delimiters[at] = c->delimiters[at - 1];
  if (c->delimiter_count > 1 && at <= c->first) c->first++;
  c->delimiters[at].size = size;
  memcpy(c->delimiters[at].bytes, bytes, size);
}

int rille_codec_add_delimiter(rille_codec *c, const char *bytes, size_t size) {
  if (c->kind != RILLE_CODEC_DELIMITER || size == 0 || size > RILLE_CODEC_DELIMITER_SIZE_MAX) return RILLE_ERR_INVALID;
  if (c->delimiter_count == RILLE_CODEC_DELIMITERS_MAX) return RILLE_ERR_FULL;
  if (!c->delimiters) c->delimiters = calloc(RILLE_CODEC_DELIMITERS_MAX, sizeof *c->delimiters);
  if (!c->delimiters) return RILLE_ERR_NO_MEMORY;
  uint8_t last = (uint8_t)bytes[size - 1];
  c->is_one_last = c->delimiter_count == 0 || (c->is_one_last && c->last == last);
  c->last = last;
  c->lasts[last] = true;
  if (size > c->longest) c->longest = size;
  insert(c, bytes, size);
  return RILLE_OK;
}

int rille_codec_add_member(rille_codec *chain, rille_codec *member) {
  if (chain->kind != RILLE_CODEC_CHAIN || member->kind == RILLE_CODEC_CHAIN) return RILLE_ERR_INVALID;
  if (chain->member_count == RILLE_CODEC_MEMBERS_MAX) return RILLE_ERR_FULL;
  member->refs++;
  chain->members[chain->member_count++] = member;
  if (member->depth > chain->depth) chain->depth = member->depth;
  return RILLE_OK;
}

/* ---- decoders -------------------------------------------------------------------------------------------------- */

rille_decoder *rille_decoder_new(rille_codec *codec) {
  rille_decoder *d = calloc(1, sizeof *d + codec->depth * sizeof d->left[0]);
  if (!d) return NULL;
  codec->refs++;
  d->codec = codec;
  d->scan.left = d->left;
  rille_decoder_reset(d);
  return d;
}

void rille_decoder_free(rille_decoder *d) {
  rille_codec_release(d->codec);
  free(d);
}

static void restart(rille_decoder *d) {
  d->found = 0;
  d->scan.at = d->scan.seen = 0;
  d->scan.depth = 0;
}

void rille_decoder_reset(rille_decoder *d) {
  restart(d);
  d->position = UINT64_MAX;
  d->inside = 0;
  d->base = 0;
}

static const rille_codec *member(const rille_codec *c, uint32_t level) {
  return c->kind == RILLE_CODEC_CHAIN ? c->members[level] : c;
}

static uint32_t levels(const rille_codec *c) { return c->kind == RILLE_CODEC_CHAIN ? c->member_count : 1; }

/* The frame that the scanner of the innermost framing has found, with the ends of those around it that end with it. */
static void note_frame(rille_decoder *d, const rille_frame *f) {
  size_t end = d->base + f->size;
  uint32_t inside = d->inside;
  while (inside > 0 && end == d->ends[inside - 1]) end = d->tails[--inside];
  d->frame = (rille_frame){.skip = d->base + f->skip, .body = f->body, .size = end};
  d->next_inside = inside;
}

static void enter(rille_decoder *d, const rille_frame *f) {
  d->ends[d->inside] = d->base + f->skip + f->body;
  d->tails[d->inside] = d->base + f->size;
  d->base += f->skip;
  d->inside++;
  restart(d);
}

static int search(rille_decoder *d, rille_linkbuffer *b) {
  for (;;) {
    size_t end = d->inside > 0 ? d->ends[d->inside - 1] : rille_linkbuffer_readable(b);
    rille_view v = {.buffer = b, .base = d->base, .size = end - d->base};
    rille_frame f = {0};
    int found = v.size > 0 ? rille_codec_scan(member(d->codec, d->inside), &v, &d->scan, &f) : 0;
    if (found == 0 && d->inside > 0) return RILLE_ERR_SHORT; /* no more of it will come */
    if (found <= 0) return found;
    if (d->inside + 1 == levels(d->codec)) {
      note_frame(d, &f);
      return 1;
    }
    enter(d, &f);
  }
}

int rille_decoder_look(rille_decoder *d, rille_linkbuffer *b) {
  uint64_t position = rille_linkbuffer_position(b);
  if (position != d->position) {
    rille_decoder_reset(d);
    d->position = position;
  }
  if (d->found == 0) d->found = search(d, b);
  return d->found;
}

void rille_decoder_advance(rille_decoder *d, size_t size) {
  d->position += size;
  d->inside = d->next_inside;
  for (uint32_t i = 0; i < d->inside; i++) {
    d->ends[i] -= size;
    d->tails[i] -= size;
  }
  d->base = 0;
  restart(d);
}

int rille_decoder_take(rille_decoder *d, rille_linkbuffer *b, rille_slice *out) {
  int found = rille_decoder_look(d, b);
  if (found <= 0) return found;
  const rille_frame *f = &d->frame;
  int err = f->skip > 0 ? rille_linkbuffer_skip(b, (double)f->skip) : RILLE_OK;
  if (!err) err = rille_linkbuffer_next(b, (double)f->body, out);
  if (err) { /* half of it is gone: there is no way on */
    d->position = rille_linkbuffer_position(b);
    d->found = err;
    return err;
  }
  size_t rest = f->size - f->skip - f->body;
  if (rest > 0) rille_linkbuffer_skip(b, (double)rest);
  rille_decoder_advance(d, f->size);
  return 1;
}
