/*
 * http_line: what the decoders of heads have in common: classes of bytes, and the line of one field (RFC 9112 section 5). Pure.
 */
#ifndef RILLE_HTTP_LINE_H
#define RILLE_HTTP_LINE_H

#include "http_head.h"

#include <endian.h>
#include <string.h>

static inline bool rille_http_is_in(uint8_t c, int class) { return (rille_http_class[c] & class) != 0; }

/* The place of the first byte at or behind `at` that is not in class, or size. Four steps a turn: most of a head is scanned here. */
static inline size_t rille_http_run_end(const uint8_t *bytes, size_t at, size_t size, int class) {
  for (; size - at >= 4; at += 4) {
    if (!rille_http_is_in(bytes[at], class)) return at;
    if (!rille_http_is_in(bytes[at + 1], class)) return at + 1;
    if (!rille_http_is_in(bytes[at + 2], class)) return at + 2;
    if (!rille_http_is_in(bytes[at + 3], class)) return at + 3;
  }
  while (at < size && rille_http_is_in(bytes[at], class)) at++;
  return at;
}

static inline bool rille_http_is_blank(uint8_t c) { return c == ' ' || c == '\t'; }

/* The place of the first control character other than HTAB at or behind `at`, or size. Eight bytes at a time: sums of seven bits
 * never reach the next byte, and the top bit of each tells. */
static inline size_t rille_http_value_end(const uint8_t *bytes, size_t at, size_t size) {
  const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones * 0x80;
  for (; at + 8 <= size; at += 8) {
    uint64_t word;
    memcpy(&word, bytes + at, 8);
    word = le64toh(word);
    uint64_t low = word & ~tops;
    uint64_t is_visible = low + ones * 0x60, is_not_tab = (low ^ ones * '\t') + ones * 0x7f, is_del = low + ones;
    uint64_t found = ((~is_visible & is_not_tab) | is_del) & ~word & tops;
    if (found) return at + (size_t)__builtin_ctzll(found) / 8;
  }
  for (; at < size; at++) {
    if ((bytes[at] < 0x20 && bytes[at] != '\t') || bytes[at] == 0x7f) return at;
  }
  return size;
}

static inline uint32_t rille_http_key_of(const uint8_t *name, size_t size) {
  uint32_t first = name[0] | 0x20, middle = name[size / 2] | 0x20, last = name[size - 1] | 0x20;
  return (uint32_t)(size & 0xff) << 24 | first << 16 | middle << 8 | last;
}

/* The field whose line begins at `at`: where the next line begins, RILLE_HTTP_PARTIAL, or -400. The end of the head, an empty line, is
 * not a field. */
static inline int rille_http_line_field(const uint8_t *bytes, size_t at, size_t size, rille_http_field *field) {
  size_t i = rille_http_run_end(bytes, at, size, RILLE_HTTP_TOKEN);
  if (i == size) return RILLE_HTTP_PARTIAL;
  if (i == at || bytes[i] != ':') return -400;
  size_t name_size = i++ - at;
  while (i < size && rille_http_is_blank(bytes[i])) i++;
  size_t from = i, end = rille_http_value_end(bytes, i, size);
  if (end == size) return RILLE_HTTP_PARTIAL;
  if (bytes[end] != '\r') return -400;
  if (end + 1 == size) return RILLE_HTTP_PARTIAL;
  if (bytes[end + 1] != '\n') return -400;
  size_t next = end + 2;
  while (end > from && rille_http_is_blank(bytes[end - 1])) end--;
  field->key = rille_http_key_of(bytes + at, name_size);
  field->name = (rille_http_span){(uint32_t)at, (uint32_t)name_size};
  field->value = (rille_http_span){(uint32_t)from, (uint32_t)(end - from)};
  return (int)next;
}

#endif
