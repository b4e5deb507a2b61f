/*
 * Fuzzer of core/proxy_head: what must hold of every answer, and that it does not depend on how the bytes are cut. `make fuzz` runs it,
 * `make test` replays its corpus.
 */
#include "../../core/rille.h"
#include "holds.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* A copy of exactly so many bytes, so that a sanitizer sees one that is read too far. */
static int decode(const uint8_t *bytes, size_t size, rille_proxy_head *out) {
  uint8_t *copy = malloc(size ? size : 1);
  HOLDS(copy);
  memcpy(copy, bytes, size);
  int used = rille_proxy_decode(copy, (double)size, out);
  free(copy);
  return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  rille_proxy_head whole, part;
  int used = decode(bytes, size, &whole);
  HOLDS(used <= (int)size && used >= RILLE_PROXY_CHECKSUM);
  size_t most = used > 0 ? (size_t)used : size, step = most > 512 ? 61 : 1;
  for (size_t n = 0; n < most; n += step) { /* less of it is not yet one, or already none */
    int found = decode(bytes, n, &part);
    HOLDS(found == 0 || (found < 0 && found == used));
  }
  if (used <= 0) return 0;
  HOLDS(whole.tlv_at + whole.tlv_size <= (uint32_t)used && whole.family <= RILLE_PROXY_UNIX);
  HOLDS(whole.version == 2 || used <= RILLE_PROXY_LINE_MAX);
  HOLDS(decode(bytes, (size_t)used, &part) == used && memcmp(&part, &whole, sizeof whole) == 0);
  return 0;
}
