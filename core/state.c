/*
 * state: see state.h. It and chunk_*.c speak the Lua C API; lua_* is served by the executable that loaded the library.
 */
#include "state.h"

#include "chunk.h"
#include "control.h"
#include "listener.h"
#include "log.h"
#include "loop.h"
#include "pool.h"
#include "reload.h"
#include "tls.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

enum { EVENTS_FIRST = 64, MAX_INPUT_FIRST = 1 << 20, HIGH_WATER_FIRST = 1 << 20 };

/* ---- events ---------------------------------------------------------------------------------------------------- */

static bool push(rille_event_list *list, int kind, uint32_t slot, int arg) {
  if (list->count == list->capacity) {
    uint32_t capacity = list->capacity ? list->capacity * 2 : EVENTS_FIRST;
    rille_event *items = realloc(list->items, sizeof *items * capacity);
    if (!items) {
      RILLE_LOG(RILLE_LOG_ERROR, "no memory for an event: lost");
      return false;
    }
    list->items = items;
    list->capacity = capacity;
  }
  list->items[list->count++] = (rille_event){.slot = slot, .kind = (int16_t)kind, .arg = (int16_t)arg};
  return true;
}

bool rille_state_emit(rille_state *state, int kind, uint32_t slot, int arg) {
  return push(&state->ready, kind, slot, arg);
}

bool rille_state_emit_later(rille_state *state, int kind, uint32_t slot, int arg) {
  return push(&state->later, kind, slot, arg);
}

void rille_state_begin_turn(rille_state *state) {
  for (uint32_t i = 0; i < state->later.count; i++) {
    const rille_event *event = &state->later.items[i];
    push(&state->ready, event->kind, event->slot, event->arg);
  }
  state->later.count = 0;
}

rille_inbox *rille_state_inbox(rille_state *state) { return &state->inbox; }

/* ---- dispatch -------------------------------------------------------------------------------------------------- */

double rille_state_heap(const rille_state *state) {
  if (!state->lua) return 0;
  return (double)lua_gc(state->lua, LUA_GCCOUNT, 0) * 1024 + lua_gc(state->lua, LUA_GCCOUNTB, 0);
}

/* A growth between two looks is allocation; a fall is the collector's, and hides what was allocated meanwhile. */
static double look_at_heap(rille_state *state) {
  double heap = rille_state_heap(state);
  if (heap > state->heap_last) state->allocated += heap - state->heap_last;
  state->heap_last = heap;
  return heap;
}

/* An error outside of every handler. What Lua has of the loop and what the loop thinks it has may differ now. */
static void fail(rille_state *state) {
  const char *why = lua_tostring(state->lua, -1);
  state->failures++;
  RILLE_LOG(RILLE_LOG_ERROR, "%s: dispatcher failed: %s", state->label, why ? why : "?");
  rille_state_distrust(state);
}

static void forget_events(rille_state *state) {
  state->ready.count = state->later.count = 0;
  state->runnable = false;
}

void rille_state_dispatch(rille_state *state) {
  if (!state->lua || state->is_broken) {
    forget_events(state);
    return;
  }
  rille_event_list work = state->ready;
  state->ready = state->working;
  state->ready.count = 0;
  state->working = work;
  state->inbox = (rille_inbox){.items = work.items, .count = work.count};
  lua_State *L = state->lua;
  rille_place *place = state->loop->place;
  __atomic_store_n(&place->conn, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&place->state, state->index + 1, __ATOMIC_RELAXED);
  do {
    uint32_t before = state->inbox.next;
    lua_pushvalue(L, state->dispatch_index);
    if (lua_pcall(L, 0, 1, state->handler_index) == 0) {
      state->runnable = lua_toboolean(L, -1);
    } else {
      fail(state);
      state->runnable = true; /* of a program's own state: the event is lost, the rest is not */
      if (state->inbox.next == before) state->inbox.next++;
    }
    lua_pop(L, 1);
  } while (state->inbox.next < state->inbox.count && !state->is_broken);
  __atomic_store_n(&place->state, 0, __ATOMIC_RELAXED);
  if (state->heap.is_passed) state->loop->mend_at_ms = 0;
  look_at_heap(state);
}

/* ---- collector ------------------------------------------------------------------------------------------------- */

/* The collector runs between turns, not inside handlers: a cycle begins well before the VM's own threshold (twice the live
 * heap), which stays in force for a handler that allocates a lot in one go. */
enum { STEP_KIB = 32 };

static int gc_step(lua_State *L) {
  lua_pushboolean(L, lua_gc(L, LUA_GCSTEP, STEP_KIB));
  return 1;
}

static int gc_all(lua_State *L) {
  lua_gc(L, LUA_GCCOLLECT, 0);
  return 0;
}

/* Run a step of the collector. A finalizer may raise, which LuaJIT hands on to whoever made the collector run: false. */
static bool guarded(rille_state *state, int results) {
  lua_State *L = state->lua;
  if (lua_pcall(L, 0, results, 0) == 0) return true;
  const char *why = lua_tostring(L, -1);
  RILLE_LOG(RILLE_LOG_ERROR, "%s: a finalizer failed: %s", state->label, why ? why : "?");
  lua_pop(L, 1);
  return false;
}

static void step(rille_state *state) {
  lua_State *L = state->lua;
  lua_pushvalue(L, state->step_index);
  state->collecting = true;
  if (guarded(state, 1)) {
    state->collecting = !lua_toboolean(L, -1);
    lua_pop(L, 1);
  }
  state->heap_last = rille_state_heap(state);
  if (state->collecting) return;
  state->heap_live = state->heap_last;
  rille_heap_pace(&state->heap, state->heap_live);
}

void rille_state_collect(rille_state *state, bool about_to_sleep) {
  if (!state->lua) return;
  double heap = state->heap_last; /* as of the last dispatch: nothing ran since */
  double limit = about_to_sleep ? state->heap_live * 1.25 + (64 << 10) : state->heap_live * 1.5 + (64 << 10);
  if (!state->collecting && heap < limit) return;
  if (state->collecting && !about_to_sleep && heap < limit) return;
  step(state);
}

void rille_state_collect_all(rille_state *state) {
  if (!state->lua || state->collecting || state->heap_last <= state->heap_live) return;
  step(state); /* the rest follows, a step before each sleep */
}

/* Takes no memory itself. */
static void collect_at_once(rille_state *state) {
  lua_pushvalue(state->lua, state->gc_index);
  guarded(state, 0);
  state->collecting = false;
  state->heap_live = state->heap_last = rille_state_heap(state);
  rille_heap_pace(&state->heap, state->heap_live);
}

bool rille_state_is_worn_out(rille_state *state) {
  collect_at_once(state);
  if (!rille_heap_settle(&state->heap)) {
    state->heap.is_passed = true; /* the reason */
    return true;
  }
  RILLE_LOG(RILLE_LOG_WARN, "%s: limits.memory (%zu bytes) was reached; %.0f bytes are in use after a collection",
            state->label, state->heap.limit, state->heap_live);
  return false;
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

static void free_service(rille_service *service) {
  free((void *)(uintptr_t)service->http);
  if (service->codec) rille_codec_release(service->codec);
  if (service->tls) rille_tls_release(service->tls);
  free(service);
}

static uint32_t new_id(void) {
  static _Atomic uint32_t last;
  return atomic_fetch_add(&last, 1) + 1;
}

static rille_state *make(rille_loop *loop, rille_generation *generation) {
  rille_state *state = calloc(1, sizeof *state);
  if (!state) return NULL;
  rille_generation_retain(generation);
  state->generation = generation;
  state->phase = RILLE_STATE_BUILT;
  state->index = generation->place;
  state->id = new_id();
  memcpy(state->label, generation->label, sizeof state->label);
  rille_loop_put(loop, state);
  return state;
}

static void unmake(rille_state *state) {
  rille_loop_take(state->loop, state);
  rille_state_free(state);
}

static bool keep_recipe(rille_state *state, double memory, const char *source, const char *arguments, size_t size) {
  state->memory = (size_t)memory;
  state->source = strdup(source);
  state->arguments = malloc(size ? size : 1);
  if (!state->source || !state->arguments) return false;
  memcpy(state->arguments, arguments, size);
  state->arguments_size = size;
  return true;
}

static bool build(rille_state *state, char *message, size_t message_size) {
  lua_State *L = luaL_newstate();
  if (!L) {
    snprintf(message, message_size, "no memory for a Lua state");
    return false;
  }
  state->lua = L;
  luaL_openlibs(L);
  rille_chunk_open(L);
  lua_pushcfunction(L, gc_step);
  state->step_index = lua_gettop(L);
  lua_pushcfunction(L, gc_all);
  state->gc_index = lua_gettop(L);
  lua_getglobal(L, "debug");
  lua_getfield(L, -1, "traceback");
  lua_remove(L, -2);
  state->handler_index = lua_gettop(L);
  int failed = luaL_loadbuffer(L, state->source, strlen(state->source), "=boot");
  if (!failed) {
    lua_pushnumber(L, (lua_Number)(uintptr_t)state->loop);
    lua_pushnumber(L, (lua_Number)(uintptr_t)state);
    lua_pushlstring(L, state->arguments, state->arguments_size);
    rille_heap_guard(&state->heap, L, state->memory, "limits.memory");
    failed = lua_pcall(L, 3, 2, state->handler_index);
  }
  if (!failed && lua_isfunction(L, -2)) {
    lua_pop(L, 1);
    state->dispatch_index = lua_gettop(L);
    collect_at_once(state);
    state->phase = RILLE_STATE_PROVEN;
    return true;
  }
  const char *why = lua_tostring(L, -1);
  snprintf(message, message_size, "%s", why ? why : "boot returned no dispatcher");
  return false;
}

rille_state *rille_state_new(rille_loop *loop, rille_generation *generation, double memory, const char *source,
                             const char *arguments, size_t arguments_size, char *message, size_t message_size) {
  rille_state *state = make(loop, generation);
  if (!state) {
    snprintf(message, message_size, "no memory for a Lua state");
    return NULL;
  }
  bool is_built = keep_recipe(state, memory, source, arguments, arguments_size);
  if (!is_built) snprintf(message, message_size, "no memory for a Lua state");
  if (is_built && build(state, message, message_size)) return state;
  for (rille_listener *l = loop->listeners; l; l = l->next) {
    if (l->service->state == state) rille_listener_close(l);
  }
  rille_listener_sweep(loop, false);
  rille_loop_evict(loop, state); /* a script may make connections and timers before it raises */
  unmake(state);
  return NULL;
}

rille_state *rille_state_host(rille_loop *loop, rille_generation *generation) {
  rille_state *state = make(loop, generation);
  if (state) state->is_host = true;
  return state;
}

/* ---- again ----------------------------------------------------------------------------------------------------- */

static bool is_used(const rille_loop *loop, const rille_service *service) {
  for (const rille_listener *l = loop->listeners; l; l = l->next) {
    if (l->service == service) return true;
  }
  return false;
}

/* The services of old that listeners use go over to state, behind its own, to be taken up or closed by it; the rest is freed. */
static void inherit_services(rille_state *state, rille_state *old) {
  rille_service **end = &state->services;
  while (*end) end = &(*end)->next;
  while (old->services) {
    rille_service *service = old->services;
    old->services = service->next;
    if (!is_used(state->loop, service)) {
      free_service(service);
      continue;
    }
    service->is_former = true;
    service->state = state;
    service->next = NULL;
    *end = service;
    end = &service->next;
  }
}

void rille_state_succeed(rille_state *state, rille_state *old) {
  state->renewals = old->renewals + 1;
  state->retry_ms = old->retry_ms;
  state->errors += old->errors; /* they are counted for ever */
  state->failures += old->failures;
  state->phase = RILLE_STATE_RUNNING;
  rille_loop_put(old->loop, state);
  inherit_services(state, old);
  rille_reload_replaced(old, state);
  rille_state_free(old);
}

rille_state *rille_state_renew(rille_state *old, bool *is_built, char *message, size_t message_size) {
  rille_state *state = calloc(1, sizeof *state);
  if (!state) return NULL;
  state->generation = old->generation;
  rille_generation_retain(state->generation);
  state->index = old->index;
  state->id = new_id();
  memcpy(state->label, old->label, sizeof state->label);
  state->memory = old->memory;
  state->source = old->source;
  state->arguments = old->arguments;
  state->arguments_size = old->arguments_size;
  old->source = old->arguments = NULL;
  rille_state_succeed(state, old);
  *is_built = build(state, message, message_size);
  return state;
}

uint32_t rille_state_generation(const rille_state *state) { return state->generation->number; }

const char *rille_state_label(const rille_state *state) { return state->label; }

void rille_state_count_error(rille_state *state) { state->errors++; }

void rille_state_set_library(rille_state *state, const char *prefix) {
  snprintf(state->heap.library, sizeof state->heap.library, "%s", prefix);
}

void rille_state_close(rille_state *state) {
  if (state->lua && !state->is_host) {
    rille_heap_unguard(&state->heap);
    lua_close(state->lua);
  }
  state->lua = NULL;
  rille_post_forget(state);
  rille_pools_forget_state(state);
  rille_job_forget(state);
  rille_console_forget(state);
  rille_conn_forget_moved(state);
  forget_events(state);
}

void rille_state_free(rille_state *state) {
  rille_state_close(state);
  while (state->services) {
    rille_service *next = state->services->next;
    free_service(state->services);
    state->services = next;
  }
  rille_generation_release(state->generation);
  free(state->change.inheritance);
  free(state->change.text);
  free(state->source);
  free(state->arguments);
  free(state->working.items);
  free(state->ready.items);
  free(state->later.items);
  free(state);
}

/* ---- services -------------------------------------------------------------------------------------------------- */

rille_service *rille_service_new(rille_state *state, uint32_t id, uint32_t hooks) {
  rille_service *service = calloc(1, sizeof *service);
  if (!service) return NULL;
  service->state = state;
  service->id = id;
  service->hooks = hooks;
  service->max_input = MAX_INPUT_FIRST;
  service->high_water = HIGH_WATER_FIRST;
  service->low_water = UINT32_MAX;
  service->nodelay = true;
  service->next = state->services;
  state->services = service;
  return service;
}

/* ---- a run inside somebody's program --------------------------------------------------------------------------- */

/*
 * rille_lua_run(loop, state, dispatcher) -> status. A Lua C function, found with package.loadlib: unlike a function called through
 * the FFI it may call back into its VM, so the loop can run the dispatcher there. Addresses come as numbers.
 */
__attribute__((visibility("default"))) int rille_lua_run(lua_State *L);

int rille_lua_run(lua_State *L) {
  rille_loop *loop = (rille_loop *)(uintptr_t)luaL_checknumber(L, 1);
  rille_state *state = (rille_state *)(uintptr_t)luaL_checknumber(L, 2);
  luaL_checktype(L, 3, LUA_TFUNCTION);
  lua_settop(L, 3);
  lua_getglobal(L, "debug");
  lua_getfield(L, -1, "traceback");
  state->lua = L;
  state->dispatch_index = 3;
  state->handler_index = lua_gettop(L);
  lua_pushcfunction(L, gc_step);
  state->step_index = lua_gettop(L);
  state->heap_live = state->heap_last = rille_state_heap(state);
  int status = rille_loop_run(loop);
  state->lua = NULL;
  lua_pushinteger(L, status);
  return 1;
}
