/*
 * rare: see rare.h.
 */
#include "rare.h"

#include "conn.h"
#include "conn_tls.h"
#include "proxied.h"
#include "pump.h"
#include "shaper.h"

#include <stdlib.h>

rille_rare rille_rare_none;

rille_rare *rille_conn_rare(rille_conn *c) {
  if (c->rare != &rille_rare_none) return c->rare;
  rille_rare *rare = calloc(1, sizeof *rare);
  if (rare) c->rare = rare;
  return rare;
}

void rille_rare_free(rille_rare *rare) {
  if (rare == &rille_rare_none) return;
  free(rare->shaper);
  if (rare->tls) rille_conn_tls_free(rare->tls);
  free(rare->part);
  free(rare->proxied);
  free(rare);
}
