/*
 * codec_resp: finds the end of a RESP2 or RESP3 value (the Redis serialization protocol) and sees that it is one; see codec.h. What a value
 * means is read by lua/rille/codec/resp.lua, which need not doubt its form any more. Streamed strings and
 * aggregates are refused.
 */
#include "codec.h"

enum { LINE_END = 2, VALUE_MIN = 3 /* "_\r\n" */ };

/* A value's own bytes: a line, or a line and a body. */
typedef struct element {
  uint8_t type;
  size_t line;       /* where the line ends, its CR */
  size_t end;        /* of all of it */
  uint64_t children; /* values that belong to it */
} element;

/* ---- lines ----------------------------------------------------------------------------------------------------- */

static bool is_digit(uint8_t byte) { return byte >= '0' && byte <= '9'; }

/* [+-]digits */
static bool is_integer(rille_view *v, size_t from, size_t to, size_t digits_max) {
  if (from < to && (rille_view_byte(v, from) == '-' || rille_view_byte(v, from) == '+')) from++;
  if (from == to || to - from > digits_max) return false;
  for (; from < to; from++) {
    if (!is_digit(rille_view_byte(v, from))) return false;
  }
  return true;
}

/* What a double is written with; Lua reads it. */
static bool is_double(rille_view *v, size_t from, size_t to) {
  static const char *const words[] = {"inf", "-inf", "+inf", "nan", "-nan"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    size_t size = 0;
    while (words[i][size]) size++;
    if (size == to - from && rille_view_is(v, from, (const uint8_t *)words[i], size)) return true;
  }
  bool has_digit = false, has_point = false;
  if (from < to && (rille_view_byte(v, from) == '-' || rille_view_byte(v, from) == '+')) from++;
  for (; from < to; from++) {
    uint8_t byte = rille_view_byte(v, from);
    if (is_digit(byte)) has_digit = true;
    else if (byte == '.' && !has_point) has_point = true;
    else break;
  }
  if (from == to || !has_digit) return has_digit;
  uint8_t exponent = rille_view_byte(v, from);
  return (exponent == 'e' || exponent == 'E') && is_integer(v, from + 1, to, 9);
}

static bool is_text(rille_view *v, size_t from, size_t to) { return rille_view_seek(v, '\n', from, to) == to; }

/* digits, without zeros in front: true with the number, which is cut at UINT32_MAX */
static bool read_count(rille_view *v, size_t from, size_t to, uint64_t *n) {
  *n = 0;
  if (from == to || (to - from > 1 && rille_view_byte(v, from) == '0')) return false;
  for (; from < to; from++) {
    uint8_t byte = rille_view_byte(v, from);
    if (!is_digit(byte)) return false;
    *n = *n * 10 + (uint64_t)(byte - '0');
    if (*n > UINT32_MAX) *n = UINT32_MAX;
  }
  return true;
}

/* ---- elements -------------------------------------------------------------------------------------------------- */

/* A body of n bytes behind the line, and its CR LF. */
static int scan_body(const rille_codec *c, rille_view *v, uint64_t n, element *e) {
  if (e->end + n + LINE_END > c->max) return RILLE_ERR_TOO_LARGE;
  size_t from = e->end, to = from + (size_t)n;
  e->end = to + LINE_END;
  if (v->size < e->end) return 0;
  if (rille_view_byte(v, to) != '\r' || rille_view_byte(v, to + 1) != '\n') return RILLE_ERR_INVALID;
  if (e->type == '=' && (n < 4 || rille_view_byte(v, from + 3) != ':')) return RILLE_ERR_INVALID;
  return 1;
}

static int scan_counted(const rille_codec *c, rille_view *v, size_t from, element *e) {
  static const uint8_t none[] = "-1";
  bool may_be_none = e->type == '$' || e->type == '*';
  if (may_be_none && e->line - from == 2 && rille_view_is(v, from, none, 2)) return 1;
  if (e->line - from == 1 && rille_view_byte(v, from) == '?') return RILLE_ERR_NOT_SUPPORTED;
  uint64_t n;
  if (!read_count(v, from, e->line, &n)) return RILLE_ERR_INVALID;
  if (e->type == '$' || e->type == '!' || e->type == '=') return scan_body(c, v, n, e);
  e->children = e->type == '%' ? 2 * n : e->type == '|' ? 2 * n + 1 : n;
  return e->end + VALUE_MIN * e->children > c->max ? RILLE_ERR_TOO_LARGE : 1;
}

static int scan_line(const rille_codec *c, rille_view *v, size_t from, element *e) {
  bool is_good;
  switch (e->type) {
  case '+':
  case '-': is_good = is_text(v, from, e->line); break;
  case ':': is_good = is_integer(v, from, e->line, 19); break;
  case '(': is_good = is_integer(v, from, e->line, SIZE_MAX); break;
  case ',': is_good = is_double(v, from, e->line); break;
  case '_': is_good = from == e->line; break;
  case '#':
    is_good = e->line - from == 1 && (rille_view_byte(v, from) == 't' || rille_view_byte(v, from) == 'f');
    break;
  default: return scan_counted(c, v, from, e);
  }
  return is_good ? 1 : RILLE_ERR_INVALID;
}

static int check_type(uint8_t type) {
  switch (type) {
  case '+':
  case '-':
  case ':':
  case '(':
  case ',':
  case '_':
  case '#': /* lines */
  case '$':
  case '!':
  case '=': /* bodies */
  case '*':
  case '%':
  case '~':
  case '>':
  case '|': return RILLE_OK;
  case ';':
  case '.': return RILLE_ERR_NOT_SUPPORTED; /* of streamed ones */
  default: return RILLE_ERR_INVALID;
  }
}

/* The element at s->at. */
static int scan_element(const rille_codec *c, rille_view *v, rille_scan *s, element *e) {
  if (s->at == v->size) return 0;
  *e = (element){.type = rille_view_byte(v, s->at)};
  int err = check_type(e->type);
  if (err) return err;
  size_t from = s->at + 1;
  e->line = s->seen = rille_view_seek(v, '\r', s->seen > from ? s->seen : from, v->size);
  e->end = e->line + LINE_END;
  if (e->end > v->size) return 0;
  if (rille_view_byte(v, e->line + 1) != '\n') return RILLE_ERR_INVALID;
  return scan_line(c, v, from, e);
}

/* ---- values ---------------------------------------------------------------------------------------------------- */

static int scan_value(const rille_codec *c, rille_view *v, rille_scan *s) {
  for (;;) {
    element e;
    int found = scan_element(c, v, s, &e);
    if (found <= 0) return found;
    if (e.children > 0 && s->depth == c->depth) return RILLE_ERR_TOO_LARGE;
    s->at = e.end;
    s->seen = 0;
    if (e.children > 0) {
      s->left[s->depth++] = (uint32_t)e.children;
      continue;
    }
    while (s->depth > 0 && --s->left[s->depth - 1] == 0) s->depth--;
    if (s->depth == 0) return 1;
  }
}

int rille_resp_scan(const rille_codec *c, rille_view *v, rille_scan *s, rille_frame *f) {
  bool is_full = v->size >= c->max;
  if (is_full) v->size = c->max;
  int found = scan_value(c, v, s);
  if (found == 0 && is_full) return RILLE_ERR_TOO_LARGE;
  if (found > 0) *f = (rille_frame){.body = s->at, .size = s->at};
  return found;
}
