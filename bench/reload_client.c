/* The load for reloads: HTTP requests at a constant rate over kept connections, whatever the answers do (an open loop). Request k is due
 * at start + k / rate and goes out over the next connection that has none under way; its latency counts from when it was due.
 *
 * Each answer's body is a number, the version of the code that made it. A connection that the server closes is counted and made again; a
 * request that was under way on it has failed, as has one that could not be sent.
 *
 *   reload_client --port N [--connections 64] [--seconds S] [--rate 2000] */
#include "load.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS_MAX = 256, ANSWER_MAX = 4096, VERSIONS_MAX = 1024, WAIT_MAX_MS = 10000 };

struct line {
  int fd;
  bool is_busy;
  uint64_t due_ns;
  size_t size; /* of the answer so far */
  char answer[ANSWER_MAX];
};

struct version {
  uint64_t first_ns, last_ns; /* answers by it */
};

static struct line *lines;
static uint32_t *idle; /* a ring of those without a request */
static size_t idle_first, idle_count;
static int epoll_fd;
static double *latency_us;
static size_t answers, failed, closed, refused, busy;
static struct version versions[VERSIONS_MAX];

static const char request[] = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

static void rest(struct line *line) {
  line->is_busy = false;
  line->size = 0;
  idle[(idle_first + idle_count++) % load_options.connections] = (uint32_t)(line - lines);
}

static void open_line(struct line *line) {
  struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP, .data = {.u32 = (uint32_t)(line - lines)}};
  line->fd = load_connect(0x7f000001u);
  if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, line->fd, &ev) != 0) load_die("epoll_ctl: %s", strerror(errno));
}

/* The server has closed it. */
static void lose(struct line *line) {
  closed++;
  close(line->fd);
  open_line(line);
  if (!line->is_busy) return; /* it waits in the ring */
  failed++;
  busy--;
  rest(line);
}

static void take_version(const char *body, uint64_t now) {
  unsigned long number = strtoul(body, NULL, 10);
  if (number >= VERSIONS_MAX) load_die("an odd version: %.20s", body);
  if (versions[number].first_ns == 0) versions[number].first_ns = now;
  versions[number].last_ns = now;
}

/* Whether the answer is complete; it is counted then. */
static bool take_answer(struct line *line) {
  line->answer[line->size] = '\0';
  const char *end = strstr(line->answer, "\r\n\r\n"), *length = strcasestr(line->answer, "\r\ncontent-length:");
  if (end == NULL) return false;
  if (strncmp(line->answer, "HTTP/1.1 200 ", 13) != 0 || length == NULL || length > end)
    load_die("not the answer that was expected: %.60s", line->answer);
  size_t head = (size_t)(end + 4 - line->answer), body = strtoul(length + 17, NULL, 10);
  if (line->size < head + body) return false;
  if (line->size > head + body) load_die("more than one answer");
  uint64_t now = load_now_ns();
  latency_us[answers++] = (double)(now - line->due_ns) / 1000;
  take_version(line->answer + head, now);
  busy--;
  rest(line);
  return true;
}

static void receive(struct line *line) {
  for (;;) {
    ssize_t got = recv(line->fd, line->answer + line->size, ANSWER_MAX - 1 - line->size, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      lose(line);
      return;
    }
    if (!line->is_busy) load_die("an answer that nobody asked for");
    line->size += (size_t)got;
    if (!take_answer(line) && line->size == ANSWER_MAX - 1) load_die("an answer that is too long");
  }
}

static void gather(int timeout_ms) {
  struct epoll_event events[EVENTS_MAX];
  int count = epoll_wait(epoll_fd, events, EVENTS_MAX, timeout_ms);
  if (count < 0 && errno != EINTR) load_die("epoll_wait: %s", strerror(errno));
  for (int i = 0; i < count; i++) receive(&lines[events[i].data.u32]);
}

static void send_request(uint64_t due_ns) {
  struct line *line = &lines[idle[idle_first]];
  idle_first = (idle_first + 1) % load_options.connections;
  idle_count--;
  line->due_ns = due_ns;
  line->is_busy = true;
  busy++;
  /* a connection that was closed is noticed when it is read */
  if (send(line->fd, request, sizeof(request) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(request) - 1) refused++;
}

static void report(double seconds) {
  qsort(latency_us, answers, sizeof(*latency_us), load_ascending);
  printf("{\"answers\":%zu,\"failed\":%zu,\"closed\":%zu,\"unsent\":%zu,\"seconds\":%.6f", answers, failed, closed,
         refused, seconds);
  printf(",\"p50_us\":%.2f,\"p99_us\":%.2f,\"max_us\":%.2f", latency_us[answers / 2], latency_us[answers * 99 / 100],
         latency_us[answers - 1]);
  const char *separator = ",\"versions\":[";
  for (size_t i = 0; i < VERSIONS_MAX; i++) {
    if (versions[i].first_ns == 0) continue;
    printf("%s[%zu,%.6f,%.6f]", separator, i, (double)versions[i].first_ns / 1e9, (double)versions[i].last_ns / 1e9);
    separator = ",";
  }
  printf("]}\n");
  fflush(stdout);
}

/* Spins between requests: a sleep would wake too late. */
static void run(double seconds, unsigned long rate) {
  size_t total = (size_t)(seconds * (double)rate);
  uint64_t start = load_now_ns();
  answers = failed = closed = refused = 0;
  memset(versions, 0, sizeof(versions));
  for (size_t k = 0; k < total; k++) {
    uint64_t due = start + k * 1000000000u / rate;
    while (load_now_ns() < due || idle_count == 0) {
      gather(0);
      if (load_now_ns() > due + WAIT_MAX_MS * UINT64_C(1000000)) load_die("the server is far behind");
    }
    send_request(due);
  }
  uint64_t end = load_now_ns();
  while (busy > 0) {
    gather(100);
    if (load_now_ns() - end > WAIT_MAX_MS * UINT64_C(1000000)) load_die("%zu answers never came", busy);
  }
  report((double)(end - start) / 1e9);
}

int main(int argc, char **argv) {
  static const char usage[] = "reload_client --port N [--rate 2000] " LOAD_USAGE;
  static const struct option own[] = {{"rate", required_argument, NULL, 'R'}, {0}};
  unsigned long rate = 2000;
  char line[16];
  for (int name; (name = load_next_option(argc, argv, own, usage)) != -1;) rate = load_number(optarg, 100, 100000);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  lines = calloc(load_options.connections, sizeof(*lines));
  idle = calloc(load_options.connections, sizeof(*idle));
  latency_us = calloc((size_t)(load_options.seconds * (double)rate) + 1, sizeof(*latency_us));
  if (epoll_fd < 0 || lines == NULL || idle == NULL || latency_us == NULL) load_die("no memory");
  for (uint32_t i = 0; i < load_options.connections; i++) {
    open_line(&lines[i]);
    rest(&lines[i]);
  }
  load_say_ready();
  while (fgets(line, sizeof(line), stdin) != NULL) run(load_options.seconds, rate);
  return 0;
}
