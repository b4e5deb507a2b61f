/*
 * logline: one record to one line, logfmt or JSON. Works in the caller's buffer; any thread.
 */
#include "logline.h"

#include <stdio.h>
#include <string.h>

enum {
  TAIL_ROOM = 8,     /* always left for the ellipsis (3), a quote, a brace and the newline */
  FIELDS_ROOM = 1024 /* left by the message for the fields behind it */
};

static const char ellipsis[] = "\xe2\x80\xa6";
static const char *const level_names[] = {"debug", "info", "warn", "error"};

static void put(rille_logline *line, const char *bytes, size_t size) {
  memcpy(line->bytes + line->used, bytes, size);
  line->used += size;
}

static int is_continuation(unsigned char byte) { return (byte & 0xc0) == 0x80; }

/* The length of the UTF-8 character at s, 0 when there is none (RFC 3629: no overlong forms, surrogates or code points
 * above U+10FFFF). */
static size_t utf8_size(const unsigned char *s, size_t left) {
  unsigned char c = s[0];
  if (c < 0x80) {
    return 1;
  }
  if (c >= 0xc2 && c <= 0xdf) {
    return left >= 2 && is_continuation(s[1]) ? 2 : 0;
  }
  if (c >= 0xe0 && c <= 0xef) {
    if (left < 3 || !is_continuation(s[1]) || !is_continuation(s[2])) {
      return 0;
    }
    return (c == 0xe0 && s[1] < 0xa0) || (c == 0xed && s[1] > 0x9f) ? 0 : 3;
  }
  if (c >= 0xf0 && c <= 0xf4) {
    if (left < 4 || !is_continuation(s[1]) || !is_continuation(s[2]) || !is_continuation(s[3])) {
      return 0;
    }
    return (c == 0xf0 && s[1] < 0x90) || (c == 0xf4 && s[1] > 0x8f) ? 0 : 4;
  }
  return 0;
}

static size_t put_hex(char *to, const char *prefix, unsigned byte) {
  static const char digits[] = "0123456789abcdef";
  size_t n = strlen(prefix);
  memcpy(to, prefix, n);
  to[n] = digits[byte >> 4];
  to[n + 1] = digits[byte & 15];
  return n + 2;
}

/* what stands behind the backslash for the characters that both formats escape by a letter; NUL for all others */
static char letter_of(unsigned char c) {
  switch (c) {
  case '"':
  case '\\': return (char)c;
  case '\n': return 'n';
  case '\t': return 't';
  case '\r': return 'r';
  default: return '\0';
  }
}

/* The character at s, escaped, into unit (12 bytes do): its size; *taken is how many bytes of s it stands for. */
static size_t escape(int format, const unsigned char *s, size_t left, char *unit, size_t *taken) {
  size_t n = utf8_size(s, left);
  *taken = n > 0 ? n : 1;
  char letter = n == 1 ? letter_of(s[0]) : '\0';
  if (letter != '\0') {
    unit[0] = '\\';
    unit[1] = letter;
    return 2;
  }
  /* the C1 controls (U+0080..U+009F) drive terminals just as the C0 ones do */
  int is_c1 = n == 2 && s[0] == 0xc2 && s[1] < 0xa0;
  int is_control = (n == 1 && (s[0] < 0x20 || s[0] == 0x7f)) || is_c1;
  if (n > 0 && !is_control) {
    memcpy(unit, s, n);
    return n;
  }
  if (format == RILLE_LOG_JSON) {
    /* a byte that is no character keeps its value as the text \xNN, which JSON spells with two backslashes */
    return put_hex(unit, n == 0 ? "\\\\x" : "\\u00", is_c1 ? s[1] : s[0]);
  }
  size_t size = put_hex(unit, "\\x", s[0]);
  return is_c1 ? size + put_hex(unit + size, "\\x", s[1]) : size;
}

/* Append value, escaped, up to the end; what does not fit is replaced by an ellipsis, for which there is room. */
static void put_escaped(rille_logline *line, const char *value, size_t size, size_t end) {
  const unsigned char *s = (const unsigned char *)value;
  while (size > 0) {
    char unit[12];
    size_t taken;
    size_t n = escape(line->format, s, size, unit, &taken);
    if (line->used + n > end) {
      put(line, ellipsis, sizeof ellipsis - 1);
      line->is_full = 1;
      return;
    }
    put(line, unit, n);
    s += taken;
    size -= taken;
  }
}

/* Whether a logfmt value can stand without quotes. */
static int is_bare(const char *value, size_t size) {
  for (size_t i = 0; i < size; i++) {
    unsigned char c = (unsigned char)value[i];
    if (c <= 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '=') {
      return 0;
    }
  }
  return size > 0;
}

/* The key and what stands before and behind it; 0 when the line has no room for it and a value worth having. */
static int put_key(rille_logline *line, const char *key, size_t value_min) {
  size_t size = strnlen(key, 64);
  if (size == 0 || line->used + size + 4 + value_min > sizeof line->bytes - TAIL_ROOM) {
    return 0;
  }
  int json = line->format == RILLE_LOG_JSON;
  if (json) {
    put(line, line->used == 0 ? "{\"" : ",\"", 2);
  } else if (line->used > 0) {
    put(line, " ", 1);
  }
  for (size_t i = 0; i < size; i++) {
    char c = key[i];
    char low = (char)(c | 0x20);
    int is_plain = (low >= 'a' && low <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
    put(line, is_plain ? &c : "_", 1);
  }
  put(line, json ? "\":" : "=", json ? 2 : 1);
  return 1;
}

static void put_quoted(rille_logline *line, const char *value, size_t size, size_t end) {
  put(line, "\"", 1);
  put_escaped(line, value, size, end);
  put(line, "\"", 1);
}

/* RFC 3339 in UTC with milliseconds. Computed here because gmtime_r takes a lock in libc that every thread would share.
 * The civil date of a day number follows H. Hinnant, "chrono-Compatible Low-Level Date Algorithms". */
static void put_time(rille_logline *line, const struct timespec *realtime) {
  int64_t seconds = realtime->tv_sec < 0 ? 0 : realtime->tv_sec;
  int64_t days = seconds / 86400 + 719468; /* since 0000-03-01 */
  int64_t of_day = seconds % 86400;
  int64_t era = days / 146097;
  int64_t of_era = days % 146097;
  int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
  int64_t month = (5 * of_year + 2) / 153; /* 0 is March */
  int64_t day = of_year - (153 * month + 2) / 5 + 1;
  month = month < 10 ? month + 3 : month - 9;
  year += era * 400 + (month <= 2);
  char text[40];
  int n =
      snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", (int)year, (int)month, (int)day,
               (int)(of_day / 3600), (int)(of_day / 60 % 60), (int)(of_day % 60), (int)(realtime->tv_nsec / 1000000));
  if (n > 0 && (size_t)n < sizeof text) {
    rille_logline_text(line, "time", text, (size_t)n);
  }
}

void rille_logline_begin(rille_logline *line, int format, const struct timespec *realtime, int level,
                         const char *message, size_t size) {
  line->used = 0;
  line->format = format;
  line->is_full = 0;
  put_time(line, realtime);
  const char *name = level >= RILLE_LOG_DEBUG && level <= RILLE_LOG_ERROR ? level_names[level] : "error";
  rille_logline_text(line, "level", name, strlen(name));
  put_key(line, "msg", 0);
  /* always quoted, so that a reader finds it by the same pattern in every line */
  put_quoted(line, message, size, sizeof line->bytes - TAIL_ROOM - FIELDS_ROOM);
}

void rille_logline_text(rille_logline *line, const char *key, const char *value, size_t size) {
  if (!put_key(line, key, 16)) {
    return;
  }
  size_t end = sizeof line->bytes - TAIL_ROOM;
  if (line->format == RILLE_LOG_LOGFMT && is_bare(value, size)) {
    put_escaped(line, value, size, end);
  } else {
    put_quoted(line, value, size, end);
  }
}

void rille_logline_integer(rille_logline *line, const char *key, double value) {
  char text[32];
  int n = value >= 0 && value <= 9007199254740992.0 ? snprintf(text, sizeof text, "%.0f", value) : 0;
  if (n > 0 && (size_t)n < sizeof text && put_key(line, key, (size_t)n)) {
    put(line, text, (size_t)n);
  }
}

size_t rille_logline_end(rille_logline *line) {
  if (line->format == RILLE_LOG_JSON) {
    put(line, "}", 1);
  }
  put(line, "\n", 1);
  return line->used;
}
