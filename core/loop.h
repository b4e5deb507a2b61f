/*
 * loop: one thread, one epoll, its connections, timers and Lua states. Nothing of a loop is touched from another thread
 * but the fields marked atomic and the wake-up descriptor.
 *
 * A turn: wait; then for each chunk of ready descriptors read, dispatch into Lua, send; then timers. Work is done in chunks so that the first
 * answer of a large batch does not wait for the last handler.
 */
#ifndef RILLE_LOOP_H
#define RILLE_LOOP_H

#include "balance.h"
#include "binding.h"
#include "block.h"
#include "group.h"
#include "conn.h"
#include "delay.h"
#include "histogram.h"
#include "mailbox.h"
#include "pipes.h"
#include "poller.h"
#include "reserve.h"
#include "process_note.h"
#include "snapshot.h"
#include "state.h"
#include "timer.h"
#include "topic.h"

#include <stdatomic.h>
#include <pthread.h>
#include <stdbool.h>

enum {
  RILLE_LOOP_STATES_MAX = 64,
  RILLE_LOOP_CHUNK = 16,              /* ready descriptors between two dispatches, ... */
  RILLE_LOOP_CHUNK_BYTES = 128 << 10, /* ... or so much input: it is still in the cache when handlers look at it */
  RILLE_LOOP_ROUNDS = 4,              /* dispatches of what handlers caused, before the next wait */
  RILLE_WATCH_SLAB = 256,
  RILLE_WATCH_SLABS_MAX = 4096,
  RILLE_CONN_SLAB = 256,       /* connections a slab */
  RILLE_CONN_SLABS_MAX = 4096, /* 2^20 connections a loop */
  RILLE_BUFFERS_KEPT = 256     /* idle LinkBuffer handles a loop keeps */
};

/* What an epoll registration points at; the top byte of its data. */
enum rille_tag {
  RILLE_TAG_CONN,
  RILLE_TAG_LISTENER,
  RILLE_TAG_WATCH,
  RILLE_TAG_WAKE,
  RILLE_TAG_UDP,
  RILLE_TAG_DIAL,
  RILLE_TAG_DNS
};

/* A descriptor a task waits for, or a timer of a task; see watch.c. */
typedef struct rille_watch {
  rille_timer timer;
  rille_state *state; /* NULL: free */
  int fd;             /* -1: a plain timer */
  uint32_t slot;
  uint32_t epoch;
  uint32_t token; /* the state's name for it */
  uint32_t next_free;
} rille_watch;

struct rille_loop {
  /* immutable after init */
  uint32_t id; /* 1.. */
  int wake_fd;
  rille_team *team; /* NULL: it runs alone */
  pthread_t thread; /* of rille_loop_thread_start */
  bool has_thread;
  int cpu; /* the one its thread stays on, or RILLE_CPU_ANY */

  /* loop thread */
  rille_clock clock;
  uint32_t now_ms; /* since the loop was made, for connections; wraps after 49 days, compare by difference */
  uint64_t started_ms;
  uint64_t clock_ms; /* the same moment for the wheels, which want it whole */
  uint64_t now_ns;
  uint64_t turn;
  rille_poller poller;
  rille_wheel wheel;      /* of connections */
  rille_wheel task_wheel; /* of watches */

  rille_conn *slabs[RILLE_CONN_SLABS_MAX];
  uint32_t slab_count;
  uint32_t free_slot; /* head of the free list, UINT32_MAX: none */
  uint32_t conn_count;
  rille_conn *dirty; /* wants a send or another interest at the end of the chunk */
  rille_conn *dead;  /* to be freed at the end of the event batch */

  rille_linkbuffer *buffers[RILLE_BUFFERS_KEPT];
  uint32_t buffer_count;

  rille_pipes pipes;

  rille_subscriptions subscriptions;

  struct rille_udp_side *udp; /* owned; NULL while there are no datagram sockets */

  struct rille_dial_side *dials; /* owned; NULL while nothing was dialed or looked up */
  rille_bindings bindings;

  struct rille_http *exchanges; /* free ones */
  uint32_t exchange_count;
  char http_date[32]; /* "Sun, 06 Nov 1994 08:49:37 GMT" */
  uint64_t http_date_until_ns;

  rille_watch *watch_slabs[RILLE_WATCH_SLABS_MAX];
  uint32_t watch_slab_count;
  uint32_t watch_free;
  uint32_t watch_count;

  rille_listener *listeners;
  bool is_open;        /* listeners accept */
  bool listeners_wait; /* one does not, for a reason that passes */
  rille_undecided_list undecided;
  rille_reserve reserve;
  rille_state *states[RILLE_LOOP_STATES_MAX]; /* at the places of their generations; NULL: a gap */
  uint32_t state_count;                       /* places up to the last one */

  /* the connection whose handler may be using up its share of this turn; see rille_conn_over_budget */
  uint32_t budget_slot;
  uint64_t budget_started_ns;
  uint64_t budget_ns;

  uint64_t mend_at_ms; /* look for states that are broken; 0: at the end of this turn */
  uint64_t tick_at_ms; /* housekeeping, once a second while there was work; 0: none is due */
  uint64_t slept_ns;   /* when the loop last slept */
  bool worked;         /* since the last tick */
  bool is_stopping;
  bool is_draining;       /* with time to finish */
  bool is_ending;         /* what is still parked is being cancelled */
  bool is_over;           /* leave the run at the next chance */
  uint32_t starting;      /* states whose on_start has not returned */
  uint32_t hooks_pending; /* states whose on_shutdown has not returned */
  int status;             /* what the run returns */
  uint32_t drain_ms;
  uint64_t drain_at_ms;   /* when a stop loses its patience */
  uint64_t drain_look_ms; /* when to look again which connections are idle */

  /* loop thread, read by rille_loop_stats */
  double accepted;
  double moved_in, moved_out; /* connections */
  double messages;
  double bytes_in;
  double bytes_out;
  double replaced;                                   /* states */
  double gone_errors, gone_failures, gone_allocated; /* of states that are gone */
  double datagrams_dropped;
  rille_histogram turns; /* how long they lasted */
  uint64_t turns_ns;     /* all of them */
  uint64_t longest_ns;
  rille_delay delay;  /* the same without waits for a processor */
  uint64_t looked_ns; /* when this wait looked at the clock; 0: it did not */
  uint64_t published_ns;

  bool has_mail; /* more than was taken in this turn */

  /* any thread, atomic */
  _Atomic uint32_t asked;      /* enum rille_ask bits */
  _Atomic uint64_t busy_since; /* ns of the clock when the turn began; 0: it waits */
  _Atomic uint32_t phase;      /* enum rille_loop_phase */
  _Atomic uint32_t stalls;     /* so far */
  rille_place *place;    /* borrowed, immutable; what it does, stored by the loop, through __atomic where it is C */
  rille_place own_place; /* that, where no parent looks at it */
  rille_publisher published;
  rille_mailbox mailbox;
};

enum rille_loop_phase { RILLE_LOOP_STARTING, RILLE_LOOP_OPEN, RILLE_LOOP_STOPPING };

enum rille_ask { RILLE_ASK_STOP = 1, RILLE_ASK_STOP_NOW = 2, RILLE_ASK_DUMP = 4, RILLE_ASK_OPEN = 8 };

/* any thread: set bits of enum rille_ask and wake the loop */
void rille_loop_ask(rille_loop *loop, uint32_t bits);

/* a turn that lasts longer is a stall; 0: none is */
extern _Atomic uint64_t rille_stall_ns;

/* loop thread: its script is busy with this connection from now on */
static inline void rille_loop_attend(const rille_conn *c) {
  rille_place *place = c->loop->place;
  __atomic_store_n(&place->fd, c->fd, __ATOMIC_RELAXED);
  __atomic_store_n(&place->conn, (uint64_t)c->epoch << 20 | c->slot, __ATOMIC_RELAXED);
}

/* control.c knows every loop, to pass signals on */
void rille_control_add(rille_loop *loop);
void rille_control_remove(rille_loop *loop);
/* descriptors: as many as the hard limit has */
void rille_control_raise_limit(void);

/* loop_states.c: a state of the loop from now on; no longer */
void rille_loop_put(rille_loop *loop, rille_state *state);
void rille_loop_take(rille_loop *loop, const rille_state *state);
/* by its id; that which gets the new messages of a server; NULL: it is gone */
rille_state *rille_loop_state(const rille_loop *loop, uint32_t id);
rille_state *rille_loop_current(const rille_loop *loop, uint32_t server);

/* loop thread */
uint64_t rille_now_ns(void);
/* its numbers to the log */
void rille_loop_dump(const rille_loop *loop);
/* A state has started; when all have, the listeners accept. */
void rille_loop_open(rille_loop *loop);
/* as now_ms, but of this moment: the turn's clock lags behind by what handlers took */
uint32_t rille_loop_fresh_ms(const rille_loop *loop);
/* take away what a state that failed to build has started on the loop, which does not run */
void rille_loop_evict(rille_loop *loop, rille_state *state);
void rille_watch_evict(rille_loop *loop, const rille_state *state);
rille_linkbuffer *rille_loop_buffer_take(rille_loop *loop);
void rille_loop_buffer_give(rille_loop *loop, rille_linkbuffer *b);
/* the watch behind a registration or timer fired */
void rille_watch_ready(rille_loop *loop, uint32_t slot, uint32_t epoch, uint32_t events);
void rille_watch_fired(rille_loop *loop, rille_watch *watch);
/* non-blocking and CLOEXEC; 0 or a negative enum rille_err */
int rille_fd_prepare(int fd);

/* inside loop.c and drain.c */
/* dispatch into Lua; first: also what only waits for its turn */
void rille_loop_run_states(rille_loop *loop, bool first);
void rille_loop_bury(rille_loop *loop);
/* replace the states that are broken */
void rille_loop_mend(rille_loop *loop);
/* once a turn during a stop */
void rille_loop_check_stop(rille_loop *loop);

#endif
