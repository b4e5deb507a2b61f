/*
 * reserve: see reserve.h.
 */
#include "reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

void rille_reserve_init(rille_reserve *r) { r->fd = -1; }

void rille_reserve_take(rille_reserve *r) {
  if (r->fd < 0) r->fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void rille_reserve_end(rille_reserve *r) {
  if (r->fd >= 0) close(r->fd);
  r->fd = -1;
}

/* Between the two calls another thread may take the descriptor that was given up: then it is as short as before, and the loop has no
 * reserve until one can be opened again. */
int rille_reserve_shed(rille_reserve *r, int listen_fd) {
  rille_reserve_take(r);
  rille_reserve_end(r);
  int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  int error_number = errno;
  if (fd >= 0) close(fd);
  rille_reserve_take(r);
  if (fd >= 0) return 1;
  return error_number == EMFILE || error_number == ENFILE ? -1 : 0;
}
