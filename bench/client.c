/* The load for echo: each connection sends one message of `size` bytes and sends the next when the whole echo is back
 * and compared. See load.h for what it shares with the load for HTTP.
 *
 * --idle N open N connections that never send, print "ready", hold them until stdin closes. */
#include "load.h"
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
  PATTERN_SPREAD = 4096, /* messages start at different bytes of one pattern, so a mixed-up echo shows */
  SIZE_LIMIT = 16 << 20,
  SOURCES = 8 /* loopback addresses the idle connections come from: ports are 28,000 for each */
};

static unsigned long size = 64, idle;
static unsigned char *pattern;

static void make_pattern(void) {
  pattern = malloc(size + PATTERN_SPREAD);
  if (pattern == NULL) load_die("no memory for messages of %lu bytes", size);
  uint32_t random = 2463534242u; /* xorshift: the same bytes in every run */
  for (size_t i = 0; i < size + PATTERN_SPREAD; i++) {
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    pattern[i] = (unsigned char)(random >> 24);
  }
}

static void start(struct load_peer *peer) {
  size_t offset = peer->data == NULL ? peer->index * 61 : (size_t)(peer->data - pattern);
  peer->data = pattern + (offset + 17) % PATTERN_SPREAD;
  peer->size = size;
}

static unsigned long take(struct load_peer *peer, const unsigned char *data, size_t got) {
  if (got > peer->sent - peer->got) load_die("the server sent more than it was sent");
  if (memcmp(data, peer->data + peer->got, got) != 0) load_die("the echo differs from what was sent");
  return peer->got + got == size;
}

static void hold_idle(void) {
  for (unsigned long i = 0; i < idle; i++) load_connect((uint32_t)(INADDR_LOOPBACK + i % SOURCES)); /* closed by exit */
  load_say_ready();
  while (getchar() != EOF)
    ;
}

int main(int argc, char **argv) {
  static const char usage[] = "client --port N [--size BYTES] [--udp] " LOAD_USAGE "\n"
                              "       client --port N --idle N";
  static const struct load_protocol echo = {.depth = 1, .start = start, .take = take};
  static const struct option own[] = {{"size", required_argument, NULL, 'S'},
                                      {"idle", required_argument, NULL, 'I'},
                                      {"udp", no_argument, NULL, 'U'},
                                      {0}};
  int name;
  while ((name = load_next_option(argc, argv, own, usage)) != -1) {
    if (name == 'S') size = load_number(optarg, 1, SIZE_LIMIT);
    if (name == 'U') load_options.is_datagram = true;
    if (name == 'I') idle = load_number(optarg, 1, 100000);
  }
  if (idle > 0) {
    hold_idle();
  } else {
    make_pattern();
    load_run(&echo);
  }
  return 0;
}
