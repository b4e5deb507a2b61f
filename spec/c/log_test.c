/*
 * Tests of core/log and core/logsink: records reach files, pipes, sockets and the queue, at the rate they should,
 * from many threads, and no target can hold up or kill whoever logs.
 */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { THREADS = 4, RECORDS = 2000 };

static char directory[64];
static char path[128];
static char content[4 << 20];
static int real_stderr;

static int set_up(void **state) {
  (void)state;
  snprintf(directory, sizeof directory, "/tmp/rille-log-XXXXXX");
  assert_non_null(mkdtemp(directory));
  snprintf(path, sizeof path, "%s/log", directory);
  real_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  rille_log_set_rate(0);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  char line[RILLE_LOG_LINE_MAX];
  dup2(real_stderr, STDERR_FILENO);
  close(real_stderr);
  rille_log_configure(RILLE_LOG_INFO, RILLE_LOG_LOGFMT, RILLE_LOG_QUEUE, NULL);
  while (rille_log_take(line, sizeof line) > 0) {
  }
  unlink(path);
  strcat(path, ".1");
  unlink(path);
  return rmdir(directory);
}

static void configure_file(int format) {
  assert_int_equal(rille_log_configure(RILLE_LOG_DEBUG, format, RILLE_LOG_FILE, path), 0);
}

static const char *read_fd(int fd) {
  size_t used = 0;
  ssize_t n;
  while (used < sizeof content - 1 && (n = read(fd, content + used, sizeof content - 1 - used)) > 0) {
    used += (size_t)n;
  }
  content[used] = '\0';
  return content;
}

static const char *read_file(const char *name) {
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  assert_true(fd >= 0);
  read_fd(fd);
  close(fd);
  return content;
}

static size_t count_of(const char *text, const char *part) {
  size_t n = 0;
  for (; (text = strstr(text, part)) != NULL; text += strlen(part)) {
    n++;
  }
  return n;
}

static void write_text(const char *text) { rille_log_write(RILLE_LOG_INFO, 0, NULL, text, strlen(text), NULL, 0); }

static void a_record_is_a_line_with_its_context(void **state) {
  (void)state;
  configure_file(RILLE_LOG_LOGFMT);
  rille_log_context context = {.label = "echo@1", .loop = 2, .conn = 77};
  rille_log_field fields[] = {{"peer", "127.0.0.1:9", 11}, {"why", "a b", 3}};
  rille_log_write(RILLE_LOG_WARN, 0, &context, "hello", 5, fields, 2);
  RILLE_LOG_FOR(RILLE_LOG_ERROR, &context, "%s %d", "formatted", 5);
  rille_log_set_thread_loop(9);
  RILLE_LOG(RILLE_LOG_INFO, "alone");
  rille_log_set_thread_loop(0);
  RILLE_LOG(RILLE_LOG_DEBUG, "nobody");
  const char *text = read_file(path);
  assert_non_null(
      strstr(text, "Z level=warn msg=\"hello\" loop=2 script=echo@1 conn=77 peer=127.0.0.1:9 why=\"a b\"\n"));
  assert_non_null(strstr(text, "Z level=error msg=\"formatted 5\" loop=2 script=echo@1 conn=77\n"));
  assert_non_null(strstr(text, "Z level=info msg=\"alone\" loop=9\n"));
  assert_non_null(strstr(text, "Z level=debug msg=\"nobody\"\n"));
  assert_int_equal(count_of(text, "\n"), 4);
}

static int evaluated;

static int evaluate(void) { return ++evaluated; }

static void a_disabled_level_costs_nothing(void **state) {
  (void)state;
  configure_file(RILLE_LOG_LOGFMT);
  assert_int_equal(rille_log_set_level(RILLE_LOG_WARN), 0);
  assert_int_equal(rille_log_level(), RILLE_LOG_WARN);
  assert_false(rille_log_is_enabled(RILLE_LOG_INFO));
  assert_true(rille_log_is_enabled(RILLE_LOG_ERROR));
  RILLE_LOG(RILLE_LOG_INFO, "%d", evaluate());
  write_text("below the level");
  assert_int_equal(evaluated, 0);
  RILLE_LOG(RILLE_LOG_WARN, "%d", evaluate());
  assert_int_equal(evaluated, 1);
  rille_log_set_level(RILLE_LOG_OFF);
  RILLE_LOG(RILLE_LOG_ERROR, "off");
  rille_log_write(RILLE_LOG_OFF, 0, NULL, "no level", 8, NULL, 0);
  rille_log_write(17, 0, NULL, "no level", 8, NULL, 0);
  assert_int_equal(count_of(read_file(path), "\n"), 1);
  assert_int_equal(rille_log_set_level(-1), RILLE_ERR_INVALID);
  assert_int_equal(rille_log_set_level(5), RILLE_ERR_INVALID);
}

static void errno_is_left_alone(void **state) {
  (void)state;
  configure_file(RILLE_LOG_LOGFMT);
  errno = EXDEV;
  RILLE_LOG(RILLE_LOG_INFO, "why: %m");
  assert_int_equal(errno, EXDEV);
  write_text("x");
  assert_int_equal(errno, EXDEV);
  char expected[128];
  snprintf(expected, sizeof expected, "msg=\"why: %s\"", strerror(EXDEV));
  assert_non_null(strstr(read_file(path), expected));
}

static void a_site_writes_its_rate_and_reports_the_rest(void **state) {
  (void)state;
  rille_log_site site = {0};
  uint32_t suppressed;
  rille_log_set_rate(10);
  for (uint32_t second = 5; second < 8; second++) {
    unsigned admitted = 0;
    for (unsigned i = 0; i < 25; i++) {
      int is_admitted = rille_log_site_admit(&site, second, &suppressed);
      assert_int_equal(suppressed, i == 0 && second > 5 ? 15 : 0);
      admitted += is_admitted != 0;
    }
    assert_int_equal(admitted, 10);
  }
  assert_true(rille_log_site_admit(&site, 1000, &suppressed));
  assert_int_equal(suppressed, 15);
  assert_true(rille_log_site_admit(&site, 1001, &suppressed));
  assert_int_equal(suppressed, 0);
  rille_log_set_rate(0);
  for (unsigned i = 0; i < 1000; i++) {
    assert_true(rille_log_site_admit(&site, 1002, &suppressed));
  }
}

static void each_site_has_a_rate_of_its_own(void **state) {
  (void)state;
  rille_log_counts before, after;
  configure_file(RILLE_LOG_LOGFMT);
  rille_log_set_rate(3);
  rille_log_count(&before);
  for (unsigned i = 0; i < 100; i++) {
    RILLE_LOG(RILLE_LOG_INFO, "one");
    RILLE_LOG(RILLE_LOG_INFO, "two");
    rille_log_write(RILLE_LOG_INFO, 0xabcdef, NULL, "three", 5, NULL, 0);
    rille_log_write(RILLE_LOG_INFO, 0xabcdef + 1024, NULL, "four", 4, NULL, 0); /* the same place in the table */
    write_text("free");
  }
  rille_log_count(&after);
  const char *text = read_file(path);
  static const char *const messages[] = {"\"one\"", "\"two\"", "\"three\"", "\"four\""};
  size_t written = 0;
  for (size_t i = 0; i < 4; i++) {
    size_t n = count_of(text, messages[i]);
    assert_true(n >= 3 && n <= 12); /* 3 a second; the loop takes one, a loaded machine some */
    written += n;
  }
  assert_int_equal(count_of(text, "\"free\""), 100);
  assert_true(after.info - before.info == (double)written + 100);
  assert_true(after.suppressed - before.suppressed == 400 - (double)written);
}

static void more_sites_than_the_table_holds_still_log(void **state) {
  (void)state;
  configure_file(RILLE_LOG_LOGFMT);
  rille_log_set_rate(1);
  for (uint32_t site = 1; site <= 5000; site++) {
    rille_log_write(RILLE_LOG_INFO, site * 2654435761u | 1, NULL, "x", 1, NULL, 0);
  }
  assert_int_equal(count_of(read_file(path), "\n"), 5000);
}

static void reopen_follows_a_rotation(void **state) {
  (void)state;
  char rotated[160];
  snprintf(rotated, sizeof rotated, "%s.1", path);
  configure_file(RILLE_LOG_LOGFMT);
  write_text("first");
  assert_int_equal(rename(path, rotated), 0);
  write_text("second");
  assert_int_equal(rille_log_reopen(), 0);
  write_text("third");
  assert_int_equal(count_of(read_file(rotated), "\n"), 2);
  assert_non_null(strstr(content, "second"));
  assert_int_equal(count_of(read_file(path), "\n"), 1);
  assert_non_null(strstr(content, "third"));
}

static void reopen_keeps_the_old_file_when_it_fails(void **state) {
  (void)state;
  char rotated[160];
  snprintf(rotated, sizeof rotated, "%s.1", path);
  configure_file(RILLE_LOG_LOGFMT);
  assert_int_equal(rename(path, rotated), 0);
  assert_int_equal(mkdir(path, 0700), 0);
  assert_true(rille_log_reopen() < 0);
  write_text("still here");
  assert_int_equal(rmdir(path), 0);
  const char *text = read_file(rotated);
  assert_non_null(strstr(text, "level=error msg=\"the log file "));
  assert_non_null(strstr(text, path));
  assert_non_null(strstr(text, "still here"));
}

static void a_failed_configure_changes_nothing(void **state) {
  (void)state;
  configure_file(RILLE_LOG_LOGFMT);
  assert_int_equal(rille_log_configure(RILLE_LOG_ERROR, RILLE_LOG_JSON, RILLE_LOG_FILE, "/no/such/place"),
                   RILLE_ERR_NOT_FOUND);
  assert_int_equal(rille_log_configure(RILLE_LOG_ERROR, RILLE_LOG_JSON, RILLE_LOG_FILE, NULL), RILLE_ERR_INVALID);
  assert_int_equal(rille_log_configure(9, RILLE_LOG_JSON, RILLE_LOG_STDERR, NULL), RILLE_ERR_INVALID);
  assert_int_equal(rille_log_configure(RILLE_LOG_ERROR, 2, RILLE_LOG_STDERR, NULL), RILLE_ERR_INVALID);
  assert_int_equal(rille_log_configure(RILLE_LOG_ERROR, RILLE_LOG_JSON, 3, NULL), RILLE_ERR_INVALID);
  write_text("here");
  assert_non_null(strstr(read_file(path), "level=info msg=\"here\"\n"));
}

static void the_queue_is_bounded_and_reports_what_it_lost(void **state) {
  (void)state;
  char line[RILLE_LOG_LINE_MAX + 1];
  assert_int_equal(rille_log_configure(RILLE_LOG_INFO, RILLE_LOG_JSON, RILLE_LOG_QUEUE, NULL), 0);
  assert_int_equal(rille_log_take(line, RILLE_LOG_LINE_MAX), 0);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 10000; i++) {
      char text[16];
      snprintf(text, sizeof text, "n%d.", i);
      write_text(text);
    }
    int lines = 0;
    int n;
    while ((n = rille_log_take(line, RILLE_LOG_LINE_MAX)) > 0) {
      line[n] = '\0';
      assert_int_equal(line[0], '{');
      assert_int_equal(line[n - 1], '}');
      char expected[16];
      snprintf(expected, sizeof expected, "\"n%d.\"", lines);
      if (strstr(line, expected) == NULL) {
        break;
      }
      lines++;
    }
    assert_true(lines > 1000);
    char dropped[32];
    snprintf(dropped, sizeof dropped, "\"dropped\":%d}", 10000 - lines);
    assert_non_null(strstr(line, dropped));
    assert_int_equal(rille_log_take(line, RILLE_LOG_LINE_MAX), 0);
  }
  write_text("longer than the room");
  assert_int_equal(rille_log_take(line, 10), 10);
  assert_memory_equal(line, "{\"time\":\"2", 10);
  assert_int_equal(rille_log_take(line, 10), 0);
}

static void a_report_of_losses_stands_where_the_gap_is(void **state) {
  (void)state;
  char line[RILLE_LOG_LINE_MAX + 1];
  assert_int_equal(rille_log_configure(RILLE_LOG_INFO, RILLE_LOG_LOGFMT, RILLE_LOG_QUEUE, NULL), 0);
  static char big[4000];
  memset(big, 'x', sizeof big);
  for (int i = 0; i < 100; i++) {
    rille_log_write(RILLE_LOG_INFO, 0, NULL, big, sizeof big, NULL, 0);
  }
  assert_true(rille_log_take(line, RILLE_LOG_LINE_MAX) > 4000);
  write_text("after");
  int n, last = 0, report = 0;
  for (int i = 0; (n = rille_log_take(line, RILLE_LOG_LINE_MAX)) > 0; i++) {
    line[n] = '\0';
    report = strstr(line, " dropped=") != NULL ? i : report;
    last = strstr(line, "msg=\"after\"") != NULL ? i : last;
  }
  assert_true(report > 0);
  assert_int_equal(last, report + 1);
}

/* Put fd in the place of stderr and let the log open it. */
static void configure_stderr(int fd) {
  assert_true(dup2(fd, STDERR_FILENO) == STDERR_FILENO);
  assert_int_equal(rille_log_configure(RILLE_LOG_INFO, RILLE_LOG_LOGFMT, RILLE_LOG_STDERR, NULL), 0);
}

static void assert_never_waits(int reader) {
  rille_log_counts before, after;
  rille_log_count(&before);
  static char big[6000];
  memset(big, 'x', sizeof big);
  for (int i = 0; i < 500; i++) { /* far more than a pipe or a socket holds; would hang here */
    rille_log_write(RILLE_LOG_INFO, 0, NULL, big, sizeof big, NULL, 0);
  }
  rille_log_count(&after);
  assert_true(after.dropped > before.dropped);
  assert_true(after.info > before.info);
  assert_true(after.info - before.info + after.dropped - before.dropped == 500);
  assert_int_equal(fcntl(reader, F_SETFL, O_NONBLOCK), 0);
  read_fd(reader);
  int is_torn = content[strlen(content) - 1] != '\n'; /* the last line that went out did so in part */
  write_text("room again");
  const char *text = read_fd(reader);
  char expected[64];
  snprintf(expected, sizeof expected, "dropped=%.0f\n", after.dropped - before.dropped);
  assert_non_null(strstr(text, expected));
  const char *again = strstr(text, "room again");
  assert_non_null(again);
  assert_memory_equal(text, is_torn ? "\ntime=" : "time=", is_torn ? 6 : 5);
  assert_int_equal(again[10], '"');
}

static void a_full_pipe_drops_and_does_not_block(void **state) {
  (void)state;
  int pipes[2];
  assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
  configure_stderr(pipes[1]);
  assert_never_waits(pipes[0]);
  assert_int_equal(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0); /* whoever shares it is not disturbed */
  close(pipes[0]);
  close(pipes[1]);
}

static void a_full_socket_drops_and_does_not_block(void **state) {
  (void)state;
  int pair[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  configure_stderr(pair[1]);
  assert_never_waits(pair[0]);
  assert_int_equal(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0);
  close(pair[0]);
  close(pair[1]);
}

static void a_reader_that_has_gone_kills_nobody(void **state) {
  (void)state;
  rille_log_counts before, after;
  sigset_t pending;
  struct sigaction as_it_is;
  assert_int_equal(sigaction(SIGPIPE, NULL, &as_it_is), 0);
  assert_true(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
  int pipes[2];
  assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
  configure_stderr(pipes[1]);
  close(pipes[0]);
  rille_log_count(&before);
  write_text("to nobody");
  rille_log_count(&after);
  assert_true(after.dropped - before.dropped == 1);
  assert_int_equal(sigpending(&pending), 0);
  assert_int_equal(sigismember(&pending, SIGPIPE), 0);
  close(pipes[1]);
  assert_int_equal(sigaction(SIGPIPE, &as_it_is, NULL), 0);
}

static void *write_many(void *arg) {
  int thread = *(int *)arg;
  rille_log_set_thread_loop((uint32_t)thread + 1);
  for (int i = 0; i < RECORDS; i++) {
    RILLE_LOG(RILLE_LOG_INFO, "thread %d record %d.", thread, i);
    rille_log_write(RILLE_LOG_WARN, (uint32_t)i + 1, NULL, "from lua", 8, NULL, 0);
  }
  return NULL;
}

static void run_threads(void *(*between)(void)) {
  pthread_t threads[THREADS];
  int numbers[THREADS];
  for (int i = 0; i < THREADS; i++) {
    numbers[i] = i;
    assert_int_equal(pthread_create(&threads[i], NULL, write_many, &numbers[i]), 0);
  }
  if (between != NULL) {
    between();
  }
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(pthread_join(threads[i], NULL), 0);
  }
}

static void lines_of_many_threads_stay_whole(void **state) {
  (void)state;
  configure_file(RILLE_LOG_LOGFMT);
  run_threads(NULL);
  const char *text = read_file(path);
  assert_int_equal(count_of(text, "\n"), 2 * THREADS * RECORDS);
  int next[THREADS] = {0};
  for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
    int thread, record, loop, end = 0;
    assert_memory_equal(line, "time=20", 7);
    if (sscanf(line, "time=%*s level=info msg=\"thread %d record %d.\" loop=%d%n", &thread, &record, &loop, &end) ==
        3) {
      assert_int_equal(line[end], '\n');
      assert_int_equal(record, next[thread]++);
      assert_int_equal(loop, thread + 1);
    }
  }
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(next[i], RECORDS);
  }
}

static void *reconfigure(void) {
  for (int i = 0; i < 300; i++) {
    assert_int_equal(rille_log_reopen(), 0);
    configure_file(i % 2 == 0 ? RILLE_LOG_JSON : RILLE_LOG_LOGFMT);
    rille_log_set_level(RILLE_LOG_INFO);
    rille_log_set_rate(i % 2 == 0 ? 0 : 1e9);
  }
  return NULL;
}

static void the_target_may_change_while_others_write(void **state) {
  (void)state;
  rille_log_counts before, after;
  configure_file(RILLE_LOG_LOGFMT);
  rille_log_count(&before);
  run_threads(reconfigure);
  rille_log_count(&after);
  assert_true(after.dropped == before.dropped);
  assert_int_equal(count_of(read_file(path), "\n"), 2 * THREADS * RECORDS);
}

static void *take_some(void) {
  char line[RILLE_LOG_LINE_MAX];
  for (int i = 0; i < 1000; i++) {
    int n = rille_log_take(line, sizeof line);
    assert_true(n == 0 || memcmp(line, "time=20", 7) == 0);
  }
  return NULL;
}

static void the_queue_serves_many_threads(void **state) {
  (void)state;
  rille_log_counts before, after;
  assert_int_equal(rille_log_configure(RILLE_LOG_INFO, RILLE_LOG_LOGFMT, RILLE_LOG_QUEUE, NULL), 0);
  rille_log_count(&before);
  run_threads(take_some);
  rille_log_count(&after);
  assert_true(after.info - before.info + after.dropped - before.dropped <= 2.0 * THREADS * RECORDS);
  assert_true(after.info - before.info + after.warn - before.warn + after.dropped - before.dropped >=
              2.0 * THREADS * RECORDS);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      TEST(a_record_is_a_line_with_its_context),
      TEST(a_disabled_level_costs_nothing),
      TEST(errno_is_left_alone),
      TEST(a_site_writes_its_rate_and_reports_the_rest),
      TEST(each_site_has_a_rate_of_its_own),
      TEST(more_sites_than_the_table_holds_still_log),
      TEST(reopen_follows_a_rotation),
      TEST(reopen_keeps_the_old_file_when_it_fails),
      TEST(a_failed_configure_changes_nothing),
      TEST(the_queue_is_bounded_and_reports_what_it_lost),
      TEST(a_report_of_losses_stands_where_the_gap_is),
      TEST(a_full_pipe_drops_and_does_not_block),
      TEST(a_full_socket_drops_and_does_not_block),
      TEST(a_reader_that_has_gone_kills_nobody),
      TEST(lines_of_many_threads_stay_whole),
      TEST(the_target_may_change_while_others_write),
      TEST(the_queue_serves_many_threads),
  };
  return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
