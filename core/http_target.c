/*
 * http_target: see http_target.h.
 */
#include "http_target.h"

#include "http_head.h"

#include <string.h>

static int hex_value(uint8_t c) {
  if (!(rille_http_class[c] & RILLE_HTTP_HEX)) return -1;
  return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* The byte that "%XX" at the front of size bytes means, or -1. */
static int escaped(const uint8_t *at, size_t size) {
  if (size < 3) return -1;
  int high = hex_value(at[1]), low = hex_value(at[2]);
  return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* "//", "." and ".." away, in place (RFC 3986 section 5.2.4). The length, or -400. */
static int64_t resolve_dots(uint8_t *path, size_t size) {
  size_t from = 0, to = 0;
  while (from < size) {
    while (from < size && path[from] == '/') from++;
    size_t start = from;
    while (from < size && path[from] != '/') from++;
    size_t length = from - start;
    bool is_dot = length == 1 && path[start] == '.';
    bool is_up = length == 2 && path[start] == '.' && path[start + 1] == '.';
    if (is_up) {
      if (to == 0) return -400;
      while (path[--to] != '/') {
      }
    } else if (length > 0 && !is_dot) {
      path[to++] = '/';
      memmove(path + to, path + start, length);
      to += length;
      continue;
    }
    if (from == size) path[to++] = '/'; /* it ends in "/", or in a dot that stands for a folder */
  }
  return (int64_t)to;
}

int64_t rille_http_path(const uint8_t *path, size_t size, uint8_t *to) {
  size_t length = 0;
  for (size_t i = 0; i < size; i++) {
    int c = path[i];
    if (c == '%') {
      c = escaped(path + i, size - i);
      i += 2;
    }
    if (c < 0x20 || c == 0x7f) return -400; /* no escape, or what no path holds */
    to[length++] = (uint8_t)c;
  }
  return resolve_dots(to, length);
}

size_t rille_http_unescape(const uint8_t *from, size_t size, uint8_t *to) {
  size_t length = 0;
  for (size_t i = 0; i < size; i++) {
    int c = from[i] == '+' ? ' ' : from[i];
    int meant = c == '%' ? escaped(from + i, size - i) : -1;
    if (meant >= 0) i += 2;
    to[length++] = (uint8_t)(meant >= 0 ? meant : c);
  }
  return length;
}

int64_t rille_http_query(const uint8_t *query, size_t query_size, const uint8_t *name, size_t name_size, uint8_t *to) {
  for (size_t at = 0; at < query_size;) {
    size_t end = at;
    while (end < query_size && query[end] != '&') end++;
    size_t equals = at;
    while (equals < end && query[equals] != '=') equals++;
    /* the encoded name is at least as long as the decoded one */
    if (equals - at >= name_size && rille_http_unescape(query + at, equals - at, to) == name_size &&
        memcmp(to, name, name_size) == 0) {
      return equals == end ? 0 : (int64_t)rille_http_unescape(query + equals + 1, end - equals - 1, to);
    }
    at = end + 1;
  }
  return -1;
}
