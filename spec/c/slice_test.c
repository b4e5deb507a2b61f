/*
 * Tests of core/slice: borrowing, retaining, and scanning up to the last byte of a page and not beyond.
 */
#include "block.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static rille_block_stats stats(void) {
  rille_block_stats now;
  rille_block_stats_read(&now);
  return now;
}

/* A buffer with "hello world" in it, and a slice of all of that. */
static rille_linkbuffer *hello(rille_slice *s) {
  int err;
  rille_linkbuffer *b = rille_linkbuffer_new(64, &err);
  assert_non_null(b);
  assert_int_equal(rille_linkbuffer_write(b, "hello world", 11), 0);
  assert_int_equal(rille_linkbuffer_flush(b), 0);
  assert_int_equal(rille_linkbuffer_next(b, 11, s), 0);
  return b;
}

static int is_valid(const rille_slice *s) { return rille_cell_epoch(s->cell_) == s->epoch_; }

static void a_borrowed_slice_expires_with_release(void **state) {
  (void)state;
  rille_slice s;
  rille_linkbuffer *b = hello(&s);
  assert_true(is_valid(&s));
  assert_false(rille_slice_is_retained(&s));
  rille_slice_release(&s); /* harmless: it is not retained */
  assert_true(is_valid(&s));
  rille_linkbuffer_release(b);
  assert_false(is_valid(&s));
  assert_int_equal(rille_slice_retain(&s), RILLE_ERR_EXPIRED);
  rille_slice copy;
  assert_int_equal(rille_slice_copy(&s, &copy), RILLE_ERR_EXPIRED);
  rille_slice_release(&s);
  rille_slice_collect(&s);
  rille_linkbuffer_free(b);
}

static void a_retained_slice_outlives_its_buffer(void **state) {
  (void)state;
  rille_block_stats before = stats();
  rille_slice s;
  rille_linkbuffer *b = hello(&s);
  assert_int_equal(rille_slice_retain(&s), 0);
  assert_true(rille_slice_is_retained(&s));
  assert_true(stats().slices_retained == before.slices_retained + 1);
  rille_linkbuffer_free(b);
  assert_true(is_valid(&s));
  assert_memory_equal(s.base_, "hello world", 11);
  assert_true(stats().blocks_in_use == before.blocks_in_use + 1);
  assert_int_equal(rille_slice_retain(&s), 0); /* counts up */
  assert_int_equal(rille_slice_release(&s), 1);
  assert_true(is_valid(&s));
  assert_int_equal(rille_slice_release(&s), 0);
  assert_false(is_valid(&s));
  assert_int_equal(rille_slice_release(&s), 0);
  assert_true(stats().blocks_in_use == before.blocks_in_use);
  assert_true(stats().slices_retained == before.slices_retained);
  assert_true(stats().slices_leaked == before.slices_leaked);
}

static void releasing_a_sub_slice_leaves_its_owner(void **state) {
  (void)state;
  rille_slice s;
  rille_linkbuffer *b = hello(&s);
  rille_slice_retain(&s);
  rille_linkbuffer_free(b);
  rille_slice sub = s;
  sub.size_ = 5;
  assert_false(rille_slice_is_retained(&sub));
  rille_slice_release(&sub);
  rille_slice_collect(&sub);
  assert_true(is_valid(&s));
  assert_int_equal(rille_slice_retain(&sub), 0); /* a cell of its own */
  rille_slice_release(&s);
  assert_false(is_valid(&s));
  assert_true(is_valid(&sub));
  assert_memory_equal(sub.base_, "hello", 5);
  rille_slice_release(&sub);
}

static void a_copy_has_a_life_of_its_own(void **state) {
  (void)state;
  rille_slice s, copy;
  rille_linkbuffer *b = hello(&s);
  assert_int_equal(rille_slice_copy(&s, &copy), 0);
  assert_false(rille_slice_is_retained(&s));
  rille_linkbuffer_free(b);
  assert_false(is_valid(&s));
  assert_memory_equal(copy.base_, "hello world", 11);
  rille_slice_release(&copy);
  assert_false(is_valid(&copy));
}

static void a_collected_slice_counts_as_leaked(void **state) {
  (void)state;
  rille_block_stats before = stats();
  rille_slice s;
  rille_linkbuffer *b = hello(&s);
  rille_slice_retain(&s);
  rille_slice_retain(&s);
  rille_linkbuffer_free(b);
  rille_slice_collect(&s);
  assert_false(is_valid(&s));
  assert_true(stats().slices_leaked == before.slices_leaked + 1);
  assert_true(stats().slices_retained == before.slices_retained);
  assert_true(stats().blocks_in_use == before.blocks_in_use);
  rille_slice_collect(&s);
  assert_true(stats().slices_leaked == before.slices_leaked + 1);
}

static void an_empty_slice_may_be_retained(void **state) {
  (void)state;
  int err;
  rille_slice s;
  rille_linkbuffer *b = rille_linkbuffer_new(64, &err);
  assert_int_equal(rille_linkbuffer_next(b, 0, &s), 0);
  assert_int_equal(rille_slice_retain(&s), 0);
  rille_linkbuffer_free(b);
  assert_true(is_valid(&s));
  rille_slice_release(&s);
  assert_false(is_valid(&s));
}

/* The address sanitizer sees a look beyond the cell: it has to be a whole slot. */
static void a_slice_of_nothing_may_be_retained(void **state) {
  (void)state;
  rille_block_stats before = stats();
  rille_cell *cell = rille_cell_of_nothing();
  rille_slice s = {.cell_ = cell};
  for (int i = 0; i < 3; i++) {
    assert_true(is_valid(&s));
    assert_false(rille_slice_is_retained(&s));
    assert_false(rille_slice_is_datagram(cell, 0));
    assert_int_equal(rille_datagram_reply(cell, 0, "x", 1, NULL), RILLE_ERR_INVALID);
    rille_slice_release(&s); /* harmless: it is not retained */
    rille_slice_collect(&s);
    rille_slice copy = s;
    assert_int_equal(rille_slice_retain(&copy), 0);
    assert_ptr_not_equal(copy.cell_, cell);
    assert_int_equal(rille_slice_retain(&copy), 0);
    assert_int_equal(rille_slice_release(&copy), 1);
    assert_int_equal(rille_slice_release(&copy), 0);
    assert_false(is_valid(&copy));
  }
  assert_true(stats().slices_retained == before.slices_retained);
  assert_true(stats().slices_leaked == before.slices_leaked);
}

static void retaining_without_memory_changes_nothing(void **state) {
  (void)state;
  rille_slice s;
  rille_linkbuffer *b = hello(&s);
  static rille_cell *cells[2000]; /* more than can be free */
  size_t count = 0;
  rille_block_fail_after(0);
  while (count < 2000 && (cells[count] = rille_cell_take())) count++;
  assert_true(count < 2000);
  rille_slice before = s;
  assert_int_equal(rille_slice_retain(&s), RILLE_ERR_NO_MEMORY);
  rille_block_fail_after(-1);
  assert_memory_equal(&s, &before, sizeof s);
  assert_true(is_valid(&s));
  while (count > 0) rille_cell_give(cells[--count]);
  rille_linkbuffer_free(b);
}

/* n bytes that end where a page without any access begins. */
static uint8_t *at_the_edge(const void *bytes, size_t n) {
  static uint8_t *pages;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  if (!pages) {
    pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(pages != MAP_FAILED);
    assert_int_equal(mprotect(pages + page, page, PROT_NONE), 0);
  }
  return memcpy(pages + page - n, bytes, n);
}

static void find_stays_inside(void **state) {
  (void)state;
  uint8_t *p = at_the_edge("abcabd", 6);
  assert_true(rille_bytes_find(p, 6, "abd", 3, 0) == 3);
  assert_true(rille_bytes_find(p, 6, "abd", 3, 3) == 3);
  assert_true(rille_bytes_find(p, 6, "abd", 3, 4) == -1);
  assert_true(rille_bytes_find(p, 6, "d", 1, 0) == 5);
  assert_true(rille_bytes_find(p, 6, "dx", 2, 0) == -1);
  assert_true(rille_bytes_find(p, 6, "abdx", 4, 0) == -1);
  assert_true(rille_bytes_find(p, 6, "abcabdabcabd", 12, 0) == -1);
  assert_true(rille_bytes_find(p, 6, "", 0, 6) == 6);
  assert_true(rille_bytes_find(p, 6, "", 0, 7) == -1);
  assert_true(rille_bytes_find(p, 6, "a", 1, -1) == -1);
  assert_true(rille_bytes_find(p + 6, 0, "a", 1, 0) == -1);
}

static void compare_stays_inside(void **state) {
  (void)state;
  uint8_t *p = at_the_edge("abc", 3);
  assert_int_equal(rille_bytes_compare(p, 3, (const uint8_t *)"abc", 3), 0);
  assert_true(rille_bytes_compare(p, 3, (const uint8_t *)"abcd", 4) < 0);
  assert_true(rille_bytes_compare(p, 3, (const uint8_t *)"ab", 2) > 0);
  assert_true(rille_bytes_compare(p, 3, (const uint8_t *)"ab\xff", 3) < 0); /* bytes are unsigned */
  assert_true(rille_bytes_compare(p + 3, 0, (const uint8_t *)"", 0) == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_borrowed_slice_expires_with_release),
      cmocka_unit_test(a_retained_slice_outlives_its_buffer),
      cmocka_unit_test(releasing_a_sub_slice_leaves_its_owner),
      cmocka_unit_test(a_copy_has_a_life_of_its_own),
      cmocka_unit_test(a_collected_slice_counts_as_leaked),
      cmocka_unit_test(an_empty_slice_may_be_retained),
      cmocka_unit_test(a_slice_of_nothing_may_be_retained),
      cmocka_unit_test(retaining_without_memory_changes_nothing),
      cmocka_unit_test(find_stays_inside),
      cmocka_unit_test(compare_stays_inside),
  };
  return cmocka_run_group_tests_name("slice", tests, NULL, NULL);
}
