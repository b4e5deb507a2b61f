/*
 * codec_check: what must hold of every framing: the same frames however the bytes are cut, all bytes accounted for, an error that stays,
 * and frames that, written again, are found again.
 */
#ifndef RILLE_SPEC_CODEC_CHECK_H
#define RILLE_SPEC_CODEC_CHECK_H

#include "../c/codec_drive.h"
#include "holds.h"

static inline bool is_codec_error(int err) {
  return err == 0 || err == RILLE_ERR_TOO_LARGE || err == RILLE_ERR_INVALID || err == RILLE_ERR_NOT_SUPPORTED;
}

/* Each frame found, written by the same codec, is a frame again. */
static inline void check_round_trip(rille_codec *codec, const drive *found) {
  static drive again;
  int err;
  for (size_t at = 0; at < found->size;) {
    uint32_t size;
    memcpy(&size, found->text + at, 4);
    rille_linkbuffer *out = rille_linkbuffer_new(4096, &err);
    HOLDS(out != NULL);
    HOLDS(rille_codec_write(codec, out, (const char *)found->text + at + 4, size) == 0);
    HOLDS(rille_linkbuffer_flush(out) == 0);
    rille_slice wire;
    HOLDS(rille_linkbuffer_peek(out, rille_linkbuffer_len(out), &wire) == 0);
    drive_by(&again, codec, wire.base_, wire.size_, (const size_t[]){SIZE_MAX}, 1);
    HOLDS(again.err == 0 && again.left == 0 && again.size == 4 + size);
    HOLDS(memcmp(again.text, found->text + at, 4 + size) == 0);
    rille_linkbuffer_free(out);
    at += 4 + size;
  }
}

static inline void check_codec(const rille_codec_options *options, const uint8_t *bytes, size_t size,
                               bool is_symmetric) {
  static drive whole, cut;
  int err;
  rille_codec *codec = rille_codec_new(options, &err);
  HOLDS(codec != NULL);
  HOLDS(drive_every_split(&whole, &cut, codec, bytes, size) < 0);
  HOLDS(is_codec_error(whole.err) && whole.left <= size);
  if (is_symmetric) check_round_trip(codec, &whole);
  rille_codec_release(codec);
}

#endif
