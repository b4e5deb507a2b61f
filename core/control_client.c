/*
 * control_client: what `rille status` and its like do: connect to the control socket of a process, send a request, wait for the answer. Any
 * thread; it blocks, at most as long as its caller says.
 */
#include "json_write.h"
#include "loop.h"
#include "rille_control.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_MAX = 256 << 20 };

/* Whoever answers in a folder where others write too has to be who we think. */
static bool is_friend(int fd) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return geteuid() == 0 || peer.uid == 0 || peer.uid == geteuid();
}

static int open_socket(const char *path) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof name.sun_path) return RILLE_ERR_BAD_ADDRESS;
  memcpy(name.sun_path, path, strlen(path) + 1);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return rille_err_from_errno(errno);
  int err = RILLE_OK;
  if (connect(fd, (const struct sockaddr *)&name, sizeof name) != 0) err = rille_err_from_errno(errno);
  if (!err && !is_friend(fd)) err = RILLE_ERR_PERMISSION;
  if (!err) return fd;
  close(fd);
  return err;
}

/* Wait for an event until a moment: 0 or RILLE_ERR_TIMEOUT. */
static int wait_for(int fd, short events, uint64_t until_ns) {
  for (;;) {
    uint64_t now = rille_now_ns();
    if (now >= until_ns) return RILLE_ERR_TIMEOUT;
    struct pollfd one = {.fd = fd, .events = events};
    uint64_t left_ms = (until_ns - now) / 1000000 + 1;
    if (poll(&one, 1, left_ms < INT32_MAX ? (int)left_ms : INT32_MAX) > 0) return RILLE_OK;
  }
}

static int send_all(int fd, const char *request, size_t size, uint64_t until_ns) {
  while (size > 0) {
    ssize_t n = send(fd, request, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) {
      int err = wait_for(fd, POLLOUT, until_ns);
      if (err) return err;
    } else if (n < 0 && errno != EINTR) {
      return rille_err_from_errno(errno);
    } else if (n > 0) {
      request += n;
      size -= (size_t)n;
    }
  }
  return RILLE_OK;
}

static int receive_all(int fd, rille_text *t, uint64_t until_ns) {
  char bytes[16384];
  for (;;) {
    ssize_t n = recv(fd, bytes, sizeof bytes, 0);
    if (n > 0) rille_text_add(t, bytes, (size_t)n);
    if (n == 0) return t->failed ? RILLE_ERR_NO_MEMORY : RILLE_OK;
    if (t->size > ANSWER_MAX) return RILLE_ERR_TOO_LARGE;
    if (n < 0 && errno == EAGAIN) {
      int err = wait_for(fd, POLLIN, until_ns);
      if (err) return err;
    } else if (n < 0 && errno != EINTR) {
      return rille_err_from_errno(errno);
    }
  }
}

char *rille_control_call(const char *path, const char *request, size_t size, double timeout_ms, double *answer_size,
                         int *err) {
  uint64_t until_ns = rille_now_ns() + (uint64_t)(timeout_ms * 1e6);
  rille_text t = {0};
  int fd = open_socket(path);
  *err = fd < 0 ? fd : send_all(fd, request, size, until_ns);
  if (!*err) *err = receive_all(fd, &t, until_ns);
  if (fd >= 0) close(fd);
  if (!*err && t.size == 0) *err = RILLE_ERR_CLOSED;
  if (*err) {
    rille_text_free(&t);
    return NULL;
  }
  *answer_size = (double)t.size;
  return t.bytes;
}

void rille_control_free(char *answer) { free(answer); }
