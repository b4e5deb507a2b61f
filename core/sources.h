/*
 * sources: how many connections each source address has open, for limits.max_connections_per_address. A source is an IPv4 address, or the
 * /64 of an IPv6 one: whoever has one address of it has them all.
 *
 * Shared by the listeners of a server on all loops, with a count of references. Any thread; a shard's mutex is held for one look-up.
 */
#ifndef RILLE_SOURCES_H
#define RILLE_SOURCES_H

#include "address.h"

#include <stdint.h>

typedef struct rille_sources rille_sources;

/* a reference; NULL when there is no memory */
rille_sources *rille_sources_new(void);
void rille_sources_retain(rille_sources *s);
void rille_sources_release(rille_sources *s);
/* One more connection of this peer: RILLE_OK, or RILLE_ERR_FULL (it has max), RILLE_ERR_NO_MEMORY. */
int rille_sources_came(rille_sources *s, const rille_peer *peer, uint32_t max);
/* one less */
void rille_sources_left(rille_sources *s, const rille_peer *peer);

#endif
