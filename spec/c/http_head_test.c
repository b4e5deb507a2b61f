/*
 * Tests of core/http_head, the request line, limits and the ways of calling: what is taken and what is refused, rule by rule;
 * limits at the limit and one beyond; the same answer however the bytes are cut and moved.
 */
#include "http_head_assert.h"

#include <stdio.h>

/* ---- the request line ------------------------------------------------------------------------------------------- */

static void a_head_is_taken_apart(void **state) {
  (void)state;
  const char head[] = "POST /a/b?c=d HTTP/1.1\r\nHost: example.org:80\r\nX-One:1\r\nContent-Length: 12\r\n\r\n";
  assert_target(head, "/a/b", "c=d", "example.org:80");
  assert_int_equal(whole.head.method, RILLE_HTTP_POST);
  assert_span(head, whole.head.method_name, "POST");
  assert_span(head, whole.head.target, "/a/b?c=d");
  assert_int_equal(whole.head.minor, 1);
  assert_int_equal(whole.head.field_count, 3);
  assert_field(head, 0, "Host", "example.org:80");
  assert_field(head, 1, "X-One", "1");
  assert_field(head, 2, "Content-Length", "12");
  assert_true(whole.head.has_length && whole.head.content_length == 12 && !whole.head.is_chunked);
  assert_int_equal(whole.head.size, sizeof head - 1);
}

static void what_follows_a_head_is_left_alone(void **state) {
  (void)state;
  const char head[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  assert_status("GET / HTTP/1.1\r\nHost: a\r\n\r\n\x01\x02 no head", 37, sizeof head - 1);
}

static void methods_are_known_by_their_exact_names(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int method;
  } cases[] = {{"GET", RILLE_HTTP_GET},
               {"HEAD", RILLE_HTTP_HEAD},
               {"POST", RILLE_HTTP_POST},
               {"PUT", RILLE_HTTP_PUT},
               {"DELETE", RILLE_HTTP_DELETE},
               {"OPTIONS", RILLE_HTTP_OPTIONS},
               {"TRACE", RILLE_HTTP_TRACE},
               {"PATCH", RILLE_HTTP_PATCH},
               {"get", RILLE_HTTP_OTHER},
               {"GETS", RILLE_HTTP_OTHER},
               {"GE", RILLE_HTTP_OTHER},
               {"PROPFIND", RILLE_HTTP_OTHER},
               {"M!#$%&'*+-.^_`|~", RILLE_HTTP_OTHER}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char head[100];
    int size = snprintf(head, sizeof head, "%s / HTTP/1.1\r\nHost: a\r\n\r\n", cases[i].name);
    assert_status(head, (size_t)size, size);
    assert_int_equal(whole.head.method, cases[i].method);
    assert_span(head, whole.head.method_name, cases[i].name);
  }
}

static void a_method_is_a_token_of_32_bytes_at_most(void **state) {
  (void)state;
#define M8 "ABCDEFGH"
  TAKEN(M8 M8 M8 M8 " / HTTP/1.1\r\nHost: a\r\n\r\n");
  REFUSED(M8 M8 M8 M8 "I / HTTP/1.1\r\nHost: a\r\n\r\n", -501);
  REFUSED("GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GE\x80 / HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET: / HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("\0GET / HTTP/1.1\r\nHost: a\r\n\r\n", -400);
}

static void one_space_stands_between_the_parts_of_a_request_line(void **state) {
  (void)state;
  REFUSED(" GET / HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / a HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET /\r\n\r\n", -400);
  REFUSED("GET HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET\r\n\r\n", -400);
}

static void versions_other_than_1_0_and_1_1_are_refused(void **state) {
  (void)state;
  TAKEN("GET / HTTP/1.0\r\n\r\n");
  assert_int_equal(whole.head.minor, 0);
  REFUSED("GET / HTTP/1.2\r\nHost: a\r\n\r\n", -505);
  REFUSED("GET / HTTP/2.0\r\nHost: a\r\n\r\n", -505);
  REFUSED("GET / HTTP/0.9\r\nHost: a\r\n\r\n", -505);
  REFUSED("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", -505);
  REFUSED("GET / http/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.x\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/:.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/01.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/1.10\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTP/ 1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / HTTPS/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("GET / \r\nHost: a\r\n\r\n", -400);
}

static void empty_lines_before_a_request_are_skipped(void **state) {
  (void)state;
  TAKEN("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
  TAKEN("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
  REFUSED("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("\r\n GET / HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("\r\n\r\n", RILLE_HTTP_PARTIAL);
  REFUSED("", RILLE_HTTP_PARTIAL);
}

/* Every byte but those that RFC 9110 and RFC 3986 give a meaning in front of a fragment is refused. */
static void a_target_is_visible_ascii(void **state) {
  (void)state;
  char head[] = "GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n";
  for (int c = 0; c < 256; c++) {
    if (c == ' ') continue;
    head[7] = (char)c;
    bool is_good = c > 0x20 && c < 0x7f && c != '#';
    assert_status(head, sizeof head - 1, is_good ? (int)sizeof head - 1 : -400);
  }
}

/* ---- the four forms of a target ---------------------------------------------------------------------------------- */

static void an_origin_form_is_path_and_query(void **state) {
  (void)state;
  assert_target(TARGET("/"), "/", NULL, "a");
  assert_target(TARGET("/?"), "/", "", "a");
  assert_target(TARGET("/a?b?c"), "/a", "b?c", "a");
  assert_target(TARGET("/a/b?http://x/"), "/a/b", "http://x/", "a");
  assert_target(TARGET("//b/c"), "//b/c", NULL, "a"); /* no authority */
  assert_target(TARGET("/a:b@c"), "/a:b@c", NULL, "a");
  REFUSED(TARGET("a/b"), -400);
  REFUSED(TARGET("?a"), -400);
  REFUSED(TARGET("../a"), -400);
}

static void an_absolute_form_overrides_host(void **state) {
  (void)state;
  assert_target(TARGET("http://b.org/c?d"), "/c", "d", "b.org");
  assert_false(whole.head.path_is_absent);
  assert_target(TARGET("HTTPS://b.org:8443/"), "/", NULL, "b.org:8443");
  assert_target(TARGET("http://b.org"), "", NULL, "b.org");
  assert_true(whole.head.path_is_absent);
  assert_target(TARGET("http://b.org?c=/d"), "", "c=/d", "b.org");
  assert_true(whole.head.path_is_absent);
  assert_target(TARGET("http://[::1]:80/"), "/", NULL, "[::1]:80");
  assert_target("GET http://b HTTP/1.1\r\nHost:\r\n\r\n", "", NULL, "b");
  assert_target("GET http://b/ HTTP/1.0\r\n\r\n", "/", NULL, "b");
  REFUSED("GET http://b/ HTTP/1.1\r\n\r\n", -400); /* Host is needed all the same */
  REFUSED(TARGET("http://"), -400);
  REFUSED(TARGET("http:///"), -400);
  REFUSED(TARGET("http://:80/"), -400);
  REFUSED(TARGET("http://?a"), -400);
  REFUSED(TARGET("http:/b/"), -400);
  REFUSED(TARGET("http:b"), -400);
  REFUSED(TARGET("http://u@b/"), -400);
  REFUSED(TARGET("http://b:65536/"), -400);
  REFUSED(TARGET("ftp://b/"), -400);
  REFUSED(TARGET("xhttp://b/"), -400);
}

static void an_asterisk_is_for_options_alone(void **state) {
  (void)state;
  assert_target("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "*", NULL, "a");
  assert_true(whole.head.path_is_plain);
  REFUSED("OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED("OPTIONS *?a HTTP/1.1\r\nHost: a\r\n\r\n", -400);
  REFUSED(TARGET("*"), -400);
}

static void connect_takes_host_and_port_alone(void **state) {
  (void)state;
#define CONNECT(target) "CONNECT " target " HTTP/1.1\r\nHost: a\r\n\r\n"
  assert_target(CONNECT("b.org:443"), "", NULL, "b.org:443");
  assert_int_equal(whole.head.method, RILLE_HTTP_CONNECT);
  assert_true(whole.head.path_is_plain);
  assert_target(CONNECT("[::1]:443"), "", NULL, "[::1]:443");
  REFUSED(CONNECT("b.org"), -400);
  REFUSED(CONNECT("b.org:"), -400);
  REFUSED(CONNECT(":443"), -400);
  REFUSED(CONNECT("[::1]"), -400); /* its colons are no port's */
  REFUSED(CONNECT("[::1]:"), -400);
  REFUSED(CONNECT("b.org:https"), -400);
  REFUSED(CONNECT("b.org:65536"), -400);
  REFUSED(CONNECT("b.org:443/"), -400);
  REFUSED(CONNECT("/"), -400);
  REFUSED(CONNECT("http://b.org:443"), -400);
  REFUSED(TARGET("b.org:443"), -400);
}

static void a_plain_path_needs_no_decoding(void **state) {
  (void)state;
  static const struct {
    const char *head;
    bool is_plain;
  } cases[] = {{TARGET("/"), true},       {TARGET("/a.b/c..d/"), true}, {TARGET("/a?//%41/../"), true},
               {TARGET("/%41"), false},   {TARGET("//"), false},        {TARGET("/a//b"), false},
               {TARGET("/./a"), false},   {TARGET("/a/.."), false},     {TARGET("/a/."), false},
               {TARGET("/a/../b"), false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_status(cases[i].head, strlen(cases[i].head), (int)strlen(cases[i].head));
    if (whole.head.path_is_plain != cases[i].is_plain) fail_msg("%s", cases[i].head);
  }
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

static void the_head_is_limited(void **state) {
  (void)state;
  const char head[] = WITH("X: yyyyyyyyyyyyyyyyyyyyyyyyy\r\n");
  const size_t size = sizeof head - 1;
  rille_http_limits limits = LIMITS;
  limits.head = (uint32_t)size;
  assert_int_equal(status_of(head, size, &limits), size);
  for (uint32_t less = 0; less < size; less++) {
    limits.head = less;
    int status = status_of(head, size, &limits);
    /* inside the target it is that which is too long */
    if (status != (less >= 4 && less <= 5 ? -414 : -431)) fail_msg("limit %u: %d", less, status);
    assert_int_equal(status_of(head, less, &limits), status); /* it strikes when it is reached, not one byte later */
  }
}

static void empty_lines_count_as_part_of_the_head(void **state) {
  (void)state;
  const char head[] = "\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n";
  rille_http_limits limits = LIMITS;
  limits.head = sizeof head - 1;
  assert_int_equal(status_of(head, sizeof head - 1, &limits), sizeof head - 1);
  limits.head--;
  assert_int_equal(status_of(head, sizeof head - 1, &limits), -431);
  limits.head = 6;
  assert_int_equal(status_of("\r\n\r\n\r\n\r\n", 8, &limits), -431);
}

static void the_target_is_limited(void **state) {
  (void)state;
  rille_http_limits limits = LIMITS;
  limits.target = 6;
  assert_int_equal(status_of("GET /12345 HTTP/1.0\r\n\r\n", 23, &limits), 23);
  assert_int_equal(status_of("GET /123456 HTTP/1.0\r\n\r\n", 24, &limits), -414);
  assert_int_equal(status_of("GET /123456", 11, &limits), -414);
  assert_int_equal(status_of("GET /12345", 10, &limits), RILLE_HTTP_PARTIAL);
  assert_int_equal(status_of("GET /12345\x01 HTTP/1.0\r\n\r\n", 24, &limits), -400);
}

static void fields_are_limited(void **state) {
  (void)state;
  static const char head[] = "GET / HTTP/1.0\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n";
  rille_http_limits limits = LIMITS;
  limits.headers = 3;
  assert_int_equal(status_of(head, sizeof head - 1, &limits), sizeof head - 1);
  limits.headers = 2;
  assert_int_equal(status_of(head, sizeof head - 1, &limits), -431);
  limits.headers = 0;
  assert_int_equal(status_of(head, sizeof head - 1, &limits), -431);
  assert_int_equal(status_of("GET / HTTP/1.0\r\n\r\n", 18, &limits), 18);
}

/* ---- the ways of calling ----------------------------------------------------------------------------------------- */

static void more_fields_are_asked_for_when_the_room_is_used_up(void **state) {
  (void)state;
  static const char head[] = "GET / HTTP/1.0\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n";
  const uint8_t *bytes = (const uint8_t *)head;
  rille_http_field fields[3];
  rille_http_head h;
  rille_http_head_init(&h, fields, 2);
  assert_int_equal(rille_http_head_decode(&h, bytes, sizeof head - 1, &LIMITS), RILLE_HTTP_MORE_FIELDS);
  assert_int_equal(rille_http_head_decode(&h, bytes, sizeof head - 1, &LIMITS), RILLE_HTTP_MORE_FIELDS);
  assert_int_equal(h.field_count, 2);
  h.field_room = 3;
  assert_int_equal(rille_http_head_decode(&h, bytes, sizeof head - 1, &LIMITS), sizeof head - 1);
  assert_int_equal(h.field_count, 3);
  assert_span(head, fields[0].name, "A");
  assert_span(head, fields[2].name, "C");
}

static void a_call_more_gives_the_same_again(void **state) {
  (void)state;
  static const char *const heads[] = {WITH("A: b\r\n"),
                                      "GET / HTTP/1.1\r\n\r\n",
                                      WITH("A : b\r\n"),
                                      WITH("Host: b\r\n"),
                                      WITH("Content-Length: x\r\nA: b\r\n"),
                                      WITH("Content-Length: 1\r\nContent-Length: 1\r\nA: b\r\n"),
                                      WITH("Transfer-Encoding: x\r\nA: b\r\n"),
                                      WITH("Expect: x\r\nA: b\r\n"),
                                      "GET / HTTP/2.0\r\n\r\n",
                                      "GET / HTT"};
  for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
    const uint8_t *bytes = (const uint8_t *)heads[i];
    rille_http_field fields[8];
    rille_http_head head;
    rille_http_head_init(&head, fields, 8);
    int first = rille_http_head_decode(&head, bytes, strlen(heads[i]), &LIMITS);
    int again = rille_http_head_decode(&head, bytes, strlen(heads[i]), &LIMITS);
    if (first != again) fail_msg("%d, then %d: %s", first, again, heads[i]);
  }
}

/* As it happens where a head lies in two blocks: the first of them, both gathered, and the first again. */
static void a_call_with_fewer_bytes_than_before_is_harmless(void **state) {
  (void)state;
  static const char bytes[] = "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
  static fence inputs;
  for (size_t first = 0; first < sizeof bytes - 2; first++) {
    for (size_t fewer = 0; fewer < first; fewer++) {
      rille_http_field fields[2];
      rille_http_head head;
      rille_http_head_init(&head, fields, 2);
      size_t size = sizeof bytes - 1;
      assert_int_equal(rille_http_head_decode(&head, fence_put(&inputs, bytes, first), first, &LIMITS), 0);
      assert_int_equal(rille_http_head_decode(&head, fence_put(&inputs, bytes, fewer), fewer, &LIMITS), 0);
      assert_int_equal(rille_http_head_decode(&head, fence_put(&inputs, bytes, size), size, &LIMITS), size);
    }
  }
}

static void fields_are_found_by_name_in_any_case(void **state) {
  (void)state;
  static const char head[] = WITH("X-One: 1\r\nx-two: 2\r\nX-ONE: 3\r\nX-Onf: 4\r\n");
  const uint8_t *bytes = (const uint8_t *)head;
  drive_head_whole(&whole, head, sizeof head - 1, &LIMITS);
  const rille_http_head *h = &whole.head;
  assert_int_equal(rille_http_head_find(h, bytes, (const uint8_t *)"x-One", 5, 0), 1);
  assert_int_equal(rille_http_head_find(h, bytes, (const uint8_t *)"x-One", 5, 2), 3);
  assert_int_equal(rille_http_head_find(h, bytes, (const uint8_t *)"x-One", 5, 4), -1);
  assert_int_equal(rille_http_head_find(h, bytes, (const uint8_t *)"HOST", 4, 0), 0);
  assert_int_equal(rille_http_head_find(h, bytes, (const uint8_t *)"X-One2", 6, 0), -1);
  assert_int_equal(rille_http_head_find(h, bytes, (const uint8_t *)"X\rOne", 5, 0), -1); /* "\r" | 0x20 is "-" */
  assert_int_equal(rille_http_head_find(h, bytes, (const uint8_t *)"", 0, 0), -1);
  assert_int_equal(rille_http_head_find(h, bytes, (const uint8_t *)"host", 4, 99), -1);
}

/* A key holds the size modulo 256. */
static void names_with_the_same_key_are_told_apart(void **state) {
  (void)state;
  char head[400];
  int size = snprintf(head, sizeof head, "GET / HTTP/1.0\r\n%0257d: 1\r\n0: 2\r\n\r\n", 0);
  assert_int_equal(drive_head_whole(&whole, head, (size_t)size, &LIMITS), size);
  assert_int_equal(whole.fields[0].key, whole.fields[1].key);
  assert_int_equal(rille_http_head_find(&whole.head, (const uint8_t *)head, (const uint8_t *)"0", 1, 0), 1);
}

static void pieces_are_checked_up_to_their_last_byte_and_not_beyond(void **state) {
  (void)state;
  static fence inputs;
  static const struct {
    const char *host;
    bool is_host;
  } cases[] = {{"", false},   {"a", true},           {"a%4", false}, {"a%", false},   {"[", false},
               {"[:", false}, {"[::", false},        {"[::]", true}, {"a:", true},    {"[::]:", true},
               {":", false},  {"example.org", true}, {"%41", true},  {"a%41%", false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t size = strlen(cases[i].host);
    if (rille_http_is_host(fence_put(&inputs, cases[i].host, size), size) != cases[i].is_host)
      fail_msg("%s", cases[i].host);
  }
  assert_int_equal(rille_http_key(fence_put(&inputs, "", 0), 0), 0);
  uint64_t value = 0;
  assert_true(rille_http_is_length(fence_put(&inputs, "12", 2), 2, &value) && value == 12);
  assert_false(rille_http_is_length(fence_put(&inputs, "", 0), 0, &value));
  assert_true(rille_http_is_token(fence_put(&inputs, "token", 5), 5));
  assert_true(rille_http_is_value(fence_put(&inputs, "a value of many bytes", 21), 21));
  assert_true(rille_http_is(fence_put(&inputs, "Close", 5), 5, "close", 5));
  static const char head[] = WITH("Az: b\r\n");
  drive_head_whole(&whole, head, sizeof head - 1, &LIMITS);
  const uint8_t *bytes = (const uint8_t *)head;
  assert_int_equal(rille_http_head_find(&whole.head, bytes, fence_put(&inputs, "aZ", 2), 2, 0), 1);
  assert_int_equal(rille_http_head_find(&whole.head, bytes, fence_put(&inputs, "hosT", 4), 4, 0), 0);
}

static void keys_do_not_depend_on_case(void **state) {
  (void)state;
  static const char *const names[] = {"Host", "Content-Length", "a", "Ab", "X!#$%&'*+-.^_`|~09AZaz", ""};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    uint8_t upper[64], lower[64];
    size_t size = strlen(names[i]);
    for (size_t k = 0; k < size; k++) {
      uint8_t c = (uint8_t)names[i][k];
      upper[k] = c >= 'a' && c <= 'z' ? (uint8_t)(c - 32) : c;
      lower[k] = c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c;
    }
    assert_int_equal(rille_http_key(upper, size), rille_http_key(lower, size));
    assert_true(rille_http_is(upper, size, (const char *)lower, size));
  }
  assert_false(rille_http_is((const uint8_t *)"CLOSE\r", 6, "close-", 6));
  assert_false(rille_http_is((const uint8_t *)"[", 1, "{", 1));
}

/* A head at one byte a call, as long as it may be: what is looked at again must not add up to seconds. */
static void a_drip_of_bytes_is_bounded(void **state) {
  (void)state;
  enum { SIZE = 16384 };
  static uint8_t head[SIZE];
  static const char *const starts[] = {"GET /", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nX: "};
  for (size_t i = 0; i < 3; i++) {
    memset(head, 'a', SIZE);
    memcpy(head, starts[i], strlen(starts[i]));
    rille_http_limits limits = {.head = SIZE, .target = SIZE, .headers = 1};
    rille_http_head h;
    rille_http_head_init(&h, NULL, 0);
    for (size_t size = 1; size < SIZE; size++) {
      assert_int_equal(rille_http_head_decode(&h, head, size, &limits), RILLE_HTTP_PARTIAL);
    }
    assert_int_equal(rille_http_head_decode(&h, head, SIZE, &limits), i == 0 ? -414 : -431);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_head_is_taken_apart),
      cmocka_unit_test(what_follows_a_head_is_left_alone),
      cmocka_unit_test(methods_are_known_by_their_exact_names),
      cmocka_unit_test(a_method_is_a_token_of_32_bytes_at_most),
      cmocka_unit_test(one_space_stands_between_the_parts_of_a_request_line),
      cmocka_unit_test(versions_other_than_1_0_and_1_1_are_refused),
      cmocka_unit_test(empty_lines_before_a_request_are_skipped),
      cmocka_unit_test(a_target_is_visible_ascii),
      cmocka_unit_test(an_origin_form_is_path_and_query),
      cmocka_unit_test(an_absolute_form_overrides_host),
      cmocka_unit_test(an_asterisk_is_for_options_alone),
      cmocka_unit_test(connect_takes_host_and_port_alone),
      cmocka_unit_test(a_plain_path_needs_no_decoding),
      cmocka_unit_test(the_head_is_limited),
      cmocka_unit_test(empty_lines_count_as_part_of_the_head),
      cmocka_unit_test(the_target_is_limited),
      cmocka_unit_test(fields_are_limited),
      cmocka_unit_test(more_fields_are_asked_for_when_the_room_is_used_up),
      cmocka_unit_test(a_call_more_gives_the_same_again),
      cmocka_unit_test(a_call_with_fewer_bytes_than_before_is_harmless),
      cmocka_unit_test(fields_are_found_by_name_in_any_case),
      cmocka_unit_test(names_with_the_same_key_are_told_apart),
      cmocka_unit_test(pieces_are_checked_up_to_their_last_byte_and_not_beyond),
      cmocka_unit_test(keys_do_not_depend_on_case),
      cmocka_unit_test(a_drip_of_bytes_is_bounded),
  };
  return cmocka_run_group_tests_name("http_head", tests, NULL, NULL);
}
