/*
 * pipes: what holds the bytes that a pump moves from one socket to another inside the kernel. A loop keeps a few empty ones; a pump has
 * one as long as bytes are in it and no longer. Loop thread only.
 */
#ifndef RILLE_PIPES_H
#define RILLE_PIPES_H

#include "rille.h"

#include <stdbool.h>

enum {
  RILLE_PIPE_SIZE = 256 << 10, /* of each, where the system allows it */
  RILLE_PIPES_KEPT = 16,       /* empty ones, of a loop */
  RILLE_PIPES_MAX = 256        /* with bytes in them, of a loop, unless limits.pipes says otherwise */
};

typedef struct rille_duct {
  int read, write; /* -1: there is none */
} rille_duct;

typedef struct rille_pipes {
  rille_duct kept[RILLE_PIPES_KEPT];
  uint32_t count;
  uint32_t used; /* beside the kept ones */
  uint32_t max;
} rille_pipes;

/* False: as many as there may be are used, or the system has none. */
bool rille_pipes_take(rille_pipes *pipes, rille_duct *out);
/* It goes back; one that is not empty is closed. */
void rille_pipes_give(rille_pipes *pipes, rille_duct *pipe, bool is_empty);
/* close kept ones until so many are left */
void rille_pipes_trim(rille_pipes *pipes, uint32_t left);

#endif
