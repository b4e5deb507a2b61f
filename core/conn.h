/*
 * conn: one connection. Its loop owns it and is the only thread that touches it; the Lua state it belongs to knows it by its
 * slot and by an id that carries the slot's epoch. It is freed at the end of an event batch, after its state has seen
 * the CLOSE event and called rille_conn_free.
 *
 * An idle connection is this struct alone: its LinkBuffers come from the loop when bytes do and go back when they are gone.
 */
#ifndef RILLE_CONN_H
#define RILLE_CONN_H

#include "address.h"
#include "linkbuffer.h"
#include "luggage.h"
#include "rare.h"
#include "state.h"
#include "timer.h"

#include <stdbool.h>

struct rille_decoder;
struct rille_http;
struct rille_http_settings;
struct rille_part;
struct rille_proxied;
struct rille_shaper;
struct rille_subscription;
struct rille_conn_tls;

enum rille_conn_flag {
  RILLE_CONN_USED = 1 << 0,      /* the slot holds a connection */
  RILLE_CONN_OPENING = 1 << 1,   /* on_prepare or on_connect has not returned: no on_request yet */
  RILLE_CONN_SERVED = 1 << 2,    /* has an on_request; without one a script reads it by itself */
  RILLE_CONN_BUSY = 1 << 3,      /* an on_request runs, or its event is queued */
  RILLE_CONN_READER = 1 << 4,    /* a task is parked until `want` bytes are readable */
  RILLE_CONN_WRITER = 1 << 5,    /* tasks are parked until the output is at most `drain_to` bytes */
  RILLE_CONN_EOF = 1 << 6,       /* the peer ended its side, everything before it was read */
  RILLE_CONN_PARTED = 1 << 7,    /* on_disconnect was sent (or is not wanted) */
  RILLE_CONN_CLOSING = 1 << 8,   /* close() was called: drain the output, then end */
  RILLE_CONN_LINGERING = 1 << 9, /* output drained and shut; input is thrown away until the peer ends too */
  RILLE_CONN_FINISHED = 1 << 10, /* CLOSE was sent; only rille_conn_free is left */
  RILLE_CONN_KNOWN = 1 << 11,    /* the state made a table for it, so it must hear of the end */
  RILLE_CONN_PAUSED = 1 << 12,   /* by the script */
  RILLE_CONN_FULL = 1 << 13,     /* max_input reached: not reading until something is released */
  RILLE_CONN_BLOCKED = 1 << 14,  /* a short write: wants EPOLLOUT */
  RILLE_CONN_DIRTY = 1 << 15,    /* on the loop's dirty list */
  RILLE_CONN_DEAD = 1 << 16,     /* on the loop's dead list */
  RILLE_CONN_SHUT = 1 << 17,     /* shutdown("write") asked for: FIN once the output is gone */
  RILLE_CONN_SHUT_DONE = 1 << 18,
  RILLE_CONN_SOCKET = 1 << 19, /* send and recv work; else read and write */
  RILLE_CONN_TRACE = 1 << 20,
  RILLE_CONN_REGISTERED = 1 << 21, /* in epoll */
  RILLE_CONN_SHAPED = 1 << 22,     /* it has a shaper */
  RILLE_CONN_READ_LATE = 1 << 23,  /* the parked read ran into its time-out */
  RILLE_CONN_IDLE_TOLD = 1 << 24,  /* on_idle runs */
  RILLE_CONN_WOKEN = 1 << 25,      /* the READ event for the parked reader is on its way */
  RILLE_CONN_CONSUMED = 1 << 26,   /* the running handler consumed something and released it already */
  RILLE_CONN_BROKEN = 1 << 27,     /* sending failed: nothing more is sent, what was received can still be read */
  RILLE_CONN_ARRIVED = 1 << 29,    /* bytes came since on_request began */
  RILLE_CONN_LEFT = 1 << 30,       /* a task of the script's own read some while no on_request runs: the rest is its */
  RILLE_CONN_SHARED = 1 << 28      /* others may hold its open file: closing the descriptor leaves it in epoll */
};

typedef struct rille_timeouts {
  uint32_t read_ms, write_ms, idle_ms, lifetime_ms, linger_ms, handshake_ms; /* 0: none */
} rille_timeouts;

struct rille_conn {
  /* set when the slot is taken */
  rille_loop *loop;
  rille_state *state;
  rille_service *service;
  uint32_t slot;
  uint32_t epoch; /* 24 bits; of the slot's present user */
  rille_peer peer;
  int fd;                   /* loop thread */
  rille_listener *listener; /* borrowed; what it came by, which stays as long, or NULL */

  /* loop thread */
  uint32_t flags;
  int16_t error;       /* enum rille_err of the socket, 0 while it works */
  int16_t reason;      /* enum rille_err for on_close, where it is not the socket's */
  uint8_t interest;    /* EPOLLIN | EPOLLOUT as registered */
  uint8_t sparse;      /* reads in a row that used less than a quarter of read_size */
  bool is_http;        /* bytes are HTTP/1: the service says so, until an upgrade */
  bool is_bound : 1;   /* to the generation that serves it; see conn_hand.c */
  bool is_told : 1;    /* that its patience with it is over */
  bool has_failed : 1; /* the handler of the message under way raised; while the generation is observed */
  bool is_own : 1;     /* its script's, though it has an on_request; see rille_conn_own */
  bool owes : 1;       /* an answer that no handler runs for; see rille_conn_owe */
  bool is_framed;      /* on_request gets whole frames of a codec */
  bool has_names;      /* it is bound to keys; see binding.c */
  bool wants_linger; /* the peer may still be sending what nobody reads: close() must not lose the answer to a reset */
  uint16_t tasks;    /* handlers that run */
  uint16_t ops;      /* reads and messages in `turn`, see rille_conn_over_budget */
  uint32_t turn;
  uint32_t read_size;
  uint32_t high_water;
  struct rille_http *http;       /* owned; the exchange under way */
  struct rille_decoder *decoder; /* owned; comes with the first byte where the codec is the service's */
  uint32_t requests;             /* HTTP: heads so far */
  uint32_t shared_turn;          /* of the last message of a topic that went straight to the socket */
  rille_linkbuffer *in;
  rille_linkbuffer *out;
  uint32_t want;                            /* readable bytes the parked reader waits for */
  uint32_t drain_to;                        /* output bytes the parked writers wait for */
  rille_conn *next_dirty;                   /* also the dead list */
  struct rille_subscription *subscriptions; /* owned; see topic.c */

  uint32_t opened_ms, read_ms, written_ms, parked_ms, closing_ms; /* loop->now_ms then */
  uint32_t low_water;                                             /* UINT32_MAX: half of high_water */
  rille_timer timer;
  const rille_timeouts *timeouts; /* the service's; other ones are owned */
  rille_rare *rare;               /* never NULL; see rare.h */
  rille_luggage luggage;          /* what it brought from the generation before */
  uint64_t began_ns;              /* when the message under way began; 0: nobody wants to know */
};

_Static_assert(sizeof(rille_conn) <= 256, "all the memory of an idle connection");

/* What a script offers: its hooks and the settings its connections start with. Owned by its state. */
struct rille_service {
  /* immutable once a listener or connection uses it */
  rille_service *next;
  rille_state *state;
  uint32_t id;    /* the state's name for it */
  uint32_t hooks; /* enum rille_hook bits */
  rille_timeouts timeouts;
  uint32_t max_input;
  uint32_t high_water, low_water;         /* as a connection's */
  double read_rate, write_rate;           /* bytes a second of a connection, 0: no limit */
  const struct rille_http_settings *http; /* owned; NULL: connections do not speak HTTP */
  struct rille_codec *codec;              /* a reference; NULL: input is not cut into frames */
  bool nodelay;
  bool stays;            /* of a listener that accepts during a stop */
  uint32_t keepalive_s;  /* 0: off */
  struct rille_tls *tls; /* a reference; NULL: none */
  bool is_tls;           /* connections begin with it */
  bool asks_certificate; /* the script has on_certificate */

  /* loop thread */
  bool is_former; /* of a state that this one replaces; only listeners that nobody has asked for yet use it */
};

/* Take a connection over fd (non-blocking, CLOEXEC) for a service; NULL when slots or memory ran out, fd is untouched then. */
rille_conn *rille_conn_new(rille_loop *loop, rille_service *service, int fd, bool is_socket);
/* Register with epoll and, for a served connection, start on_prepare and on_connect. */
void rille_conn_start(rille_conn *c);
/* An epoll event for it. */
void rille_conn_ready(rille_conn *c, uint32_t events);
/* Its timer fired. */
void rille_conn_timer(rille_conn *c);
/* End of a chunk: send, change the interest. */
void rille_conn_tidy(rille_conn *c);
/* Give the slot back; end of an event batch. */
void rille_conn_bury(rille_conn *c);
/* The loop stops: close when idle, or when its handler only waits for another message; with force end it now. False for one
 * that a script made for itself, which holds up nothing. */
bool rille_conn_stop(rille_conn *c, bool force);
/* A stop, and the end of a generation, wait for it: it is served, or being closed, and not its script's own. */
bool rille_conn_holds_up(const rille_conn *c);
/* End it with err as soon as no handler runs; the socket is done for. */
void rille_conn_fail(rille_conn *c, int err);

/* The TCP_USER_TIMEOUT for a write time-out: no less than a second, for one lost packet is no reason. */
static inline uint32_t rille_user_timeout(uint32_t write_ms) {
  return write_ms > 0 && write_ms < 1000 ? 1000 : write_ms;
}

/* 1 when what came along is with the script, or nothing did */
bool rille_conn_is_unpacked(const rille_conn *c);

/* What is left to do for it is for the next turn. */
bool rille_conn_is_put_off(const rille_conn *c);

/* inside conn*.c and http*.c */
int rille_conn_attach(rille_conn *c); /* to epoll; on an error the descriptor is as it was */
void rille_conn_mark_dirty(rille_conn *c);
void rille_conn_settle(rille_conn *c);
void rille_conn_arm(rille_conn *c);
void rille_conn_drop_socket(rille_conn *c);
void rille_conn_reset_on_close(const rille_conn *c); /* its close sends RST: nothing stays queued in the kernel */
void rille_conn_input_changed(rille_conn *c);
void rille_conn_wake_writers(rille_conn *c);
int rille_conn_send(rille_conn *c);
/* One call for the first areas of the output, `size` bytes: how many the kernel took, or the error that broke the output. */
ssize_t rille_conn_send_once(rille_conn *c, struct iovec *areas, int count, size_t size);
bool rille_conn_takes_output(const rille_conn *c);
bool rille_conn_over_budget(rille_conn *c);
/* The first bytes of what went over the wire, as hex, to the log. */
void rille_conn_log_bytes(const rille_conn *c, const char *way, const struct iovec *areas, int count, size_t size);
/* a read had no bytes: errno 0 for the end */
void rille_conn_end_input(rille_conn *c, int error_number);
/* the way out is gone */
void rille_conn_break_output(rille_conn *c);
/* the kernel took less than it was given */
void rille_conn_note_blocked(rille_conn *c);
int rille_conn_ended(const rille_conn *c); /* 0, or why no more input will come */
int rille_conn_release_input(rille_conn *c);
bool rille_conn_yield(rille_conn *c, size_t want); /* a reader that had its share parks until the next turn */
int rille_conn_written(rille_conn *c,
                       int err); /* what a writer returns: err, or RILLE_PARK above the high-water mark */
/* conn_frame.c: of one that is framed: a frame is there, or cannot be, so on_request is to be called */
bool rille_conn_has_frame(rille_conn *c);
bool rille_conn_is_inside(const rille_conn *c); /* some frames of those in an outer one were taken, others not */
void rille_conn_drop_codec(rille_conn *c);
/* its service is another one: input is cut as that says */
void rille_conn_recut(rille_conn *c);
size_t rille_conn_input_limit(const rille_conn *c);
/* Bytes of a block that many connections are sent: 0, they are with the kernel or linked into the output, or an error. */
int rille_conn_share(rille_conn *c, rille_block *block, const uint8_t *base, uint32_t size);
size_t rille_conn_output_len(const rille_conn *c);
size_t rille_conn_input_len(const rille_conn *c);
size_t rille_conn_input_held(const rille_conn *c);
void rille_conn_give_input(rille_conn *c);
void rille_conn_give_output(rille_conn *c);

#endif
