/*
 * batch: the states of one generation that were staged; see rille_reload.h.
 */
#include "group.h"
#include "state.h"

#include <stdlib.h>

struct rille_batch {
  _Atomic uint32_t refs;
  rille_generation *generation;        /* a reference */
  rille_state *states[RILLE_LOOP_MAX]; /* owned; whoever has the batch's turn */
};

rille_batch *rille_batch_new(rille_generation *g) {
  rille_batch *b = calloc(1, sizeof *b);
  if (!b) return NULL;
  atomic_store(&b->refs, 1);
  rille_generation_retain(g);
  b->generation = g;
  return b;
}

void rille_batch_retain(rille_batch *b) { atomic_fetch_add(&b->refs, 1); }

void rille_batch_release(rille_batch *b) {
  if (atomic_fetch_sub(&b->refs, 1) != 1) return;
  for (int i = 0; i < RILLE_LOOP_MAX; i++) {
    if (b->states[i]) rille_state_discard(b->states[i]);
  }
  rille_generation_release(b->generation);
  free(b);
}

rille_generation *rille_batch_generation(rille_batch *b) { return b->generation; }

void rille_batch_put(rille_batch *b, uint32_t loop, rille_state *state) {
  if (b->states[loop - 1]) rille_state_discard(b->states[loop - 1]);
  b->states[loop - 1] = state;
}

rille_state *rille_batch_take(rille_batch *b, uint32_t loop) {
  rille_state *state = loop >= 1 && loop <= RILLE_LOOP_MAX ? b->states[loop - 1] : NULL;
  if (state) b->states[loop - 1] = NULL;
  return state;
}
