/*
 * http_chunk: see http_chunk.h. A state machine over single bytes: framing is a handful of them for each chunk.
 */
#include "http_chunk.h"

#include "http_head.h"

enum phase {
  SIZE,       /* hex digits */
  SIZE_BLANK, /* white space that only an extension may follow, behind a size or a value */
  EXT_START,  /* behind ";" */
  EXT_NAME,
  EXT_NAME_BLANK,
  EXT_VALUE_START, /* behind "=" */
  EXT_VALUE,
  EXT_QUOTED,
  EXT_ESCAPE,
  EXT_END, /* behind a quoted value */
  SIZE_LF,
  DATA,
  DATA_LF,
  TRAILER_START,
  TRAILER_NAME,
  TRAILER_VALUE,
  TRAILER_LF,
  LAST_LF,
  DONE
};

enum { SIZE_DIGITS_MAX = 16, REFUSED = -1 };

void rille_http_chunk_init(rille_http_chunk *chunk) { *chunk = (rille_http_chunk){.phase = SIZE}; }

bool rille_http_chunk_is_done(const rille_http_chunk *chunk) { return chunk->phase == DONE; }

static bool is_token(uint8_t c) { return (rille_http_class[c] & RILLE_HTTP_TOKEN) != 0; }

static bool is_blank(uint8_t c) { return c == ' ' || c == '\t'; }

/* what a field value or a quoted string may hold, apart from the quotes */
static bool is_text(uint8_t c) { return (c >= 0x20 && c != 0x7f) || c == '\t'; }

static uint64_t hex_value(uint8_t c) { return c <= '9' ? (uint64_t)(c - '0') : (uint64_t)((c | 0x20) - 'a' + 10); }

static int after_size(uint8_t c) { return c == ';' ? EXT_START : c == '\r' ? SIZE_LF : REFUSED; }

static int size_byte(rille_http_chunk *chunk, uint8_t c) {
  if (rille_http_class[c] & RILLE_HTTP_HEX) {
    if (++chunk->digits > SIZE_DIGITS_MAX) return REFUSED;
    chunk->size = chunk->size << 4 | hex_value(c);
    return SIZE;
  }
  if (chunk->digits == 0) return REFUSED;
  return is_blank(c) ? SIZE_BLANK : after_size(c);
}

/* The phase behind c, or REFUSED (RFC 9112 sections 7.1, 7.1.1 and 7.1.2). */
static int step(rille_http_chunk *chunk, uint8_t c) {
  switch ((enum phase)chunk->phase) {
  case SIZE: return size_byte(chunk, c);
  case SIZE_BLANK: return is_blank(c) ? SIZE_BLANK : c == ';' ? EXT_START : REFUSED;
  case EXT_START: return is_blank(c) ? EXT_START : is_token(c) ? EXT_NAME : REFUSED;
  case EXT_NAME:
    if (is_token(c)) return EXT_NAME;
    return is_blank(c) ? EXT_NAME_BLANK : c == '=' ? EXT_VALUE_START : after_size(c);
  case EXT_NAME_BLANK:
    return is_blank(c) ? EXT_NAME_BLANK : c == '=' ? EXT_VALUE_START : c == ';' ? EXT_START : REFUSED;
  case EXT_VALUE_START:
    return is_blank(c) ? EXT_VALUE_START : c == '"' ? EXT_QUOTED : is_token(c) ? EXT_VALUE : REFUSED;
  case EXT_VALUE: return is_token(c) ? EXT_VALUE : is_blank(c) ? SIZE_BLANK : after_size(c);
  case EXT_QUOTED: return c == '"' ? EXT_END : c == '\\' ? EXT_ESCAPE : is_text(c) ? EXT_QUOTED : REFUSED;
  case EXT_ESCAPE: return is_text(c) ? EXT_QUOTED : REFUSED;
  case EXT_END: return is_blank(c) ? SIZE_BLANK : after_size(c);
  case SIZE_LF: return c != '\n' ? REFUSED : chunk->size > 0 ? DATA : TRAILER_START;
  case DATA: return c == '\r' ? DATA_LF : REFUSED;
  case DATA_LF: return c == '\n' ? SIZE : REFUSED;
  case TRAILER_START: return c == '\r' ? LAST_LF : is_token(c) ? TRAILER_NAME : REFUSED;
  case TRAILER_NAME: return is_token(c) ? TRAILER_NAME : c == ':' ? TRAILER_VALUE : REFUSED;
  case TRAILER_VALUE: return c == '\r' ? TRAILER_LF : is_text(c) ? TRAILER_VALUE : REFUSED;
  case TRAILER_LF: return c == '\n' ? TRAILER_START : REFUSED;
  case LAST_LF: return c == '\n' ? DONE : REFUSED;
  case DONE: break;
  }
  return REFUSED;
}

int64_t rille_http_chunk_decode(rille_http_chunk *chunk, const uint8_t *bytes, size_t size, uint32_t extra_max) {
  size_t i = 0;
  while (i < size && chunk->left == 0 && chunk->phase != DONE) {
    enum phase before = (enum phase)chunk->phase;
    int after = step(chunk, bytes[i++]);
    if (after == REFUSED) return -400;
    chunk->phase = (uint8_t)after;
    chunk->tail += before >= TRAILER_START;
    if (before == SIZE_LF) {
      if (chunk->size > (uint64_t)INT64_MAX) return -413;
      chunk->left = chunk->size;
      chunk->size = 0;
      chunk->digits = 0;
    }
    bool is_extra = (after > SIZE && after < SIZE_LF) || (after > TRAILER_START && after < LAST_LF);
    if (is_extra && ++chunk->extra > extra_max) return -431;
  }
  return (int64_t)i;
}
