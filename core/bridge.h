/*
 * bridge: the part of a topic that bridge.c keeps.
 */
#ifndef RILLE_BRIDGE_H
#define RILLE_BRIDGE_H

#include "rille_topic.h"

#include <stdbool.h>

/* Who hands on what other processes publish; written under the lock of bridge.c. */
typedef struct rille_seat {
  _Atomic(const rille_bridge *) holder; /* NULL: nobody does */
  const rille_bridge *claimant;         /* who gets it next, or NULL */
  double claim;                         /* its number */
  bool is_offered;                      /* the holder goes on until a claimant is there */
} rille_seat;

#endif
