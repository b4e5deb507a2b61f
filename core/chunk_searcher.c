/*
 * chunk_searcher: what require, loadfile and dofile do in the Lua states that Rille makes: what LuaJIT's own do, with the same
 * messages, but files come by way of the set of their generation, and those of the library by way of that of the process.
 *
 * Each function has three upvalues: the box, which holds the state's reference to its set, the table package, and the function of
 * LuaJIT's that it stands for. Without a set (there is none yet, or the state is being closed) that one does the work.
 */
#include "chunk.h"

#include <lauxlib.h>
#include <lua.h>
#include <string.h>

enum { BOX = 1, PACKAGE, STOCK, UPVALUES = 3 };
enum { LOADER_LUA = 2, LOADER_C, LOADER_C_ROOT };

typedef struct box {
  rille_chunks *set; /* owned; NULL: none */
} box;

static rille_chunks *set_of(lua_State *L) {
  const box *b = lua_touserdata(L, lua_upvalueindex(BOX));
  return b->set;
}

static int close_box(lua_State *L) {
  box *b = lua_touserdata(L, 1);
  if (b->set) rille_chunks_release(b->set);
  b->set = NULL; /* a finalizer that comes later may still load */
  return 0;
}

/* What LuaJIT does with the arguments, all that are on the stack. */
static int do_stock(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(STOCK));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

/* ---- paths ----------------------------------------------------------------------------------------------------- */

/* The paths that a name stands for by a string of templates, one after the other. */
typedef struct walk {
  const char *templates; /* the rest */
  const char *name;      /* with slashes */
} walk;

/* Push the next one; NULL when there are no more. */
static const char *next_path(lua_State *L, walk *w) {
  while (*w->templates == ';') w->templates++;
  if (!*w->templates) return NULL;
  size_t size = strcspn(w->templates, ";");
  lua_pushlstring(L, w->templates, size);
  w->templates += size;
  const char *path = luaL_gsub(L, lua_tostring(L, -1), "?", w->name);
  lua_remove(L, -2);
  return path;
}

/* The path at the top of the stack joins the list, a string in slot `list`, each with its NUL. */
static void pass_over(lua_State *L, int list) {
  lua_pushvalue(L, list);
  lua_insert(L, -2);
  lua_pushlstring(L, "", 1);
  lua_concat(L, 3);
  lua_replace(L, list);
}

static void note_misses(lua_State *L, rille_chunks *set, int list) {
  size_t size;
  const char *path = lua_tolstring(L, list, &size);
  for (const char *end = path + size; path < end; path += strlen(path) + 1) rille_chunks_note_miss(set, path);
}

static int say_misses(lua_State *L, int list) {
  luaL_Buffer b;
  size_t size;
  const char *path = lua_tolstring(L, list, &size);
  luaL_buffinit(L, &b);
  for (const char *end = path + size; path < end; path += strlen(path) + 1) {
    luaL_addstring(&b, "\n\tno file '");
    luaL_addstring(&b, path);
    luaL_addstring(&b, "'");
  }
  luaL_pushresult(&b);
  return 1;
}

/* ---- modules in Lua -------------------------------------------------------------------------------------------- */

static int fail(lua_State *L, const char *name, const char *path) {
  return luaL_error(L, "error loading module '%s' from file '%s':\n\t%s", name, path, lua_tostring(L, -1));
}

/* The library's own modules, wherever package.path leads: 1 with the function pushed, 0 when there is none of that name. */
static int search_library(lua_State *L, const char *name) {
  static const char *const forms[] = {"%s%s.lua", "%s%s/init.lua"};
  const char *root = rille_chunks_library_root();
  if (!root || strncmp(name, "rille", 5) != 0 || (name[5] && name[5] != '.')) return 0;
  const char *file = luaL_gsub(L, name, ".", "/");
  for (int i = name[5] ? 0 : 1; i < 2; i++) {
    const char *path = lua_pushfstring(L, forms[i], root, file);
    int result = rille_chunk_load(L, NULL, path);
    if (result == RILLE_CHUNK_LOADED) return 1;
    if (result == RILLE_CHUNK_FAILED) return fail(L, name, path);
    lua_pop(L, 2);
  }
  return 0;
}

enum { NAME = 1, LIST, TEMPLATES, FILE_NAME, PATH, FUNCTION };

/* Push path and function of the first path where there is a file. False: there is none; LIST has those before. */
static bool find(lua_State *L, rille_chunks *set) {
  walk w = {.templates = lua_tostring(L, TEMPLATES), .name = lua_tostring(L, FILE_NAME)};
  const char *path;
  while ((path = next_path(L, &w))) {
    if (!rille_chunks_is_passed(set, path)) {
      int result = rille_chunk_load(L, set, path);
      if (result == RILLE_CHUNK_LOADED) return true;
      if (result == RILLE_CHUNK_FAILED) {
        note_misses(L, set, LIST);
        fail(L, lua_tostring(L, NAME), path);
      }
      lua_pop(L, 1);
    }
    pass_over(L, LIST);
  }
  return false;
}

static bool settle(lua_State *L, rille_chunks *set) {
  size_t size;
  const char *before = lua_tolstring(L, LIST, &size), *path = lua_tostring(L, PATH);
  return rille_chunks_is_library(path) || rille_chunks_settle(set, path, before, size);
}

static int search_lua(lua_State *L) {
  const char *name = luaL_checkstring(L, NAME);
  lua_settop(L, NAME);
  if (search_library(L, name)) return 1;
  rille_chunks *set = set_of(L);
  lua_settop(L, NAME);
  if (!set) return do_stock(L);
  do {
    lua_settop(L, NAME);
    lua_pushliteral(L, "");
    lua_getfield(L, lua_upvalueindex(PACKAGE), "path");
    if (!lua_isstring(L, TEMPLATES)) return luaL_error(L, "'package.path' must be a string");
    luaL_gsub(L, name, ".", "/");
    if (!find(L, set)) {
      note_misses(L, set, LIST);
      return say_misses(L, LIST);
    }
  } while (!settle(L, set));
  return 1;
}

/* ---- modules in C ---------------------------------------------------------------------------------------------- */

/* Note the file that LuaJIT is about to load for the name at the top of the stack, which goes. */
static void note_module(lua_State *L, rille_chunks *set) {
  int top = lua_gettop(L);
  lua_getfield(L, lua_upvalueindex(PACKAGE), "cpath");
  walk w = {.templates = lua_tostring(L, -1), .name = luaL_gsub(L, lua_tostring(L, top), ".", "/")};
  const char *path;
  while (w.templates && (path = next_path(L, &w))) {
    int err = rille_chunks_note(set, path, RILLE_CHUNK_MODULE);
    if (!err || err == RILLE_ERR_FULL || err == RILLE_ERR_NO_MEMORY) break;
    lua_pop(L, 1);
  }
  lua_settop(L, top - 1);
}

static int search_c(lua_State *L) {
  rille_chunks *set = set_of(L);
  luaL_checkstring(L, NAME);
  lua_settop(L, NAME);
  lua_pushvalue(L, NAME);
  if (set) note_module(L, set);
  lua_settop(L, NAME);
  return do_stock(L);
}

static int search_c_root(lua_State *L) {
  rille_chunks *set = set_of(L);
  const char *name = luaL_checkstring(L, NAME), *dot = strchr(name, '.');
  lua_settop(L, NAME);
  lua_pushlstring(L, name, dot ? (size_t)(dot - name) : 0);
  if (set && dot) note_module(L, set);
  lua_settop(L, NAME);
  return do_stock(L);
}

/* ---- files by their path --------------------------------------------------------------------------------------- */

static bool allows(rille_chunks *set, const char *path, const char *mode) {
  if (rille_chunks_is_library(path)) set = rille_chunks_library();
  const rille_chunk *c = rille_chunks_look(set, path);
  return !c || strchr(mode, c->is_text ? 't' : 'b');
}

/* loadfile([path[, mode[, env]]]) */
static int load_file(lua_State *L) {
  rille_chunks *set = set_of(L);
  const char *path = luaL_optstring(L, 1, NULL), *mode = luaL_optstring(L, 2, NULL);
  if (!set || !path) return do_stock(L);
  lua_settop(L, 3);
  int result = rille_chunk_load(L, set, path);
  if (result == RILLE_CHUNK_LOADED && mode && !allows(set, path, mode)) {
    lua_pushliteral(L, "attempt to load chunk with wrong mode");
    result = RILLE_CHUNK_FAILED;
  }
  if (result == RILLE_CHUNK_ABSENT) rille_chunks_note_miss(set, path);
  if (result == RILLE_CHUNK_LOADED) {
    if (!lua_istable(L, 3)) return 1;
    lua_pushvalue(L, 3);
    lua_setfenv(L, -2);
    return 1;
  }
  lua_pushnil(L);
  lua_insert(L, -2);
  return 2;
}

/* dofile([path]) */
static int do_file(lua_State *L) {
  rille_chunks *set = set_of(L);
  const char *path = luaL_optstring(L, 1, NULL);
  if (!set || !path) return do_stock(L);
  lua_settop(L, 1);
  int result = rille_chunk_load(L, set, path);
  if (result == RILLE_CHUNK_ABSENT) rille_chunks_note_miss(set, path);
  if (result != RILLE_CHUNK_LOADED) return lua_error(L);
  lua_call(L, 0, LUA_MULTRET);
  return lua_gettop(L) - 1;
}

/* ---- a state --------------------------------------------------------------------------------------------------- */

/* fn, with the stack's top as what it stands for, which it replaces. */
static void stand_in(lua_State *L, lua_CFunction fn, int b, int package) {
  lua_pushvalue(L, b);
  lua_pushvalue(L, package);
  lua_pushvalue(L, -3);
  lua_pushcclosure(L, fn, UPVALUES);
  lua_replace(L, -2);
}

static void replace_loader(lua_State *L, int loader, lua_CFunction fn, int b, int package) {
  lua_getfield(L, package, "loaders");
  lua_rawgeti(L, -1, loader);
  stand_in(L, fn, b, package);
  lua_rawseti(L, -2, loader);
  lua_pop(L, 1);
}

static void replace_global(lua_State *L, const char *name, lua_CFunction fn, int b, int package) {
  lua_getglobal(L, name);
  stand_in(L, fn, b, package);
  lua_setglobal(L, name);
}

/* attach(id): this state belongs to the generation whose set has that id: true, or false when that is over. Once. */
static int attach(lua_State *L) {
  rille_chunks *set = rille_chunks_find(luaL_checknumber(L, 1));
  box *b = lua_touserdata(L, lua_upvalueindex(BOX));
  bool is_first = !b->set;
  if (is_first) b->set = set;
  else if (set) rille_chunks_release(set);
  lua_pushboolean(L, is_first && set);
  if (!is_first || !set) return 1;
  int at = lua_gettop(L) + 1, package = at + 1;
  lua_pushvalue(L, lua_upvalueindex(BOX));
  lua_pushvalue(L, lua_upvalueindex(PACKAGE));
  replace_loader(L, LOADER_C, search_c, at, package);
  replace_loader(L, LOADER_C_ROOT, search_c_root, at, package);
  replace_global(L, "loadfile", load_file, at, package);
  replace_global(L, "dofile", do_file, at, package);
  lua_settop(L, at - 1);
  return 1;
}

int rille_chunk_open(lua_State *L) {
  int top = lua_gettop(L);
  box *b = lua_newuserdata(L, sizeof *b);
  b->set = NULL;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, close_box);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_getglobal(L, "package");
  replace_loader(L, LOADER_LUA, search_lua, top + 1, top + 2);
  lua_pushcclosure(L, attach, STOCK - 1);
  lua_setfield(L, LUA_REGISTRYINDEX, "rille.chunk");
  lua_settop(L, top);
  return 0;
}
