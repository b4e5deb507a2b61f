/*
 * vm: see vm.h.
 */
#include "vm.h"

#include "chunk.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

typedef struct opening {
  rille_vm *vm;
  const char *source, *arguments;
  size_t size;
  void *owner;
} opening;

/* Under lua_cpcall, so that a lack of memory is an error here as well. */
static int open_vm(lua_State *L) {
  const opening *o = lua_touserdata(L, 1);
  luaL_openlibs(L);
  rille_chunk_open(L);
  lua_getglobal(L, "debug");
  lua_getfield(L, -1, "traceback");
  lua_pushvalue(L, -1);
  o->vm->handler = luaL_ref(L, LUA_REGISTRYINDEX);
  int handler = lua_gettop(L);
  if (luaL_loadbuffer(L, o->source, strlen(o->source), "=boot") != 0) return lua_error(L);
  lua_pushnumber(L, (lua_Number)(uintptr_t)o->owner);
  lua_pushlstring(L, o->arguments, o->size);
  if (lua_pcall(L, 2, 1, handler) != 0) return lua_error(L);
  if (!lua_isfunction(L, -1)) return luaL_error(L, "boot returned no function");
  o->vm->run = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

static void say(lua_State *L, char *message, size_t size) {
  const char *why = lua_tostring(L, -1);
  snprintf(message, size, "%s", why ? why : "?");
  lua_pop(L, 1);
}

bool rille_vm_open(rille_vm *vm, const char *source, const char *arguments, size_t size, void *owner, size_t memory,
                   char *message, size_t message_size) {
  opening o = {.vm = vm, .source = source, .arguments = arguments, .size = size, .owner = owner};
  vm->lua = luaL_newstate();
  if (!vm->lua) {
    snprintf(message, message_size, "no memory for a Lua state");
    return false;
  }
  vm->look_at = rille_heap_guard(&vm->heap, vm->lua, memory, "the pool's memory") / 2;
  if (lua_cpcall(vm->lua, open_vm, &o) == 0) return true;
  say(vm->lua, message, message_size);
  rille_vm_close(vm);
  return false;
}

bool rille_vm_call(rille_vm *vm, char *message, size_t message_size) {
  lua_State *L = vm->lua;
  message[0] = 0;
  lua_rawgeti(L, LUA_REGISTRYINDEX, vm->handler);
  int handler = lua_gettop(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, vm->run);
  bool is_good = false;
  if (lua_pcall(L, 0, 1, handler) != 0) {
    say(L, message, message_size);
  } else {
    is_good = !lua_toboolean(L, -1);
    lua_pop(L, 1);
  }
  lua_settop(L, handler - 1);
  return is_good;
}

static int gc_all(lua_State *L) {
  lua_gc(L, LUA_GCCOLLECT, 0);
  return 0;
}

void rille_vm_collect(rille_vm *vm) {
  lua_pushcfunction(vm->lua, gc_all);
  if (lua_pcall(vm->lua, 0, 0, 0) != 0) lua_pop(vm->lua, 1); /* a finalizer's error; the next cycle goes on */
  vm->look_at = vm->heap.used < vm->heap.limit ? (vm->heap.used + vm->heap.limit) / 2 : vm->heap.limit;
  rille_heap_pace(&vm->heap, (double)vm->heap.used);
}

bool rille_vm_settle(rille_vm *vm) {
  if (!vm->heap.lua || (!vm->heap.is_passed && vm->heap.used <= vm->look_at)) return true;
  rille_vm_collect(vm);
  return rille_heap_settle(&vm->heap);
}

void rille_vm_close(rille_vm *vm) {
  rille_heap_unguard(&vm->heap);
  lua_close(vm->lua);
  vm->lua = NULL;
}
