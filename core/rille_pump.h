/*
 * rille_pump.h: the part of rille.h for bytes that go from one connection to another, or from a file to a connection, without passing
 * through Lua; same rules, included at its end. Loop thread only.
 */
#ifndef RILLE_RILLE_PUMP_H
#define RILLE_RILLE_PUMP_H

#include "rille.h"

/* ---- from connection to connection ----------------------------------------------------------------------------- */

typedef struct rille_pump_options {
  double bytes;   /* so many go there, then it is over; below 0: until the end */
  double idle_ms; /* without a byte either way it is over; 0: never */
  int both;       /* 1: also from the other one back */
} rille_pump_options;

typedef struct rille_pump_result {
  double there, back; /* bytes */
  int is_over;
  int is_idle; /* it is over for that */
  int err;     /* enum rille_err: it is over for that */
} rille_pump_result;

/* Move what comes from one connection to the other, and back. RILLE_PARK: until the READ event of `from`, then rille_pump_take; or
 * RILLE_ERR_BUSY (one of them is read or pumped already, or speaks HTTP), RILLE_ERR_CLOSED, RILLE_ERR_INVALID, RILLE_ERR_NO_MEMORY. */
int rille_pump_start(rille_conn *from, rille_conn *to, const rille_pump_options *options);
/* What has been moved. 0, or RILLE_ERR_NOT_FOUND: there is none. */
int rille_pump_look(const rille_conn *from, rille_pump_result *out);
/* The same, and the pump is done with: one that is not over ends now. */
int rille_pump_take(rille_conn *from, rille_pump_result *out);
/* pipes with bytes in them that a loop may have; pumps beyond it copy. 0: all do */
void rille_loop_set_pipes(rille_loop *loop, double max);

/* ---- from file to connection ----------------------------------------------------------------------------------- */

/* The next piece of at most *left bytes of a file, from where it stands, behind the output; *left becomes less. 0: go on; RILLE_PARK:
 * after the WRITE event; RILLE_HTTP_END: that was all; RILLE_HTTP_COLD: it has to be read by a worker, see rille_conn_write_read; or an
 * error, RILLE_ERR_SHORT if the file has become shorter. */
int rille_conn_write_file(rille_conn *c, const rille_file *file, double *left);
int rille_conn_write_read(rille_conn *c, const rille_job *job, double *left);

#endif
