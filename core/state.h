/*
 * state: a Lua state as a loop runs it. It is built and proven (its script loaded, its services declared) before the loop
 * gets it, then called by the loop alone, then closed on whichever thread retires it. Each carries the number of its
 * generation, and with it every connection, task, timer and listener that belongs to the state.
 *
 * What happened is put into the state's inbox as small events; one call into Lua lets the dispatcher work through it.
 */
#ifndef RILLE_STATE_H
#define RILLE_STATE_H

#include "generation.h"
#include "heap.h"
#include "rille.h"

#include <stdbool.h>

struct lua_State;

enum rille_state_phase { RILLE_STATE_BUILT, RILLE_STATE_PROVEN, RILLE_STATE_RUNNING, RILLE_STATE_CLOSED };

/* Room for events; the dispatcher empties one while the next fills. */
typedef struct rille_event_list {
  rille_event *items;
  uint32_t count;
  uint32_t capacity;
} rille_event_list;

/* Where a state stands between the generation before and the one after; see reload.c. */
typedef struct rille_change {
  rille_state *before;                       /* what it took over from, while that is kept for a return */
  rille_state *after;                        /* what new messages go to; NULL: to this one */
  bool is_incoming;                          /* it is to take over from `before` */
  bool is_ready;                             /* its on_start has returned, it does so at the end of the turn */
  bool is_refused;                           /* its on_start has not, or raised */
  bool is_returning;                         /* the one before serves again, of which it has not been told yet */
  bool is_retiring;                          /* it hands on or ends what it still has */
  bool is_leaving;                           /* ... as its server goes: nothing follows it */
  bool is_ending;                            /* that is done: its tasks are cancelled */
  uint32_t rounds;                           /* turns since */
  int wish;                                  /* enum rille_wish bits */
  int drain;                                 /* enum rille_drain */
  uint64_t began_ms, drain_at_ms, jitter_ms; /* of retiring */
  uint32_t handed;                           /* connections that it closed at the end of patience */
  char *inheritance;                         /* owned; what the other's on_retire returned */
  size_t inheritance_size;
  char *text; /* owned; why it refused, what it left behind */
  size_t text_size;
} rille_change;

struct rille_state {
  /* immutable after init */
  rille_loop *loop;
  rille_generation *generation; /* a reference */
  uint32_t index;               /* of loop->states; that of its generation, so the same on every loop */
  uint32_t id;                  /* of the process, nobody else's ever */
  bool is_host;                 /* the state belongs to a program that called rille.run; it is not closed here */
  char label[64];
  uint32_t renewals; /* states of the same generation before it, on this loop, that came up or did not */
  char *source;      /* owned; what it is built from, to build it again */
  char *arguments;   /* owned */
  size_t arguments_size;
  size_t memory; /* limit of its heap, 0: none */

  /* the thread that runs the loop, before that the one that builds */
  enum rille_state_phase phase;
  struct lua_State *lua;
  int dispatch_index; /* stack slots of lua: the dispatcher, its message handler, a step of the collector */
  int handler_index;
  int step_index;
  int gc_index;
  bool runnable; /* tasks are ready to run: do not sleep */
  rille_heap heap;

  rille_change change; /* of generations */

  uint32_t datagrams; /* that its handlers have, or that wait for them */
  uint32_t sessions;  /* of datagrams, that it serves */

  bool migrates;        /* its script has an on_migrate */
  bool is_serving;      /* on_start has returned: its listeners may accept */
  bool is_broken;       /* not to be called any more; see state_replace.c */
  bool owes_hooks;      /* its on_shutdown has not returned */
  uint32_t retry_ms;    /* a broken one is replaced after so long, ... */
  uint64_t retry_at_ms; /* ... of the loop's clock */
  bool is_awaited;      /* ... by one that is built elsewhere */
  uint64_t started_ms;  /* the same clock */

  rille_inbox inbox;        /* what the dispatcher is working through */
  rille_event_list working; /* the array behind the inbox */
  rille_event_list ready;   /* for the next call */
  rille_event_list later;   /* for the next turn: work beyond a connection's share of this one */

  struct rille_post *first_post, *last_post; /* owned; calls from other loops that Lua has not taken */
  struct rille_post *taken_post;             /* owned; the one it looks at */

  struct rille_move *first_move, *last_move; /* owned; connections of other loops that Lua has not taken over */
  struct rille_move *taken_move;             /* owned; the one it looks at */

  struct rille_job *first_job, *last_job; /* references; jobs of worker pools that Lua has not taken */
  bool has_made_jobs;                     /* ever */

  struct rille_console *first_console, *last_console; /* references; code of the console that Lua has not taken */
  struct rille_console *taken_consoles;               /* references; code that runs */

  uint32_t conn_count; /* connections that are its */
  rille_service *services;
  double heap_live; /* bytes after the last complete collection */
  double heap_last; /* bytes after the last call or step */
  double allocated; /* bytes allocated so far, as far as the steps show */
  bool collecting;  /* a cycle is under way */
  double errors;    /* of the script: what raised */
  double failures;  /* dispatcher calls that raised: none is expected */
};

/* Put an event into the inbox of the next call; false when there is no memory (logged). */
bool rille_state_emit(rille_state *state, int kind, uint32_t slot, int arg);
bool rille_state_emit_later(rille_state *state, int kind, uint32_t slot, int arg);
static inline bool rille_state_has_work(const rille_state *state) { return state->ready.count > 0; }
/* Start of a turn: what was put off is due now. */
void rille_state_begin_turn(rille_state *state);
/* Its messages are to be looked at one by one: there is another generation, or it is watched. */
static inline bool rille_state_is_observed(const rille_state *state) {
  return state->change.after || atomic_load_explicit(&state->generation->is_watched, memory_order_relaxed);
}
/* One call into Lua. */
void rille_state_dispatch(rille_state *state);
/* A bounded step of the collector when one is due. */
void rille_state_collect(rille_state *state, bool about_to_sleep);
/* a whole cycle, in steps; for an idle loop */
void rille_state_collect_all(rille_state *state);
double rille_state_heap(const rille_state *state);
void rille_state_free(rille_state *state);
/* Close its Lua, and forget what was on the way to it. */
void rille_state_close(rille_state *state);
/* It must not be called any more: at the end of the turn another takes its place. */
void rille_state_distrust(rille_state *state);
/* The limit of its memory was passed: collect all. True: what lives leaves too little room to go on. */
bool rille_state_is_worn_out(rille_state *state);
/* A state of the same generation takes the place of a closed one, which is freed, and its listeners. */
void rille_state_succeed(rille_state *state, rille_state *old);
/* The same by one that is built here; NULL when there is no memory for that. It is to be closed when it is not built. */
rille_state *rille_state_renew(rille_state *old, bool *is_built, char *message, size_t message_size);
/* post.c: free what Lua will not take any more */
void rille_post_forget(rille_state *state);
/* conn_move.c: the same */
void rille_conn_forget_moved(rille_state *state);

#endif
