/*
 * generation: see generation.h.
 */
#include "generation.h"

#include "loop.h"
#include "report.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FAULT_MAX = 4096 };

/* ---- places ---------------------------------------------------------------------------------------------------- */

static pthread_mutex_t places_mutex = PTHREAD_MUTEX_INITIALIZER;
static bool places[RILLE_LOOP_STATES_MAX];

static int take_place(void) {
  int place = -1;
  pthread_mutex_lock(&places_mutex);
  for (int i = 0; i < RILLE_LOOP_STATES_MAX && place < 0; i++) {
    if (!places[i]) place = i;
  }
  if (place >= 0) places[place] = true;
  pthread_mutex_unlock(&places_mutex);
  return place;
}

static void give_place(uint32_t place) {
  pthread_mutex_lock(&places_mutex);
  places[place] = false;
  pthread_mutex_unlock(&places_mutex);
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

rille_generation *rille_generation_new(uint32_t server, uint32_t number, const char *label, int *err) {
  int place = take_place();
  *err = place < 0 ? RILLE_ERR_FULL : RILLE_OK;
  rille_generation *g = place < 0 ? NULL : calloc(1, sizeof *g);
  if (!g && place >= 0) *err = RILLE_ERR_NO_MEMORY;
  if (g) g->chunks = rille_chunks_new(label, err);
  if (!g || !g->chunks) {
    if (place >= 0) give_place((uint32_t)place);
    free(g);
    return NULL;
  }
  atomic_store(&g->refs, 1);
  g->server = server;
  g->number = number;
  g->place = (uint32_t)place;
  snprintf(g->label, sizeof g->label, "%s", label);
  rille_process_label(g->place, g->label);
  rille_report_begin(server, number, g->label);
  return g;
}

void rille_generation_retain(rille_generation *g) { atomic_fetch_add(&g->refs, 1); }

void rille_generation_release(rille_generation *g) {
  if (atomic_fetch_sub(&g->refs, 1) != 1) return;
  give_place(g->place);
  rille_report_end(g->server);
  rille_chunks_release(g->chunks);
  for (int i = 0; i < RILLE_GENERATION_FAULTS; i++) free(atomic_load(&g->faults[i]));
  free(g);
}

rille_chunks *rille_generation_chunks(rille_generation *g) { return g->chunks; }

/* ---- counting -------------------------------------------------------------------------------------------------- */

static void forget_counts(rille_generation *g) {
  atomic_store(&g->messages, 0);
  atomic_store(&g->errors, 0);
  for (int i = 0; i < RILLE_HISTOGRAM_BUCKETS; i++) atomic_store(&g->spans[i], 0);
}

void rille_generation_watch(rille_generation *g, int is_watched, double guard_after, double guard_rate) {
  forget_counts(g);
  atomic_store(&g->guard_errors, (uint32_t)(guard_rate * 1e6));
  atomic_store(&g->guard_after, (uint32_t)guard_after);
  atomic_store(&g->is_watched, is_watched != 0);
}

/* With a guard that looks after every message, so that a bad one does no more harm than it may. */
static bool breaks(rille_generation *g, uint64_t messages, uint64_t errors) {
  uint32_t after = atomic_load_explicit(&g->guard_after, memory_order_relaxed);
  uint32_t most = atomic_load_explicit(&g->guard_errors, memory_order_relaxed);
  if (after == 0 || messages < after || errors * 1000000 <= messages * most) return false;
  int none = RILLE_VERDICT_NONE;
  return atomic_compare_exchange_strong(&g->verdict, &none, RILLE_VERDICT_BROKEN);
}

bool rille_generation_break(rille_generation *g) {
  int none = RILLE_VERDICT_NONE;
  return atomic_compare_exchange_strong(&g->verdict, &none, RILLE_VERDICT_BROKEN) || none == RILLE_VERDICT_BROKEN;
}

int rille_generation_pass(rille_generation *g) {
  int none = RILLE_VERDICT_NONE;
  return atomic_compare_exchange_strong(&g->verdict, &none, RILLE_VERDICT_PASSED) || none == RILLE_VERDICT_PASSED;
}

bool rille_generation_count(rille_generation *g, bool has_failed, uint64_t began_ns, uint64_t now_ns) {
  uint64_t messages = atomic_fetch_add(&g->messages, 1) + 1;
  uint64_t errors = has_failed ? atomic_fetch_add(&g->errors, 1) + 1 : atomic_load(&g->errors);
  if (began_ns) {
    atomic_fetch_add_explicit(&g->spans[rille_histogram_bucket(now_ns - began_ns)], 1, memory_order_relaxed);
  }
  return breaks(g, messages, errors);
}

void rille_state_note_fault(rille_state *state, const char *text, size_t size) {
  rille_generation *g = state->generation;
  if (!atomic_load_explicit(&g->is_watched, memory_order_relaxed)) return;
  for (int i = 0; i < RILLE_GENERATION_FAULTS; i++) {
    if (atomic_load_explicit(&g->faults[i], memory_order_relaxed)) continue;
    char *copy = strndup(text, size < FAULT_MAX ? size : FAULT_MAX);
    char *none = NULL;
    if (!copy || atomic_compare_exchange_strong(&g->faults[i], &none, copy)) return;
    free(copy); /* another loop's came first: the next place */
  }
}

const char *rille_generation_fault(rille_generation *g, int index) {
  return index >= 0 && index < RILLE_GENERATION_FAULTS ? atomic_load(&g->faults[index]) : NULL;
}

static double quantile(const rille_generation *g, double share) {
  uint64_t all = 0, seen = 0;
  for (int i = 0; i < RILLE_HISTOGRAM_BUCKETS; i++) all += atomic_load_explicit(&g->spans[i], memory_order_relaxed);
  if (all == 0) return 0;
  for (uint32_t i = 0; i < RILLE_HISTOGRAM_BUCKETS; i++) {
    seen += atomic_load_explicit(&g->spans[i], memory_order_relaxed);
    if ((double)seen >= (double)all * share) return (double)rille_histogram_limit(i) / 1e9;
  }
  return (double)rille_histogram_limit(RILLE_HISTOGRAM_BUCKETS - 1) / 1e9;
}

void rille_generation_read(const rille_generation *g, rille_generation_counts *out) {
  *out = (rille_generation_counts){
      .messages = (double)atomic_load(&g->messages),
      .errors = (double)atomic_load(&g->errors),
      .p50 = quantile(g, 0.5),
      .p99 = quantile(g, 0.99),
      .is_broken = rille_generation_is_broken(g),
  };
}
