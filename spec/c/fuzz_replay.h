/*
 * fuzz_replay: runs fuzzers over the files of directories: each file is a test. Included once, behind the fuzzers.
 */
#ifndef RILLE_SPEC_FUZZ_REPLAY_H
#define RILLE_SPEC_FUZZ_REPLAY_H

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { REPLAY_FILES_MAX = 2000, REPLAY_SIZE_MAX = 1 << 16 };

typedef int fuzzer(const uint8_t *bytes, size_t size);

typedef struct replay {
  fuzzer *run;
  char path[512];
} replay;

static replay replays[REPLAY_FILES_MAX];
static struct CMUnitTest replay_tests[REPLAY_FILES_MAX];
static size_t replay_count;

static inline void replay_file(void **state) {
  static uint8_t input[REPLAY_SIZE_MAX];
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

static inline int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static inline void replay_add(const char *directory, fuzzer *run) {
  struct dirent **files;
  int found = scandir(directory, &files, is_visible, alphasort);
  for (int i = 0; i < found; i++) {
    replay *r = &replays[replay_count];
    if (replay_count == REPLAY_FILES_MAX) abort();
    r->run = run;
    snprintf(r->path, sizeof r->path, "%s/%s", directory, files[i]->d_name);
    replay_tests[replay_count++] = (struct CMUnitTest){.name = r->path, .test_func = replay_file, .initial_state = r};
    free(files[i]);
  }
  if (found < 1) fprintf(stderr, "%s: no files\n", directory), exit(1);
  free(files);
}

static inline int replay_all(const char *name) {
  return _cmocka_run_group_tests(name, replay_tests, replay_count, NULL, NULL);
}

#endif
