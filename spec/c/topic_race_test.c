/*
 * Topics from threads that are no loops: publishing while connections come and go, opening and closing the same names.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop.h"

enum { PUBLISHERS = 3, ROUNDS = 2000, LISTENERS = 8, NAMES = 5 };

struct word {
  uint32_t publisher, number;
};

static rille_topic *open_topic(const char *name) {
  int err;
  rille_topic *topic = rille_topic_open(name, strlen(name), RILLE_TOPIC_ANY, &err);
  assert_int_equal(err, RILLE_OK);
  return topic;
}

/* A state of its own on a loop that does not run. */
static rille_state *make_state(rille_loop *loop) {
  int err;
  rille_generation *g = rille_generation_new(1, 1, "race@1", &err);
  assert_non_null(g);
  rille_state *state = rille_state_host(loop, g);
  rille_generation_release(g);
  return state;
}

/* ---- publishers ------------------------------------------------------------------------------------------------ */

static void *publish(void *arg) {
  struct word word = {.publisher = (uint32_t)(uintptr_t)arg};
  rille_topic *topic = open_topic("race");
  double full;
  while (word.number < ROUNDS) {
    double receivers = rille_topic_publish(topic, NULL, (const char *)&word, sizeof word, &full);
    assert_true(receivers >= 0);
    if (full > 0) usleep(100); /* the same once more: nobody has it */
    else word.number++;
  }
  rille_topic_close(topic);
  rille_block_thread_end();
  return NULL;
}

/* Messages of a publisher come whole and in order, from where the listener began to where it ended. */
static void *listen_to(void *arg) {
  int fd = (int)(intptr_t)arg;
  uint32_t next[PUBLISHERS] = {0};
  for (int done = 0; done < PUBLISHERS;) {
    struct word word;
    assert_int_equal(recv(fd, &word, sizeof word, MSG_WAITALL), sizeof word);
    assert_true(word.publisher < PUBLISHERS);
    assert_int_equal(word.number, next[word.publisher]);
    next[word.publisher]++;
    if (word.number == ROUNDS - 1) done++;
  }
  close(fd);
  return NULL;
}

static void deliver_exit(rille_loop *loop, const rille_message *m) {
  (void)m;
  rille_loop_exit(loop, 0);
}

static void comes_once_and_in_order_from_any_thread(void **state) {
  (void)state;
  int err;
  rille_loop *loop = rille_loop_new(1, &err);
  assert_non_null(loop);
  rille_state *host = make_state(loop);
  rille_service *service = rille_service_new(host, 1, 0);
  rille_topic *topic = open_topic("race");
  pthread_t listeners[LISTENERS], publishers[PUBLISHERS];
  for (intptr_t i = 0; i < LISTENERS; i++) {
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    rille_conn *c = rille_conn_adopt(service, fds[0], &err);
    assert_non_null(c);
    assert_int_equal(rille_topic_subscribe(topic, c), RILLE_OK);
    pthread_create(&listeners[i], NULL, listen_to, (void *)(intptr_t)fds[1]);
  }
  assert_int_equal(rille_loop_thread_start(loop), RILLE_OK);
  for (uintptr_t i = 0; i < PUBLISHERS; i++) pthread_create(&publishers[i], NULL, publish, (void *)i);
  for (int i = 0; i < PUBLISHERS; i++) pthread_join(publishers[i], NULL);
  for (int i = 0; i < LISTENERS; i++) pthread_join(listeners[i], NULL);

  rille_message m = {.deliver = deliver_exit};
  while (rille_mailbox_send(&loop->mailbox, &m) != RILLE_OK) usleep(100);
  assert_int_equal(rille_loop_thread_join(loop), 0);
  assert_int_equal((int)rille_topic_count(topic), 0);
  rille_loop_free(loop);
  rille_topic_stats stats;
  rille_topic_stats_read(topic, &stats);
  assert_int_equal((int)stats.deliveries, PUBLISHERS * ROUNDS * LISTENERS);
  rille_topic_close(topic);
}

/* ---- names ----------------------------------------------------------------------------------------------------- */

static void *open_and_close(void *arg) {
  uint32_t seed = (uint32_t)(uintptr_t)arg * 2654435761u + 1;
  for (int i = 0; i < 20000; i++) {
    char name[16];
    seed = seed * 1664525u + 1013904223u;
    snprintf(name, sizeof name, "name %u", (seed >> 16) % NAMES);
    double full;
    rille_topic *topic = open_topic(name);
    assert_int_equal((int)rille_topic_publish(topic, NULL, "x", 1, &full), 0);
    rille_topic_close(topic);
  }
  rille_block_thread_end();
  return NULL;
}

static void may_be_opened_and_closed_by_many_threads(void **state) {
  (void)state;
  pthread_t threads[PUBLISHERS];
  for (uintptr_t i = 0; i < PUBLISHERS; i++) pthread_create(&threads[i], NULL, open_and_close, (void *)i);
  for (int i = 0; i < PUBLISHERS; i++) pthread_join(threads[i], NULL);
}

static void leaves_nothing(void **state) {
  (void)state;
  rille_block_stats stats;
  rille_block_stats_read(&stats);
  assert_int_equal((int)stats.blocks_in_use, 0);
  assert_int_equal((int)stats.buffers_in_use, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(comes_once_and_in_order_from_any_thread),
      cmocka_unit_test(may_be_opened_and_closed_by_many_threads),
      cmocka_unit_test(leaves_nothing),
  };
  return cmocka_run_group_tests_name("topic", tests, NULL, NULL);
}
