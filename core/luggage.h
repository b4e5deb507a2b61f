/*
 * luggage: what a script keeps of a connection or a session when that goes over to another generation: its ctx as bytes, the slices and
 * LinkBuffers in it, and which function of the script handles it. It stays with the connection or session while the way back is open. Loop thread.
 */
#ifndef RILLE_LUGGAGE_H
#define RILLE_LUGGAGE_H

#include "rille.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rille_luggage {
  struct rille_bag *bag; /* owned; NULL: nothing came along */
  uint32_t came_from;    /* id of the state it came from, while that may get it back; 0: none */
} rille_luggage;

typedef struct rille_ctx {
  const char *bytes;      /* borrowed */
  size_t size;            /* 0: nothing */
  const char *home;       /* borrowed; the bytes for the state that packs, should it come back there; NULL: the same */
  size_t home_size;       /* 0: nothing */
  const char *key;        /* borrowed; "": its handler is that of its server */
  rille_holding *holding; /* or NULL; the luggage's once it is packed */
} rille_ctx;

/* It goes from one state (an id) to another, with this. What the one that it leaves has not looked at goes on as it is, and where it goes
 * back, it has what it left with. False: no memory, nothing has changed. */
bool rille_luggage_pack(rille_luggage *l, uint32_t from, uint32_t to, const rille_ctx *ctx);
/* Nobody has looked at what came along. */
bool rille_luggage_waits(const rille_luggage *l);
/* Nobody has looked at what came along, and this state does not know it either. */
bool rille_luggage_is_new_to(const rille_luggage *l, uint32_t to);
/* What came along, once: borrowed until rille_luggage_done, the next pack or the end; NULL: nothing. */
const char *rille_luggage_take(rille_luggage *l, double *size);
const char *rille_luggage_key(const rille_luggage *l);
/* what bytes refer to; borrowed as these are, or NULL */
const rille_holding *rille_luggage_holding(const rille_luggage *l);
/* What was taken has been looked at: it is not kept for nothing. */
void rille_luggage_done(rille_luggage *l);
/* It is on the way back to this state, which has what there was. */
static inline bool rille_luggage_returns(const rille_luggage *l, uint32_t to) {
  return l->came_from && l->came_from == to;
}
/* There is no way back to this state any more. */
void rille_luggage_stay(rille_luggage *l, uint32_t from);
void rille_luggage_drop(rille_luggage *l);

#endif
