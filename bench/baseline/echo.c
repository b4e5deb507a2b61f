/* The yardstick: the least code that echoes TCP with epoll. One thread, level-triggered, one static buffer, one read
 * and one write for each ready socket. Rille is measured against it.
 *
 * usage: echo PORT      listens on 127.0.0.1:PORT until a signal ends it */
#include "serve.h"

static char buffer[65536];

static void on_readable(int fd) {
  size_t got = serve_read(fd, buffer, sizeof(buffer));
  if (got > 0) serve_write(fd, buffer, got);
}

int main(int argc, char **argv) {
  static const struct serve_protocol echo = {.on_readable = on_readable};
  serve_run(argc == 2 ? argv[1] : NULL, "echo PORT", &echo);
}
