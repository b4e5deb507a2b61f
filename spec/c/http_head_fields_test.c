/*
 * Tests of core/http_head, the fields: what is taken and what is refused, rule by rule, and what the server itself learns
 * from them.
 */
#include "http_head_assert.h"

/* ---- fields ------------------------------------------------------------------------------------------------------ */

static void lines_end_in_cr_lf(void **state) {
  (void)state;
  REFUSED("GET / HTTP/1.1\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.1\rHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.1\r\nHost: a\n\r\n", -400);
  REFUSED("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.1\r\nHost: a\r\n\n", -400);
  REFUSED("GET / HTTP/1.1\r\nHost: a\r\n\rX", -400);
  REFUSED("GET / HTTP/1.1\r\nHost: a\r\n\r", RILLE_HTTP_PARTIAL);
}

static void a_field_has_a_name_and_a_colon_right_behind_it(void **state) {
  (void)state;
  REFUSED(WITH("X : b\r\n"), -400);
  REFUSED(WITH("X\t: b\r\n"), -400);
  REFUSED(WITH(": b\r\n"), -400);
  REFUSED(WITH("X\r\n"), -400);
  REFUSED(WITH("X b\r\n"), -400);
  REFUSED(WITH("Transfer-Encoding : chunked\r\n"), -400);
}

static void a_name_is_a_token(void **state) {
  (void)state;
  char head[] = WITH("XaY: b\r\n");
  char *c = strstr(head, "XaY") + 1;
  for (int i = 0; i < 256; i++) {
    *c = (char)i;
    bool is_token = (i >= '0' && i <= '9') || (i >= 'A' && i <= 'Z') || (i >= 'a' && i <= 'z') ||
                    (i != 0 && strchr("!#$%&'*+-.^_`|~", i));
    if (i == ':') is_token = true; /* "X" with the value "Y: b" */
    assert_status(head, sizeof head - 1, is_token ? (int)sizeof head - 1 : -400);
    assert_int_equal(rille_http_is_token((const uint8_t *)c, 1), is_token && i != ':');
  }
  assert_false(rille_http_is_token((const uint8_t *)"", 0));
}

static void a_value_has_no_control_character_but_tabs(void **state) {
  (void)state;
  char head[] = WITH("X: 0123456789abcdef\r\n");
  char *value = strstr(head, "0123");
  for (size_t at = 0; at < 16; at++) {
    for (int c = 0; c < 256; c++) {
      char before = value[at];
      value[at] = (char)c;
      bool is_good = (c >= 0x20 && c != 0x7f) || c == '\t';
      drive_head_whole(&whole, head, sizeof head - 1, &LIMITS);
      if (whole.status != (is_good ? (int)sizeof head - 1 : -400)) fail_msg("0x%02x at %zu: %d", c, at, whole.status);
      assert_int_equal(rille_http_is_value((const uint8_t *)value, 16), is_good);
      value[at] = before;
    }
  }
  REFUSED(WITH("X: a\0b\r\n"), -400);
  REFUSED(WITH("X: \x7f\r\n"), -400);
  TAKEN(WITH("X: a\tb \xc3\xa9 \xff\r\n"));
}

/* Where the eight bytes of a step hold a tab, what is behind it still counts. */
static void a_control_character_behind_a_tab_is_seen(void **state) {
  (void)state;
  REFUSED(WITH("X: a\tb\x01zzzzzz\r\n"), -400);
  REFUSED(WITH("X: \x80\x7fzzzzzz\r\n"), -400);
  REFUSED(WITH("X: !\x1f\t\xa0zzzz\r\n"), -400);
  TAKEN(WITH("X: a\t\t\t\t\t\t\t\t\t\tb\r\n"));
}

static void lines_are_not_folded(void **state) {
  (void)state;
  REFUSED(WITH("X: a\r\n b\r\n"), -400);
  REFUSED(WITH("X: a\r\n\tb\r\n"), -400);
  REFUSED(WITH("X: a\r\n \r\n"), -400);
  REFUSED("GET / HTTP/1.1\r\n Host: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", -400);
}

static void blanks_around_a_value_are_not_part_of_it(void **state) {
  (void)state;
  const char head[] = WITH("A:b\r\nC: \t d \t e \t \r\nF:\r\nG: \t \r\n");
  assert_status(head, sizeof head - 1, sizeof head - 1);
  assert_field(head, 1, "A", "b");
  assert_field(head, 2, "C", "d \t e");
  assert_field(head, 3, "F", "");
  assert_field(head, 4, "G", "");
}

/* ---- host -------------------------------------------------------------------------------------------------------- */

static void http_1_1_has_exactly_one_host(void **state) {
  (void)state;
  REFUSED("GET / HTTP/1.1\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.1\r\nHosts: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nhOST: b\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.1\r\nHost:\r\nHost: b\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", -400);
  REFUSED("GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", -400);
  TAKEN("GET / HTTP/1.0\r\n\r\n");
  TAKEN(HOST(""));
  assert_int_equal(whole.head.host.size, 0);
}

static void a_host_has_the_syntax_of_one(void **state) {
  (void)state;
  TAKEN(HOST("a"));
  TAKEN(HOST("A-1._~!$&'()*+,;=:0"));
  TAKEN(HOST("a:")); /* RFC 3986 section 3.2.3 */
  TAKEN(HOST("a:65535"));
  TAKEN(HOST("127.0.0.1:1"));
  TAKEN(HOST("[::1]"));
  TAKEN(HOST("[::ffff:1.2.3.4]:80"));
  TAKEN(HOST("%41%7a"));
  REFUSED(HOST("a:65536"), -400);
  REFUSED(HOST("a:-1"), -400);
  REFUSED(HOST("a:1:2"), -400);
  REFUSED(HOST("a:b"), -400);
  REFUSED(HOST(":80"), -400);
  REFUSED(HOST("a b"), -400);
  REFUSED(HOST("a/b"), -400);
  REFUSED(HOST("u@a"), -400);
  REFUSED(HOST("a#"), -400);
  REFUSED(HOST("a\\b"), -400);
  REFUSED(HOST("a?b"), -400);
  REFUSED(HOST("a\tb"), -400);
  REFUSED(HOST("\xc3\xa9"), -400);
  REFUSED(HOST("%"), -400);
  REFUSED(HOST("%4"), -400);
  REFUSED(HOST("a%4g"), -400);
  REFUSED(HOST("a%g4"), -400);
  REFUSED(HOST("::1"), -400);
  REFUSED(HOST("[]"), -400);
  REFUSED(HOST("["), -400);
  REFUSED(HOST("[:]"), -400);
  REFUSED(HOST("[::1"), -400);
  REFUSED(HOST("[::1]80"), -400);
  REFUSED(HOST("[::1]:x"), -400);
  REFUSED(HOST("[::g]"), -400);
  REFUSED(HOST("[fe80::1%eth0]"), -400);
}

/* ---- framing ----------------------------------------------------------------------------------------------------- */

static void content_length_is_digits_up_to_2_63(void **state) {
  (void)state;
  TAKEN(WITH("Content-Length: 0\r\n"));
  assert_true(whole.head.has_length && whole.head.content_length == 0);
  TAKEN(WITH("content-LENGTH: \t 0042 \r\n"));
  assert_true(whole.head.content_length == 42);
  TAKEN(WITH("Content-Length: 9223372036854775807\r\n"));
  assert_true(whole.head.content_length == INT64_MAX);
  REFUSED(WITH("Content-Length: 9223372036854775808\r\n"), -400);
  REFUSED(WITH("Content-Length: 18446744073709551616\r\n"), -400);
  REFUSED(WITH("Content-Length: 99999999999999999999999999\r\n"), -400);
  REFUSED(WITH("Content-Length:\r\n"), -400);
  REFUSED(WITH("Content-Length: +5\r\n"), -400);
  REFUSED(WITH("Content-Length: -5\r\n"), -400);
  REFUSED(WITH("Content-Length: 0x5\r\n"), -400);
  REFUSED(WITH("Content-Length: 5a\r\n"), -400);
  REFUSED(WITH("Content-Length: 5 5\r\n"), -400);
  REFUSED(WITH("Content-Length: 5, 5\r\n"), -400);
  REFUSED(WITH("Content-Length: 5,\r\n"), -400);
  REFUSED(WITH("Content-Length: 1_0\r\n"), -400);
  REFUSED(WITH("Content-Length: 5.0\r\n"), -400);
  REFUSED(WITH("Content-Length: \xb2\r\n"), -400);
}

static void content_length_stands_once_and_alone(void **state) {
  (void)state;
  REFUSED(WITH("Content-Length: 5\r\nContent-Length: 5\r\n"), -400);
  REFUSED(WITH("Content-Length: 0\r\nContent-Length: 5\r\n"), -400);
  REFUSED(WITH("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), -400);
  REFUSED(WITH("Transfer-Encoding: chunked\r\nX: y\r\nContent-Length: 5\r\n"), -400);
  REFUSED(WITH("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"), -400);
  TAKEN(WITH("Content_Length: 5\r\nTransfer-Encoding: chunked\r\n"));
}

static void transfer_encoding_is_chunked_alone(void **state) {
  (void)state;
  TAKEN(WITH("Transfer-Encoding: chunked\r\n"));
  assert_true(whole.head.is_chunked && !whole.head.has_length && whole.head.content_length == 0);
  TAKEN(WITH("transfer-encoding:\t ChunkeD \r\n"));
  assert_true(whole.head.is_chunked);
  TAKEN(WITH("Transfer_Encoding: chunked\r\n"));
  assert_false(whole.head.is_chunked);
  REFUSED(WITH("Transfer-Encoding: gzip\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: identity\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: gzip, chunked\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: chunked, gzip\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: chunked, chunked\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: chunked,\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: ,chunked\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: chunked;q=1\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: \"chunked\"\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: xchunked\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: chunked chunked\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: chunke\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: chunked\xa0\r\n"), -501);
  REFUSED(WITH("Transfer-Encoding: chunked\x0b\r\n"), -400); /* no character of a value */
  REFUSED(WITH("Transfer-Encoding: \x0b"
               "chunked\r\n"),
          -400);
  REFUSED(WITH("Transfer-Encoding:\r\n"), -400);
  REFUSED(WITH("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), -400);
  REFUSED(WITH("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), -400);
  REFUSED(WITH("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"), -501);
  REFUSED("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", -400);
}

/* ---- what the server obeys itself -------------------------------------------------------------------------------- */

static void version_and_connection_tell_whether_to_keep_it(void **state) {
  (void)state;
  static const struct {
    const char *head;
    bool keep_alive;
  } cases[] = {
      {WITH(""), true},
      {WITH("Connection: close\r\n"), false},
      {WITH("Connection: CLOSE\r\n"), false},
      {WITH("Connection: a,\t close ,b\r\n"), false},
      {WITH("Connection: close,\r\n"), false},
      {WITH("Connection: a,close\r\n"), false},
      {WITH("Connection: ,,close\r\n"), false},
      {WITH("Connection: closed\r\n"), true},
      {WITH("Connection: close d\r\n"), true},
      {WITH("Connection: \r\n"), true},
      {WITH("Connection: keep-alive\r\nConnection: close\r\n"), false},
      {WITH("Connection: close\r\nConnection: keep-alive\r\n"), false},
      {WITH("Proxy-Connection: close\r\n"), true},
      {"GET / HTTP/1.0\r\n\r\n", false},
      {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true},
      {"GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_status(cases[i].head, strlen(cases[i].head), (int)strlen(cases[i].head));
    if (whole.head.keep_alive != cases[i].keep_alive) fail_msg("%s", cases[i].head);
  }
}

static void an_expectation_is_100_continue(void **state) {
  (void)state;
  TAKEN(WITH("Expect: 100-Continue\r\n"));
  assert_true(whole.head.wants_continue);
  TAKEN(WITH(""));
  assert_false(whole.head.wants_continue);
  REFUSED(WITH("Expect: 200-ok\r\n"), -417);
  REFUSED(WITH("Expect: 100-continue, x\r\n"), -417);
  REFUSED(WITH("Expect: 100-continue\r\nExpect: x\r\n"), -417);
  REFUSED(WITH("Expect:\r\n"), -417);
  TAKEN("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n");
  assert_false(whole.head.wants_continue);
  TAKEN("POST / HTTP/1.0\r\nExpect: x\r\n\r\n");
}

/* With a body one could only switch behind it: then the request is answered as one that asks for nothing. */
static void an_upgrade_needs_both_fields_and_no_body(void **state) {
  (void)state;
  TAKEN(WITH("Upgrade: x\r\nConnection: keep-alive, Upgrade\r\n"));
  assert_true(whole.head.wants_upgrade);
  TAKEN(WITH("Connection: upgrade\r\nUpgrade: x\r\nReferer: y\r\nContent-Length: 0\r\n"));
  assert_true(whole.head.wants_upgrade);
  TAKEN(WITH("Upgrade: x\r\n"));
  assert_false(whole.head.wants_upgrade);
  TAKEN(WITH("Connection: upgrade\r\n"));
  assert_false(whole.head.wants_upgrade);
  TAKEN(WITH("Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n"));
  assert_false(whole.head.wants_upgrade);
  TAKEN(WITH("Connection: upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n"));
  assert_false(whole.head.wants_upgrade);
  TAKEN("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
  assert_false(whole.head.wants_upgrade);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lines_end_in_cr_lf),
      cmocka_unit_test(a_field_has_a_name_and_a_colon_right_behind_it),
      cmocka_unit_test(a_name_is_a_token),
      cmocka_unit_test(a_value_has_no_control_character_but_tabs),
      cmocka_unit_test(a_control_character_behind_a_tab_is_seen),
      cmocka_unit_test(lines_are_not_folded),
      cmocka_unit_test(blanks_around_a_value_are_not_part_of_it),
      cmocka_unit_test(http_1_1_has_exactly_one_host),
      cmocka_unit_test(a_host_has_the_syntax_of_one),
      cmocka_unit_test(content_length_is_digits_up_to_2_63),
      cmocka_unit_test(content_length_stands_once_and_alone),
      cmocka_unit_test(transfer_encoding_is_chunked_alone),
      cmocka_unit_test(version_and_connection_tell_whether_to_keep_it),
      cmocka_unit_test(an_expectation_is_100_continue),
      cmocka_unit_test(an_upgrade_needs_both_fields_and_no_body),
  };
  return cmocka_run_group_tests_name("http_head_fields", tests, NULL, NULL);
}
