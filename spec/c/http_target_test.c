/*
 * Tests of core/http_target: what a path means, which paths mean none, and what a query holds.
 */
#include "http_target.h"

#include "fence.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static fence from, to;

/* Input and output both end at a fence; the output has as much room as is promised to be enough. */
static int64_t path_of(const char *sent, size_t size, uint8_t **result) {
  uint8_t *in = fence_put(&from, sent, size);
  *result = fence_room(&to, size);
  return rille_http_path(in, size, *result);
}

static void assert_path(const char *sent, const char *meant) {
  uint8_t *result;
  int64_t length = path_of(sent, strlen(sent), &result);
  if (length != (int64_t)strlen(meant) || memcmp(result, meant, strlen(meant)) != 0) {
    fail_msg("%s: %d \"%.*s\", not \"%s\"", sent, (int)length, length < 0 ? 0 : (int)length, (char *)result, meant);
  }
}

static void assert_refused(const char *sent) {
  uint8_t *result;
  int64_t length = path_of(sent, strlen(sent), &result);
  if (length != -400) fail_msg("%s: %d", sent, (int)length);
}

static void assert_query(const char *query, const char *name, const char *expected) {
  uint8_t *in = fence_put(&from, query, strlen(query)), *result = fence_room(&to, strlen(query));
  int64_t length = rille_http_query(in, strlen(query), (const uint8_t *)name, strlen(name), result);
  int64_t wanted = expected ? (int64_t)strlen(expected) : -1;
  if (length != wanted || (length > 0 && memcmp(result, expected, (size_t)length) != 0)) {
    fail_msg("%s of %s: %d \"%.*s\"", name, query, (int)length, length < 0 ? 0 : (int)length, (char *)result);
  }
}

static void plain_paths_stay_as_they_are(void **state) {
  (void)state;
  static const char *const paths[] = {"/",   "/a",   "/a/",  "/a/b.c/d", "/.a",  "/..a",
                                      "/a.", "/a..", "/...", "/a/.../b", "/a b", "/~!$&'()*+,;=:@"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) assert_path(paths[i], paths[i]);
}

static void escapes_are_decoded_once(void **state) {
  (void)state;
  assert_path("/%41%7a%5A", "/AzZ");
  assert_path("/%20%7e", "/ ~");
  assert_path("/%c3%A9", "/\xc3\xa9");
  assert_path("/%2541", "/%41");
  assert_path("/%252e%252e/", "/%2e%2e/");
  assert_path("/a%3fb%23c", "/a?b#c");
  assert_path("/a+b", "/a+b");
  assert_path("/%5c..%5c", "/\\..\\");
}

static void bad_escapes_are_refused(void **state) {
  (void)state;
  static const char *const paths[] = {"/%",      "/%4",  "/%g1", "/%1g", "/a%", "/%%41",
                                      "/%u0041", "/% 1", "/%+1", "/%-1", "/%0x"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) assert_refused(paths[i]);
}

static void no_control_character_gets_into_a_path(void **state) {
  (void)state;
  for (unsigned c = 0; c < 256; c++) {
    char path[8], meant[4] = {'/', 'a', (char)c, 0};
    snprintf(path, sizeof path, "/a%%%02x", c);
    if (c < 0x20 || c == 0x7f) assert_refused(path);
    else if (c == '/') assert_path(path, "/a/");
    else if (c != '.') assert_path(path, meant);
  }
  assert_refused("/%00");
  assert_refused("/a%0d%0aX:%20y");
}

static void slashes_are_merged(void **state) {
  (void)state;
  assert_path("//", "/");
  assert_path("///a////b//", "/a/b/");
  assert_path("/a%2f/b", "/a/b");
  assert_path("/%2F%2f", "/");
}

static void dots_are_resolved(void **state) {
  (void)state;
  assert_path("/.", "/");
  assert_path("/./", "/");
  assert_path("/a/.", "/a/");
  assert_path("/a/./b", "/a/b");
  assert_path("/a/..", "/");
  assert_path("/a/../", "/");
  assert_path("/a/../b", "/b");
  assert_path("/a/b/..", "/a/");
  assert_path("/a/b/../../c", "/c");
  assert_path("/a//../b", "/b");
  assert_path("/a/b/c/./../../g", "/a/g"); /* RFC 3986 section 5.2.4 */
  assert_path("/mid/content=5/../6", "/mid/6");
}

static void dots_are_seen_behind_escapes(void **state) {
  (void)state;
  assert_path("/a/%2e%2e/b", "/b");
  assert_path("/a/.%2E/b", "/b");
  assert_path("/a%2f..%2fb", "/b");
  assert_path("/a/%2e/b", "/a/b");
  assert_refused("/%2e%2e/");
  assert_refused("/a%2f..%2f..");
}

static void nothing_is_above_the_root(void **state) {
  (void)state;
  static const char *const paths[] = {"/..", "/../", "/../a", "//..", "/./..", "/a/../..", "/a/../../b", "/a/..//../b"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) assert_refused(paths[i]);
}

/* The model: segments on a stack. */
static int64_t model_path(const char *path, size_t size, char *result) {
  size_t starts[32], depth = 0, length = 0;
  for (size_t at = 0; at < size;) {
    size_t end = ++at;
    while (end < size && path[end] != '/') end++;
    bool is_last = end >= size;
    size_t n = end - at;
    if (n == 2 && memcmp(path + at, "..", 2) == 0) {
      if (depth == 0) return -400;
      length = starts[--depth];
      if (is_last) result[length++] = '/';
    } else if (n == 0 || (n == 1 && path[at] == '.')) {
      if (is_last) result[length++] = '/';
    } else {
      starts[depth++] = length;
      result[length++] = '/';
      memcpy(result + length, path + at, n);
      length += n;
    }
    at = end;
  }
  return (int64_t)length;
}

/* Every path of up to ten of the characters that matter. */
static void short_paths_mean_what_a_stack_of_segments_says(void **state) {
  (void)state;
  static const char letters[] = "/.a";
  for (size_t size = 1; size <= 10; size++) {
    size_t count = 1;
    for (size_t i = 1; i < size; i++) count *= 3;
    for (size_t n = 0; n < count; n++) {
      char path[16] = "/", meant[32];
      for (size_t i = 1, rest = n; i < size; i++, rest /= 3) path[i] = letters[rest % 3];
      uint8_t result[16];
      int64_t length = rille_http_path((const uint8_t *)path, size, result);
      if (length != model_path(path, size, meant)) fail_msg("%s: %d", path, (int)length);
      if (length > 0) assert_memory_equal(result, meant, (size_t)length);
    }
  }
}

static void the_first_parameter_of_a_name_counts(void **state) {
  (void)state;
  assert_query("a=1&b=2&a=3", "a", "1");
  assert_query("a=1&b=2&a=3", "b", "2");
  assert_query("a=1&b=2", "c", NULL);
  assert_query("", "a", NULL);
  assert_query("aa=1&ba=2", "a", NULL);
  assert_query("a=b=c", "a", "b=c");
  assert_query("&&a=1&", "a", "1");
  assert_query("A=1", "a", NULL);
}

static void a_parameter_may_be_empty(void **state) {
  (void)state;
  assert_query("a", "a", "");
  assert_query("a=", "a", "");
  assert_query("a&b=1", "a", "");
  assert_query("=1", "", "1");
  assert_query("b=1", "", NULL);
  assert_query("", "", NULL);
}

static void names_and_values_are_decoded(void **state) {
  (void)state;
  assert_query("a%41=b%20c+d", "aA", "b c d");
  assert_query("a+b=%2b%26%3D", "a b", "+&=");
  assert_query("%61%3d=1", "a=", "1");
}

static void what_is_no_escape_stays(void **state) {
  (void)state;
  assert_query("a=100%", "a", "100%");
  assert_query("a=%4&b=1", "a", "%4");
  assert_query("a=%zz%4g%g4%", "a", "%zz%4g%g4%");
  assert_query("a%=1", "a%", "1");
  assert_query("a=%&41", "a", "%"); /* an escape does not reach into the next parameter */
}

static void a_piece_can_be_decoded_in_place(void **state) {
  (void)state;
  uint8_t *bytes = fence_put(&from, "%41+%zz%00%", 11);
  assert_int_equal(rille_http_unescape(bytes, 11, bytes), 7);
  assert_memory_equal(bytes, "A %zz\0%", 7);
  assert_int_equal(rille_http_unescape(bytes, 0, bytes), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(plain_paths_stay_as_they_are),
      cmocka_unit_test(escapes_are_decoded_once),
      cmocka_unit_test(bad_escapes_are_refused),
      cmocka_unit_test(no_control_character_gets_into_a_path),
      cmocka_unit_test(slashes_are_merged),
      cmocka_unit_test(dots_are_resolved),
      cmocka_unit_test(dots_are_seen_behind_escapes),
      cmocka_unit_test(nothing_is_above_the_root),
      cmocka_unit_test(short_paths_mean_what_a_stack_of_segments_says),
      cmocka_unit_test(the_first_parameter_of_a_name_counts),
      cmocka_unit_test(a_parameter_may_be_empty),
      cmocka_unit_test(names_and_values_are_decoded),
      cmocka_unit_test(what_is_no_escape_stays),
      cmocka_unit_test(a_piece_can_be_decoded_in_place),
  };
  return cmocka_run_group_tests_name("http_target", tests, NULL, NULL);
}
