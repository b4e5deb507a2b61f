/*
 * Fuzzer of netstrings: the first byte of an input is the limit. `make fuzz` runs it, `make test` replays its corpus.
 */
#include "codec_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  if (size < 1 || size > 512) return 0;
  rille_codec_options o = {.kind = RILLE_CODEC_NETSTRING, .max = bytes[0] ? bytes[0] : RILLE_CODEC_MAX};
  check_codec(&o, bytes + 1, size - 1, true);
  return 0;
}
