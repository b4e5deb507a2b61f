/* What the baselines share: one thread, one level-triggered epoll, accepting, and the bytes that the kernel does not
 * take at once. A baseline supplies what is done with a ready socket. */
#ifndef BENCH_SERVE_H
#define BENCH_SERVE_H

#include <stddef.h>
#include <sys/types.h>

enum { SERVE_FD_MAX = 65536 }; /* descriptors are below it */

struct serve_protocol {
  void (*on_readable)(int fd); /* reads once */
  void (*on_close)(int fd);    /* may be NULL; fd is still open, and is not used afterwards */
};

/* Listens on 127.0.0.1:port (text from the command line) until a signal ends the process; exits with 2 and usage when
 * port is none. */
_Noreturn void serve_run(const char *port, const char *usage, const struct serve_protocol *protocol);

/* The bytes read, 1 or more; 0 when there is nothing to do: none are there, or fd is closed now. */
size_t serve_read(int fd, char *data, size_t size);

/* One write. What the kernel does not take is copied aside; until it has gone the socket is watched for EPOLLOUT
 * alone. Closes fd when that fails. Once for each on_readable. */
void serve_write(int fd, const char *data, size_t size);

void serve_close(int fd);

/* Says what failed and why, and exits. */
_Noreturn void serve_die(const char *what);

#endif
