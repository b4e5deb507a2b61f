/*
 * rille_codec.h: the part of rille.h that framings need; same rules, included at its end.
 */
#ifndef RILLE_RILLE_CODEC_H
#define RILLE_RILLE_CODEC_H

#include "rille.h"

enum rille_codec_kind {
  RILLE_CODEC_DELIMITER = 1, /* lines, too */
  RILLE_CODEC_FIXED,
  RILLE_CODEC_LENGTH_FIELD,
  RILLE_CODEC_NETSTRING,
  RILLE_CODEC_VARINT,
  RILLE_CODEC_RESP,
  RILLE_CODEC_CHAIN /* of members, the outermost first */
};

enum {
  RILLE_CODEC_MAX = 1 << 30,       /* bytes; no limit of a framing is above it */
  RILLE_CODEC_DELIMITERS_MAX = 16, /* of one codec */
  RILLE_CODEC_DELIMITER_SIZE_MAX = 64,
  RILLE_CODEC_OFFSET_MAX = 65536,
  RILLE_CODEC_DEPTH_MAX = 128,
  RILLE_CODEC_MEMBERS_MAX = 4
};

/* What is not of the kind is 0. */
typedef struct rille_codec_options {
  int kind;
  int width;     /* LENGTH_FIELD: bytes of the length, 1, 2, 3, 4 or 8 */
  int is_little; /* LENGTH_FIELD: least significant byte first */
  int keeps;     /* DELIMITER: frames have their delimiter */
  int is_named;  /* max was chosen: it has to fit into a connection's input limit */
  double max;    /* bytes of a body; of the whole frame for LENGTH_FIELD and RESP; FIXED: of each */
  double offset; /* LENGTH_FIELD */
  double adjustment;
  double strip;
  double depth; /* RESP: of values in values */
} rille_codec_options;

typedef struct rille_codec rille_codec;     /* a framing; immutable once it is used, on the thread of one Lua state */
typedef struct rille_decoder rille_decoder; /* how far a framing is in one input */

/* owned, a reference; NULL with *err */
rille_codec *rille_codec_new(const rille_codec_options *options, int *err);
void rille_codec_release(rille_codec *codec);
/* before it is used */
int rille_codec_add_delimiter(rille_codec *codec, const char *bytes, size_t size);
int rille_codec_add_member(rille_codec *chain, rille_codec *member);

/* the most bytes a frame takes, 0: nobody has said */
double rille_codec_largest(const rille_codec *codec);

/* owned, keeps the codec; NULL when there is no memory */
rille_decoder *rille_decoder_new(rille_codec *codec);
void rille_decoder_free(rille_decoder *decoder);
/* Take the next frame: 1 with its bytes, borrowed until release; 0: it is not all there, and nothing was taken; or an error, which
 * stays: RILLE_ERR_TOO_LARGE, RILLE_ERR_INVALID (not the grammar), RILLE_ERR_SHORT (cut off by the end of the frame it is in),
 * RILLE_ERR_NOT_SUPPORTED, RILLE_ERR_NO_MEMORY. Thread of the reader. */
int rille_decoder_take(rille_decoder *decoder, rille_linkbuffer *b, rille_slice *out);

/* Append a frame with these bytes, all or nothing: 0, RILLE_ERR_TOO_LARGE, RILLE_ERR_INVALID (the framing cannot carry them) or what
 * writing gives. Thread of the writer. */
int rille_codec_write(const rille_codec *codec, rille_linkbuffer *out, const char *bytes, size_t size);
int rille_codec_write_slice(const rille_codec *codec, rille_linkbuffer *out, const rille_slice *s);
int rille_codec_write_buffer(const rille_codec *codec, rille_linkbuffer *out, rille_linkbuffer *from);

/* ---- connections: loop thread ---------------------------------------------------------------------------------- */

/* Its connections call on_request for whole frames; before one uses it. RILLE_ERR_TOO_LARGE: a frame may be larger than
 * max_input. */
int rille_service_set_codec(rille_service *service, rille_codec *codec);
/* The same for one connection; NULL: for any bytes. */
int rille_conn_set_codec(rille_conn *c, rille_codec *codec);
/* rille_decoder_take on its input; RILLE_ERR_BUSY while a task is parked reading it. */
int rille_conn_frame(rille_conn *c, rille_codec *codec, rille_slice *out);
/* what on_close gets if nothing else has a say */
void rille_conn_fault(rille_conn *c, int err);

#endif
