/*
 * Fuzzer of how a proxy finds commands and their shards: the same whole, cut in two and byte by byte, all bytes accounted for. The first
 * byte of an input is the limit, the second where it is cut. `make fuzz` runs it, `make test` replays its corpus.
 */
#include "holds.h"
#include "rille.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { RESULTS_MAX = 512 };

/* What came of an input: for each command its target, and how many bytes there were in all. */
typedef struct outcome {
  int targets[RESULTS_MAX];
  int count, err;
  size_t taken;
} outcome;

static void feed(rille_linkbuffer *b, const uint8_t *bytes, size_t size) {
  int err;
  rille_linkbuffer *piece = rille_linkbuffer_new(1, &err);
  HOLDS(piece && rille_linkbuffer_write(piece, (const char *)bytes, size) == 0);
  HOLDS(rille_linkbuffer_flush(piece) == 0 && rille_linkbuffer_append(b, piece) == 0);
  rille_linkbuffer_free(piece);
}

static void take_all(const rille_redis_route *route, rille_redis_wait *wait, rille_linkbuffer *b, double max,
                     outcome *o) {
  rille_slice s;
  while (o->err == 0) {
    int found = rille_redis_take_commands(route, wait, b, max, &s);
    if (found == 0) return;
    if (found < 0) {
      o->err = found;
      return;
    }
    HOLDS(s.size_ > 0);
    o->taken += s.size_;
    int many = found >= RILLE_REDIS_RUN ? found / RILLE_REDIS_RUN : 1;
    for (int i = 0; i < many; i++) {
      HOLDS(o->count < RESULTS_MAX);
      o->targets[o->count++] = found >= RILLE_REDIS_RUN ? found % RILLE_REDIS_RUN : -1;
    }
    rille_linkbuffer_release(b);
  }
}

static void run_cut(const rille_redis_route *route, double max, const uint8_t *bytes, size_t size, size_t first,
                    size_t step, outcome *o) {
  int err;
  rille_linkbuffer *b = rille_linkbuffer_new(1, &err);
  HOLDS(b != NULL);
  rille_redis_wait wait = {0};
  *o = (outcome){0};
  for (size_t at = 0; at < size;) {
    size_t n = at == 0 ? first : step;
    if (n > size - at) n = size - at;
    if (n > 0) feed(b, bytes + at, n);
    at += n;
    if (at == 0) first = step; /* cut in front of the first byte */
    take_all(route, &wait, b, max, o);
  }
  HOLDS(o->taken + (size_t)rille_linkbuffer_len(b) == size || o->err != 0);
  rille_linkbuffer_free(b);
}

static rille_redis_route *make(void) {
  static const struct {
    const char *name;
    rille_redis_keys keys;
  } commands[] = {{"GET", {1, 1, 1, 0}},   {"MGET", {1, -1, 1, 0}}, {"MSET", {1, -1, 2, 0}},
                  {"COPY", {1, 2, 1, 0}},  {"EVAL", {3, 3, 1, 2}},  {"ZUNIONSTORE", {1, 1, 1, 2}},
                  {"LMPOP", {2, 2, 1, 1}}, {"BITOP", {2, -1, 1, 0}}};
  rille_redis_route *route = rille_redis_route_new();
  HOLDS(route != NULL);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
    HOLDS(rille_redis_route_add(route, commands[i].name, strlen(commands[i].name), &commands[i].keys) == 0);
  }
  HOLDS(rille_redis_route_assign(route, RILLE_REDIS_SLOTS / 2, RILLE_REDIS_SLOTS - 1, 1) == 0);
  return route;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  static rille_redis_route *route;
  static outcome whole, cut, single;
  if (size < 2 || size > 512) return 0;
  if (!route) route = make();
  double max = 1 + 4 * bytes[0];
  size_t at = bytes[1];
  bytes += 2;
  size -= 2;
  run_cut(route, max, bytes, size, size, size, &whole);
  run_cut(route, max, bytes, size, at, size, &cut);
  run_cut(route, max, bytes, size, 1, 1, &single);
  HOLDS(whole.err == cut.err && whole.err == single.err);
  HOLDS(whole.count == cut.count && whole.count == single.count && whole.taken == single.taken &&
        whole.taken == cut.taken);
  HOLDS(memcmp(whole.targets, cut.targets, sizeof whole.targets) == 0);
  HOLDS(memcmp(whole.targets, single.targets, sizeof whole.targets) == 0);
  return 0;
}
