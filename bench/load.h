/* What the loads share: one thread, one epoll, closed loop. Each connection sends one round (one message, or several in
 * one piece) and sends the next when every answer to it is back. Nothing is under way when a run starts, and nothing
 * when it ends, so whatever the server used in between it used for exactly the messages that are reported.
 *
 * A load says what a round is and checks what comes back. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct load_peer {
  size_t index; /* of this connection, from 0 */
  int fd;
  bool is_blocked;           /* watched for EPOLLOUT too */
  const unsigned char *data; /* this round */
  size_t size, sent, got;
  unsigned long answers; /* to this round, so far */
  uint64_t start_ns;     /* when its first byte was sent */
};

struct load_protocol {
  unsigned long depth; /* messages a round */
  bool reconnects;     /* each round has a connection of its own */
  /* Sets data and size of the next round. */
  void (*start)(struct load_peer *peer);
  /* Checks the bytes that came and returns how many answers they complete. peer->got does not count these yet. */
  unsigned long (*take)(struct load_peer *peer, const unsigned char *data, size_t size);
};

struct load_options {
  unsigned long port, connections, messages;
  double seconds, warmup;
  bool is_gated;
  bool is_datagram; /* UDP; a round is one datagram */
};

extern struct load_options load_options;

#define LOAD_USAGE "[--connections 64] [--seconds S | --messages N] [--warmup S] [--gate]"

/* The next option of this load, or -1; those in LOAD_USAGE, which every load has, go to load_options. own ends with a
 * zero; its values are no lower-case letters. An unknown option, or a missing --port: prints usage and exits.
 *
 * --gate: print "ready" when connected and warm, run at each line on stdin, print one JSON line for each run, and hold
 * the connections until stdin closes: the caller reads the server's counters between the two. */
int load_next_option(int argc, char **argv, const struct option *own, const char *usage);

/* Connects, and runs as the options say. */
void load_run(const struct load_protocol *protocol);

/* A socket, from a loopback address to load_options.port. */
int load_connect(uint32_t source);

void load_say_ready(void);
unsigned long load_number(const char *text, unsigned long min, unsigned long max);

uint64_t load_now_ns(void);
/* of two doubles, for qsort */
int load_ascending(const void *a, const void *b);

/* Says what is wrong and exits. */
__attribute__((format(printf, 1, 2))) _Noreturn void load_die(const char *format, ...);

#endif
