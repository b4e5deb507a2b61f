/*
 * luggage: see luggage.h.
 */
#include "luggage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_MAX = 64 };

struct rille_bag {
  uint32_t packer;        /* id of the state that packed it */
  bool is_home;           /* it is there again */
  bool is_taken;          /* by the Lua of the state it came to */
  bool has_home;          /* other bytes for that one, behind those of ctx */
  rille_holding *holding; /* owned, or NULL */
  size_t size, home_size;
  char key[KEY_MAX];
  char ctx[];
};

static void free_bag(struct rille_bag *bag) {
  if (bag) rille_holding_free(bag->holding);
  free(bag);
}

static bool fill(rille_luggage *l, uint32_t from, const rille_ctx *ctx) {
  struct rille_bag *bag = NULL;
  size_t home_size = ctx->home ? ctx->home_size : 0;
  if (ctx->size > 0 || home_size > 0 || ctx->key[0]) {
    bag = malloc(sizeof *bag + ctx->size + home_size);
    if (!bag) return false;
    *bag = (struct rille_bag){.packer = from, .has_home = ctx->home != NULL, .holding = ctx->holding};
    bag->size = ctx->size;
    bag->home_size = home_size;
    snprintf(bag->key, sizeof bag->key, "%s", ctx->key);
    if (ctx->size > 0) memcpy(bag->ctx, ctx->bytes, ctx->size);
    if (home_size > 0) memcpy(bag->ctx + ctx->size, ctx->home, home_size);
  } else {
    rille_holding_free(ctx->holding);
  }
  free_bag(l->bag);
  l->bag = bag;
  return true;
}

bool rille_luggage_pack(rille_luggage *l, uint32_t from, uint32_t to, const rille_ctx *ctx) {
  bool is_back = rille_luggage_returns(l, to);
  bool is_kept = is_back || rille_luggage_waits(l);
  if (!is_kept && !fill(l, from, ctx)) return false;
  if (is_kept) rille_holding_free(ctx->holding);
  if (is_back && l->bag) l->bag->is_taken = false; /* as it was when it left there */
  if (l->bag) l->bag->is_home = l->bag->packer == to;
  l->came_from = is_back ? 0 : from;
  return true;
}

bool rille_luggage_waits(const rille_luggage *l) { return l->bag && !l->bag->is_taken; }

bool rille_luggage_is_new_to(const rille_luggage *l, uint32_t to) {
  return rille_luggage_waits(l) && !l->bag->is_home && !rille_luggage_returns(l, to);
}

const char *rille_luggage_take(rille_luggage *l, double *size) {
  if (!rille_luggage_waits(l)) return NULL;
  struct rille_bag *bag = l->bag;
  bag->is_taken = true;
  bool is_other = bag->is_home && bag->has_home;
  *size = (double)(is_other ? bag->home_size : bag->size);
  return is_other ? bag->ctx + bag->size : bag->ctx;
}

const char *rille_luggage_key(const rille_luggage *l) { return l->bag ? l->bag->key : ""; }

const rille_holding *rille_luggage_holding(const rille_luggage *l) { return l->bag ? l->bag->holding : NULL; }

void rille_luggage_stay(rille_luggage *l, uint32_t from) {
  if (l->came_from != from) return;
  l->came_from = 0;
  rille_luggage_done(l);
}

void rille_luggage_done(rille_luggage *l) {
  if (!l->came_from && !rille_luggage_waits(l)) rille_luggage_drop(l);
}

void rille_luggage_drop(rille_luggage *l) {
  free_bag(l->bag);
  *l = (rille_luggage){0};
}
