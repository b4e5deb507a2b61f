/* The load for topics: many connections that listen. The first of them sends a byte, the server sends 1 KiB to all, and when every
 * connection has it the next round begins. A message is one delivery: a round is as many as there are connections. See load.h.
 *
 * Each connection gets a '+' when it is subscribed. */
#include "load.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <netinet/in.h>

enum {
  SIZE = 1024,
  EVENTS_MAX = 512,
  ROUNDS_MAX = 100000,
  WAIT_MAX_MS = 20000,
  SOURCES = 8 /* loopback addresses the connections come from: ports are 28,000 for each */
};

static int epoll_fd, *fds;
static uint32_t *got; /* by connection: bytes of this round */
static double round_us[ROUNDS_MAX];

static double now_us(void) { return (double)load_now_ns() / 1e3; }

/* Reads until every connection has so many bytes, all of them this one. */
static void gather(uint32_t size, char byte) {
  unsigned char input[SIZE + 1];
  memset(got, 0, load_options.connections * sizeof(*got));
  for (unsigned long left = load_options.connections; left > 0;) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(epoll_fd, events, EVENTS_MAX, WAIT_MAX_MS);
    if (count < 0 && errno != EINTR) load_die("epoll_wait: %s", strerror(errno));
    if (count == 0) load_die("%lu connections got nothing for %d ms", left, WAIT_MAX_MS);
    for (int i = 0; i < count; i++) {
      uint32_t at = events[i].data.u32;
      ssize_t n = recv(fds[at], input, sizeof(input), MSG_DONTWAIT);
      if (n < 0 && errno == EAGAIN) continue;
      if (n < 0) load_die("recv: %s", strerror(errno));
      if (n == 0) load_die("the server closed a connection in the middle of a run");
      if (input[0] != byte || input[n - 1] != byte) load_die("the server sent other bytes than it should");
      got[at] += (uint32_t)n;
      if (got[at] > size) load_die("the server sent a message twice");
      if (got[at] == size) left--;
    }
  }
}

static double quantile(size_t count, double q) { return round_us[(size_t)((double)(count - 1) * q)]; }

static void run(double seconds, int prints) {
  size_t rounds = 0;
  double start = now_us(), end = start;
  do {
    double began = end;
    if (send(fds[0], "!", 1, MSG_NOSIGNAL) != 1) load_die("send: %s", strerror(errno));
    gather(SIZE, 'x');
    end = now_us();
    round_us[rounds++] = end - began;
  } while (end - start < seconds * 1e6 && rounds < ROUNDS_MAX);
  if (!prints) return;
  double messages = (double)rounds * (double)load_options.connections, took = (end - start) / 1e6;
  qsort(round_us, rounds, sizeof(*round_us), load_ascending);
  printf("{\"messages\":%.0f,\"seconds\":%.6f,\"rate\":%.1f,\"connections\":%lu,\"answer_bytes\":%d,"
         "\"p50_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f,\"max_us\":%.2f}\n",
         messages, took, messages / took, load_options.connections, SIZE, quantile(rounds, 0.5), quantile(rounds, 0.99),
         quantile(rounds, 0.999), round_us[rounds - 1]);
  fflush(stdout);
}

static void connect_all(void) {
  struct rlimit limit;
  /* ended by RST: hundreds of thousands of connections in TIME_WAIT would be too many for the system */
  const struct linger reset = {.l_onoff = 1, .l_linger = 0};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  fds = calloc(load_options.connections, sizeof(*fds));
  got = calloc(load_options.connections, sizeof(*got));
  if (epoll_fd < 0 || fds == NULL || got == NULL) load_die("no memory for %lu connections", load_options.connections);
  for (uint32_t i = 0; i < load_options.connections; i++) {
    struct epoll_event ev = {.events = EPOLLIN, .data = {.u32 = i}};
    fds[i] = load_connect((uint32_t)(INADDR_LOOPBACK + i % SOURCES));
    setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fds[i], &ev) != 0) load_die("epoll_ctl: %s", strerror(errno));
  }
  gather(1, '+');
}

int main(int argc, char **argv) {
  static const char usage[] = "fanout_client --port N " LOAD_USAGE;
  static const struct option own[] = {{0}};
  char line[16];
  while (load_next_option(argc, argv, own, usage) != -1) continue;
  connect_all();
  run(load_options.warmup, 0);
  if (!load_options.is_gated) {
    run(load_options.seconds, 1);
    return 0;
  }
  load_say_ready();
  while (fgets(line, sizeof(line), stdin) != NULL) run(load_options.seconds, 1);
  return 0;
}
