/*
 * http_fields: the header fields that a script sets for its answer, kept as the lines that will be sent; see rille.h for the
 * contract of each and http.h for the rest. Loop thread only.
 */
#include "http.h"

#include <stdlib.h>
#include <string.h>

enum { ROOM_FIRST = 256 };

#define IS(name, size, literal) rille_http_is((const uint8_t *)(name), (size), (literal), sizeof(literal) - 1)

int rille_http_status(const rille_conn *c) { return c->http->status; }

/* The head is out. That is no mistake of the script's when the server has answered by itself and closes. */
static int late_flaw(const rille_conn *c) { return c->flags & RILLE_CONN_CLOSING ? 0 : RILLE_HTTP_TOO_LATE; }

int rille_http_set_status(rille_conn *c, int status) {
  if (c->http->framing != RILLE_HTTP_UNSENT) return late_flaw(c);
  c->http->status = (uint16_t)status;
  return 0;
}

int rille_http_is_sent(const rille_conn *c) { return c->http->framing != RILLE_HTTP_UNSENT; }

static bool is_same_name(const char *a, const char *b, size_t size) {
  for (size_t i = 0; i < size; i++) {
    char x = a[i], y = b[i];
    if (x >= 'A' && x <= 'Z') x = (char)(x | 0x20);
    if (y >= 'A' && y <= 'Z') y = (char)(y | 0x20);
    if (x != y) return false;
  }
  return true;
}

/* The first line called name at or behind `from`: where it begins, and *end behind its CR LF. fields_size: there is none. */
static uint32_t find_line(const rille_http *http, const char *name, size_t size, uint32_t from, uint32_t *end) {
  for (uint32_t at = from; at < http->fields_size; at = *end) {
    const char *line = http->fields + at;
    const char *stop = memchr(line, '\n', http->fields_size - at);
    *end = (uint32_t)(stop - http->fields) + 1;
    if ((size_t)(stop - line) > size && line[size] == ':' && is_same_name(line, name, size)) return at;
  }
  return http->fields_size;
}

void rille_http_remove_fields(rille_http *http, const char *name, size_t size) {
  uint32_t at, end;
  while ((at = find_line(http, name, size, 0, &end)) < http->fields_size) {
    memmove(http->fields + at, http->fields + end, http->fields_size - end);
    http->fields_size -= end - at;
  }
}

static int add_line(rille_http *http, const char *name, size_t name_size, const char *value, size_t value_size) {
  size_t need = http->fields_size + name_size + value_size + 4;
  if (value_size > RILLE_HTTP_ANSWER_FIELDS_MAX || need > RILLE_HTTP_ANSWER_FIELDS_MAX) return RILLE_HTTP_TOO_MANY;
  if (need > http->fields_room) {
    size_t room = http->fields_room > 0 ? http->fields_room : ROOM_FIRST;
    while (room < need) room *= 2;
    char *fields = realloc(http->fields, room);
    if (!fields) return RILLE_HTTP_TOO_MANY;
    http->fields = fields;
    http->fields_room = (uint32_t)room;
  }
  char *to = http->fields + http->fields_size;
  memcpy(to, name, name_size);
  memcpy(to + name_size, ": ", 2);
  memcpy(to + name_size + 2, value, value_size);
  memcpy(to + name_size + 2 + value_size, "\r\n", 2);
  http->fields_size = (uint32_t)need;
  return 0;
}

/* Content-Length is a promise of how much will be written; send() knows it by itself. */
static int set_length(rille_http *http, const char *value, size_t size) {
  uint64_t length = 0;
  if (value && !rille_http_is_length((const uint8_t *)value, size, &length)) return RILLE_HTTP_BAD_LENGTH;
  http->has_length = value != NULL;
  http->answer_left = length;
  return 0;
}

int rille_http_set_field(rille_conn *c, const char *name, size_t name_size, const char *value, size_t value_size,
                         int add) {
  rille_http *http = c->http;
  if (http->framing != RILLE_HTTP_UNSENT) return late_flaw(c);
  if (!rille_http_is_token((const uint8_t *)name, name_size)) return RILLE_HTTP_BAD_NAME;
  if (value && !rille_http_is_value((const uint8_t *)value, value_size)) return RILLE_HTTP_BAD_VALUE;
  if (IS(name, name_size, "transfer-encoding")) return RILLE_HTTP_OWN_FIELD;
  if (IS(name, name_size, "content-length")) return set_length(http, value, value_size);
  if (IS(name, name_size, "connection")) {
    /* a 426 names what it wants to be upgraded to, and Upgrade goes with this (RFC 9110 section 7.8) */
    bool is_upgrade = value && IS(value, value_size, "upgrade");
    if (!is_upgrade && (!value || !IS(value, value_size, "close"))) return RILLE_HTTP_OWN_FIELD;
    if (!is_upgrade) {
      http->keep_alive = false;
      return 0;
    }
  }
  if (!add) rille_http_remove_fields(http, name, name_size);
  int flaw = value ? add_line(http, name, name_size, value, value_size) : 0;
  if (IS(name, name_size, "content-type")) http->has_type = value != NULL && flaw == 0;
  if (IS(name, name_size, "date")) http->has_date = value != NULL && flaw == 0;
  return flaw;
}

double rille_http_get_field(rille_conn *c, const char *name, size_t size, const char **out) {
  const rille_http *http = c->http;
  uint32_t end;
  uint32_t at = find_line(http, name, size, 0, &end);
  if (at == http->fields_size) return -1;
  *out = http->fields + at + size + 2;
  return (double)(end - at - size - 4);
}
