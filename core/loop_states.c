/*
 * loop_states: the Lua states a loop has: for each server the one that serves, and those of other generations on their way in or out. A state
 * stands at the place of its generation, so there may be gaps. Loop thread, or the one that builds the loop.
 */
#include "loop.h"

void rille_loop_put(rille_loop *loop, rille_state *state) {
  state->loop = loop;
  loop->states[state->index] = state;
  if (state->index >= loop->state_count) loop->state_count = state->index + 1;
}

void rille_loop_take(rille_loop *loop, const rille_state *state) {
  loop->states[state->index] = NULL;
  while (loop->state_count > 0 && !loop->states[loop->state_count - 1]) loop->state_count--;
}

rille_state *rille_loop_state(const rille_loop *loop, uint32_t id) {
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (loop->states[i] && loop->states[i]->id == id) return loop->states[i];
  }
  return NULL;
}

rille_state *rille_loop_current(const rille_loop *loop, uint32_t server) {
  for (uint32_t i = 0; i < loop->state_count; i++) {
    rille_state *state = loop->states[i];
    if (!state || state->generation->server != server) continue;
    if (!state->change.after && !state->change.is_incoming) return state;
  }
  return NULL;
}
