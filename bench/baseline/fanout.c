/* The yardstick for topics: the least C that sends one message to everybody. Two threads, each with an epoll and half of the
 * connections; a byte from any of them makes both write 1 KiB to each of theirs. Rille is measured against it.
 *
 * usage: fanout PORT      listens on 127.0.0.1:PORT until a signal ends it
 *
 * Whoever connects gets a '+'. A write that is not complete ends the program: the load reads what it is sent. */
#include "serve.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { THREADS = 2, EVENTS_MAX = 256, MESSAGE_SIZE = 1024 };

struct half {
  int epoll_fd, wake_fd;
  struct half *other;
  pthread_t thread;
  pthread_mutex_t lock; /* of what follows: the main thread adds connections */
  int fds[SERVE_FD_MAX];
  size_t count;
};

static struct half halves[THREADS];
static char message[MESSAGE_SIZE];

_Noreturn void serve_die(const char *what) {
  perror(what);
  exit(1);
}

static void watch(struct half *half, int fd) {
  struct epoll_event ev = {.events = EPOLLIN, .data = {.fd = fd}};
  if (epoll_ctl(half->epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) serve_die("epoll_ctl");
}

static void write_to_all(struct half *half) {
  pthread_mutex_lock(&half->lock);
  for (size_t i = 0; i < half->count; i++) {
    ssize_t put = write(half->fds[i], message, sizeof(message));
    if (put != sizeof(message) && errno != EPIPE && errno != ECONNRESET) serve_die("write");
  }
  pthread_mutex_unlock(&half->lock);
}

static void forget(struct half *half, int fd) {
  pthread_mutex_lock(&half->lock);
  for (size_t i = 0; i < half->count; i++) {
    if (half->fds[i] == fd) half->fds[i] = half->fds[--half->count];
  }
  pthread_mutex_unlock(&half->lock);
  close(fd);
}

static void *run(void *arg) {
  struct half *half = arg;
  for (;;) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(half->epoll_fd, events, EVENTS_MAX, -1);
    if (count < 0 && errno != EINTR) serve_die("epoll_wait");
    for (int i = 0; i < count; i++) {
      uint64_t word;
      int fd = events[i].data.fd;
      ssize_t got = read(fd, &word, sizeof(word));
      if (got <= 0) {
        if (got == 0 || errno != EAGAIN) forget(half, fd);
        continue;
      }
      uint64_t one = 1;
      if (fd != half->wake_fd && write(half->other->wake_fd, &one, sizeof(one)) < 0) serve_die("eventfd");
      write_to_all(half);
    }
  }
  return NULL;
}

static void start(struct half *half, struct half *other) {
  half->other = other;
  half->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  half->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (half->epoll_fd < 0 || half->wake_fd < 0) serve_die("epoll_create1");
  watch(half, half->wake_fd);
  pthread_mutex_init(&half->lock, NULL);
}

static void add(struct half *half, int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  pthread_mutex_lock(&half->lock);
  half->fds[half->count++] = fd;
  pthread_mutex_unlock(&half->lock);
  if (write(fd, "+", 1) != 1) perror("write"); /* who only tried the port is gone */
  watch(half, fd);
}

int main(int argc, char **argv) {
  unsigned long port = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
  if (port == 0 || port > 65535) {
    fprintf(stderr, "usage: fanout PORT\n");
    return 2;
  }
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  memset(message, 'x', sizeof(message));
  signal(SIGPIPE, SIG_IGN);
  int reuse = 1;
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons((in_port_t)port), .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  int listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  if (listen_fd < 0 || bind(listen_fd, (struct sockaddr *)&address, sizeof(address)) != 0) serve_die("bind");
  if (listen(listen_fd, SOMAXCONN) != 0) serve_die("listen");
  for (size_t i = 0; i < THREADS; i++) start(&halves[i], &halves[1 - i]);
  for (size_t i = 0; i < THREADS; i++) {
    if (pthread_create(&halves[i].thread, NULL, run, &halves[i]) != 0) serve_die("pthread_create");
  }
  for (size_t i = 0;; i++) {
    int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && errno == EMFILE) usleep(1000); /* until those of the last run are forgotten */
    else if (fd < 0 && errno != ECONNABORTED) serve_die("accept4");
    if (fd >= SERVE_FD_MAX) close(fd);
    else if (fd >= 0) add(&halves[i % THREADS], fd);
  }
}
