/*
 * vm: the Lua state of a worker: no loop, one function that is called for each job. Used by one thread, which may be another than the one that
 * opened it.
 */
#ifndef RILLE_VM_H
#define RILLE_VM_H

#include "heap.h"

#include <stdbool.h>

typedef struct rille_vm {
  struct lua_State *lua;
  int run; /* references in its registry: the function, the message handler */
  int handler;
  rille_heap heap;
  size_t look_at; /* bytes of it at which what jobs have left is collected */
} rille_vm;

/* Run source(owner, arguments), which must return the function; owner comes as a number. False, with a message, when that raised or
 * there is no memory: nothing is open then. memory: the limit of its heap, 0: none; vm stays where it is. */
bool rille_vm_open(rille_vm *vm, const char *source, const char *arguments, size_t size, void *owner, size_t memory,
                   char *message, size_t message_size);
/* Call the function. False: the state is not to be trusted any more (no memory); message says why when the call raised. */
bool rille_vm_call(rille_vm *vm, char *message, size_t message_size);
void rille_vm_collect(rille_vm *vm);
/* After a job: collect what it left, if that is much. False: what lives leaves too little room to go on. */
bool rille_vm_settle(rille_vm *vm);
void rille_vm_close(rille_vm *vm);

#endif
