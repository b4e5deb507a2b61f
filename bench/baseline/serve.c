/* See serve.h. */
#include "serve.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS_MAX = 256 };

struct rest {
  char *data; /* owned; NULL when nothing waits */
  size_t at, end;
};

static struct rest rests[SERVE_FD_MAX]; /* by descriptor */
static const struct serve_protocol *protocol;
static int epoll_fd;

_Noreturn void serve_die(const char *what) {
  perror(what);
  exit(1);
}

static void watch(int op, int fd, unsigned int events) {
  struct epoll_event ev = {.events = events, .data = {.fd = fd}};
  if (epoll_ctl(epoll_fd, op, fd, &ev) != 0) serve_die("epoll_ctl");
}

void serve_close(int fd) {
  if (protocol->on_close != NULL) protocol->on_close(fd);
  free(rests[fd].data);
  rests[fd] = (struct rest){0};
  close(fd); /* takes it out of epoll too */
}

size_t serve_read(int fd, char *data, size_t size) {
  ssize_t got = read(fd, data, size);
  if (got > 0) return (size_t)got;
  if (got == 0 || errno != EAGAIN) serve_close(fd);
  return 0;
}

static void keep_rest(int fd, const char *data, size_t size) {
  struct rest *rest = &rests[fd];
  rest->data = malloc(size);
  if (rest->data == NULL) serve_die("malloc");
  memcpy(rest->data, data, size);
  rest->at = 0;
  rest->end = size;
  watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
}

void serve_write(int fd, const char *data, size_t size) {
  ssize_t put = write(fd, data, size);
  if (put == (ssize_t)size) return;
  if (put < 0 && errno != EAGAIN) {
    serve_close(fd);
    return;
  }
  size_t done = put < 0 ? 0 : (size_t)put;
  keep_rest(fd, data + done, size - done);
}

static void on_writable(int fd) {
  struct rest *rest = &rests[fd];
  ssize_t put = write(fd, rest->data + rest->at, rest->end - rest->at);
  if (put < 0) {
    if (errno != EAGAIN) serve_close(fd);
    return;
  }
  rest->at += (size_t)put;
  if (rest->at < rest->end) return;
  free(rest->data);
  rest->data = NULL;
  watch(EPOLL_CTL_MOD, fd, EPOLLIN);
}

static void on_acceptable(int listen_fd) {
  int one = 1;
  int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    if (errno != EAGAIN && errno != ECONNABORTED) serve_die("accept4");
    return;
  }
  if (fd >= SERVE_FD_MAX) {
    close(fd);
    return;
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  watch(EPOLL_CTL_ADD, fd, EPOLLIN);
}

static int listen_on(unsigned int port) {
  int one = 1;
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons((in_port_t)port), .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) serve_die("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0) serve_die("bind");
  if (listen(fd, SOMAXCONN) != 0) serve_die("listen");
  return fd;
}

_Noreturn void serve_run(const char *port, const char *usage, const struct serve_protocol *served) {
  unsigned long number = port != NULL ? strtoul(port, NULL, 10) : 0;
  if (number == 0 || number > 65535) {
    fprintf(stderr, "usage: %s\n", usage);
    exit(2);
  }
  protocol = served;
  int listen_fd = listen_on((unsigned int)number);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) serve_die("epoll_create1");
  watch(EPOLL_CTL_ADD, listen_fd, EPOLLIN);

  for (;;) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
    if (count < 0 && errno != EINTR) serve_die("epoll_wait");
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == listen_fd) on_acceptable(fd);
      else if (rests[fd].data == NULL) protocol->on_readable(fd);
      else on_writable(fd);
    }
  }
}
