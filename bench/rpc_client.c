/* The load for remote calls: each connection sends `depth` calls in one piece, frames of a u32 length, a u32 id and "echo " with 1 KiB, and
 * sends the next when all are answered, in any order. An answer has to carry an id that waits, and to end with its bytes: a
 * server may put something else in front, or send the call back as it is. With --reconnect each round has a connection of its own.
 * See load.h for what it shares with the other loads. */
#include "load.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  SIZE = 1024,
  HEAD = 8, /* of a call and of an answer: length, id */
  WORD = 5, /* "echo " */
  CALL = HEAD + WORD + SIZE,
  DEPTH_MAX = 64,
  PATTERN = SIZE + 4096 /* calls start at different bytes of it, so mixed-up answers show */
};

static struct load_protocol rpc = {.depth = 1};
static unsigned char pattern[PATTERN];

/* What a connection sends, and what has come of its answers. */
static struct side {
  unsigned char calls[DEPTH_MAX * CALL], input[DEPTH_MAX * CALL];
  size_t filled;
  bool is_answered[DEPTH_MAX];
} * sides;

static uint32_t read_u32(const unsigned char *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void write_u32(unsigned char *p, uint32_t value) {
  for (int i = 0; i < 4; i++) p[i] = (unsigned char)(value >> (24 - 8 * i));
}

static const unsigned char *payload(size_t index, size_t id) {
  return pattern + (index * 61 + id * 17) % (PATTERN - SIZE);
}

static void prepare(void) {
  uint32_t random = 2463534242u; /* xorshift: the same bytes in every run */
  for (size_t i = 0; i < PATTERN; i++) {
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    pattern[i] = (unsigned char)(random >> 24);
  }
  sides = calloc(load_options.connections, sizeof(*sides));
  if (sides == NULL) load_die("no memory for %lu connections", load_options.connections);
  for (size_t index = 0; index < load_options.connections; index++) {
    for (size_t i = 0; i < rpc.depth; i++) {
      unsigned char *call = sides[index].calls + i * CALL;
      write_u32(call, CALL - 4);
      write_u32(call + 4, (uint32_t)i + 1);
      memcpy(call + HEAD, "echo ", WORD);
      memcpy(call + HEAD + WORD, payload(index, i + 1), SIZE);
    }
  }
}

static void start(struct load_peer *peer) {
  struct side *side = &sides[peer->index];
  peer->data = side->calls;
  peer->size = rpc.depth * CALL;
  side->filled = 0;
  memset(side->is_answered, 0, sizeof(side->is_answered));
}

static void check(struct side *side, size_t index, const unsigned char *frame, size_t size) {
  uint32_t id = read_u32(frame + 4);
  if (id < 1 || id > rpc.depth || side->is_answered[id - 1]) load_die("an answer to no call: %lu", (unsigned long)id);
  side->is_answered[id - 1] = true;
  if (memcmp(frame + size - SIZE, payload(index, id), SIZE) != 0) load_die("an answer differs from its call");
}

static unsigned long take(struct load_peer *peer, const unsigned char *data, size_t got) {
  struct side *side = &sides[peer->index];
  if (side->filled + got > sizeof(side->input)) load_die("the server sent more than it was asked for");
  memcpy(side->input + side->filled, data, got);
  side->filled += got;
  size_t at = 0;
  unsigned long answers = 0;
  while (side->filled - at >= HEAD) {
    size_t size = 4 + (size_t)read_u32(side->input + at);
    if (size < HEAD + SIZE || size > CALL) load_die("an answer of %zu bytes", size);
    if (side->filled - at < size) break;
    check(side, peer->index, side->input + at, size);
    at += size;
    answers++;
  }
  side->filled -= at;
  memmove(side->input, side->input + at, side->filled);
  return answers;
}

int main(int argc, char **argv) {
  static const char usage[] = "rpc_client --port N [--depth CALLS] [--reconnect] " LOAD_USAGE;
  static const struct option own[] = {
      {"depth", required_argument, NULL, 'D'}, {"reconnect", no_argument, NULL, 'R'}, {0}};
  int name;
  rpc.start = start;
  rpc.take = take;
  while ((name = load_next_option(argc, argv, own, usage)) != -1) {
    if (name == 'D') rpc.depth = load_number(optarg, 1, DEPTH_MAX);
    if (name == 'R') rpc.reconnects = true;
  }
  prepare();
  load_run(&rpc);
  return 0;
}
