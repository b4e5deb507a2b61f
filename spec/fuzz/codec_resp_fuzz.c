/*
 * Fuzzer of RESP: the first two bytes of an input are the limits. `make fuzz` runs it, `make test` replays its corpus.
 */
#include "codec_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  if (size < 2 || size > 512) return 0;
  rille_codec_options o = {.kind = RILLE_CODEC_RESP, .max = 1 + 4 * bytes[0], .depth = 1 + bytes[1] % 8};
  check_codec(&o, bytes + 2, size - 2, true);
  return 0;
}
