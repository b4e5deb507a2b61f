/*
 * The corpus of the fuzzer of Redis commands and what ever made it fail, replayed: each file is a test. Run from the top directory.
 */
#define LLVMFuzzerTestOneInput fuzz_commands
#include "../fuzz/redis_commands_fuzz.c"
#undef LLVMFuzzerTestOneInput

#include "fuzz_replay.h"

int main(void) {
  replay_add("spec/fuzz/corpus/redis_commands", fuzz_commands);
  replay_add("spec/fuzz/regress/redis_commands", fuzz_commands);
  return replay_all("redis_fuzz");
}
