/*
 * pump: a client and a server with a TCP proxy between them, for bench/pump.lua: pump PROXY_PORT SERVER_PORT MIB CONNECTIONS. The server
 * listens, the client connects to the proxy and sends; the server reads and throws away. When all has come it prints the seconds.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 1 << 20 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static struct sockaddr_in local(int port) {
  return (struct sockaddr_in){
      .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static uint64_t each; /* bytes of a connection */

static void *sink(void *arg) {
  int fd = (int)(intptr_t)arg;
  uint64_t have = 0;
  char *room = malloc(PIECE);
  while (room && have < each) {
    ssize_t got = recv(fd, room, PIECE, MSG_TRUNC); /* thrown away by the kernel */
    if (got <= 0) fail("recv");
    have += (uint64_t)got;
  }
  free(room);
  return NULL;
}

static void *source(void *arg) {
  int port = (int)(intptr_t)arg, fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in to = local(port);
  if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) fail("connect");
  char *room = calloc(1, PIECE);
  for (uint64_t sent = 0; room && sent < each;) {
    ssize_t n = send(fd, room, each - sent < PIECE ? each - sent : PIECE, MSG_NOSIGNAL);
    if (n <= 0) fail("send");
    sent += (uint64_t)n;
  }
  free(room);
  return (void *)(intptr_t)fd;
}

int main(int argc, char **argv) {
  enum { MOST = 256 };
  pthread_t sinks[MOST], sources[MOST];
  if (argc != 5) return 2;
  int count = atoi(argv[4]), one = 1;
  if (count < 1 || count > MOST) return 2;
  each = (uint64_t)atoi(argv[3]) * (1 << 20) / (uint64_t)count;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in at = local(atoi(argv[2]));
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, MOST) != 0) fail("listen");
  double started = now();
  for (int i = 0; i < count; i++) pthread_create(&sources[i], NULL, source, (void *)(intptr_t)atoi(argv[1]));
  for (int i = 0; i < count; i++) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) fail("accept");
    pthread_create(&sinks[i], NULL, sink, (void *)(intptr_t)fd);
  }
  for (int i = 0; i < count; i++) pthread_join(sinks[i], NULL);
  printf("%.3f\n", now() - started);
  return 0;
}
