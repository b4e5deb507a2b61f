/*
 * The corpus of the PROXY header's fuzzer, and what ever made it fail, replayed: each file is a test. Run from the top directory.
 */
#define LLVMFuzzerTestOneInput fuzz_proxy_head
#include "../fuzz/proxy_head_fuzz.c"
#undef LLVMFuzzerTestOneInput

#include "fuzz_replay.h"

int main(void) {
  replay_add("spec/fuzz/corpus/proxy_head", fuzz_proxy_head);
  replay_add("spec/fuzz/regress/proxy_head", fuzz_proxy_head);
  return replay_all("proxy_fuzz");
}
