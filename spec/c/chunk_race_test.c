/*
 * One set and many threads, each with a Lua state of its own: all ask for the same modules for the first time at once, while the files
 * change, come and go; and references that are taken and given back.
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "chunk.h"

enum { THREADS = 4, MODULES = 20, ROUNDS = 60, SAID = 4096 };

static char folder[64];
static pthread_barrier_t start;
static const char *code;

static const char ALL[] = "local seen = {}\n"
                          "for i = first, first + count - 1 do\n"
                          "  local n = i % count\n"
                          "  seen[n + 1] = require('m' .. n)\n"
                          "end\n"
                          "return table.concat(seen) .. dofile(folder .. '/b/m0.lua')\n";
static const char ONE[] = "return require 'one'";

static void path_of(char *to, size_t size, const char *place, int module) {
  snprintf(to, size, "%s/%s/m%d.lua", folder, place, module);
}

/* A file appears as a whole, as editors do it. */
static void write_module(const char *place, int module, int version) {
  char path[128], fresh[136];
  path_of(path, sizeof path, place, module);
  snprintf(fresh, sizeof fresh, "%s.new", path);
  FILE *file = fopen(fresh, "w");
  assert_non_null(file);
  fprintf(file, "return '%s%d.%d '\n", place, module, version);
  fclose(file);
  assert_int_equal(rename(fresh, path), 0);
}

typedef struct user {
  pthread_t thread;
  double id;
  int first; /* the module it begins with */
  char said[SAID];
} user;

/* What a state of the generation sees. */
static void *load_all(void *arg) {
  static const char begin[] = "local id, folder, first, count = ...\n"
                              "assert(debug.getregistry()['rille.chunk'](id))\n"
                              "package.path = folder .. '/a/?.lua;' .. folder .. '/b/?.lua'\n";
  user *u = arg;
  lua_State *L = luaL_newstate();
  assert_non_null(L);
  luaL_openlibs(L);
  rille_chunk_open(L);
  lua_pushfstring(L, "%s%s", begin, code);
  assert_int_equal(luaL_loadstring(L, lua_tostring(L, -1)), 0);
  if (code == ALL) pthread_barrier_wait(&start);
  lua_pushnumber(L, u->id);
  lua_pushstring(L, folder);
  lua_pushinteger(L, u->first);
  lua_pushinteger(L, MODULES);
  if (lua_pcall(L, 4, 1, 0) != 0) fprintf(stderr, "%s\n", lua_tostring(L, -1));
  snprintf(u->said, sizeof u->said, "%s", lua_tostring(L, -1));
  lua_close(L);
  return NULL;
}

static atomic_bool is_over;

/* The files of the first place come and go, those of the second change. */
static void *edit(void *arg) {
  (void)arg;
  for (int version = 1; !atomic_load(&is_over); version++) {
    for (int module = 0; module < MODULES; module++) {
      char path[128], away[136];
      path_of(path, sizeof path, "a", module);
      snprintf(away, sizeof away, "%s.away", path);
      if (version % 2) rename(path, away);
      else rename(away, path);
    }
    write_module("b", version % MODULES, version);
  }
  return NULL;
}

/* A watcher, which has no state. */
static void *look(void *arg) {
  rille_chunks *set = rille_chunks_find(*(double *)arg);
  char hash[RILLE_CHUNK_HASH];
  while (set && !atomic_load(&is_over)) {
    const rille_chunk *c;
    double bytes = 0;
    for (double i = 0; (c = rille_chunks_file(set, i)); i++) bytes += c->bytes_size;
    assert_true(bytes <= rille_chunks_bytes(set));
    for (double i = rille_chunks_misses(set); i-- > 0;) {
      const char *path = rille_chunks_miss(set, i);
      assert_true(!path || path[0] == '/');
    }
    assert_int_equal(rille_chunks_hash(set, hash), RILLE_OK);
    rille_chunks_changed(set);
    usleep(100);
  }
  if (set) rille_chunks_release(set);
  return NULL;
}

static void run_generation(void) {
  int err;
  user users[THREADS];
  rille_chunks *set = rille_chunks_new("race", &err);
  assert_non_null(set);
  double id = rille_chunks_id(set);
  pthread_t editor, watcher;
  atomic_store(&is_over, false);
  assert_int_equal(pthread_create(&editor, NULL, edit, NULL), 0);
  assert_int_equal(pthread_create(&watcher, NULL, look, &id), 0);
  for (int i = 0; i < THREADS; i++) {
    users[i] = (user){.id = id, .first = i / 2 * (MODULES / 2)};
    assert_int_equal(pthread_create(&users[i].thread, NULL, load_all, &users[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) pthread_join(users[i].thread, NULL);
  atomic_store(&is_over, true);
  pthread_join(editor, NULL);
  pthread_join(watcher, NULL);
  assert_string_not_equal(users[0].said, "");
  assert_null(strstr(users[0].said, "error"));
  for (int i = 1; i < THREADS; i++) assert_string_equal(users[i].said, users[0].said);
  rille_chunks_release(set);
  assert_null(rille_chunks_find(id));
}

static void all_states_see_the_same(void **state) {
  (void)state;
  code = ALL;
  pthread_barrier_init(&start, NULL, THREADS);
  for (int round = 0; round < ROUNDS; round++) run_generation();
  pthread_barrier_destroy(&start);
}

/* ---- two states that find a module in different places ---------------------------------------------------------- */

static void put_text(int fd, const char *text) {
  size_t size = strlen(text);
  assert_int_equal(write(fd, text, size), size);
  close(fd);
}

/* A state that has come to the pipe at path, which is its module's file, and waits for what is in it. */
static int begin_slow(user *slow, rille_chunks *set, const char *path) {
  code = ONE;
  *slow = (user){.id = rille_chunks_id(set)};
  assert_int_equal(mkfifo(path, 0600), 0);
  assert_int_equal(pthread_create(&slow->thread, NULL, load_all, slow), 0);
  int fd = open(path, O_WRONLY); /* waits for the reader */
  assert_true(fd >= 0);
  return fd;
}

static void assert_both(user *slow, user *quick, rille_chunks *set, const char *said) {
  assert_string_equal(quick->said, said);
  assert_string_equal(slow->said, said);
  rille_chunks_release(set);
}

static void a_file_that_came_first_is_taken_by_who_missed_it(void **state) {
  (void)state;
  char front[80], behind[80];
  int err;
  user slow, quick;
  rille_chunks *set = rille_chunks_new("late", &err);
  assert_non_null(set);
  snprintf(front, sizeof front, "%s/a/one.lua", folder);
  snprintf(behind, sizeof behind, "%s/b/one.lua", folder);
  int fd = begin_slow(&slow, set, behind);
  put_text(open(front, O_WRONLY | O_CREAT, 0600), "return 'front'");
  quick = (user){.id = rille_chunks_id(set)};
  load_all(&quick);
  put_text(fd, "return 'behind'");
  pthread_join(slow.thread, NULL);
  unlink(front);
  unlink(behind);
  assert_both(&slow, &quick, set, "front");
}

static void a_file_that_others_missed_is_not_taken(void **state) {
  (void)state;
  char front[80], behind[80];
  int err;
  user slow, quick;
  rille_chunks *set = rille_chunks_new("gone", &err);
  assert_non_null(set);
  snprintf(front, sizeof front, "%s/a/one.lua", folder);
  snprintf(behind, sizeof behind, "%s/b/one.lua", folder);
  put_text(open(behind, O_WRONLY | O_CREAT, 0600), "return 'behind'");
  int fd = begin_slow(&slow, set, front);
  unlink(front);
  quick = (user){.id = rille_chunks_id(set)};
  load_all(&quick);
  put_text(fd, "return 'front'");
  pthread_join(slow.thread, NULL);
  unlink(behind);
  assert_both(&slow, &quick, set, "behind");
}

/* ---- references ------------------------------------------------------------------------------------------------ */

/* Whoever finds a set has it, though its last owner may be giving it back. */
static void *take_and_give(void *arg) {
  double id = *(double *)arg;
  rille_chunks *set;
  while ((set = rille_chunks_find(id))) {
    rille_chunks_note_miss(set, "/no/such");
    assert_string_equal(rille_chunks_label(set), "refs");
    rille_chunks_release(set);
    if (atomic_load(&is_over)) break;
  }
  return NULL;
}

static void a_set_ends_under_those_who_look_for_it(void **state) {
  (void)state;
  for (int round = 0; round < 200; round++) {
    int err;
    pthread_t threads[THREADS];
    rille_chunks *set = rille_chunks_new("refs", &err);
    assert_non_null(set);
    double id = rille_chunks_id(set);
    atomic_store(&is_over, false);
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, take_and_give, &id), 0);
    rille_chunks_release(set);
    atomic_store(&is_over, true);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_null(rille_chunks_find(id));
  }
}

static int make_folder(void **state) {
  (void)state;
  char path[80];
  snprintf(folder, sizeof folder, "/tmp/rille-chunk-XXXXXX");
  if (!mkdtemp(folder)) return -1;
  for (int place = 0; place < 2; place++) {
    snprintf(path, sizeof path, "%s/%s", folder, place ? "b" : "a");
    if (mkdir(path, 0700) != 0) return -1;
  }
  for (int i = 0; i < MODULES; i++) {
    write_module("a", i, 0);
    write_module("b", i, 0);
  }
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  char command[100];
  snprintf(command, sizeof command, "rm -r %s", folder);
  return system(command);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_states_see_the_same),
      cmocka_unit_test(a_file_that_came_first_is_taken_by_who_missed_it),
      cmocka_unit_test(a_file_that_others_missed_is_not_taken),
      cmocka_unit_test(a_set_ends_under_those_who_look_for_it),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
