/*
 * Fuzzer of the framing by a length field: the first eight bytes of an input are its options. `make fuzz` runs it, `make test` replays
 * its corpus.
 */
#include "codec_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  static const int widths[] = {1, 2, 3, 4, 8};
  if (size < 8 || size > 512) return 0;
  rille_codec_options o = {.kind = RILLE_CODEC_LENGTH_FIELD, .width = widths[bytes[0] % 5], .is_little = bytes[1] & 1};
  o.offset = bytes[2] % 16;
  o.adjustment = (int8_t)bytes[3];
  o.max = o.offset + o.width + bytes[4];
  bool strips_head = bytes[1] & 2;
  o.strip = strips_head ? o.offset + o.width : bytes[5] % (o.max < 256 ? (int)o.max : 256);
  check_codec(&o, bytes + 8, size - 8, strips_head && o.offset == 0);
  return 0;
}
