/*
 * pairs: next() as a C function, which LuaJIT's compiler knows nothing of. Its own one it compiles, in some versions wrongly:
 * lua/rille/pairs.lua says which, and puts this in its place there. Speaks the Lua C API.
 */
#include <lauxlib.h>
#include <lua.h>

/* rille_lua_next(table, key) -> key, value. A Lua C function, found with package.loadlib. */
__attribute__((visibility("default"))) int rille_lua_next(lua_State *L);

int rille_lua_next(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 2);
  if (lua_next(L, 1)) return 2;
  lua_pushnil(L);
  return 1;
}
