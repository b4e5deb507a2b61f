/*
 * codec_drive: feeds bytes to a codec in pieces, each in a block of its own, and writes down what it finds. For the tool that
 * spec/codec_model_spec.lua asks, and for fuzzers.
 */
#ifndef RILLE_SPEC_CODEC_DRIVE_H
#define RILLE_SPEC_CODEC_DRIVE_H

#include "codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DRIVE_TEXT_MAX = 1 << 20 };

typedef struct drive {
  int err;     /* enum rille_err, 0 while bytes may follow */
  size_t left; /* bytes that were not taken */
  size_t size;
  uint8_t text[DRIVE_TEXT_MAX]; /* frames, a length of 4 bytes in front of each */
} drive;

static inline void drive_check(int ok) {
  if (!ok) fprintf(stderr, "codec_drive: no memory, or a bad argument\n"), abort();
}

static inline void drive_note(drive *d, const rille_slice *s) {
  drive_check(d->size + 4 + s->size_ <= DRIVE_TEXT_MAX);
  memcpy(d->text + d->size, &s->size_, 4);
  if (s->size_ > 0) memcpy(d->text + d->size + 4, s->base_, s->size_);
  d->size += 4 + s->size_;
}

static inline void drive_feed(rille_linkbuffer *b, const uint8_t *bytes, size_t size) {
  int err;
  rille_linkbuffer *piece = rille_linkbuffer_new(1, &err);
  drive_check(piece && rille_linkbuffer_write(piece, (const char *)bytes, size) == 0);
  drive_check(rille_linkbuffer_flush(piece) == 0 && rille_linkbuffer_append(b, piece) == 0);
  rille_linkbuffer_free(piece);
}

/* In steps, the last of which goes on for ever. */
static inline void drive_by(drive *d, rille_codec *codec, const uint8_t *bytes, size_t size, const size_t *steps,
                            size_t count) {
  int err;
  rille_linkbuffer *b = rille_linkbuffer_new(1, &err);
  rille_decoder *decoder = rille_decoder_new(codec);
  drive_check(b && decoder);
  d->size = 0;
  d->err = 0;
  size_t at = 0;
  for (size_t i = 0; at < size && d->err == 0; i++) {
    size_t step = steps[i < count ? i : count - 1];
    if (step > size - at) step = size - at;
    if (step > 0) drive_feed(b, bytes + at, step);
    at += step;
    rille_slice frame;
    while ((d->err = rille_decoder_take(decoder, b, &frame)) == 1) {
      drive_note(d, &frame);
      rille_linkbuffer_release(b);
    }
  }
  d->left = rille_linkbuffer_readable(b) + (size - at);
  rille_decoder_free(decoder);
  rille_linkbuffer_free(b);
}

static inline int drive_same(const drive *a, const drive *b) {
  return a->err == b->err && a->left == b->left && a->size == b->size && memcmp(a->text, b->text, a->size) == 0;
}

/* Whole, cut in two at every place, and byte by byte: the first place that makes a difference, or -1. */
static inline long drive_every_split(drive *whole, drive *cut, rille_codec *codec, const uint8_t *bytes, size_t size) {
  drive_by(whole, codec, bytes, size, (const size_t[]){SIZE_MAX}, 1);
  for (size_t at = 1; at < size; at++) {
    drive_by(cut, codec, bytes, size, (const size_t[]){at, SIZE_MAX}, 2);
    if (!drive_same(whole, cut)) return (long)at;
  }
  drive_by(cut, codec, bytes, size, (const size_t[]){1}, 1);
  return drive_same(whole, cut) ? -1 : 0;
}

#endif
