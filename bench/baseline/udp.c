/* The yardstick for datagrams: the least C that echoes UDP in batches. One thread that waits for one datagram, takes what else is there with
 * it, and sends them back with one call. Rille is measured against it.
 *
 * usage: udp PORT      receives on 127.0.0.1:PORT until a signal ends it */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { BATCH = 64, DATAGRAM_MAX = 65536 };

static char data[BATCH][DATAGRAM_MAX];
static struct sockaddr_in peers[BATCH];
static struct iovec areas[BATCH];
static struct mmsghdr messages[BATCH];

static _Noreturn void die(const char *what) {
  perror(what);
  exit(1);
}

int main(int argc, char **argv) {
  unsigned long port = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
  if (port == 0 || port > 65535) {
    fprintf(stderr, "usage: udp PORT\n");
    return 2;
  }
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons((in_port_t)port), .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0) die("bind");
  for (;;) {
    for (size_t i = 0; i < BATCH; i++) {
      areas[i] = (struct iovec){.iov_base = data[i], .iov_len = DATAGRAM_MAX};
      messages[i].msg_hdr = (struct msghdr){
          .msg_name = &peers[i], .msg_namelen = sizeof(peers[i]), .msg_iov = &areas[i], .msg_iovlen = 1};
    }
    int count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
    if (count < 0 && errno != EINTR) die("recvmmsg");
    for (int i = 0; i < count; i++) areas[i].iov_len = messages[i].msg_len;
    for (int sent = 0, more; sent < count; sent += more) {
      more = sendmmsg(fd, messages + sent, (unsigned)(count - sent), 0);
      if (more < 0) die("sendmmsg");
    }
  }
}
