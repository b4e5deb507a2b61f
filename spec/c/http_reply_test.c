/*
 * Tests of core/http_reply: what is taken and what is refused, rule by rule; limits at the limit and one beyond; the same result
 * however the bytes are cut and moved.
 */
#include "http_reply_drive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static const rille_http_limits limits = {.head = 16384, .headers = 100};
static drive_reply whole, pieces;

/* The result for an answer, which has to be the same when it comes in two parts or byte by byte. */
static int status_of(const char *bytes, size_t size, const rille_http_limits *within) {
  drive_reply_whole(&whole, bytes, size, within);
  for (size_t cut = 0; cut <= size; cut++) {
    if (cut < size) drive_reply_by(&pieces, bytes, size, within, (const size_t[]){cut, SIZE_MAX}, 2);
    else drive_reply_by(&pieces, bytes, size, within, (const size_t[]){1}, 1);
    if (!drive_reply_same(&whole, &pieces)) {
      fail_msg("cut at %zu of %zu: %d, whole: %d", cut, size, pieces.status, whole.status);
    }
  }
  return whole.status;
}

static void assert_status(const char *text, size_t size, int status) {
  int got = status_of(text, size, &limits);
  if (got != status) fail_msg("%d, not %d: %.*s", got, status, (int)size, text);
}

#define TAKEN(text)         assert_status(text, sizeof(text) - 1, sizeof(text) - 1)
#define REFUSED(text, flaw) assert_status(text, sizeof(text) - 1, -(flaw))
#define FIELD(line, flaw)   REFUSED("HTTP/1.1 200 OK\r\n" line "\r\n\r\n", flaw)

static void assert_span(const char *text, rille_http_span span, const char *expected) {
  assert_int_equal(span.size, strlen(expected));
  assert_memory_equal(text + span.at, expected, span.size);
}

static void a_head_is_taken_apart(void **state) {
  (void)state;
  const char head[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\nX-One:  a b \r\n\r\n";
  TAKEN("HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\nX-One:  a b \r\n\r\n");
  assert_int_equal(whole.reply.status, 404);
  assert_int_equal(whole.reply.minor, 1);
  assert_span(head, whole.reply.reason, "Not Found");
  assert_int_equal(whole.reply.field_count, 2);
  assert_span(head, whole.fields[1].name, "X-One");
  assert_span(head, whole.fields[1].value, "a b");
  assert_true(whole.reply.has_length && whole.reply.content_length == 12 && whole.reply.keep_alive);
}

static void a_status_line_is_what_it_has_to_be(void **state) {
  (void)state;
  TAKEN("HTTP/1.1 200 OK\r\n\r\n");
  TAKEN("HTTP/1.1 200 \r\n\r\n");
  TAKEN("HTTP/1.1 200\r\n\r\n");
  TAKEN("HTTP/1.0 999 caf\xc3\xa9\t!\r\n\r\n");
  REFUSED("HTTP/1.1 099 x\r\n\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("HTTP/1.1 20 x\r\n\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("HTTP/1.1 2000 x\r\n\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("HTTP/1.1  200 x\r\n\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("HTTP/1.1\t200 x\r\n\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("HTTP/1.1 200 x\n\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("HTTP/1.1 200 x\ry\r\n\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("HTTP/1.1 200 a\0b\r\n\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("http/1.1 200 x\r\n\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("\r\nHTTP/1.1 200 x\r\n\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("SSH-2.0-x\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("HTTP/2 200\r\n\r\n", RILLE_REPLY_BAD_LINE);
  REFUSED("HTTP/2.0 200 x\r\n\r\n", RILLE_REPLY_BAD_VERSION);
  REFUSED("HTTP/1.2 200 x\r\n\r\n", RILLE_REPLY_BAD_VERSION);
}

static void fields_are_what_they_have_to_be(void **state) {
  (void)state;
  FIELD("X: 1\r\n folded", RILLE_REPLY_FOLDED);
  FIELD(" X: 1", RILLE_REPLY_FOLDED);
  FIELD("X : 1", RILLE_REPLY_BLANK_NAME);
  FIELD("X\t: 1", RILLE_REPLY_BLANK_NAME);
  FIELD("X", RILLE_REPLY_BAD_FIELD);
  FIELD(": 1", RILLE_REPLY_BAD_FIELD);
  FIELD("X\xe9: 1", RILLE_REPLY_BAD_FIELD);
  FIELD("X: a\nY: b", RILLE_REPLY_BAD_FIELD);
  FIELD("X: a\rb", RILLE_REPLY_BAD_FIELD);
  FIELD("X: a\0b", RILLE_REPLY_BAD_FIELD);
  REFUSED("HTTP/1.1 200 x\r\nX: a\r\n\rY", RILLE_REPLY_BAD_FIELD);
}

static void the_end_of_a_body_is_said_once(void **state) {
  (void)state;
  FIELD("Content-Length: x", RILLE_REPLY_BAD_LENGTH);
  FIELD("Content-Length: -1", RILLE_REPLY_BAD_LENGTH);
  FIELD("Content-Length: +1", RILLE_REPLY_BAD_LENGTH);
  FIELD("Content-Length:", RILLE_REPLY_BAD_LENGTH);
  FIELD("Content-Length: 5, 5", RILLE_REPLY_BAD_LENGTH);
  FIELD("Content-Length: 9223372036854775808", RILLE_REPLY_BAD_LENGTH);
  FIELD("Content-Length: 5\r\nContent-Length: 5", RILLE_REPLY_TWO_LENGTHS);
  FIELD("Content-Length: 5\r\nTransfer-Encoding: chunked", RILLE_REPLY_LENGTH_AND_CODING);
  FIELD("transfer-encoding: chunked\r\ncontent-length: 5", RILLE_REPLY_LENGTH_AND_CODING);
  FIELD("Transfer-Encoding: gzip, chunked", RILLE_REPLY_BAD_CODING);
  FIELD("Transfer-Encoding: chunked, chunked", RILLE_REPLY_BAD_CODING);
  FIELD("Transfer-Encoding: xchunked", RILLE_REPLY_BAD_CODING);
  FIELD("Transfer-Encoding:", RILLE_REPLY_BAD_CODING);
  FIELD("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", RILLE_REPLY_BAD_CODING);
  REFUSED("HTTP/1.0 200 x\r\nTransfer-Encoding: chunked\r\n\r\n", RILLE_REPLY_OLD_CODING);
  TAKEN("HTTP/1.1 200 x\r\nTransfer-Encoding: Chunked\r\n\r\n");
  assert_true(whole.reply.is_chunked);
  TAKEN("HTTP/1.1 200 x\r\nContent-Length: 9223372036854775807\r\n\r\n");
}

static bool keeps_alive(const char *text) {
  assert_status(text, strlen(text), (int)strlen(text));
  return whole.reply.keep_alive;
}

static void a_connection_is_kept_as_version_and_fields_say(void **state) {
  (void)state;
  assert_true(keeps_alive("HTTP/1.1 200 x\r\n\r\n"));
  assert_false(keeps_alive("HTTP/1.1 200 x\r\nConnection: Close\r\n\r\n"));
  assert_false(keeps_alive("HTTP/1.1 200 x\r\nConnection: a, close ,b\r\n\r\n"));
  assert_false(keeps_alive("HTTP/1.1 200 x\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n"));
  assert_false(keeps_alive("HTTP/1.0 200 x\r\n\r\n"));
  assert_true(keeps_alive("HTTP/1.0 200 x\r\nConnection: keep-alive\r\n\r\n"));
  /* it has no body, and may come with one */
  assert_false(keeps_alive("HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n"));
  assert_false(keeps_alive("HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n"));
  assert_true(keeps_alive("HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n"));
  assert_true(keeps_alive("HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n"));
}

static void limits_strike_at_once(void **state) {
  (void)state;
  static const char head[] = "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\n\r\n";
  const size_t size = sizeof head - 1;
  assert_int_equal(status_of(head, size, &(rille_http_limits){.head = (uint32_t)size, .headers = 2}), size);
  assert_int_equal(status_of(head, size, &(rille_http_limits){.head = (uint32_t)size - 1, .headers = 2}),
                   -RILLE_REPLY_HEAD_TOO_LARGE);
  assert_int_equal(status_of(head, size, &(rille_http_limits){.head = 1000, .headers = 1}),
                   -RILLE_REPLY_TOO_MANY_FIELDS);
  assert_int_equal(status_of("HTTP/1.1 200 aaaaaaaaaaaaaaaaaa", 31, &(rille_http_limits){.head = 31, .headers = 1}),
                   -RILLE_REPLY_HEAD_TOO_LARGE);
  assert_int_equal(status_of("HTTP/1.1 200 aaaaaaaaaaaaaaaaaa", 31, &limits), RILLE_HTTP_PARTIAL);
}

static void what_follows_a_head_is_left_alone(void **state) {
  (void)state;
  assert_status("HTTP/1.1 200 x\r\n\r\n\x01\x02 no head", 28, 18);
}

static void each_flaw_has_a_text(void **state) {
  (void)state;
  for (int flaw = 1; flaw <= RILLE_REPLY_LAST; flaw++) assert_true(strlen(rille_http_reply_flaw_text(flaw)) > 10);
  assert_string_equal(rille_http_reply_flaw_text(0), "");
  assert_string_equal(rille_http_reply_flaw_text(RILLE_REPLY_LAST + 1), "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_head_is_taken_apart),
      cmocka_unit_test(a_status_line_is_what_it_has_to_be),
      cmocka_unit_test(fields_are_what_they_have_to_be),
      cmocka_unit_test(the_end_of_a_body_is_said_once),
      cmocka_unit_test(a_connection_is_kept_as_version_and_fields_say),
      cmocka_unit_test(limits_strike_at_once),
      cmocka_unit_test(what_follows_a_head_is_left_alone),
      cmocka_unit_test(each_flaw_has_a_text),
  };
  return cmocka_run_group_tests_name("http_reply", tests, NULL, NULL);
}
