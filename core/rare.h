/*
 * rare: what few connections have. One struct that comes with the first of it, so that the others pay for a pointer; those without any share one
 * that holds nothing. Loop thread.
 */
#ifndef RILLE_RARE_H
#define RILLE_RARE_H

#include "rille.h"

typedef struct rille_rare {
  struct rille_shaper *shaper;   /* owned; NULL: bytes go as fast as they can */
  struct rille_conn_tls *tls;    /* owned; NULL: plain */
  struct rille_part *part;       /* owned; of pumps, see pump.h, or NULL */
  struct rille_proxied *proxied; /* owned; what a PROXY header said, see proxied.h, or NULL */
} rille_rare;

extern rille_rare rille_rare_none; /* never written */

/* that of the connection itself, to write to; NULL: no memory */
rille_rare *rille_conn_rare(rille_conn *c);
/* with what is in it, but for the part of a pump, which has ended */
void rille_rare_free(rille_rare *rare);

#endif
