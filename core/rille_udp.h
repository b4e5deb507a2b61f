/*
 * rille_udp.h: the part of rille.h that datagram sockets and sessions need; same rules, included at its end. Loop thread only.
 */
#ifndef RILLE_RILLE_UDP_H
#define RILLE_RILLE_UDP_H

#include "rille.h"

typedef struct rille_udp rille_udp;
typedef struct rille_session rille_session;

/* The other end of a datagram, by value: good for ever. One of a Unix socket is named by its URL instead. Lua sees the bytes of addresses
 * as words: a struct that is built from numbers alone, the JIT compiler need not allocate. */
typedef struct rille_udp_peer {
#ifdef RILLE_CDEF
  uint32_t ip0_, ip1_, ip2_, ip3_, local0_, local1_, local2_, local3_;
#else
  uint8_t ip_[16];    /* IPv4: the first four; v4-mapped addresses are IPv4 here */
  uint8_t local_[16]; /* our address that the datagram came to */
#endif
  uint32_t scope_;     /* of a link-local IPv6 address */
  uint32_t socket_;    /* the socket it came to */
  uint32_t epoch_;     /* of that socket */
  uint16_t port_;      /* host byte order */
  uint8_t family_;     /* AF_INET, AF_INET6, AF_UNIX */
  uint8_t local_size_; /* 0: the kernel chooses which of our addresses an answer comes from, 4 or 16 */
} rille_udp_peer;

/* A datagram as Lua looks at it; borrowed until it is done. */
typedef struct rille_datagram {
  rille_slice slice_;
  rille_udp_peer peer_;
  uint32_t service_;
} rille_datagram;

typedef struct rille_udp_stats {
  double received, bytes_in, sent, bytes_out;
  double too_large;   /* received, over max_datagram: dropped */
  double dropped;     /* received, and no room for it: of a session's queue, another loop's mailbox, memory */
  double refused;     /* received, and session.max reached */
  double unsent;      /* sent, and the queue was full, or a peer on this host did not take it */
  double send_errors; /* the kernel refused to send it */
  double overflow;    /* dropped by the kernel, as far as it said: the receive buffer was full */
  double sessions, in_handlers;
} rille_udp_stats;

/*
 * Of rille_listen_options: max_datagram, bytes of one that is received; max_datagrams, that handlers have at a time; send_queue, datagrams
 * that wait to be sent; session_max, 0: there are no sessions; session_queue, datagrams that wait for one; session_idle_ms, 0: for ever.
 */

enum rille_udp_setting {
  RILLE_UDP_TTL = 1, /* of multicast; 0 .. 255 */
  RILLE_UDP_LOOP,    /* multicast comes back to this host: 0 or 1 */
  RILLE_UDP_BROADCAST
};

enum { RILLE_DATAGRAM_MAX = 65536 };

/* ---- sockets --------------------------------------------------------------------------------------------------- */

/* borrowed until the listener is closed; NULL for streams */
rille_udp *rille_listener_udp(rille_listener *l);
/* 1: this loop's member bound the socket, so settings are made through it */
int rille_udp_is_first(const rille_udp *u);
/* A socket of a script; url "": its family is that of the first address it has to do with. Borrowed until rille_udp_close; NULL with *err
 * and a message for people. */
rille_udp *rille_udp_open(rille_state *state, const char *url, const rille_listen_options *options, int *err,
                          char *message, size_t message_size);
void rille_udp_close(rille_udp *u);
/* the Lua object was collected; a stale name does nothing */
void rille_udp_abandon(rille_loop *loop, uint32_t slot, uint32_t epoch);
uint32_t rille_udp_slot(const rille_udp *u);
uint32_t rille_udp_epoch(const rille_udp *u);
size_t rille_udp_address(const rille_udp *u, char *to, size_t size); /* 0: it has none yet */
int rille_udp_connect(rille_udp *u, const char *url, char *message, size_t message_size);
int rille_udp_set(rille_udp *u, int setting, double value);
/* where multicast goes out; a name such as "lo" */
int rille_udp_set_interface(rille_udp *u, const char *name);
/* group: an address without port; interface: a name, "": the system's choice. leave: 1 */
int rille_udp_join(rille_udp *u, const char *group, const char *interface, int leave);
void rille_udp_stats_read(const rille_udp *u, rille_udp_stats *out);
/* the same for a peer: "127.0.0.1:5000"; its length */
size_t rille_udp_peer_format(const rille_udp_peer *peer, char *to, size_t size);

/* Sending: 0, taken or with the kernel, or an error. block NULL: bytes are copied, else a reference is taken where they cannot go out at
 * once. */
int rille_udp_send(rille_udp *u, const char *bytes, double size, rille_block *block);
int rille_udp_send_url(rille_udp *u, const char *url, const char *bytes, double size, rille_block *block);
int rille_udp_send_peer(rille_udp *u, const rille_udp_peer *peer, const char *bytes, double size, rille_block *block);
/* the socket that a peer came by; NULL: it is closed */
rille_udp *rille_udp_of(rille_loop *loop, uint32_t slot, uint32_t epoch);

/* The next datagram: borrowed until the next call or the end; NULL with *err, which is RILLE_PARK: park until the UDP event, ask again. */
const rille_datagram *rille_udp_receive(rille_udp *u, int *err);
/* the parked receiver goes away */
void rille_udp_unwant(rille_udp *u);

/* ---- datagrams of handlers ------------------------------------------------------------------------------------- */

const rille_datagram *rille_datagram_at(rille_loop *loop, uint32_t slot);
/* the handler has returned, or raised: slices of it expire */
void rille_datagram_done(rille_loop *loop, uint32_t slot, int has_failed);
/* The URL of a peer on a Unix socket; "unixgram:" for one without a name. */
size_t rille_datagram_url(const rille_datagram *d, char *to, size_t size);
/* To where the datagram that a slice (by its fields) is of came from. RILLE_ERR_INVALID: it is of none. */
int rille_datagram_reply(rille_cell *cell, uint32_t epoch, const char *bytes, double size, rille_block *block);
/* 1: a slice with these fields is of a datagram whose handler runs */
int rille_slice_is_datagram(rille_cell *cell, uint32_t epoch);

/* ---- sessions -------------------------------------------------------------------------------------------------- */

/* arg of RILLE_EVENT_SESSION */
enum rille_session_event {
  RILLE_SESSION_OPEN = 1,
  RILLE_SESSION_REQUEST,
  RILLE_SESSION_READ,
  RILLE_SESSION_CLOSE,
  RILLE_SESSION_MIGRATE, /* another generation gets its messages: rille_session_hand_on */
  RILLE_SESSION_LET_GO   /* the same, and what holds it is to let go */
};

enum rille_session_setting { RILLE_SESSION_IDLE = 1, RILLE_SESSION_LIFETIME };

/* borrowed until rille_session_free, or until it is handed on; NULL when the slot is free, or another state's */
rille_session *rille_session_of(const rille_state *state, uint32_t slot);
double rille_session_id(const rille_session *s);
uint32_t rille_session_service(const rille_session *s);
void rille_session_know(rille_session *s);
void rille_session_free(rille_session *s);
/* on_connect returned */
void rille_session_opened(rille_session *s);
/* on_request starts, with this; NULL: it need not any more. It returned: 1 when it is to be called again at once */
const rille_datagram *rille_session_begin(rille_session *s);
int rille_session_done(rille_session *s);
const rille_datagram *rille_session_receive(rille_session *s, int *err);
/* the parked receiver goes on (and asks again), or goes away for good */
void rille_session_unwant(rille_session *s, int for_good);
int rille_session_send(rille_session *s, const char *bytes, double size, rille_block *block);
/* err: for on_close; 0: none */
void rille_session_close(rille_session *s, int err);
int rille_session_reason(const rille_session *s);
int rille_session_is_active(const rille_session *s);
/* The state has no use for it any more: it goes over to the one that took its place with what on_migrate or its ctx gave (size 0: nothing),
 * home as with rille_conn_hand_on. 0: it cannot go now, and stays. */
int rille_session_hand_on(rille_session *s, const char *ctx, size_t size, const char *home, size_t home_size,
                          rille_holding *holding /* owned when it goes; or NULL */);
int rille_session_returns(const rille_session *s); /* as rille_conn_returns */
/* It stays with this generation, as something of it is a function. */
void rille_session_bind(rille_session *s);
/* what came along, once: borrowed until rille_session_unpacked, as all of it; NULL: nothing */
const char *rille_session_luggage(rille_session *s, double *size);
const rille_holding *rille_session_holding(const rille_session *s); /* NULL: none */
void rille_session_unpacked(rille_session *s);
void rille_session_set(rille_session *s, int setting, double ms);
size_t rille_session_peer(const rille_session *s, char *to, size_t size);

#endif
