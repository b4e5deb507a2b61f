/* The load for the tail: requests at a constant rate, whatever the answers do (an open loop). Every 100th is "!", work for a pool,
 * unless --plain; the others are ".". Request k goes out at start + k / rate, over one connection after the other; its latency counts from
 * that moment, so a late client or server hides nothing. A "?" at the end asks the server what it has measured itself.
 *
 *   tail_client --port N [--connections 64] [--seconds S] [--rate 2000] [--plain] */
#include "load.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { EVENTS_MAX = 256, QUEUE = 4096, HEAVY_EVERY = 100, ANSWER_MAX_MS = 30000 };

struct line {
  int fd;
  uint32_t first, count; /* requests under way, oldest first */
  uint64_t due_ns[QUEUE];
  char kind[QUEUE];
};

static struct line *lines;
static int epoll_fd;
static double *light_us;
static size_t light_count;

static void request(struct line *line, char kind, uint64_t due_ns) {
  if (line->count == QUEUE) load_die("the server is far behind");
  if (send(line->fd, &kind, 1, MSG_NOSIGNAL) != 1) load_die("send: %s", strerror(errno));
  uint32_t at = (line->first + line->count++) % QUEUE;
  line->due_ns[at] = due_ns;
  line->kind[at] = kind;
}

/* How many answers came. */
static size_t receive(struct line *line) {
  char input[QUEUE];
  ssize_t got = recv(line->fd, input, sizeof(input), MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return 0;
  if (got <= 0) load_die("the server closed a connection in the middle of a run");
  uint64_t now = load_now_ns();
  for (ssize_t i = 0; i < got; i++) {
    if (line->count == 0 || input[i] != line->kind[line->first]) load_die("the server sent other bytes than it should");
    if (input[i] == '.') light_us[light_count++] = (double)(now - line->due_ns[line->first]) / 1000;
    line->first = (line->first + 1) % QUEUE;
    line->count--;
  }
  return (size_t)got;
}

static size_t gather(int timeout_ms) {
  struct epoll_event events[EVENTS_MAX];
  size_t answers = 0;
  int count = epoll_wait(epoll_fd, events, EVENTS_MAX, timeout_ms);
  if (count < 0 && errno != EINTR) load_die("epoll_wait: %s", strerror(errno));
  for (int i = 0; i < count; i++) answers += receive(&lines[events[i].data.u32]);
  return answers;
}

/* The server's own numbers: p50, p99, p99.9 in microseconds, and how many. */
static void ask_server(double numbers[4]) {
  char text[128];
  size_t size = 0;
  if (send(lines[0].fd, "?", 1, MSG_NOSIGNAL) != 1) load_die("send: %s", strerror(errno));
  do {
    ssize_t got = recv(lines[0].fd, text + size, sizeof(text) - 1 - size, 0);
    if (got <= 0) load_die("the server does not say what it measured");
    size += (size_t)got;
  } while (text[size - 1] != '\n');
  text[size] = '\0';
  if (sscanf(text, "%lf %lf %lf %lf", &numbers[0], &numbers[1], &numbers[2], &numbers[3]) != 4)
    load_die("odd: %s", text);
}

/* Spins between requests: a sleep would wake too late. */
static void run(double seconds, unsigned long rate, bool is_plain) {
  size_t total = (size_t)(seconds * (double)rate), heavy = 0, left = 0;
  uint64_t start = load_now_ns();
  light_count = 0;
  for (size_t k = 0; k < total; k++) {
    uint64_t due = start + k * 1000000000u / rate;
    while (load_now_ns() < due) left -= gather(0);
    bool is_heavy = !is_plain && k % HEAVY_EVERY == HEAVY_EVERY - 1;
    /* what waits for a worker has connections of its own, or the next request would wait behind it */
    size_t at = is_heavy ? 0 : 1 + k % (load_options.connections - 1);
    request(&lines[at], is_heavy ? '!' : '.', due);
    heavy += is_heavy;
    left++;
  }
  uint64_t end = load_now_ns();
  while (left > 0) {
    left -= gather(100);
    if (load_now_ns() - end > ANSWER_MAX_MS * UINT64_C(1000000)) load_die("%zu answers never came", left);
  }
  double server[4];
  ask_server(server);
  qsort(light_us, light_count, sizeof(*light_us), load_ascending);
  printf("{\"messages\":%zu,\"heavy\":%zu,\"seconds\":%.6f,\"p50_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f,"
         "\"server_p50_us\":%.2f,\"server_p99_us\":%.2f,\"server_p999_us\":%.2f}\n",
         light_count, heavy, (double)(end - start) / 1e9, light_us[light_count / 2], light_us[light_count * 99 / 100],
         light_us[light_count * 999 / 1000], server[0], server[1], server[2]);
  fflush(stdout);
}

int main(int argc, char **argv) {
  static const char usage[] = "tail_client --port N [--rate 2000] " LOAD_USAGE;
  static const struct option own[] = {{"rate", required_argument, NULL, 'R'}, {0}};
  unsigned long rate = 2000;
  char line[16];
  for (int name; (name = load_next_option(argc, argv, own, usage)) != -1;) rate = load_number(optarg, 100, 100000);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  lines = calloc(load_options.connections, sizeof(*lines));
  light_us = calloc((size_t)(load_options.seconds * (double)rate) + rate + 1, sizeof(*light_us));
  if (epoll_fd < 0 || lines == NULL || light_us == NULL) load_die("no memory");
  for (uint32_t i = 0; i < load_options.connections; i++) {
    struct epoll_event ev = {.events = EPOLLIN, .data = {.u32 = i}};
    lines[i].fd = load_connect(0x7f000001u);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, lines[i].fd, &ev) != 0) load_die("epoll_ctl: %s", strerror(errno));
  }
  load_say_ready();
  /* "p": without the work, anything else: with it */
  while (fgets(line, sizeof(line), stdin) != NULL) run(load_options.seconds, rate, line[0] == 'p');
  return 0;
}
