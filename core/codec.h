/*
 * codec: framings. A codec is what a framing was told, a decoder how far it is in one input; scanners are pure functions over the bytes of
 * a LinkBuffer, which they do not consume: how the bytes were cut makes no difference to what they find. What is
 * scanned once is not scanned again when more comes.
 *
 * Codecs are counted without atomics: they, their decoders and the connections that use them belong to one Lua state.
 */
#ifndef RILLE_CODEC_H
#define RILLE_CODEC_H

#include "linkbuffer.h"

#include <stdbool.h>

typedef struct rille_delimiter {
  uint8_t bytes[RILLE_CODEC_DELIMITER_SIZE_MAX];
  size_t size;
} rille_delimiter;

struct rille_codec {
  uint32_t refs;

  /* immutable once it is used */
  uint8_t kind; /* enum rille_codec_kind */
  uint8_t width;
  bool is_little;
  bool keeps;
  bool is_named;
  uint32_t depth;
  size_t max;
  size_t offset, strip;
  int64_t adjustment;
  uint32_t member_count;
  rille_codec *members[RILLE_CODEC_MEMBERS_MAX]; /* a reference each */
  uint32_t delimiter_count;
  uint32_t first;              /* of the delimiters, what ends a frame that is written */
  size_t longest;              /* delimiter */
  uint8_t last;                /* byte of all delimiters, where is_one_last */
  bool is_one_last;            /* all of them end in the same byte */
  bool lasts[256];             /* bytes that end one */
  rille_delimiter *delimiters; /* owned; the longest first */
};

/* Bytes of a buffer's front, which may lie in several pieces. */
typedef struct rille_view {
  rille_linkbuffer *buffer;
  size_t base;          /* where it begins, from the read cursor */
  size_t size;          /* of it */
  const uint8_t *piece; /* bytes from .. to of it, found last */
  size_t from, to;
} rille_view;

/* A whole frame at the front of a view. */
typedef struct rille_frame {
  size_t skip; /* bytes in front of its body */
  size_t body;
  size_t size; /* of all it takes */
} rille_frame;

/* How far a scanner is. All zero: at the beginning. */
typedef struct rille_scan {
  size_t at;      /* bytes that need no second look */
  size_t seen;    /* RESP: so far there is no end of the line that begins at `at` */
  uint32_t depth; /* RESP: values that are open; left[0 .. depth) */
  uint32_t *left; /* borrowed from the decoder; values missing in each */
} rille_scan;

struct rille_decoder {
  rille_codec *codec; /* a reference */
  uint64_t position;  /* of the buffer; what follows is counted from there. When somebody else has read, it is void */
  int found;          /* 1: frame is whole; negative: the error; 0: not known */
  rille_frame frame;
  uint32_t inside;                                                      /* of so many frames of a chain */
  uint32_t next_inside;                                                 /* when frame is taken */
  size_t base;                                                          /* the innermost one's rest begins here ... */
  size_t ends[RILLE_CODEC_MEMBERS_MAX], tails[RILLE_CODEC_MEMBERS_MAX]; /* ... and ends; all of it ends at its tail */
  rille_scan scan;
  uint32_t left[]; /* codec->depth of them */
};

/* 1: a whole frame is there; 0: not yet; or the error. Consumes nothing. */
int rille_decoder_look(rille_decoder *d, rille_linkbuffer *b);
/* The buffer is another one. */
void rille_decoder_reset(rille_decoder *d);
/* That many bytes, which end with a frame, were consumed. To be told is a must: what was found is else found again in another buffer that
 * happens to have come as far as this one was. */
void rille_decoder_advance(rille_decoder *d, size_t size);
/* A chain is in the middle of an outer frame. */
static inline bool rille_decoder_is_inside(const rille_decoder *d) { return d->inside > 0; }

/* codec_frame.c, codec_resp.c: the result of a scanner is that of rille_decoder_look */
int rille_codec_scan(const rille_codec *c, rille_view *v, rille_scan *s, rille_frame *f);
int rille_resp_scan(const rille_codec *c, rille_view *v, rille_scan *s, rille_frame *f);

/* the piece that holds the byte `at` of the view, at < size */
void rille_view_find(rille_view *v, size_t at);

static inline uint8_t rille_view_byte(rille_view *v, size_t at) {
  if (at < v->from || at >= v->to) rille_view_find(v, at);
  return v->piece[at - v->from];
}

/* The first such byte in from .. to of the view, or `to`. */
size_t rille_view_seek(rille_view *v, uint8_t byte, size_t from, size_t to);
/* Whether `size` bytes from `at` on are these; they are inside. */
bool rille_view_is(rille_view *v, size_t at, const uint8_t *bytes, size_t size);

#endif
