/*
 * rille_accept.h: the part of rille.h for listeners: who is let in and where to; same rules, included at its end.
 */
#ifndef RILLE_RILLE_ACCEPT_H
#define RILLE_RILLE_ACCEPT_H

#include "rille.h"

/* ---- networks -------------------------------------------------------------------------------------------------- */

typedef struct rille_cidr rille_cidr; /* a list of networks */

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

enum rille_accept {
  RILLE_ACCEPT_DEFAULT,   /* what fits the address */
  RILLE_ACCEPT_SHARED,    /* one socket in the poller of every loop */
  RILLE_ACCEPT_REUSEPORT, /* a socket for each loop; TCP only */
  RILLE_ACCEPT_BALANCED,  /* the first loop accepts and hands on */
  RILLE_ACCEPT_SINGLE     /* one loop's alone */
};

enum rille_balance {
  RILLE_BALANCE_ROUND_ROBIN,
  RILLE_BALANCE_RANDOM,
  RILLE_BALANCE_LEAST_CONNECTIONS,
  RILLE_BALANCE_SOURCE_HASH, /* of the peer's address: one address, one loop */
  RILLE_BALANCE_SCRIPT       /* on_balance says */
};

typedef struct rille_listen_options {
  int backlog; /* 0: the system's maximum */
  /* of a server's address, which all loops of a team share: the same number in each of them. 0: at run time; it joins the oldest
   * listener at this URL that another loop of the same script has opened and this one has no part in */
  uint32_t group;
  int accept;  /* enum rille_accept */
  int balance; /* enum rille_balance, of RILLE_ACCEPT_BALANCED */
  int ipv6_only;
  int receive_buffer, send_buffer; /* bytes, 0: the system's */
  uint32_t max_connections;        /* 0: none */
  uint32_t max_per_address;        /* connections of a source address, 0: none */
  uint32_t server;                 /* addresses with the same number count those together; 0: this one alone */
  uint32_t shed_after_ms;          /* out of descriptors for so long: connections are closed; 0: they wait on */
  rille_cidr *allow, *deny;        /* sealed; the listener takes references; NULL: none */
  int proxy;                       /* enum rille_proxy_wish */
  uint32_t proxy_ms, proxy_max;    /* for a PROXY header, 0: no limit; of it, bytes */
  rille_cidr *trusted;             /* as allow; who may send one */
  uint32_t mode;                   /* of a unix path; 0: as umask has it */
  int stays;                       /* 1: it accepts during a stop too, to say so */
  char device[16];
  /* of datagrams; rille_udp.h says what they are */
  uint32_t max_datagram, max_datagrams, send_queue, session_max, session_queue, session_idle_ms;
  int broadcast;
} rille_listen_options;

/* borrowed until rille_listener_close; NULL with a message for people. It accepts once the loop is open. */
rille_listener *rille_listener_open(rille_service *service, const char *url, const rille_listen_options *options,
                                    int *err, char *message, size_t message_size);
void rille_listener_close(rille_listener *l);
/* the same for a state that opened it, unless another generation has it now */
void rille_listener_close_by(const rille_state *state, rille_listener *l);
/* the address it is bound to, with the port that was picked; returns its length */
size_t rille_listener_address(const rille_listener *l, char *to, size_t size);

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
