/*
 * http_head_assert: what the tests of core/http_head have in common.
 */
#ifndef RILLE_SPEC_HTTP_HEAD_ASSERT_H
#define RILLE_SPEC_HTTP_HEAD_ASSERT_H

#include "http_drive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const rille_http_limits LIMITS = {.head = 16384, .target = 8192, .headers = 100};

static drive_head whole, pieces;

/* The answer to a head, which has to be the same when it comes in two parts or byte by byte. */
static inline int status_of(const char *bytes, size_t size, const rille_http_limits *limits) {
  drive_head_whole(&whole, bytes, size, limits);
  for (size_t cut = 0; cut < size; cut++) {
    drive_head_by(&pieces, bytes, size, limits, (const size_t[]){cut, SIZE_MAX}, 2);
    if (!drive_head_same(&whole, &pieces)) fail_msg("cut at %zu: %d, whole: %d", cut, pieces.status, whole.status);
  }
  drive_head_by(&pieces, bytes, size, limits, (const size_t[]){1}, 1);
  if (!drive_head_same(&whole, &pieces)) fail_msg("by bytes: %d, whole: %d", pieces.status, whole.status);
  return whole.status;
}

static inline void assert_status(const char *bytes, size_t size, int status) {
  int got = status_of(bytes, size, &LIMITS);
  if (got != status) fail_msg("%d, not %d: %.*s", got, status, (int)size, bytes);
}

/* A whole head: its size is the answer. `text` is a literal, which may hold NUL. */
#define TAKEN(text)           assert_status(text, sizeof(text) - 1, sizeof(text) - 1)
#define REFUSED(text, status) assert_status(text, sizeof(text) - 1, status)
#define WITH(fields)          "GET / HTTP/1.1\r\nHost: a\r\n" fields "\r\n"
#define TARGET(target)        "GET " target " HTTP/1.1\r\nHost: a\r\n\r\n"
#define HOST(host)            "GET / HTTP/1.1\r\nHost: " host "\r\n\r\n"

static inline void assert_span(const char *bytes, rille_http_span span, const char *expected) {
  if (span.size != strlen(expected) || memcmp(bytes + span.at, expected, span.size) != 0) {
    fail_msg("\"%.*s\", not \"%s\"", (int)span.size, bytes + span.at, expected);
  }
}

static inline void assert_target(const char *head, const char *path, const char *query, const char *host) {
  assert_status(head, strlen(head), (int)strlen(head));
  assert_span(head, whole.head.path, path);
  assert_int_equal(whole.head.has_query, query != NULL);
  assert_span(head, whole.head.query, query ? query : "");
  assert_span(head, whole.head.host, host);
}

static inline void assert_field(const char *head, uint32_t i, const char *name, const char *value) {
  assert_true(i < whole.head.field_count);
  assert_span(head, whole.fields[i].name, name);
  assert_span(head, whole.fields[i].value, value);
}

#endif
