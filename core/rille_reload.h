/*
 * rille_reload.h: generations, and the ways of one to the loops and back; part of rille.h. What each means is in docs/reload.md, how it is
 * done in reload.c.
 */
#ifndef RILLE_RELOAD_H
#define RILLE_RELOAD_H

/* owned; NULL with *err: RILLE_ERR_FULL when as many live as a loop has room for. Any thread, as all of them */
rille_generation *rille_generation_new(uint32_t server, uint32_t number, const char *label, int *err);
void rille_generation_retain(rille_generation *g);
void rille_generation_release(rille_generation *g);
/* borrowed; the files that its states load */
rille_chunks *rille_generation_chunks(rille_generation *g);
/* Count and time its messages from now on, from nothing, or no longer. It breaks when more than guard_rate of at least guard_after
 * messages fail; guard_after 0: it does not. */
void rille_generation_watch(rille_generation *g, int is_watched, double guard_after, double guard_rate);

/* It stays: its guard breaks it no more. 0: it is broken already, and its loops have begun to go back. */
int rille_generation_pass(rille_generation *g);

typedef struct rille_generation_counts {
  double messages, errors;
  double p50, p99; /* seconds */
  int is_broken;
} rille_generation_counts;

void rille_generation_read(const rille_generation *g, rille_generation_counts *out);

/* The tracebacks of the first errors while it was watched. A copy of the text is made; more than a few, and what is long, are left out. */
enum { RILLE_GENERATION_FAULTS = 3 };
void rille_state_note_fault(rille_state *state, const char *text, size_t size);
/* borrowed as long as the generation; NULL: there were not so many. index: 0.. */
const char *rille_generation_fault(rille_generation *g, int index);

/* ---- states on their way: the thread that stages ------------------------------------------------------------------ */

/* The loop does not run and knows the state no more: owned, to be committed or discarded. */
void rille_state_detach(rille_state *state);
void rille_state_discard(rille_state *state);

/* What is staged: the states of one generation, by the number of their loop. Counted by references, as it may come too late for who asked
 * for it; the last one discards what nobody took. */
typedef struct rille_batch rille_batch;

rille_batch *rille_batch_new(rille_generation *g); /* owned; NULL: no memory */
void rille_batch_retain(rille_batch *b);
void rille_batch_release(rille_batch *b);
rille_generation *rille_batch_generation(rille_batch *b); /* borrowed */
void rille_batch_put(rille_batch *b, uint32_t loop, rille_state *state /* owned */);
rille_state *rille_batch_take(rille_batch *b, uint32_t loop); /* owned; NULL: there is none */

/* which of its hooks the staging thread has to call */
enum rille_wish { RILLE_WISH_STAGE = 1, RILLE_WISH_SELFTEST = 2 };
void rille_state_set_wish(rille_state *state, int wish);
int rille_state_wish(const rille_state *state);
/* borrowed; what rille_state_explain was given, or NULL */
const char *rille_state_explanation(const rille_state *state);

/* How a state of the generation before ends, once it gets no more messages. */
/* LEAVE: its server goes, or came to nothing: as at a stop, and at the deadline what is left is cancelled. */
enum rille_drain { RILLE_DRAIN_STAY, RILLE_DRAIN_MIGRATE, RILLE_DRAIN_CLOSE, RILLE_DRAIN_LEAVE };

/* To loop number `loop` of the team: RILLE_OK, the answer comes as a note; or RILLE_ERR_FULL and so on: nothing has changed. */
int rille_reload_commit(rille_team *team, uint32_t loop, rille_state *state /* owned by the loop from now on */);
/* the generation before it serves again */
int rille_reload_rollback(rille_team *team, uint32_t loop, rille_generation *g);
/* Of the same generation, for the one that failed on that loop. NULL: it did not come up, message says why, and the loop asks again later; with
 * message NULL it is built on the loop. RILLE_ERR_FULL: the loop still waits, and state is still the caller's. */
int rille_reload_renew(rille_team *team, uint32_t loop, rille_generation *g, rille_state *state /* owned by the loop */,
                       const char *message);
/* It has given way to another one, or leaves: hand on or end what it still has, within deadline_ms (below 0: whenever that is) and up to jitter_ms
 * more for each connection. */
int rille_reload_retire(rille_team *team, uint32_t loop, rille_generation *g, int drain, double deadline_ms,
                        double jitter_ms);

/* Any thread: whether the address can be listened on: RILLE_OK, nothing is left open; or an error with a sentence in message. One with port 0
 * or of a descriptor that was passed always can. */
int rille_listen_try(const char *url, const rille_listen_options *options, char *message, size_t message_size);
/* Any thread: what rille_loop_set_drain and rille_loop_set_budget do, on every loop; below 0: as it is. RILLE_ERR_FULL: not on all of them. */
int rille_team_tune(rille_team *team, double drain_ms, double budget_ms);

/* What loops say of it. */
enum rille_note_kind {
  RILLE_NOTE_COMMITTED = 1, /* new messages are its */
  RILLE_NOTE_REFUSED,       /* it did not come up there, text says why; state is to be discarded */
  RILLE_NOTE_BROKEN,        /* its guard: this loop has gone back already */
  RILLE_NOTE_ROLLED_BACK,
  RILLE_NOTE_RETIRED, /* text: what was left, as its Lua encoded it; state is to be discarded */
  RILLE_NOTE_REQUEST, /* text: of the control thread */
  RILLE_NOTE_FAILED,  /* its state there has failed, and waits for rille_reload_renew; text: what that was built from */
  RILLE_NOTE_SPARE    /* a state came where none is wanted any more: it is to be discarded */
};

typedef struct rille_note {
  struct rille_note *next_;
  int kind;
  uint32_t loop, server, number;
  double connections; /* RETIRED: that were ended by it */
  rille_state *state; /* owned by who takes the note, or NULL */
  void *request;      /* REQUEST: to be answered */
  size_t size;
  char text[];
} rille_note;

/* The state that deploys gets an event RELOAD for each note; loop thread of that one */
void rille_reload_attend(rille_state *state);
/* Its thread has come up, or never will; any thread may wait for that, ms at most. */
void rille_reload_settle(void);
void rille_reload_await(double ms);
void rille_reload_leave(void);
rille_note *rille_reload_take(rille_state *state); /* owned; NULL: no more */
void rille_note_free(rille_note *note);

/* What a state is told; arg of the event CHANGE. */
enum rille_change_kind {
  RILLE_CHANGE_RETIRE = 1, /* another one follows: on_retire */
  RILLE_CHANGE_RELOAD,     /* it follows another one: on_reload */
  RILLE_CHANGE_RETURN,     /* it serves again: on_reload */
  RILLE_CHANGE_ASIDE,      /* it serves no more */
  RILLE_CHANGE_BACK,       /* it serves again */
  RILLE_CHANGE_LEFT,       /* it ends: what is left of it? */
  RILLE_CHANGE_GONE        /* the loop it knows is not its any more */
};

/* What became of a reload, for the status and the metrics; message "" when it is good. Any thread */
enum rille_reload_result { RILLE_RELOAD_DONE, RILLE_RELOAD_REFUSED, RILLE_RELOAD_ROLLED_BACK };
void rille_reload_report(uint32_t server, int result, const char *label, const char *message, double seconds,
                         double at);

/* ---- the state itself: loop thread ---------------------------------------------------------------------------------- */

rille_loop *rille_state_loop(const rille_state *state);
/* 1: it is to take the place of a generation that serves */
int rille_state_is_incoming(const rille_state *state);
/* why it refuses to start; for the note */
void rille_state_explain(rille_state *state, const char *text, size_t size);
/* what on_retire returned, encoded, for the one that follows */
void rille_state_bequeath(rille_state *state, const char *bytes, size_t size);
/* borrowed until the next call of on_retire; NULL: nothing */
const char *rille_state_inheritance(const rille_state *state, size_t *size);
/* what connections have brought along goes through its on_migrate before it goes on, also when no message of theirs has come */
void rille_state_set_migrates(rille_state *state);
/* what is left at the end, encoded, for the note */
void rille_state_leave_behind(rille_state *state, const char *bytes, size_t size);

/* Slices and LinkBuffers on their way with a ctx. What goes in stays as it is, and what comes out is another handle of the same bytes each
 * time, so nobody's end is another's. */
enum { RILLE_HOLDING_MAX = 4096 };
typedef struct rille_holding rille_holding;

rille_holding *rille_holding_new(void); /* owned; NULL: no memory */
void rille_holding_free(rille_holding *h /* owned, or NULL */);
/* its number there, from 0; below 0: an error */
int rille_holding_add_slice(rille_holding *h, const rille_slice *s);
int rille_holding_add_buffer(rille_holding *h, rille_linkbuffer *b); /* what can be read of it */
/* RILLE_OK or an error; out: retained */
int rille_holding_slice(const rille_holding *h, uint32_t index, rille_slice *out /* owned */);
rille_linkbuffer *rille_holding_buffer(const rille_holding *h, uint32_t index, int *err); /* owned, or NULL */

/* The state has no use for the connection any more: it goes over to the one that took its place with what on_migrate or its ctx gave (size 0:
 * nothing) and the name of its on_request ("": that of its server). home: what its ctx is to be should it come back; NULL: the same.
 * 0: it cannot go now, and stays. */
int rille_conn_hand_on(rille_conn *c, const char *ctx, size_t size, const char *home, size_t home_size, const char *key,
                       rille_holding *holding /* owned when it goes; or NULL */);
/* 1: it goes back to where its ctx is known; what that is here is of no use */
int rille_conn_returns(const rille_conn *c);
/* It stays with this generation, as something of it is a function. */
void rille_conn_bind(rille_conn *c);
/* what came along, once: borrowed until rille_conn_unpacked, as all of it; NULL: nothing */
const char *rille_conn_luggage(rille_conn *c, double *size);
const rille_holding *rille_conn_holding(const rille_conn *c); /* NULL: none */
const char *rille_conn_luggage_key(const rille_conn *c);
void rille_conn_unpacked(rille_conn *c);

#endif
