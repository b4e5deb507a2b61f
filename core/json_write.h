/*
 * json_write: text that grows, and JSON written into it: commas are set, strings escaped, numbers kept finite. Owned by whoever
 * builds it; no locks, any thread.
 *
 * Want of memory is remembered, not returned: what is written afterwards is lost, and `failed` says so at the end.
 */
#ifndef RILLE_JSON_WRITE_H
#define RILLE_JSON_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rille_text {
  char *bytes; /* owned */
  size_t size, capacity;
  bool failed;
  bool needs_comma; /* JSON: something stands before what comes next */
} rille_text;

void rille_text_free(rille_text *t);
void rille_text_add(rille_text *t, const char *bytes, size_t size);
__attribute__((format(printf, 2, 3))) void rille_text_printf(rille_text *t, const char *format, ...);

/* key NULL: an item of an array, or the document itself */
void rille_json_open(rille_text *t, const char *key, char bracket);
void rille_json_close(rille_text *t, char bracket);
/* NUL ends it; bytes that are not UTF-8 are replaced */
void rille_json_string(rille_text *t, const char *key, const char *value);
void rille_json_bytes(rille_text *t, const char *key, const char *value, size_t size);
/* as a whole number */
void rille_json_count(rille_text *t, const char *key, double value);
/* seconds and the like, to 9 digits */
void rille_json_number(rille_text *t, const char *key, double value);
void rille_json_bool(rille_text *t, const char *key, bool value);
void rille_json_null(rille_text *t, const char *key);

#endif
