/*
 * Tests of core/logline: the exact text of a line for a fixed time, and that no input makes it more than one line of
 * valid UTF-8.
 */
#include "logline.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct timespec moment = {.tv_sec = 1709210096, .tv_nsec = 7999999}; /* on a 29th of February */
static rille_logline line;

static const char *message_line(int format, const char *message, size_t size) {
  rille_logline_begin(&line, format, &moment, RILLE_LOG_INFO, message, size);
  size_t n = rille_logline_end(&line);
  assert_true(n < sizeof line.bytes);
  line.bytes[n] = '\0';
  return line.bytes;
}

/* what stands in the quotes of msg */
static void assert_escaped(int format, const char *message, size_t size, const char *expected) {
  char whole[512];
  snprintf(whole, sizeof whole,
           format == RILLE_LOG_JSON ? "{\"time\":\"2024-02-29T12:34:56.007Z\",\"level\":\"info\",\"msg\":\"%s\"}\n"
                                    : "time=2024-02-29T12:34:56.007Z level=info msg=\"%s\"\n",
           expected);
  assert_string_equal(message_line(format, message, size), whole);
}

static void a_line_has_its_fields_in_order(void **state) {
  (void)state;
  rille_logline_begin(&line, RILLE_LOG_LOGFMT, &moment, RILLE_LOG_WARN, "slow", 4);
  rille_logline_integer(&line, "loop", 2);
  rille_logline_text(&line, "script", "echo@1", 6);
  rille_logline_integer(&line, "conn", 9007199254740991.0);
  rille_logline_text(&line, "bad key=\n", "a b", 3);
  rille_logline_text(&line, "empty", "", 0);
  rille_logline_integer(&line, "negative", -1);
  rille_logline_integer(&line, "nan", (double)0x1p1023 * 4 - (double)0x1p1023 * 4);
  line.bytes[rille_logline_end(&line)] = '\0';
  assert_string_equal(line.bytes, "time=2024-02-29T12:34:56.007Z level=warn msg=\"slow\" loop=2 script=echo@1 "
                                  "conn=9007199254740991 bad_key__=\"a b\" empty=\"\"\n");

  rille_logline_begin(&line, RILLE_LOG_JSON, &moment, RILLE_LOG_ERROR, "slow", 4);
  rille_logline_integer(&line, "loop", 2);
  rille_logline_text(&line, "script", "echo@1", 6);
  line.bytes[rille_logline_end(&line)] = '\0';
  assert_string_equal(line.bytes,
                      "{\"time\":\"2024-02-29T12:34:56.007Z\",\"level\":\"error\",\"msg\":\"slow\",\"loop\":2,"
                      "\"script\":\"echo@1\"}\n");
}

static void dates_are_right(void **state) {
  (void)state;
  for (int64_t t = 0; t < INT64_C(20000000000); t += 86400 * 11 + 7919) {
    struct timespec at = {.tv_sec = t};
    struct tm tm;
    char expected[64];
    gmtime_r(&at.tv_sec, &tm);
    strftime(expected, sizeof expected, "time=%Y-%m-%dT%H:%M:%S.000Z ", &tm);
    rille_logline_begin(&line, RILLE_LOG_LOGFMT, &at, RILLE_LOG_INFO, "", 0);
    assert_memory_equal(line.bytes, expected, strlen(expected));
  }
}

static void special_bytes_are_escaped(void **state) {
  (void)state;
#define BOTH(text, logfmt, json)                                                                                       \
  assert_escaped(RILLE_LOG_LOGFMT, text, sizeof(text) - 1, logfmt);                                                    \
  assert_escaped(RILLE_LOG_JSON, text, sizeof(text) - 1, json)
  BOTH("say \"x\" \\ y", "say \\\"x\\\" \\\\ y", "say \\\"x\\\" \\\\ y");
  BOTH("a\nb\tc\r", "a\\nb\\tc\\r", "a\\nb\\tc\\r");
  BOTH("nrt", "nrt", "nrt");
  BOTH("\0\x01\x1f\x7f", "\\x00\\x01\\x1f\\x7f", "\\u0000\\u0001\\u001f\\u007f");
  BOTH("\xc2\x9b", "\\xc2\\x9b", "\\u009b");
  BOTH("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\x99", "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\x99",
       "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\x99");
  BOTH("\xff", "\\xff", "\\\\xff");
  BOTH("\xc3", "\\xc3", "\\\\xc3");
  BOTH("\xc3(", "\\xc3(", "\\\\xc3(");
  BOTH("\xc0\x80", "\\xc0\\x80", "\\\\xc0\\\\x80");                 /* overlong */
  BOTH("\xe0\x80\x80", "\\xe0\\x80\\x80", "\\\\xe0\\\\x80\\\\x80"); /* overlong */
  BOTH("\xed\xa0\x80", "\\xed\\xa0\\x80", "\\\\xed\\\\xa0\\\\x80"); /* a surrogate */
  BOTH("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80", "\\\\xf4\\\\x90\\\\x80\\\\x80");
  BOTH("\xf0\x9f\x8c", "\\xf0\\x9f\\x8c", "\\\\xf0\\\\x9f\\\\x8c");
#undef BOTH
}

static void logfmt_quotes_a_value_only_when_it_must(void **state) {
  (void)state;
  rille_logline_begin(&line, RILLE_LOG_LOGFMT, &moment, RILLE_LOG_INFO, "m", 1);
  size_t head = line.used;
  rille_logline_text(&line, "a", "plain/1.2:3", 11);
  rille_logline_text(&line, "b", "x=y", 3);
  rille_logline_text(&line, "c", "\xc3\xbc", 2);
  rille_logline_text(&line, "d", "x\ny", 3);
  line.bytes[rille_logline_end(&line)] = '\0';
  assert_string_equal(line.bytes + head, " a=plain/1.2:3 b=\"x=y\" c=\"\xc3\xbc\" d=\"x\\ny\"\n");
}

static void a_long_message_is_cut_between_characters(void **state) {
  (void)state;
  static char text[20000];
  for (size_t shift = 0; shift < 3; shift++) {
    memset(text, 'a', shift);
    for (size_t i = shift; i + 3 <= sizeof text; i += 3) {
      memcpy(text + i, "\xe2\x82\xac", 3);
    }
    const char *all = message_line(RILLE_LOG_LOGFMT, text, sizeof text);
    size_t n = strlen(all);
    assert_true(n <= RILLE_LOG_LINE_MAX);
    assert_string_equal(all + n - 8, "\xe2\x82\xac\xe2\x80\xa6\"\n"); /* a whole euro, the ellipsis, the end */
    assert_true(line.is_full);
  }
}

static void an_escape_is_never_cut_in_two(void **state) {
  (void)state;
  static char text[20000];
  for (size_t shift = 0; shift < 8; shift++) {
    memset(text, 0x01, sizeof text);
    memset(text, 'a', shift);
    const char *all = message_line(RILLE_LOG_JSON, text, sizeof text);
    size_t n = strlen(all);
    assert_string_equal(all + n - 12, "\\u0001\xe2\x80\xa6\"}\n");
  }
}

static void fields_have_room_behind_a_long_message(void **state) {
  (void)state;
  static char text[20000];
  memset(text, 'a', sizeof text);
  for (int format = RILLE_LOG_LOGFMT; format <= RILLE_LOG_JSON; format++) {
    rille_logline_begin(&line, format, &moment, RILLE_LOG_INFO, text, sizeof text);
    rille_logline_integer(&line, "loop", 3);
    rille_logline_text(&line, "long", text, sizeof text);
    size_t cut = line.used;
    for (int i = 0; i < 100; i++) {
      rille_logline_text(&line, "more", text, sizeof text);
      rille_logline_integer(&line, "number", i);
    }
    assert_int_equal(line.used, cut); /* a field that does not fit is left out whole */
    size_t n = rille_logline_end(&line);
    assert_true(n <= RILLE_LOG_LINE_MAX);
    assert_int_equal(line.bytes[n - 1], '\n');
    line.bytes[n - 1] = '\0';
    assert_non_null(strstr(line.bytes, format == RILLE_LOG_JSON ? "\"loop\":3,\"long\":\"aaa" : " loop=3 long=aaa"));
  }
}

/* A line of any input: printable, one newline at its end, valid UTF-8. */
static void assert_clean(size_t n) {
  const unsigned char *s = (const unsigned char *)line.bytes;
  assert_true(n <= RILLE_LOG_LINE_MAX);
  for (size_t i = 0; i + 1 < n;) {
    size_t size = s[i] < 0x80 ? 1 : s[i] < 0xe0 ? 2 : s[i] < 0xf0 ? 3 : 4;
    assert_true(s[i] >= 0x20 && s[i] != 0x7f && !(s[i] >= 0x80 && s[i] < 0xc2) && s[i] < 0xf5);
    for (size_t k = 1; k < size; k++) {
      assert_true(i + k + 1 < n && (s[i + k] & 0xc0) == 0x80);
    }
    i += size;
  }
  assert_int_equal(s[n - 1], '\n');
}

static void any_bytes_make_one_clean_line(void **state) {
  (void)state;
  srand(1);
  for (int round = 0; round < 20000; round++) {
    size_t size = (size_t)rand() % (round % 100 == 0 ? 12000 : 60);
    char *bytes = malloc(size + 1); /* of the exact size, for a sanitizer to see one byte too far */
    assert_non_null(bytes);
    for (size_t i = 0; i < size; i++) {
      bytes[i] = (char)(rand() % 3 == 0 ? rand() % 128 : 128 + rand() % 128);
    }
    char *exact = realloc(bytes, size > 0 ? size : 1);
    rille_logline_begin(&line, round & 1, &moment, RILLE_LOG_INFO, exact, size);
    rille_logline_text(&line, "key", exact, size);
    assert_clean(rille_logline_end(&line));
    free(exact);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_line_has_its_fields_in_order),
      cmocka_unit_test(dates_are_right),
      cmocka_unit_test(special_bytes_are_escaped),
      cmocka_unit_test(logfmt_quotes_a_value_only_when_it_must),
      cmocka_unit_test(a_long_message_is_cut_between_characters),
      cmocka_unit_test(an_escape_is_never_cut_in_two),
      cmocka_unit_test(fields_have_room_behind_a_long_message),
      cmocka_unit_test(any_bytes_make_one_clean_line),
  };
  return cmocka_run_group_tests_name("logline", tests, NULL, NULL);
}
