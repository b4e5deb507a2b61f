/*
 * udp: datagram sockets of a loop, the datagrams that handlers look at, and what waits to be sent. Loop thread only.
 *
 * A socket is a listener's (each datagram is a handler's, or a session's) or a script's own (it is asked for the next one). Datagrams are
 * received in batches into blocks that stand ready, and sent in batches at the end of a chunk. Everything that has to do with datagrams
 * hangs on one pointer of the loop, which is NULL where there are none.
 */
#ifndef RILLE_UDP_H
#define RILLE_UDP_H

#include "address.h"
#include "block.h"
#include "group.h"
#include "state.h"
#include "timer.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

enum {
  RILLE_UDP_BATCH = 64,            /* datagrams received, or sent, in one call; received by a socket in a chunk */
  RILLE_UDP_BLOCK_FIRST = 2048,    /* bytes of a block that is received into, while datagrams fit */
  RILLE_UDP_BATCH_BYTES = 1 << 20, /* of all blocks that stand ready */
  RILLE_UDP_ROOM = 64 << 10,       /* of a block that copies of small answers share */
  RILLE_UDP_RUN_MAX = 128,         /* datagrams that the kernel puts into one block */
  RILLE_UDP_LAST = 4096,           /* datagrams taken from the kernel's queue when a socket drains */
  RILLE_UDP_SOCKETS_MAX = 1 << 16,
  RILLE_DGRAM_SLAB = 64,
  RILLE_DGRAM_SLABS_MAX = 1 << 14,
  RILLE_SESSION_SLAB = 256,
  RILLE_SESSION_SLABS_MAX = 4096
};

_Static_assert(sizeof(rille_udp_peer) == 48, "Lua builds peers field by field");

/* Where a datagram came from or goes to, as the kernel wants it. */
typedef struct rille_udp_end {
  union {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
  } name;
  socklen_t name_size; /* 0: the peer the socket is connected to, or a Unix socket without a name */
  uint8_t local_size;  /* 0, 4, 16 */
  uint8_t local[16];   /* our address */
  uint32_t interface;  /* 0: as routes say */
} rille_udp_end;

typedef struct rille_dgram {
  rille_datagram face; /* first: what Lua has a pointer to */
  rille_udp *udp;      /* NULL: free, or it stands ready */
  rille_state *state;  /* whose handler has it, or is about to; NULL: a session's or a script's socket does */
  uint64_t began_ns;   /* when that began; 0: nobody wants to know */
  struct rille_dgram *next;
  rille_block *block; /* one reference */
  uint32_t slot;
  rille_udp_end from;
} rille_dgram;

typedef struct rille_udp_out {
  rille_udp_end to;
  rille_block *block; /* one reference; NULL: no bytes */
  const uint8_t *base;
  uint32_t size;
} rille_udp_out;

struct rille_udp {
  /* set when it is opened, some of it anew when another state takes a listener over */
  rille_loop *loop;
  rille_state *state;       /* that gets what comes; NULL: that one failed, and is not replaced yet */
  rille_service *service;   /* NULL: a script's own */
  rille_group *group;       /* borrowed; or NULL */
  rille_listener *listener; /* borrowed while that is open */
  uint32_t slot, epoch;
  rille_address address;
  rille_listen_options options;

  dev_t device; /* of a script's own Unix path */
  ino_t inode;

  int fd;           /* -1: closed, or not made yet */
  int error;        /* of the network, for the next receive */
  uint8_t interest; /* EPOLLIN | EPOLLOUT as registered */
  bool is_shared;   /* other loops have the descriptor in their pollers */
  bool is_reading;  /* a listener that receives */
  bool is_closed;
  bool is_held; /* by who opened it */
  bool is_connected;
  bool is_wanted;  /* a task is parked receiving */
  bool is_woken;   /* and the event for it is on its way */
  bool is_blocked; /* the kernel takes no more for now */
  bool is_dirty;
  bool has_no_gso;
  bool has_gro;       /* the kernel may put datagrams of a listener together */
  uint32_t run;       /* the most that the last batch had in one block */
  uint32_t in_flight; /* datagrams that handlers have, or that wait for them */

  rille_udp_out *out; /* a ring */
  uint32_t out_first, out_count, out_capacity;
  rille_udp *next_dirty;
  uint32_t retry_ms; /* a Unix peer whose queue is full: the present back-off, 0: none */
  uint64_t retry_at_ms, stuck_ms;

  rille_dgram *first_in, *last_in; /* of a script's own: received, not asked for */
  rille_dgram *current;            /* the one it looks at */

  rille_session **buckets;
  uint32_t bucket_count, session_count;
  uint32_t live_sessions; /* those in buckets */
  rille_udp_stats stats;
};

/* All of a loop. */
typedef struct rille_udp_side {
  rille_udp **sockets; /* by slot; NULL: free */
  uint32_t socket_count, epoch;
  rille_udp *dirty;
  bool has_waiting; /* a socket waits for its retry */
  bool has_closed;  /* a socket is to be freed */

  rille_dgram *slabs[RILLE_DGRAM_SLABS_MAX];
  uint32_t slab_count;
  rille_dgram *free;

  rille_dgram *ready[RILLE_UDP_BATCH]; /* with a block each, for the next receive; NULL: to be filled */
  struct mmsghdr heads[RILLE_UDP_BATCH];
  struct iovec areas[RILLE_UDP_BATCH][2];
  _Alignas(16) char control[RILLE_UDP_BATCH][96];
  uint8_t *overflow;   /* what of each does not fit into its block */
  uint32_t block_size; /* of the next blocks */
  uint32_t small;      /* datagrams in a row that used less than a quarter */

  rille_block *room;
  size_t room_used;

  rille_wheel wheel; /* of sessions */
  rille_session *session_slabs[RILLE_SESSION_SLABS_MAX];
  uint32_t session_slab_count, free_session;
} rille_udp_side;

/* ---- for the loop ---------------------------------------------------------------------------------------------- */

void rille_udp_ready(rille_loop *loop, uint32_t slot, uint32_t epoch, uint32_t events);
void rille_udp_tidy(rille_loop *loop);           /* end of a chunk: send */
void rille_udp_timers(rille_loop *loop);         /* sessions, retries */
uint64_t rille_udp_next(const rille_loop *loop); /* when, in ms, or UINT64_MAX */
void rille_udp_trim(rille_loop *loop);
void rille_udp_sweep(rille_loop *loop);
void rille_udp_evict(rille_loop *loop, rille_state *state);
void rille_udp_end_loop(rille_loop *loop);
/* A stop: idle sessions go, with force all. How much is not finished. */
uint32_t rille_udp_stop(rille_loop *loop, bool force);
/* udp_hand.c: the state retires: hand its idle sessions on; how many there still are */
uint32_t rille_sessions_retire(rille_state *state);
/* There is no way back to the state of this id: what sessions brought along from there is not needed any more. */
void rille_sessions_stay(rille_loop *loop, uint32_t from);

/* ---- for listeners --------------------------------------------------------------------------------------------- */

/* Over a bound descriptor, which is the listener's. NULL with *err. */
rille_udp *rille_udp_listen(rille_listener *l, int *err);
/* The listener is another service's from now on: so is what comes. What came stays with who has it; sessions go over by and by. */
void rille_udp_renew(rille_udp *u);
/* receive, and from now on hand to handlers */
void rille_udp_arm(rille_udp *u);
void rille_udp_disarm(rille_udp *u);
/* take what the kernel has queued, and no more */
void rille_udp_drain(rille_udp *u);
/* The listener closes: what waits is sent once more, sessions end. */
void rille_udp_shut(rille_udp *u);
/* options of a socket that is bound */
void rille_udp_prepare(int fd, const rille_address *address, const rille_listen_options *options);

/* ---- inside udp*.c and session.c -------------------------------------------------------------------------------- */

rille_udp_side *rille_udp_side_of(rille_loop *loop); /* made when there is none; NULL: no memory */
void rille_udp_look(rille_udp *u);                   /* change what epoll looks for */
/* One batch from the kernel: how many, or a negative enum rille_err; 0: there are none. */
int rille_udp_pull(rille_udp *u, uint32_t most);
void rille_udp_free_dgram(rille_dgram *d);
/* those that handlers of the state have, or are about to */
void rille_udp_forget_dgrams(const rille_udp_side *side, const rille_state *state);
void rille_udp_unready(rille_udp_side *side);
/* hand to the handler, the session or the script; the datagram is its from now on */
void rille_udp_deliver(rille_udp *u, rille_dgram *d);
void rille_udp_flush(rille_udp *u);
void rille_udp_drop_output(rille_udp *u);
int rille_udp_put(rille_udp *u, const rille_udp_end *to, const char *bytes, double size, rille_block *block);
void rille_udp_peer_of(const rille_udp *u, const rille_udp_end *end, rille_udp_peer *out);
int rille_udp_end_of(const rille_udp *u, const rille_udp_peer *peer, rille_udp_end *out);
bool rille_udp_hand_on(rille_udp *u, rille_dgram *d);
/* Let the kernel put datagrams together where that is good; whether it does. */
bool rille_udp_set_gro(const rille_listener *l);
void rille_session_arrived(rille_udp *u, rille_dgram *d);
void rille_session_fired(rille_timer *timer, void *arg);
/* end all of a state that is gone; nobody is told */
void rille_sessions_forget(rille_state *state);
void rille_sessions_end(rille_udp *u, int err);
uint32_t rille_sessions_stop(rille_loop *loop, bool force);
void rille_sessions_free(rille_udp_side *side);

#endif
