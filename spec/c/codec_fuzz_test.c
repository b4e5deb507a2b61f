/*
 * The corpora of the codecs' fuzzers and what ever made one of them fail, replayed: each file is a test. Run from the top directory.
 */
#define LLVMFuzzerTestOneInput fuzz_length_field
#include "../fuzz/codec_length_field_fuzz.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_netstring
#include "../fuzz/codec_netstring_fuzz.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_resp
#include "../fuzz/codec_resp_fuzz.c"
#undef LLVMFuzzerTestOneInput

#include "fuzz_replay.h"

int main(void) {
  replay_add("spec/fuzz/corpus/codec_length_field", fuzz_length_field);
  replay_add("spec/fuzz/corpus/codec_netstring", fuzz_netstring);
  replay_add("spec/fuzz/corpus/codec_resp", fuzz_resp);
  replay_add("spec/fuzz/regress/codec_length_field", fuzz_length_field);
  replay_add("spec/fuzz/regress/codec_netstring", fuzz_netstring);
  replay_add("spec/fuzz/regress/codec_resp", fuzz_resp);
  return replay_all("codec_fuzz");
}
