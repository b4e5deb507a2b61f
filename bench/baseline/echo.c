/* The yardstick: the least code that echoes TCP with epoll. One thread, level-triggered, one static buffer, one read
 * and one write for each ready socket. Rille is measured against it.
 *
 * usage: echo PORT      listens on 127.0.0.1:PORT until a signal ends it
 *
 * What the kernel does not take at once is copied aside; until it has gone the socket is watched for EPOLLOUT alone. */
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

enum { BUFFER_SIZE = 65536, FD_MAX = 65536, EVENTS_MAX = 256 };

struct rest {
  char *data; /* owned; NULL when nothing waits */
  size_t at, end;
};

static char buffer[BUFFER_SIZE];
static struct rest rests[FD_MAX]; /* by descriptor */
static int epoll_fd;

static _Noreturn void die(const char *what) {
  perror(what);
  exit(1);
}

static void watch(int op, int fd, unsigned int events) {
  struct epoll_event ev = {.events = events, .data = {.fd = fd}};
  if (epoll_ctl(epoll_fd, op, fd, &ev) != 0) die("epoll_ctl");
}

static void drop(int fd) {
  free(rests[fd].data);
  rests[fd] = (struct rest){0};
  close(fd); /* takes it out of epoll too */
}

static void keep_rest(int fd, const char *data, size_t size) {
  struct rest *rest = &rests[fd];
  rest->data = malloc(size);
  if (rest->data == NULL) die("malloc");
  memcpy(rest->data, data, size);
  rest->at = 0;
  rest->end = size;
  watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
}

static void on_readable(int fd) {
  ssize_t got = read(fd, buffer, sizeof(buffer));
  if (got <= 0) {
    if (got == 0 || errno != EAGAIN) drop(fd);
    return;
  }
  ssize_t put = write(fd, buffer, (size_t)got);
  if (put == got) return;
  if (put < 0 && errno != EAGAIN) {
    drop(fd);
    return;
  }
  size_t done = put < 0 ? 0 : (size_t)put;
  keep_rest(fd, buffer + done, (size_t)got - done);
}

static void on_writable(int fd) {
  struct rest *rest = &rests[fd];
  ssize_t put = write(fd, rest->data + rest->at, rest->end - rest->at);
  if (put < 0) {
    if (errno != EAGAIN) drop(fd);
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
    if (errno != EAGAIN && errno != ECONNABORTED) die("accept4");
    return;
  }
  if (fd >= FD_MAX) {
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
  if (fd < 0) die("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0) die("bind");
  if (listen(fd, SOMAXCONN) != 0) die("listen");
  return fd;
}

int main(int argc, char **argv) {
  unsigned long port = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
  if (port == 0 || port > 65535) {
    fprintf(stderr, "usage: echo PORT\n");
    return 2;
  }
  int listen_fd = listen_on((unsigned int)port);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) die("epoll_create1");
  watch(EPOLL_CTL_ADD, listen_fd, EPOLLIN);

  for (;;) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
    if (count < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == listen_fd)
        on_acceptable(fd);
      else if (rests[fd].data == NULL)
        on_readable(fd);
      else
        on_writable(fd);
    }
  }
}
