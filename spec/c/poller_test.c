/*
 * poller: what epoll is asked, and that the array of ready events follows the load in both directions.
 */
#include "poller.h"

#include "rille.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { MANY = 300 };

static void array_grows_and_shrinks(void **state) {
  (void)state;
  rille_poller p;
  int fds[MANY];
  assert_int_equal(rille_poller_init(&p), 0);
  for (int i = 0; i < MANY; i++) {
    fds[i] = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_true(fds[i] >= 0);
    assert_int_equal(rille_poller_add(&p, fds[i], EPOLLIN, (uint64_t)i), 0);
  }
  assert_int_equal(rille_poller_wait(&p, 0), RILLE_POLLER_EVENTS_MIN);
  assert_int_equal(rille_poller_wait(&p, 0), RILLE_POLLER_EVENTS_MIN * 2);
  for (int i = 0; i < 3; i++) rille_poller_wait(&p, 0);
  assert_int_equal(p.ready, MANY); /* all at once now */
  assert_int_equal(p.capacity, 512);

  for (int i = 0; i < MANY; i++) close(fds[i]);
  for (int i = 0; i < 20000 && p.capacity > RILLE_POLLER_EVENTS_MIN; i++) assert_int_equal(rille_poller_wait(&p, 0), 0);
  assert_int_equal(p.capacity, RILLE_POLLER_EVENTS_MIN);
  rille_poller_close(&p);
  assert_int_equal(p.fd, -1);
}

static void data_comes_back_whole(void **state) {
  (void)state;
  rille_poller p;
  assert_int_equal(rille_poller_init(&p), 0);
  int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  uint64_t data = rille_poller_data(3, 0xabcdef, 0xfffffffe);
  assert_int_equal(data >> 56, 3);
  assert_int_equal(data >> 32 & 0xffffff, 0xabcdef);
  assert_int_equal((uint32_t)data, 0xfffffffe);
  assert_int_equal(rille_poller_add(&p, fd, EPOLLIN, 1), 0);
  assert_int_equal(rille_poller_wait(&p, 0), 0);
  assert_int_equal(rille_poller_change(&p, fd, EPOLLOUT, data), 0); /* always ready for that */
  assert_int_equal(rille_poller_wait(&p, 0), 1);
  assert_true(p.events[0].data.u64 == data);
  rille_poller_remove(&p, fd);
  assert_int_equal(rille_poller_wait(&p, 0), 0);
  close(fd);
  rille_poller_close(&p);
}

static void errors_have_names(void **state) {
  (void)state;
  rille_poller p;
  assert_int_equal(rille_poller_init(&p), 0);
  int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  assert_int_equal(rille_poller_add(&p, fd, EPOLLIN, 0), 0);
  assert_int_equal(rille_poller_add(&p, fd, EPOLLIN, 0), RILLE_ERR_BUSY);
  close(fd);
  assert_int_equal(rille_poller_add(&p, fd, EPOLLIN, 0), RILLE_ERR_INVALID);
  int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
  FILE *regular = tmpfile();
  assert_non_null(regular);
  assert_int_equal(rille_poller_add(&p, fileno(regular), EPOLLIN, 0), RILLE_ERR_NOT_SUPPORTED);
  fclose(regular);
  close(file);
  rille_poller_close(&p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(array_grows_and_shrinks),
      cmocka_unit_test(data_comes_back_whole),
      cmocka_unit_test(errors_have_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
