/*
 * Fuzzer of core/http_chunk: what must hold of every answer, and that it does not depend on how the bytes are cut. `make fuzz`
 * runs it, `make test` replays its corpus.
 */
#include "../c/http_drive.h"
#include "holds.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_body_cuts(const drive_chunk *whole, const uint8_t *bytes, size_t size, uint32_t extra_max) {
  static drive_chunk cut;
  uint64_t digest = drive_digest(UINT64_C(0xcbf29ce484222325), bytes, size);
  drive_chunk_by(&cut, bytes, size, extra_max, (const size_t[]){(size_t)(digest % size), SIZE_MAX}, 2);
  HOLDS(drive_chunk_same(whole, &cut));
  drive_chunk_by(&cut, bytes, size, extra_max, (const size_t[]){(size_t)(digest >> 32) % 16 + 1}, 1);
  HOLDS(drive_chunk_same(whole, &cut));
}

static int64_t check_body(const uint8_t *bytes, size_t size, uint32_t extra_max) {
  static drive_chunk whole;
  int64_t status = drive_chunk_whole(&whole, bytes, size, extra_max);
  HOLDS(status == 0 || status == 1 || status == -400 || status == -413 || status == -431);
  HOLDS(whole.consumed <= size && whole.data_size <= whole.consumed);
  HOLDS(whole.chunk.left <= INT64_MAX && (status == -431 || whole.chunk.extra <= extra_max));
  if (status == 0) HOLDS(whole.consumed == size);
  if (status == 1) {
    /* what ends the body is part of it, and without its last byte it is not over */
    HOLDS(whole.consumed >= 5 && memcmp(bytes + whole.consumed - 4, "\r\n\r\n", 4) == 0 && whole.chunk.left == 0);
    HOLDS(whole.chunk.tail >= 2 && whole.chunk.tail + 3 <= whole.consumed);
    static drive_chunk less;
    HOLDS(drive_chunk_whole(&less, bytes, whole.consumed - 1, extra_max) == 0 && less.data_size == whole.data_size);
  }
  if (size > 0) check_body_cuts(&whole, bytes, size, extra_max);
  return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  if (size > 1 << 16) return 0;
  int64_t wide = check_body(bytes, size, 8192), narrow = check_body(bytes, size, 8);
  HOLDS(narrow == wide || narrow == -431);
  return 0;
}
