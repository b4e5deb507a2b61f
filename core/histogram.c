/*
 * histogram: see histogram.h.
 */
#include "histogram.h"

#include <math.h>
#include <string.h>

static const uint64_t HALF_NS = 30000000000;

uint64_t rille_histogram_limit(uint32_t bucket) {
  if (bucket < 8) return bucket;
  uint32_t shift = bucket / 8 - 1;
  return ((uint64_t)(8 + bucket % 8 + 1) << shift) - 1;
}

void rille_histogram_turn(rille_histogram *h, uint64_t now_ns) {
  if (now_ns - h->turned_ns < HALF_NS) return;
  if (now_ns - h->turned_ns >= 2 * HALF_NS) memset(h->counts, 0, sizeof h->counts); /* both are old */
  h->turned_ns = now_ns;
  h->half = !h->half;
  memset(h->counts[h->half], 0, sizeof h->counts[h->half]);
}

uint64_t rille_histogram_quantile(const rille_histogram *h, double share) {
  uint64_t all = 0, seen = 0;
  for (uint32_t i = 0; i < RILLE_HISTOGRAM_BUCKETS; i++) all += h->counts[0][i] + h->counts[1][i];
  if (all == 0) return 0;
  uint64_t wanted = (uint64_t)ceil(share * (double)all);
  for (uint32_t i = 0; i < RILLE_HISTOGRAM_BUCKETS; i++) {
    seen += h->counts[0][i] + h->counts[1][i];
    if (seen >= wanted) return rille_histogram_limit(i);
  }
  return rille_histogram_limit(RILLE_HISTOGRAM_BUCKETS - 1);
}
