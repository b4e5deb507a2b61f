/*
 * chunk_load: a file to a Lua function, by way of a set: the first state that asks compiles it, the others take what it made. The
 * messages are those of loadfile. Between taking memory and giving it up only calls of Lua stand that do not raise.
 */
#include "chunk.h"

#include <lauxlib.h>
#include <lua.h>
#include <stdlib.h>
#include <string.h>

typedef struct dump {
  char *bytes; /* owned */
  size_t size, room;
} dump;

static int write_dump(lua_State *L, const void *bytes, size_t size, void *to) {
  (void)L;
  dump *d = to;
  if (d->size + size > d->room) {
    size_t room = (d->size + size) * 2;
    char *wide = realloc(d->bytes, room);
    if (!wide) return 1;
    d->bytes = wide;
    d->room = room;
  }
  memcpy(d->bytes + d->size, bytes, size);
  d->size += size;
  return 0;
}

static int load_kept(lua_State *L, const rille_chunk *c) {
  bool is_loaded = luaL_loadbuffer(L, c->bytes, (size_t)c->bytes_size, c->path) == 0;
  return is_loaded ? RILLE_CHUNK_LOADED : RILLE_CHUNK_FAILED;
}

static int refuse(lua_State *L, const char *path, int err) {
  if (err != RILLE_ERR_FULL) {
    lua_pushfstring(L, "cannot keep %s: %s", path, rille_err_text(err));
  } else {
    lua_pushfstring(L, "cannot keep %s: %s: a generation has at most %d files and %d bytes of bytecode", path,
                    rille_err_text(err), RILLE_CHUNK_FILES_MAX, RILLE_CHUNK_BYTES_MAX);
  }
  return RILLE_CHUNK_FAILED;
}

/* The function, or the message of one that does not compile, is on the stack. The chunk that counts; NULL: that does, or *err. */
static const rille_chunk *keep(lua_State *L, rille_chunks *set, const char *path, const rille_source *source,
                               bool is_good, bool *is_ours, int *err) {
  dump d = {.bytes = NULL};
  *err = RILLE_ERR_NO_MEMORY;
  if (is_good && lua_dump(L, write_dump, &d) != 0) {
    free(d.bytes);
    return NULL;
  }
  char *exact = d.bytes ? realloc(d.bytes, d.size) : NULL;
  int kind = is_good ? RILLE_CHUNK_LUA : RILLE_CHUNK_BROKEN;
  char *bytes = exact ? exact : d.bytes;
  const rille_chunk *kept = rille_chunks_put(set, path, source, kind, bytes, d.size, err);
  *is_ours = kept && kept->bytes == bytes; /* compared, not looked at */
  return kept;
}

/* Under its name (at the top of the stack) from here on. */
static int compile(lua_State *L, rille_chunks *set, const char *path, rille_source *source) {
  int name = lua_gettop(L), err;
  bool is_ours = false;
  bool is_good = luaL_loadbuffer(L, source->bytes, source->size, lua_tostring(L, name)) == 0;
  lua_remove(L, name);
  const rille_chunk *kept = keep(L, set, path, source, is_good, &is_ours, &err);
  free(source->bytes);
  if (!is_good) return RILLE_CHUNK_FAILED; /* whether that was kept or not */
  if (kept && is_ours) return RILLE_CHUNK_LOADED;
  lua_pop(L, 1);
  return kept ? load_kept(L, kept) : refuse(L, path, err); /* another was faster; no room */
}

int rille_chunk_load(lua_State *L, rille_chunks *set, const char *path) {
  if (rille_chunks_is_library(path)) set = rille_chunks_library();
  if (!set) return refuse(L, path, RILLE_ERR_NO_MEMORY);
  const rille_chunk *c = rille_chunks_look(set, path);
  if (c && c->kind == RILLE_CHUNK_LUA) return load_kept(L, c);
  rille_source source;
  lua_pushfstring(L, "@%s", path);
  int result = rille_source_read(&source, path, true);
  if (result == RILLE_SOURCE_READ) return compile(L, set, path, &source);
  lua_pop(L, 1);
  bool is_absent = result == RILLE_SOURCE_ABSENT;
  char text[256];
  const char *why = strerror_r(source.error_number, text, sizeof text);
  lua_pushfstring(L, "cannot %s %s: %s", is_absent ? "open" : "read", path, why);
  return is_absent ? RILLE_CHUNK_ABSENT : RILLE_CHUNK_FAILED;
}
