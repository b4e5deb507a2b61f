/*
 * The corpus of the fuzzer of DNS, and what ever made it fail, replayed: each file is a test. Then random changes of the corpus, as many in all
 * as ROUNDS; SEED=n makes others. Run from the top directory.
 */
#define LLVMFuzzerTestOneInput fuzz_dns_message
#include "../fuzz/dns_message_fuzz.c"
#undef LLVMFuzzerTestOneInput

#include "fuzz_replay.h"

enum { ROUNDS = 100000, CHANGES_MAX = 6 };

static uint64_t seed;

static uint32_t below(uint32_t n) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return (uint32_t)(seed >> 32) % n;
}

/* Bytes that mean something in places where they should not stand. */
static uint8_t odd_byte(void) {
  static const uint8_t some[] = {0, 1, 12, 41, 63, 64, 0x80, 0xc0, 0xff};
  return below(2) ? some[below(sizeof some)] : (uint8_t)below(256);
}

static size_t change(uint8_t *bytes, size_t size) {
  for (uint32_t i = 1 + below(CHANGES_MAX); i > 0; i--) {
    if (size > 0) bytes[below(4) ? below((uint32_t)size) : below((uint32_t)size) % DNS_HEADER % size] = odd_byte();
  }
  return below(3) ? size : below((uint32_t)size + 1);
}

static void survives_changes(void **state) {
  (void)state;
  static uint8_t inputs[64][4096], changed[4096];
  static size_t sizes[64];
  const char *given = getenv("SEED");
  seed = given ? strtoull(given, NULL, 10) * 2 + 1 : 0x9e3779b97f4a7c15;
  size_t count = 0;
  for (size_t i = 0; i < replay_count && count < 64; i++) {
    FILE *file = replays[i].run ? fopen(replays[i].path, "rb") : NULL;
    if (!file) continue;
    sizes[count] = fread(inputs[count], 1, sizeof inputs[0], file);
    fclose(file);
    if (sizes[count] > 0) count++;
  }
  assert_true(count > 0);
  for (int i = 0; i < ROUNDS; i++) {
    size_t which = below((uint32_t)count);
    memcpy(changed, inputs[which], sizes[which]);
    size_t size = change(changed, sizes[which]);
    uint8_t *bytes = exact(changed, size);
    fuzz_dns_message(bytes, size);
    free(bytes);
  }
}

int main(void) {
  replay_add("spec/fuzz/corpus/dns_message", fuzz_dns_message);
  replay_add("spec/fuzz/regress/dns_message", fuzz_dns_message);
  replay_tests[replay_count] = (struct CMUnitTest){.name = "survives_changes", .test_func = survives_changes};
  replay_count++;
  return replay_all("dns_fuzz");
}
