/*
 * heap: the memory of one Lua state and its limit. The VM keeps its own allocator; what that gives out is counted.
 *
 * Beyond the limit nothing is refused, because LuaJIT does not survive that everywhere in compiled code. Instead a hook raises "not
 * enough memory" at the next instruction of the script that the interpreter runs; code that allocates comes there at least once in a
 * cycle of the collector. So the limit may be passed by about its own size, or by one large object. The thread that runs the state.
 */
#ifndef RILLE_HEAP_H
#define RILLE_HEAP_H

#include <stdbool.h>
#include <stddef.h>

struct lua_State;

typedef struct rille_heap {
  struct lua_State *lua;                                               /* borrowed; NULL: no limit is set */
  void *(*inner)(void *data, void *old, size_t old_size, size_t size); /* the VM's own allocator */
  void *inner_data;
  size_t used, limit; /* bytes */
  size_t bound;       /* the limit, and some more once the script was told, so that the error can be handled */
  bool is_hooked;
  bool is_passed;    /* the limit was, since the heap was last settled */
  const char *key;   /* static; of the configuration, for the error: "limits.memory" */
  char library[256]; /* what the names of the library's own files begin with: nothing is raised in there */
} rille_heap;

/* Count from here on; limit 0: none, and nothing is counted. The limit. */
size_t rille_heap_guard(rille_heap *heap, struct lua_State *L, size_t limit, const char *key);
/* Before lua_close, which frees only an allocator that it knows. */
void rille_heap_unguard(rille_heap *heap);
/* After a whole collection: forget that the limit was passed. False: what lives leaves too little room to go on. */
bool rille_heap_settle(rille_heap *heap);
/* After a collector's cycle, with `live` bytes left: let the next one begin early enough to end below the limit. */
void rille_heap_pace(const rille_heap *heap, double live);

#endif
