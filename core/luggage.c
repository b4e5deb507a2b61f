/*
 * luggage: see luggage.h.
 */
#include "luggage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_MAX = 64 };

struct rille_bag {
  bool is_taken; /* by the Lua of the state it came to */
  size_t size;
  char key[KEY_MAX];
  char ctx[];
};

static bool fill(rille_luggage *l, const char *ctx, size_t size, const char *key) {
  struct rille_bag *bag = NULL;
  if (size > 0 || key[0]) {
    bag = malloc(sizeof *bag + size);
    if (!bag) return false;
    bag->is_taken = false;
    bag->size = size;
    snprintf(bag->key, sizeof bag->key, "%s", key);
    if (size > 0) memcpy(bag->ctx, ctx, size);
  }
  free(l->bag);
  l->bag = bag;
  return true;
}

bool rille_luggage_pack(rille_luggage *l, uint32_t from, uint32_t to, const char *ctx, size_t size, const char *key) {
  bool is_back = l->came_from && l->came_from == to;
  if (is_back && l->bag) l->bag->is_taken = false; /* as it was when it left there */
  if (!is_back && !rille_luggage_waits(l) && !fill(l, ctx, size, key)) return false;
  l->came_from = is_back ? 0 : from;
  return true;
}

bool rille_luggage_waits(const rille_luggage *l) { return l->bag && !l->bag->is_taken; }

const char *rille_luggage_take(rille_luggage *l, double *size) {
  if (!rille_luggage_waits(l)) return NULL;
  l->bag->is_taken = true;
  *size = (double)l->bag->size;
  return l->bag->ctx;
}

const char *rille_luggage_key(const rille_luggage *l) { return l->bag ? l->bag->key : ""; }

void rille_luggage_stay(rille_luggage *l, uint32_t from) {
  if (l->came_from == from && !rille_luggage_waits(l)) rille_luggage_drop(l);
}

void rille_luggage_drop(rille_luggage *l) {
  free(l->bag);
  *l = (rille_luggage){0};
}
