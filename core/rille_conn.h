/*
 * rille_conn.h: the part of rille.h for what a connection can do beside reading and writing; same rules, included at its end. Loop
 * thread only.
 */
#ifndef RILLE_RILLE_CONN_H
#define RILLE_RILLE_CONN_H

#include "rille.h"

/* ---- the socket ------------------------------------------------------------------------------------------------ */

/* What the kernel knows of a TCP connection. Times in seconds, rates in bytes a second; windows count segments. */
typedef struct rille_tcp_info {
  double state; /* as the kernel numbers them: 1 is established */
  double rtt, rttvar, min_rtt, rto, last_data_sent, last_data_received;
  double retransmits, total_retransmits, unacked, sacked, lost, reordering;
  double snd_cwnd, snd_ssthresh, snd_mss, rcv_mss, pmtu;
  double snd_wnd, rcv_space; /* bytes */
  double delivery_rate, pacing_rate;
  double bytes_sent, bytes_acked, bytes_received, bytes_retransmitted, notsent_bytes;
  double busy_time, rwnd_limited, sndbuf_limited;
} rille_tcp_info;

/* RILLE_ERR_NOT_SUPPORTED: it is not TCP */
int rille_conn_tcp_info(const rille_conn *c, rille_tcp_info *out);

enum rille_option {
  RILLE_OPTION_NODELAY = 1, /* 0 or 1 */
  RILLE_OPTION_KEEPALIVE,   /* 0 or 1 */
  RILLE_OPTION_KEEPALIVE_IDLE,
  RILLE_OPTION_KEEPALIVE_INTERVAL, /* seconds */
  RILLE_OPTION_KEEPALIVE_COUNT,
  RILLE_OPTION_RECEIVE_BUFFER, /* bytes; the kernel takes twice as many, and says so */
  RILLE_OPTION_SEND_BUFFER,
  RILLE_OPTION_LINGER,       /* 1: its close sends RST */
  RILLE_OPTION_QUICKACK,     /* 0 or 1 */
  RILLE_OPTION_USER_TIMEOUT, /* ms */
  RILLE_OPTION_MARK,
  RILLE_OPTION_TOS,
  RILLE_OPTION_LAST = RILLE_OPTION_TOS
};

int rille_conn_option(const rille_conn *c, int option, double *value);
int rille_conn_set_option(rille_conn *c, int option, double value);
/* another descriptor of its socket, the caller's (owned); or an error */
int rille_conn_dup(rille_conn *c);
/* for a descriptor of rille_conn_dup or rille_conn_detach that nobody takes */
void rille_descriptor_close(int fd);

/* ---- output that was held back --------------------------------------------------------------------------------- */

/* All of `from` behind the output, without a copy; from is empty then, also after an error. 0, RILLE_PARK or an error, as
 * rille_conn_write. */
int rille_conn_append(rille_conn *c, rille_linkbuffer *from);
/* 1: with so many bytes more its output would be above the high-water mark */
int rille_conn_is_above(const rille_conn *c, double more);

/* ---- at a stop and a reload ------------------------------------------------------------------------------------ */

/* own 1: one that a script made itself, and that others of its connections need to answer. Although it has an on_request, a stop and a
 * retiring generation neither wait for it nor end it before all others are over. */
void rille_conn_own(rille_conn *c, int own);
/* owes 1: an answer to what it has asked is under way, though no handler runs for it: a stop waits for that. */
void rille_conn_owe(rille_conn *c, int owes);

/* ---- in a pool ------------------------------------------------------------------------------------------------- */

/* One that a script made itself is given back to a pool. Its output goes out, what was read is released, time-outs and marks are those of
 * a new connection. 1: nothing is under way; until rille_conn_rouse it is served, so that bytes, its end and idle_ms (0: none) without a
 * byte are noticed. 0: it is of no further use, for the caller to close. */
int rille_conn_rest(rille_conn *c, double idle_ms);
/* It is taken out again. 1: it is as it was when it was given back, as far as the kernel knows; 0: close it. */
int rille_conn_rouse(rille_conn *c);

/* ---- to another loop ------------------------------------------------------------------------------------------- */

/* Hand it over to loop 1 .. of the team, with ctx (size bytes that Lua encoded), for the state of the same server there; `tasks` of
 * its handlers may run, those that ask for it. 0: it is on its way, and what is left here will end without on_disconnect.
 * RILLE_ERR_BUSY: handlers run, or it speaks HTTP; RILLE_ERR_NOT_SUPPORTED: it did not come by an address that all loops have;
 * RILLE_ERR_NOT_FOUND: no such loop; RILLE_ERR_FULL: its mailbox; RILLE_ERR_SHUTDOWN; RILLE_ERR_CLOSED; RILLE_ERR_TOO_LARGE. */
int rille_conn_move(rille_conn *c, uint32_t loop_id, int tasks, const char *ctx, size_t size);
/* The ctx of the connection that the oldest MOVE event is about, borrowed until the next one is taken; its id before. */
const char *rille_conn_take_moved(rille_state *state, double *size, double *id);

#endif
