/*
 * mailbox: what many threads send arrives once each, in each sender's order; a full one says so and loses nothing.
 */
#include "mailbox.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { SENDERS = 4, MESSAGES = 50000 };

static rille_mailbox box;

static void nothing(rille_loop *loop, const rille_message *m) {
  (void)loop;
  (void)m;
}

static int dropped;
static void count_drop(const rille_message *m) {
  (void)m;
  dropped++;
}

static void *send_all(void *arg) {
  for (uint64_t i = 0; i < MESSAGES; i++) {
    rille_message m = {.deliver = nothing, .number = i, .words = {(uint32_t)(uintptr_t)arg}};
    while (rille_mailbox_send(&box, &m) == RILLE_ERR_FULL) sched_yield();
  }
  return NULL;
}

static void arrives_once_and_in_order(void **state) {
  (void)state;
  int fd = eventfd(0, EFD_CLOEXEC); /* blocking: a wake-up that is missed hangs the test */
  assert_int_equal(rille_mailbox_init(&box, fd), RILLE_OK);
  pthread_t senders[SENDERS];
  for (uintptr_t i = 0; i < SENDERS; i++) pthread_create(&senders[i], NULL, send_all, (void *)i);
  uint64_t next[SENDERS] = {0}, total = 0;
  while (total < (uint64_t)SENDERS * MESSAGES) {
    uint64_t rung;
    assert_int_equal(read(fd, &rung, sizeof rung), sizeof rung);
    rille_mailbox_hear(&box);
    rille_message m;
    while (rille_mailbox_take(&box, &m)) {
      assert_int_equal(m.number, next[m.words[0]]++);
      total++;
    }
  }
  for (int i = 0; i < SENDERS; i++) pthread_join(senders[i], NULL);
  assert_false(rille_mailbox_has_mail(&box));
  assert_int_equal(rille_mailbox_depth(&box), 0);
  rille_mailbox_close(&box);
  close(fd);
}

static void says_when_it_is_full(void **state) {
  (void)state;
  int fd = eventfd(0, EFD_CLOEXEC);
  assert_int_equal(rille_mailbox_init(&box, fd), RILLE_OK);
  rille_message m = {.deliver = nothing, .drop = count_drop};
  for (m.number = 0; m.number < RILLE_MAILBOX_SIZE; m.number++)
    assert_int_equal(rille_mailbox_send(&box, &m), RILLE_OK);
  assert_int_equal(rille_mailbox_send(&box, &m), RILLE_ERR_FULL);
  assert_int_equal(rille_mailbox_depth(&box), RILLE_MAILBOX_SIZE);
  rille_message out;
  assert_true(rille_mailbox_take(&box, &out));
  assert_int_equal(out.number, 0);
  assert_int_equal(rille_mailbox_send(&box, &m), RILLE_OK);
  dropped = 0;
  rille_mailbox_close(&box);
  assert_int_equal(dropped, RILLE_MAILBOX_SIZE);
  close(fd);
}

static void rings_once_for_many(void **state) {
  (void)state;
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  assert_int_equal(rille_mailbox_init(&box, fd), RILLE_OK);
  rille_message m = {.deliver = nothing};
  uint64_t rung;
  for (int i = 0; i < 100; i++) rille_mailbox_send(&box, &m);
  assert_int_equal(read(fd, &rung, sizeof rung), sizeof rung);
  assert_int_equal(rung, 1);
  rille_mailbox_hear(&box);
  rille_mailbox_send(&box, &m);
  assert_int_equal(read(fd, &rung, sizeof rung), sizeof rung);
  rille_mailbox_close(&box);
  close(fd);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(arrives_once_and_in_order),
      cmocka_unit_test(says_when_it_is_full),
      cmocka_unit_test(rings_once_for_many),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
