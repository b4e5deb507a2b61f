/*
 * heap: see heap.h.
 */
#include "heap.h"

#include <lauxlib.h>
#include <lua.h>
#include <stdint.h>
#include <string.h>

enum { SPARE_MIN = 256 << 10, PAUSE_MIN = 100, PAUSE_DEFAULT = 200 };

static rille_heap *heap_of(lua_State *L) {
  void *data;
  lua_getallocf(L, &data);
  return data;
}

static void unhook(rille_heap *heap) {
  if (heap->is_hooked) lua_sethook(heap->lua, NULL, 0, 0);
  heap->is_hooked = false;
}

/* An error in the middle of the library would leave its tables half changed; it comes back to the script soon enough. */
static void raise(lua_State *L, lua_Debug *at) {
  rille_heap *heap = heap_of(L);
  lua_getinfo(L, "S", at);
  size_t size = strlen(heap->library);
  if (size > 0 && strncmp(at->source, heap->library, size) == 0) return;
  unhook(heap);
  size_t share = heap->limit / 16;
  heap->bound = heap->used + (share > SPARE_MIN ? share : SPARE_MIN);
  luaL_error(L, "not enough memory (%s is %d KiB)", heap->key, (int)(heap->limit / 1024));
}

static void *counted(void *data, void *old, size_t old_size, size_t size) {
  rille_heap *heap = data;
  void *p = heap->inner(heap->inner_data, old, old_size, size);
  if (!p && size > 0) return NULL;
  heap->used += size - old_size;
  if (heap->used <= heap->bound || heap->is_hooked) return p;
  heap->is_passed = heap->is_hooked = true;
  lua_sethook(heap->lua, raise, LUA_MASKCOUNT, 1);
  return p;
}

size_t rille_heap_guard(rille_heap *heap, struct lua_State *L, size_t limit, const char *key) {
  heap->is_hooked = heap->is_passed = false; /* the state before may have been closed in the middle */
  heap->used = 0;
  if (limit == 0) return 0;
  heap->key = key;
  heap->lua = L;
  heap->limit = heap->bound = limit;
  heap->used = (size_t)lua_gc(L, LUA_GCCOUNT, 0) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB, 0);
  heap->inner = lua_getallocf(L, &heap->inner_data);
  lua_setallocf(L, counted, heap);
  return limit;
}

void rille_heap_unguard(rille_heap *heap) {
  if (!heap->lua) return;
  unhook(heap);
  lua_setallocf(heap->lua, heap->inner, heap->inner_data);
  heap->lua = NULL;
}

bool rille_heap_settle(rille_heap *heap) {
  unhook(heap);
  heap->is_passed = false;
  heap->bound = heap->limit;
  return heap->used <= heap->limit / 4 * 3;
}

/* A cycle that begins at P percent of what is live ends, at the VM's usual speed, when half of that has come on top. */
void rille_heap_pace(const rille_heap *heap, double live) {
  if (!heap->lua || live <= 0) return;
  double pause = 100 * ((double)heap->limit / live - 0.5);
  if (pause < PAUSE_MIN) pause = PAUSE_MIN;
  lua_gc(heap->lua, LUA_GCSETPAUSE, pause < PAUSE_DEFAULT ? (int)pause : PAUSE_DEFAULT);
}
