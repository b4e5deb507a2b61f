/*
 * shaper: how many bytes a second a connection takes from its peer and sends to it: a token bucket each way, on the loop's clock. Out
 * of tokens, the connection waits for its timer: reading stops as it does for conn:pause, output stays where it is. Time-outs do not
 * run against the peer meanwhile.
 *
 * Made when a rate is set, owned by the connection, which has RILLE_CONN_SHAPED as long as it is there. Loop thread only.
 */
#ifndef RILLE_SHAPER_H
#define RILLE_SHAPER_H

#include "rille.h"

#include <stdbool.h>

typedef struct rille_bucket {
  double rate;   /* bytes a second, 0: no limit */
  double tokens; /* bytes that may go, as of filled_ns */
  uint64_t filled_ns;
  bool is_empty;     /* nothing goes until until_ms */
  uint32_t since_ms; /* loop->now_ms when it became empty */
  uint32_t until_ms;
} rille_bucket;

typedef struct rille_shaper {
  rille_bucket in, out;
} rille_shaper;

/* RILLE_SET_READ_RATE or RILLE_SET_WRITE_RATE, bytes a second, 0: none */
int rille_shaper_set(rille_conn *c, int setting, double rate);
/* for a connection that moves to another loop, whose clock counts otherwise: nothing waits any more */
void rille_shaper_reset(rille_shaper *shaper);

/* These are for connections with RILLE_CONN_SHAPED. */
/* Bytes that may be read now; 0: none, and reading waits. */
size_t rille_shaper_room(rille_conn *c);
/* so many were read */
void rille_shaper_took(rille_conn *c, size_t size);
/* as rille_conn_send, of which it is the part for these connections */
int rille_shaper_send(rille_conn *c);
bool rille_shaper_holds_input(const rille_conn *c);
bool rille_shaper_holds_output(const rille_conn *c);
/* the timer fired: what waited long enough goes on */
void rille_shaper_fire(rille_conn *c);

#endif
