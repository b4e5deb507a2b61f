/*
 * pump: bytes that go from one connection to another, and back, while a task waits; see rille_pump.h. Between plain sockets they go
 * through a pipe and stay in the kernel; else they are read, or decrypted, into the other one's output.
 *
 * A way is one direction: it takes the input of one connection and feeds the other's output. Each connection knows the way that takes
 * from it and the one that feeds it; both count as tasks of theirs. The pump is owned by the connection that it was started on, until its
 * task has taken the result or the connection is freed. Loop thread only.
 */
#ifndef RILLE_PUMP_H
#define RILLE_PUMP_H

#include "pipes.h"
#include "rille.h"

#include <stdbool.h>

typedef struct rille_way {
  struct rille_pump *pump;
  rille_conn *from, *to; /* NULL: there is no such way, or the pump is over */
  rille_duct pipe;
  size_t piped;  /* bytes in it */
  uint64_t left; /* bytes that may still be read */
  double moved;
  int err;
  bool is_read;   /* nothing more is: the end came, or left is 0 */
  bool is_shut;   /* the end was passed on */
  bool is_done;   /* all that was read is with the kernel, or it failed */
  bool is_wanted; /* what rille_way_wants said last */
  bool copies;    /* one of the descriptors does not splice */
} rille_way;

typedef struct rille_pump {
  rille_conn *owner;
  rille_way ways[2]; /* there, back */
  double bytes;      /* as asked for; below 0: until the end */
  uint32_t idle_ms;
  uint32_t moved_ms; /* loop->now_ms when bytes last went either way */
  bool has_back, is_over, is_idle;
  int err;
} rille_pump;

/* What a connection has to do with pumps; made with the first one, owned by it. */
typedef struct rille_part {
  rille_pump *own;  /* owned; the one that was started on it */
  rille_way *drain; /* takes its input */
  rille_way *feed;  /* gives it output */
} rille_part;

/* Bytes may go to its socket as they are: it is plain, or the kernel encrypts them. */
bool rille_conn_sends_plain(const rille_conn *c);
/* There is input, or room for output: move some. */
void rille_way_run(rille_way *way);
/* Whether input of way->from is wanted now. */
bool rille_way_wants(const rille_way *way);
/* No input is taken now, whatever there is. */
bool rille_way_is_held(const rille_way *way);
/* Something of this connection has changed. */
void rille_pump_check(const rille_conn *c);
/* No bytes for so long: it is over. */
void rille_pump_expire(rille_pump *pump);
/* The connection is being freed. */
void rille_pump_forget(rille_conn *c);

#endif
