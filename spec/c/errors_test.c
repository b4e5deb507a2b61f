/*
 * Tests of core/errors: every number has its text, and an errno finds its way to the error a script would expect.
 */
#include "errors.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void every_error_has_a_text_of_its_own(void **state) {
  (void)state;
  for (int i = RILLE_ERR_LAST; i <= 0; i++) {
    assert_true(strlen(rille_err_text(i)) > 0);
    for (int j = RILLE_ERR_LAST; j < i; j++) {
      assert_string_not_equal(rille_err_text(i), rille_err_text(j));
    }
  }
}

static void the_texts_are_those_scripts_compare_with(void **state) {
  (void)state;
  assert_string_equal(rille_err_text(RILLE_ERR_CLOSED), "closed");
  assert_string_equal(rille_err_text(RILLE_ERR_TOO_LARGE), "too large");
  assert_string_equal(rille_err_text(RILLE_ERR_INVALID), "invalid argument");
  assert_string_equal(rille_err_text(RILLE_ERR_EXPIRED), "slice expired");
  assert_string_equal(rille_err_text(RILLE_ERR_READ_ONLY), "read only");
  assert_string_equal(rille_err_text(RILLE_ERR_ERROR), "error");
  assert_string_equal(rille_err_text(RILLE_ERR_SYSTEM), "system error");
  assert_string_equal(rille_err_text(RILLE_ERR_NOT_A_LIST), "value not a list");
  assert_string_equal(rille_err_text(RILLE_ERR_A_LIST), "value is a list");
}

static void numbers_outside_the_list_are_a_system_error(void **state) {
  (void)state;
  assert_string_equal(rille_err_text(1), "system error");
  assert_string_equal(rille_err_text(RILLE_ERR_LAST - 1), "system error");
  assert_int_equal(rille_err_errno(1), 0);
  assert_int_equal(rille_err_errno(RILLE_ERR_LAST - 1), 0);
}

static void an_errno_goes_there_and_back(void **state) {
  (void)state;
  for (int err = RILLE_ERR_LAST; err < 0; err++) {
    if (rille_err_errno(err) != 0) {
      assert_int_equal(rille_err_from_errno(rille_err_errno(err)), err);
    }
  }
}

static void related_errnos_share_an_error(void **state) {
  (void)state;
  assert_int_equal(rille_err_from_errno(0), RILLE_OK);
  assert_int_equal(rille_err_from_errno(EPIPE), RILLE_ERR_CLOSED);
  assert_int_equal(rille_err_from_errno(ECONNRESET), RILLE_ERR_RESET);
  assert_int_equal(rille_err_from_errno(ENETUNREACH), RILLE_ERR_UNREACHABLE);
  assert_int_equal(rille_err_from_errno(EPERM), RILLE_ERR_PERMISSION);
  assert_int_equal(rille_err_from_errno(ENFILE), RILLE_ERR_TOO_MANY_FILES);
  assert_int_equal(rille_err_from_errno(ENOBUFS), RILLE_ERR_NO_MEMORY);
  assert_int_equal(rille_err_from_errno(EAFNOSUPPORT), RILLE_ERR_NOT_SUPPORTED);
  assert_int_equal(rille_err_from_errno(EIO), RILLE_ERR_SYSTEM);
  assert_true(rille_err_is_shortage(EMFILE) && rille_err_is_shortage(ENFILE) && rille_err_is_shortage(ENOMEM));
  assert_false(rille_err_is_shortage(0) || rille_err_is_shortage(ENOENT));
  assert_int_equal(rille_err_from_errno(-1), RILLE_ERR_SYSTEM);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_error_has_a_text_of_its_own),
      cmocka_unit_test(the_texts_are_those_scripts_compare_with),
      cmocka_unit_test(numbers_outside_the_list_are_a_system_error),
      cmocka_unit_test(an_errno_goes_there_and_back),
      cmocka_unit_test(related_errnos_share_an_error),
  };
  return cmocka_run_group_tests_name("errors", tests, NULL, NULL);
}
