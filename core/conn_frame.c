/*
 * conn_frame: connections whose input is cut by a codec: on_request is called when a whole frame is there, or never can be. An incomplete one
 * costs no call into Lua. See rille_codec.h and codec.h; loop thread only.
 */
#include "codec.h"
#include "conn.h"

int rille_service_set_codec(rille_service *service, rille_codec *codec) {
  if (rille_codec_largest(codec) > service->max_input) return RILLE_ERR_TOO_LARGE;
  if (service->codec) rille_codec_release(service->codec);
  codec->refs++;
  service->codec = codec;
  return RILLE_OK;
}

static void drop(rille_conn *c) {
  if (c->decoder) rille_decoder_free(c->decoder);
  c->decoder = NULL;
}

void rille_conn_drop_codec(rille_conn *c) {
  drop(c);
  c->is_framed = false;
}

void rille_conn_recut(rille_conn *c) {
  drop(c);
  c->is_framed = c->service->codec != NULL;
}

int rille_conn_set_codec(rille_conn *c, rille_codec *codec) {
  rille_decoder *decoder = NULL;
  if (codec) {
    if (rille_codec_largest(codec) > c->service->max_input) return RILLE_ERR_TOO_LARGE;
    decoder = rille_decoder_new(codec);
    if (!decoder) return RILLE_ERR_NO_MEMORY;
  }
  drop(c);
  c->decoder = decoder;
  c->is_framed = codec != NULL;
  return RILLE_OK;
}

bool rille_conn_is_inside(const rille_conn *c) { return c->decoder && rille_decoder_is_inside(c->decoder); }

/* Input that is full, and holds no whole frame, never will. */
static int or_too_large(const rille_conn *c, int found) {
  return found == 0 && rille_conn_input_len(c) >= c->service->max_input ? RILLE_ERR_TOO_LARGE : found;
}

bool rille_conn_has_frame(rille_conn *c) {
  if (!c->decoder) c->decoder = rille_decoder_new(c->service->codec);
  if (!c->decoder) {
    rille_conn_fail(c, RILLE_ERR_NO_MEMORY);
    return false;
  }
  return c->in && or_too_large(c, rille_decoder_look(c->decoder, c->in)) != 0;
}

/* By a codec that is not its own. */
static int take_once(rille_conn *c, rille_codec *codec, rille_linkbuffer *in, rille_slice *out) {
  rille_decoder *decoder = rille_decoder_new(codec);
  if (!decoder) return RILLE_ERR_NO_MEMORY;
  int found = or_too_large(c, rille_decoder_take(decoder, in, out));
  rille_decoder_free(decoder);
  return found;
}

int rille_conn_frame(rille_conn *c, rille_codec *codec, rille_slice *out) {
  if (c->flags & RILLE_CONN_READER || c->is_http) return RILLE_ERR_BUSY;
  rille_linkbuffer *in = rille_conn_input(c);
  if (!in) return RILLE_ERR_NO_MEMORY;
  if (!c->decoder && c->is_framed) c->decoder = rille_decoder_new(c->service->codec);
  if (c->decoder && c->decoder->codec != codec) {
    if (c->is_framed) return take_once(c, codec, in, out);
    drop(c);
  }
  if (!c->decoder) c->decoder = rille_decoder_new(codec);
  if (!c->decoder) return RILLE_ERR_NO_MEMORY;
  return or_too_large(c, rille_decoder_take(c->decoder, in, out));
}

void rille_conn_fault(rille_conn *c, int err) {
  if (!c->reason && err < 0 && err >= RILLE_ERR_LAST) c->reason = (int16_t)err;
}
