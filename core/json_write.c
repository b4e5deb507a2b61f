/*
 * json_write: see json_write.h.
 */
#include "json_write.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM_FIRST = 4096 };

void rille_text_free(rille_text *t) {
  free(t->bytes);
  *t = (rille_text){0};
}

static bool make_room(rille_text *t, size_t size) {
  if (t->failed) return false;
  if (size < t->capacity - t->size) return true;
  size_t capacity = t->capacity ? t->capacity : ROOM_FIRST;
  while (capacity - t->size <= size) capacity *= 2;
  char *bytes = realloc(t->bytes, capacity);
  if (!bytes) {
    t->failed = true;
    return false;
  }
  t->bytes = bytes;
  t->capacity = capacity;
  return true;
}

void rille_text_add(rille_text *t, const char *bytes, size_t size) {
  if (!make_room(t, size)) return;
  memcpy(t->bytes + t->size, bytes, size);
  t->size += size;
}

void rille_text_printf(rille_text *t, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int size = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  if (size < 0 || !make_room(t, (size_t)size + 1)) return;
  va_start(arguments, format);
  vsnprintf(t->bytes + t->size, (size_t)size + 1, format, arguments);
  va_end(arguments);
  t->size += (size_t)size;
}

/* ---- UTF-8 ----------------------------------------------------------------------------------------------------- */

/* The bytes of the character at s, of which `left` are there; 0: it is none. */
static size_t character_at(const unsigned char *s, size_t left) {
  static const struct {
    unsigned char low, high; /* of the first byte */
    size_t size;
    unsigned char second_low, second_high; /* no overlong form, no surrogate, nothing above U+10FFFF */
  } forms[] = {
      {0x00, 0x7f, 1, 0, 0},       {0xc2, 0xdf, 2, 0x80, 0xbf}, {0xe0, 0xe0, 3, 0xa0, 0xbf},
      {0xe1, 0xec, 3, 0x80, 0xbf}, {0xed, 0xed, 3, 0x80, 0x9f}, {0xee, 0xef, 3, 0x80, 0xbf},
      {0xf0, 0xf0, 4, 0x90, 0xbf}, {0xf1, 0xf3, 4, 0x80, 0xbf}, {0xf4, 0xf4, 4, 0x80, 0x8f},
  };
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    if (s[0] < forms[i].low || s[0] > forms[i].high) continue;
    if (forms[i].size > left) return 0;
    if (forms[i].size > 1 && (s[1] < forms[i].second_low || s[1] > forms[i].second_high)) return 0;
    for (size_t k = 2; k < forms[i].size; k++) {
      if (s[k] < 0x80 || s[k] > 0xbf) return 0;
    }
    return forms[i].size;
  }
  return 0;
}

static void add_quoted(rille_text *t, const char *value, size_t size) {
  const unsigned char *s = (const unsigned char *)value;
  rille_text_add(t, "\"", 1);
  for (size_t i = 0; i < size;) {
    size_t n = character_at(s + i, size - i);
    if (n == 0) {
      rille_text_add(t, "\\ufffd", 6);
      n = 1;
    } else if (s[i] == '"' || s[i] == '\\') {
      char escaped[2] = {'\\', value[i]};
      rille_text_add(t, escaped, 2);
    } else if (s[i] == '\n') {
      rille_text_add(t, "\\n", 2);
    } else if (s[i] < 0x20 || s[i] == 0x7f) {
      rille_text_printf(t, "\\u%04x", s[i]);
    } else {
      rille_text_add(t, value + i, n);
    }
    i += n;
  }
  rille_text_add(t, "\"", 1);
}

/* ---- JSON ------------------------------------------------------------------------------------------------------ */

static void begin_value(rille_text *t, const char *key) {
  if (t->needs_comma) rille_text_add(t, ",", 1);
  t->needs_comma = true;
  if (!key) return;
  add_quoted(t, key, strlen(key));
  rille_text_add(t, ":", 1);
}

void rille_json_open(rille_text *t, const char *key, char bracket) {
  begin_value(t, key);
  rille_text_add(t, &bracket, 1);
  t->needs_comma = false;
}

void rille_json_close(rille_text *t, char bracket) {
  rille_text_add(t, &bracket, 1);
  t->needs_comma = true;
}

void rille_json_bytes(rille_text *t, const char *key, const char *value, size_t size) {
  begin_value(t, key);
  add_quoted(t, value, size);
}

void rille_json_string(rille_text *t, const char *key, const char *value) {
  rille_json_bytes(t, key, value, strlen(value));
}

void rille_json_count(rille_text *t, const char *key, double value) {
  begin_value(t, key);
  rille_text_printf(t, "%.0f", isfinite(value) ? value : 0);
}

void rille_json_number(rille_text *t, const char *key, double value) {
  begin_value(t, key);
  rille_text_printf(t, "%.9g", isfinite(value) ? value : 0);
}

void rille_json_bool(rille_text *t, const char *key, bool value) {
  begin_value(t, key);
  rille_text_add(t, value ? "true" : "false", value ? 4 : 5);
}

void rille_json_null(rille_text *t, const char *key) {
  begin_value(t, key);
  rille_text_add(t, "null", 4);
}
