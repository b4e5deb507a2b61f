/*
 * rille_accept.h: the part of rille.h for who is let in and where to; same rules, included at its end.
 */
#ifndef RILLE_RILLE_ACCEPT_H
#define RILLE_RILLE_ACCEPT_H

#include "rille.h"

/* ---- networks -------------------------------------------------------------------------------------------------- */

/* A list of networks. owned: a reference; NULL when there is no memory. One thread fills it, any may ask it then. */
rille_cidr *rille_cidr_new(void);
/* One more: "10.0.0.0/8", "10.1.2.3", "2001:db8::/32"; 0, or an error with a sentence. Not after rille_cidr_seal. */
int rille_cidr_add(rille_cidr *list, const char *text, size_t size, char *message, size_t message_size);
/* It is complete, and can be asked from now on. */
void rille_cidr_seal(rille_cidr *list);
/* 1 when an address, with or without a port as rille_conn_peer writes it, is in one of them, else 0; RILLE_ERR_BAD_ADDRESS for a text
 * that is none */
int rille_cidr_contains(const rille_cidr *list, const char *text, size_t size);
void rille_cidr_release(rille_cidr *list);

/* ---- listeners ------------------------------------------------------------------------------------------------- */

/* What this loop's listener has done; connections: open now. */
typedef struct rille_listener_stats {
  double accepted, connections, refused_by_list, refused_by_address, shed;
} rille_listener_stats;

void rille_listener_stats_read(const rille_listener *l, rille_listener_stats *out);

/* ---- RILLE_BALANCE_SCRIPT: loop thread ---------------------------------------------------------------------------- */

/* A connection that waits for the answer of on_balance. */
typedef struct rille_balance_question {
  double ticket;
  uint32_t service;
  uint32_t count;    /* of loads */
  char peer[56];     /* 127.0.0.1:5000, or unix: */
  double loads[256]; /* connections of this address, by loop */
} rille_balance_question;

/* 1, and out is filled; 0 when it does not wait any more */
int rille_balance_ask(rille_loop *loop, uint32_t slot, rille_balance_question *out);
/* It goes to that loop, 1 ..; 0: where round robin has it. A ticket whose time is over is ignored. RILLE_ERR_NOT_FOUND: no such loop,
 * round robin then. */
int rille_balance_answer(rille_loop *loop, uint32_t slot, double ticket, double loop_id);

/* ---- processors ------------------------------------------------------------------------------------------------ */

/* The numbers of the processors that affinity leaves to this process, ascending; how many there are, at most max. */
int rille_cpu_list(int *cpus, int max);
/* Before it runs: the thread that runs the loop stays on that processor meanwhile. */
void rille_loop_pin(rille_loop *loop, int cpu);

#endif
