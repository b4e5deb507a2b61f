/*
 * The fuzzers' corpora and what ever made one of them fail, replayed: each file is a test. Run from the top directory.
 */
#define LLVMFuzzerTestOneInput fuzz_head
#include "../fuzz/http_head_fuzz.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_chunk
#include "../fuzz/http_chunk_fuzz.c"
#undef LLVMFuzzerTestOneInput

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { FILES_MAX = 2000, INPUT_MAX = 1 << 16 };

typedef int fuzzer(const uint8_t *bytes, size_t size);

typedef struct replay {
  fuzzer *run;
  char path[512];
} replay;

static replay replays[FILES_MAX];
static struct CMUnitTest tests[FILES_MAX];
static size_t count;

static void replay_file(void **state) {
  static uint8_t input[INPUT_MAX];
  const replay *r = *state;
  FILE *file = fopen(r->path, "rb");
  assert_non_null(file);
  size_t size = fread(input, 1, sizeof input, file);
  fclose(file);
  /* a block of its own size, for what a sanitizer watches */
  uint8_t *bytes = malloc(size + 1);
  assert_non_null(bytes);
  memcpy(bytes, input, size);
  r->run(bytes, size);
  free(bytes);
}

static int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static void add_files(const char *directory, fuzzer *run) {
  struct dirent **files;
  int found = scandir(directory, &files, is_visible, alphasort);
  for (int i = 0; i < found; i++) {
    replay *r = &replays[count];
    if (count == FILES_MAX) abort();
    r->run = run;
    snprintf(r->path, sizeof r->path, "%s/%s", directory, files[i]->d_name);
    tests[count++] = (struct CMUnitTest){.name = r->path, .test_func = replay_file, .initial_state = r};
    free(files[i]);
  }
  if (found < 1) fprintf(stderr, "%s: no files\n", directory), exit(1);
  free(files);
}

int main(void) {
  add_files("spec/fuzz/corpus/http_head", fuzz_head);
  add_files("spec/fuzz/corpus/http_chunk", fuzz_chunk);
  add_files("spec/fuzz/regress/http_head", fuzz_head);
  add_files("spec/fuzz/regress/http_chunk", fuzz_chunk);
  return _cmocka_run_group_tests("http_fuzz", tests, count, NULL, NULL);
}
