/*
 * binding: keys that name connections, for all loops of the process. The table is process-wide, in shards with a lock each, and leads to nodes
 * that the loops of the connections own: the end of a connection takes its own out of the table, and leaves those that were bound again.
 */
#ifndef RILLE_BINDING_H
#define RILLE_BINDING_H

#include "rille.h"

struct rille_bound;

/* Of a loop: what its connections are bound to. */
typedef struct rille_bindings {
  struct rille_bound **buckets; /* by the slot of the connection */
  uint32_t bucket_count, count;
} rille_bindings;

/* loop thread; the connection ends: nothing is found by its keys any more */
void rille_binding_leave(rille_conn *c);
/* It goes to another loop: its keys, to be handed to rille_binding_arrive, or NULL. They name nothing meanwhile. */
struct rille_bound *rille_binding_pack(rille_conn *c);
void rille_binding_arrive(rille_conn *c, struct rille_bound *list);
void rille_binding_discard(struct rille_bound *list);
void rille_binding_end_loop(rille_bindings *b);

#endif
