/* The load for connects: `count` connections within `seconds`, evenly spread, each of which sends 64 bytes and waits for
 * their echo, beside a few old connections that do the same all the time, in a thread of their own. What counts is how
 * many are lost, and what the old ones feel of it.
 *
 * Prints "ready" when the old connections are there and warm; runs at each line on stdin and prints one JSON line for
 * each run; ends with stdin. */
#include "load.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  SIZE = 64,
  OLD = 16,
  OLD_PAUSE_US = 200,
  SAMPLES_MAX = 1 << 16,
  SOURCES = 8, /* loopback addresses: ports are 28,000 for each */
  PATIENCE_NS = 2000000000,
  EVENTS_MAX = 256
};

static unsigned long count = 15000;

/* ---- the old connections --------------------------------------------------------------------------------------- */

static int old[OLD];
static double samples[2][SAMPLES_MAX]; /* of the quiet part, and of the storm */
static size_t sample_count[2];
static atomic_int phase; /* 0 quiet, 1 storm, 2 neither, 3 the end */

static void echo_once(int fd) {
  char bytes[SIZE] = {0};
  if (send(fd, bytes, SIZE, MSG_NOSIGNAL) != SIZE) load_die("an old connection: %s", strerror(errno));
  for (ssize_t got = 0; got < SIZE;) {
    ssize_t n = recv(fd, bytes, sizeof bytes, 0);
    if (n <= 0) load_die("the server closed an old connection");
    got += n;
  }
}

static void *probe(void *unused) {
  (void)unused;
  for (size_t i = 0; atomic_load(&phase) != 3; i++) {
    struct timespec pause = {.tv_nsec = OLD_PAUSE_US * 1000};
    int before = atomic_load(&phase);
    uint64_t start = load_now_ns();
    echo_once(old[i % OLD]);
    double us = (double)(load_now_ns() - start) / 1000;
    if (before < 2 && sample_count[before] < SAMPLES_MAX) samples[before][sample_count[before]++] = us;
    nanosleep(&pause, NULL);
  }
  return NULL;
}

static double quantile(int which, double q) {
  size_t n = sample_count[which];
  qsort(samples[which], n, sizeof(double), load_ascending);
  return n == 0 ? 0 : samples[which][(size_t)(q * (double)(n - 1))];
}

/* ---- the storm ------------------------------------------------------------------------------------------------- */

struct newcomer {
  int fd;
  bool is_connected;
  size_t got;
};

static struct newcomer *newcomers;
static int epoll_fd;
static unsigned long echoed, lost;

static void lose(struct newcomer *one) {
  close(one->fd);
  one->fd = -1;
  lost++;
}

static void begin(unsigned long i) {
  int on = 1;
  struct newcomer *one = &newcomers[i];
  struct sockaddr_in from = {.sin_family = AF_INET,
                             .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(i % SOURCES))}};
  struct sockaddr_in to = {.sin_family = AF_INET,
                           .sin_port = htons((in_port_t)load_options.port),
                           .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  *one = (struct newcomer){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (one->fd < 0) load_die("socket: %s", strerror(errno));
  setsockopt(one->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data = {.ptr = one}};
  if (bind(one->fd, (struct sockaddr *)&from, sizeof(from)) != 0 ||
      (connect(one->fd, (struct sockaddr *)&to, sizeof(to)) != 0 && errno != EINPROGRESS) ||
      epoll_ctl(epoll_fd, EPOLL_CTL_ADD, one->fd, &event) != 0) {
    lose(one);
  }
}

static void go_on(struct newcomer *one, unsigned int events) {
  char bytes[SIZE] = {0};
  if (one->fd < 0) return;
  if (!one->is_connected) {
    int err = 0;
    socklen_t size = sizeof err;
    getsockopt(one->fd, SOL_SOCKET, SO_ERROR, &err, &size);
    if (err || send(one->fd, bytes, SIZE, MSG_NOSIGNAL) != SIZE) {
      lose(one);
      return;
    }
    one->is_connected = true;
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = one}};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, one->fd, &event);
  }
  if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP))) return;
  ssize_t got = recv(one->fd, bytes, sizeof bytes, 0);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) {
    lose(one);
    return;
  }
  one->got += (size_t)got;
  if (one->got == SIZE) echoed++;
}

static void storm(double *seconds) {
  struct epoll_event events[EVENTS_MAX];
  unsigned long begun = 0;
  echoed = lost = 0;
  uint64_t start = load_now_ns(), until = start + (uint64_t)(load_options.seconds * 1e9) + PATIENCE_NS;
  while (echoed + lost < count && load_now_ns() < until) {
    double due = (double)(load_now_ns() - start) / (load_options.seconds * 1e9) * (double)count;
    while (begun < count && (double)begun < due) begin(begun++);
    int ready = epoll_wait(epoll_fd, events, EVENTS_MAX, 1);
    for (int i = 0; i < ready; i++) go_on(events[i].data.ptr, events[i].events);
  }
  *seconds = (double)(load_now_ns() - start) / 1e9;
  lost = count - echoed; /* who waits for an echo still does so in vain */
}

static void leave(void) {
  struct linger reset = {.l_onoff = 1};
  for (unsigned long i = 0; i < count; i++) {
    if (newcomers[i].fd < 0) continue;
    setsockopt(newcomers[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)); /* the ports are free at once */
    close(newcomers[i].fd);
  }
}

static void run(void) {
  struct timespec part = {.tv_sec = (time_t)load_options.seconds,
                          .tv_nsec = (long)((load_options.seconds - (double)(time_t)load_options.seconds) * 1e9)};
  double seconds;
  sample_count[0] = sample_count[1] = 0;
  atomic_store(&phase, 0);
  nanosleep(&part, NULL);
  atomic_store(&phase, 1);
  storm(&seconds);
  atomic_store(&phase, 2);
  leave();
  nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL); /* what is under way ends; the server buries them */
  printf("{\"connects\":%lu,\"lost\":%lu,\"seconds\":%.3f,\"rate\":%.0f,\"quiet_p50_us\":%.1f,\"quiet_p99_us\":%.1f,"
         "\"p50_us\":%.1f,\"p99_us\":%.1f}\n",
         echoed, lost, seconds, (double)echoed / seconds, quantile(0, 0.5), quantile(0, 0.99), quantile(1, 0.5),
         quantile(1, 0.99));
  fflush(stdout);
}

int main(int argc, char **argv) {
  static const char usage[] = "connects_client --port N [--count 15000] [--seconds S]";
  static const struct option own[] = {{"count", required_argument, NULL, 'N'}, {0}};
  struct rlimit limit;
  char line[16];
  int name;
  while ((name = load_next_option(argc, argv, own, usage)) != -1) {
    if (name == 'N') count = load_number(optarg, 1, 100000);
  }
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < count + 100) load_die("only %lu descriptors are allowed", (unsigned long)limit.rlim_max);
  newcomers = calloc(count, sizeof(*newcomers));
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (newcomers == NULL || epoll_fd < 0) load_die("no memory for %lu connections", count);
  for (int i = 0; i < OLD; i++) old[i] = load_connect(INADDR_LOOPBACK);
  for (int i = 0; i < OLD * 50; i++) echo_once(old[i % OLD]);
  pthread_t thread;
  atomic_store(&phase, 2);
  if (pthread_create(&thread, NULL, probe, NULL) != 0) load_die("no thread");
  /* both threads have one core: who connects must not be what the old connections wait for */
  (void)setpriority(PRIO_PROCESS, (id_t)gettid(), 10);
  load_say_ready();
  while (fgets(line, sizeof(line), stdin) != NULL) run();
  atomic_store(&phase, 3);
  pthread_join(thread, NULL);
  return 0;
}
