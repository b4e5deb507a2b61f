/*
 * The fuzzers' corpora and what ever made one of them fail, replayed: each file is a test. Run from the top directory.
 */
#define LLVMFuzzerTestOneInput fuzz_head
#include "../fuzz/http_head_fuzz.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_chunk
#include "../fuzz/http_chunk_fuzz.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_reply
#include "../fuzz/http_reply_fuzz.c"
#undef LLVMFuzzerTestOneInput

#include "fuzz_replay.h"

int main(void) {
  replay_add("spec/fuzz/corpus/http_head", fuzz_head);
  replay_add("spec/fuzz/corpus/http_chunk", fuzz_chunk);
  replay_add("spec/fuzz/regress/http_head", fuzz_head);
  replay_add("spec/fuzz/regress/http_chunk", fuzz_chunk);
  replay_add("spec/fuzz/corpus/http_reply", fuzz_reply);
  replay_add("spec/fuzz/regress/http_reply", fuzz_reply);
  return replay_all("http_fuzz");
}
