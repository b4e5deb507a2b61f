/*
 * histogram: how often spans of time occurred, in buckets that grow with them: eight for each doubling, so what is read is off by
 * at most an eighth. It covers the last half minute to minute: two halves take turns, the older one is emptied. One thread owns it.
 */
#ifndef RILLE_HISTOGRAM_H
#define RILLE_HISTOGRAM_H

#include <stdint.h>

enum { RILLE_HISTOGRAM_BUCKETS = 304 /* to 2^40 ns, 18 minutes; what is longer counts as that */ };

typedef struct rille_histogram {
  uint32_t counts[2][RILLE_HISTOGRAM_BUCKETS];
  uint32_t half; /* which is filled */
  uint64_t turned_ns;
} rille_histogram;

/* the bucket of a span, and the longest span that is in it */
static inline uint32_t rille_histogram_bucket(uint64_t ns) {
  if (ns < 8) return (uint32_t)ns;
  uint32_t top = 63 - (uint32_t)__builtin_clzll(ns);
  uint32_t bucket = (top - 2) * 8 + (uint32_t)(ns >> (top - 3) & 7);
  return bucket < RILLE_HISTOGRAM_BUCKETS ? bucket : RILLE_HISTOGRAM_BUCKETS - 1;
}
uint64_t rille_histogram_limit(uint32_t bucket);

static inline void rille_histogram_add(rille_histogram *h, uint64_t ns) {
  h->counts[h->half][rille_histogram_bucket(ns)]++;
}
/* once in a while: empty the older half when it is due */
void rille_histogram_turn(rille_histogram *h, uint64_t now_ns);
/* the span in ns that a share of all (0.5, 0.99) does not exceed; 0 when there is none */
uint64_t rille_histogram_quantile(const rille_histogram *h, double share);

#endif
