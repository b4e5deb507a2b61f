/*
 * rille.h: everything Lua sees of the C core (with the other rille_*.h, included at the end), and nothing else.
 * `cc -E -P -DRILLE_CDEF` turns this file into the text that lua/rille/core.lua hands to ffi.cdef, so a declaration is
 * written once. Keep it free of #define'd constants (enums instead) and of system headers outside the guard.
 *
 * Conventions
 *   - Lengths that Lua passes are doubles: a Lua number goes through unconverted, and negative, fractional or huge values
 *     reach the check in C instead of being cut. Lengths that Lua receives are doubles too (a uint64_t would be boxed).
 *   - An int result is 0 or a positive value when it worked and a negative enum rille_err when it did not.
 *   - Each pointer says who owns it: owned (the receiver frees it), borrowed (valid until the named event), static.
 *   - "loop thread" functions may only be called on the thread that runs the loop; the others say what they allow.
 */
#ifndef RILLE_H
#define RILLE_H

#ifndef RILLE_CDEF
#include <stddef.h>
#include <stdint.h>
#endif

enum { RILLE_ABI = 1 };

/* The closed list of errors; core/errors.c holds the text and the errno of each. */
enum rille_err {
  RILLE_OK = 0,
  RILLE_ERR_CLOSED = -1,
  RILLE_ERR_RESET = -2,
  RILLE_ERR_TIMEOUT = -3,
  RILLE_ERR_SHORT = -4,
  RILLE_ERR_TOO_LARGE = -5,
  RILLE_ERR_REFUSED = -6,
  RILLE_ERR_UNREACHABLE = -7,
  RILLE_ERR_ADDRESS_IN_USE = -8,
  RILLE_ERR_PERMISSION = -9,
  RILLE_ERR_NOT_FOUND = -10,
  RILLE_ERR_BUSY = -11,
  RILLE_ERR_FULL = -12,
  RILLE_ERR_CANCELLED = -13,
  RILLE_ERR_NO_MEMORY = -14,
  RILLE_ERR_INVALID = -15,   /* "invalid argument" */
  RILLE_ERR_EXPIRED = -16,   /* "slice expired" */
  RILLE_ERR_READ_ONLY = -17, /* "read only" */
  RILLE_ERR_SHUTDOWN = -18,
  RILLE_ERR_ERROR = -19, /* "error": a handler raised */
  RILLE_ERR_BAD_ADDRESS = -20,
  RILLE_ERR_TOO_MANY_FILES = -21,
  RILLE_ERR_NOT_SUPPORTED = -22,
  RILLE_ERR_ADDRESS_NOT_AVAILABLE = -23,
  RILLE_ERR_SYSTEM = -24, /* any other errno */
  RILLE_ERR_EXISTS = -25,
  RILLE_ERR_NOT_A_NUMBER = -26,
  RILLE_ERR_NOT_A_LIST = -27,     /* "value not a list" */
  RILLE_ERR_A_LIST = -28,         /* "value is a list" */
  RILLE_ERR_SERVER_FAILURE = -29, /* of DNS: its servers cannot answer, or what they answer cannot be read */
  RILLE_ERR_HANDSHAKE = -30,      /* "handshake failed" */
  RILLE_ERR_CERTIFICATE = -31,    /* "bad certificate" */
  RILLE_ERR_UNAVAILABLE = -32,    /* "unavailable" */
  RILLE_ERR_LAST = -32
};

/* static; the text scripts see ("short", "too large", ...); never NULL */
const char *rille_err_text(int err);
/* the errno that belongs to err, 0 where there is none */
int rille_err_errno(int err);
/* the enum rille_err of an errno */
int rille_err_from_errno(int error_number);
/* 1: what failed so lacked descriptors or memory, and may work later */
int rille_err_is_shortage(int error_number);

/* static; the text of this header as Lua sees it; lua/rille/core.lua declares this one function by hand */
const char *rille_cdef(void);
int rille_abi(void);
const char *rille_version(void); /* static; "0.1.0" */

/* ---- blocks ---------------------------------------------------------------------------------------------------- */

typedef struct rille_block rille_block;
typedef struct rille_linkbuffer rille_linkbuffer;

/* An epoch that slices compare with their own. Cells live in memory that is never unmapped. */
typedef struct rille_cell {
  uint32_t epoch;
} rille_cell;

typedef struct rille_block_stats {
  double blocks_in_use; /* handed out and not given back */
  double bytes_in_use;  /* their class sizes */
  double cached_blocks; /* kept for reuse, in all caches and the shared pool */
  double cached_bytes;
  double slices_retained;
  double slices_leaked;  /* retained slices that the collector had to free */
  double buffers_in_use; /* LinkBuffers that are not closed */
} rille_block_stats;

/* any thread */
void rille_block_stats_read(rille_block_stats *out);

/* ---- slices ---------------------------------------------------------------------------------------------------- */

/* A borrowed view of bytes in a block. It is valid while cell_->epoch == epoch_. Plain, so that the JIT sees into it. */
typedef struct rille_slice {
  const uint8_t *base_;
  rille_cell *cell_;
  rille_block *block_; /* NULL for an empty slice */
  uint32_t size_;
  uint32_t epoch_;
} rille_slice;

/* Take a counted reference in place: the slice now answers to a cell of its own. Retaining it again counts up. One thread
 * at a time uses a slice; a retained one may change hands. */
int rille_slice_retain(rille_slice *s);
/* Drop a reference of rille_slice_retain: 1 when there are more, 0 when that was the last or s was not retained (harmless,
 * it expires by itself). */
int rille_slice_release(rille_slice *s);
/* A retained slice of its own over the same bytes, one reference, for another owner or thread; out may be s. */
int rille_slice_copy(const rille_slice *s, rille_slice *out /* owned */);
/* The end of a retained slice that the collector found: drops all its references and counts it as leaked. */
void rille_slice_collect(rille_slice *s);
/* 1 when s itself (not a sub slice) holds a counted reference */
int rille_slice_is_retained(const rille_slice *s);
/* static; the cell of slices of no bytes, which never expire: their epoch is 0 */
rille_cell *rille_cell_of_nothing(void);
/* 0-based offset of needle at or after from, or -1 */
double rille_bytes_find(const uint8_t *base, double size, const char *needle, size_t needle_size, double from);
int rille_bytes_compare(const uint8_t *a, double a_size, const uint8_t *b, double b_size);

/* ---- linkbuffer ------------------------------------------------------------------------------------------------ */

/* owned; NULL with *err when it did not work. block_size in bytes, 1 .. 8 MiB. Any thread. */
rille_linkbuffer *rille_linkbuffer_new(double block_size, int *err);
/* End of the buffer: gives all blocks back, expires all slices; later calls give RILLE_ERR_CLOSED. Harmless twice. */
void rille_linkbuffer_close(rille_linkbuffer *b);
/* close and free the handle itself */
void rille_linkbuffer_free(rille_linkbuffer *b);

/* reader side: one thread at a time */
double rille_linkbuffer_len(const rille_linkbuffer *b);
int rille_linkbuffer_next(rille_linkbuffer *b, double n, rille_slice *out /* borrowed until release */);
int rille_linkbuffer_peek(rille_linkbuffer *b, double n, rille_slice *out /* borrowed until release */);
int rille_linkbuffer_skip(rille_linkbuffer *b, double n);
int rille_linkbuffer_read_until(rille_linkbuffer *b, const char *delim, size_t delim_size,
                                rille_slice *out /* borrowed until release */);
/* offset from the read cursor, -1 when there is none, below -1: a negative enum rille_err - 1 */
double rille_linkbuffer_index_of(rille_linkbuffer *b, const char *delim, size_t delim_size, double from);
/* borrowed until the next call on b; the next n bytes, not consumed; NULL when they are not there or not in one piece */
const uint8_t *rille_linkbuffer_front_bytes(rille_linkbuffer *b, double n);
/* copies and consumes n bytes */
int rille_linkbuffer_read_copy(rille_linkbuffer *b, uint8_t *to, double n);
/* 0..255 or an error */
int rille_linkbuffer_read_byte(rille_linkbuffer *b);
/* owned; NULL with *err */
rille_linkbuffer *rille_linkbuffer_take(rille_linkbuffer *b, double n, int *err);
int rille_linkbuffer_release(rille_linkbuffer *b);
int rille_linkbuffer_is_read_only(const rille_linkbuffer *b);

/* writer side: one thread at a time */
uint8_t *rille_linkbuffer_malloc(rille_linkbuffer *b, double n, int *err); /* borrowed until flush */
double rille_linkbuffer_malloc_len(const rille_linkbuffer *b);
int rille_linkbuffer_malloc_ack(rille_linkbuffer *b, double n);
int rille_linkbuffer_write(rille_linkbuffer *b, const char *bytes, size_t size);
int rille_linkbuffer_write_slice(rille_linkbuffer *b, const rille_slice *s);
int rille_linkbuffer_write_buffer(rille_linkbuffer *b, rille_linkbuffer *from);
int rille_linkbuffer_write_direct(rille_linkbuffer *b, const char *bytes, size_t size, double remain);
int rille_linkbuffer_write_direct_slice(rille_linkbuffer *b, const rille_slice *s, double remain);
int rille_linkbuffer_write_direct_buffer(rille_linkbuffer *b, rille_linkbuffer *from, double remain);
int rille_linkbuffer_append(rille_linkbuffer *b, rille_linkbuffer *other);
int rille_linkbuffer_flush(rille_linkbuffer *b);

/* one scalar of 1..8 bytes, most significant byte first unless little; value holds the bits */
int rille_linkbuffer_write_scalar(rille_linkbuffer *b, uint64_t value, int size, int little);
int rille_linkbuffer_write_varint(rille_linkbuffer *b, uint64_t value);

/* ---- loop ------------------------------------------------------------------------------------------------------ */

typedef struct rille_loop rille_loop;
typedef struct rille_team rille_team;
typedef struct rille_state rille_state;
typedef struct rille_generation rille_generation;
typedef struct rille_chunks rille_chunks; /* the files of a generation, shared by its states */
typedef struct rille_service rille_service;
typedef struct rille_conn rille_conn;
typedef struct rille_listener rille_listener;

/* Results above 0 of the calls that may park. */
enum { RILLE_PARK = 1 };

/* What a state finds in its inbox. `slot` names a connection of the loop, or the token of a watch or timer. */
enum rille_event_kind {
  RILLE_EVENT_START = 1,  /* once, before the listeners accept */
  RILLE_EVENT_ACCEPT,     /* once, when they do */
  RILLE_EVENT_OPEN,       /* a new connection: on_prepare, on_connect */
  RILLE_EVENT_REQUEST,    /* bytes for on_request */
  RILLE_EVENT_READ,       /* the parked reader may try again */
  RILLE_EVENT_WRITE,      /* the parked writers may try again */
  RILLE_EVENT_IDLE,       /* arg: 1 nothing was received, 2 nothing was sent */
  RILLE_EVENT_DISCONNECT, /* the peer ended its side */
  RILLE_EVENT_MOVE,       /* a connection of another loop came over: rille_conn_take_moved */
  RILLE_EVENT_CLOSE,      /* the end; arg: enum rille_err or 0. The state answers with rille_conn_free */
  RILLE_EVENT_WATCH,      /* arg: 1 readable, 2 writable, 3 both, 0 the time was up */
  RILLE_EVENT_STOP,       /* shutdown has begun */
  RILLE_EVENT_POST,       /* a call from another loop: rille_post_take */
  RILLE_EVENT_JOB,        /* a job of a worker pool: rille_job_take */
  RILLE_EVENT_BALANCE,    /* a connection waits for on_balance: rille_balance_ask */
  RILLE_EVENT_DATAGRAM,   /* slot: of the datagram, for on_request */
  RILLE_EVENT_SESSION,    /* slot: of the session; arg: enum rille_session_event */
  RILLE_EVENT_UDP,        /* slot: of the socket; the parked receive may try again */
  RILLE_EVENT_STREAM,     /* slot: its token; arg: enum rille_stream_side, there is room or output */
  RILLE_EVENT_DIAL,       /* slot: its token; rille_dial_take or rille_resolve_count */
  RILLE_EVENT_CONSOLE,    /* code of the console: rille_console_take */
  RILLE_EVENT_MIGRATE, /* another generation gets its messages: rille_conn_hand_on; arg 1: what holds it is to let go */
  RILLE_EVENT_CHANGE,  /* of generations; arg: enum rille_change_kind */
  RILLE_EVENT_RELOAD,  /* a note for who deploys: rille_reload_take */
  RILLE_EVENT_TLS,     /* arg: enum rille_tls_event */
  RILLE_EVENT_END      /* the last connection is gone: cancel what is still parked */
};

typedef struct rille_event {
  uint32_t slot;
  int16_t kind;
  int16_t arg;
} rille_event;

typedef struct rille_inbox {
  rille_event *items;
  uint32_t count;
  uint32_t next; /* the dispatcher advances it before it works, so that an event is never seen twice */
} rille_inbox;

typedef struct rille_clock {
  double now; /* seconds, monotonic, as of this turn */
} rille_clock;

typedef struct rille_loop_stats {
  double id, turns, connections, accepted, messages, bytes_in, bytes_out, watches, timers;
  double moved_in, moved_out; /* connections, by conn:move */
  double lua_bytes, lua_allocated, failures, replaced;
  double datagrams_dropped; /* here; not by the kernel */
  double errors;            /* of scripts: what raised and was logged */
  double stalls;            /* turns that lasted longer than stall_after */
  double mail;              /* messages of other threads that wait */
  double turn_seconds;      /* all turns */
  double longest_turn;      /* seconds */
  double longest_work;      /* the same without waits for a processor; 0: nobody asked for that */
} rille_loop_stats;

/* of a loop that is no server's: it is not in the status, and hears no signals */
enum { RILLE_LOOP_PRIVATE = 0 };

/* owned; NULL with *err. id 1.., or RILLE_LOOP_PRIVATE */
rille_loop *rille_loop_new(uint32_t id, int *err);
/* frees its states too; the loop must not run */
void rille_loop_free(rille_loop *loop);
/* run on the calling thread until stopped; returns the status given to rille_loop_exit */
int rille_loop_run(rille_loop *loop);
int rille_loop_thread_start(rille_loop *loop); /* the same on a thread of its own */
int rille_loop_thread_join(rille_loop *loop);
/* any thread: end at once */
void rille_loop_interrupt(rille_loop *loop);
const rille_clock *rille_loop_clock(const rille_loop *loop); /* lives as long as the loop */
double rille_now(void);                                      /* seconds, monotonic, at this moment */
double rille_time(void);                                     /* seconds since 1970 */
void rille_loop_stats_read(const rille_loop *loop, rille_loop_stats *out);
/* any thread: whether all loops of the process measure longest_work */
void rille_loops_time_work(int is_on);
/* loop thread: begin to stop, with all loops of its team; drain_ms as below */
void rille_loop_shutdown(rille_loop *loop, double drain_ms);
/* loop thread: begin to stop; connections have drain_ms (below 0: what rille_loop_set_drain said) to finish */
void rille_loop_stop(rille_loop *loop, double drain_ms);
/* loop thread: end at once with this status */
void rille_loop_exit(rille_loop *loop, int status);
/* how long one connection may be served in a turn while others wait */
void rille_loop_set_budget(rille_loop *loop, double ms);
void rille_loop_set_drain(rille_loop *loop, double ms);

/* The loops of a server, 1 .. 256. owned; NULL with *err. Any thread */
rille_team *rille_team_new(uint32_t count, int *err);
rille_loop *rille_team_loop(rille_team *team, uint32_t id); /* borrowed; loop 1 .. count */
/* a thread for each loop, until all have stopped: the first status that is not 0, or a negative enum rille_err */
int rille_team_run(rille_team *team);
/* with its loops and their states; none may run */
void rille_team_free(rille_team *team);
/* processors this process may use: affinity and the quota of its cgroup */
int rille_cpu_count(void);

/* ---- state ----------------------------------------------------------------------------------------------------- */

/* owned by the loop. Makes a Lua state, opens the libraries and runs source(loop, state, arguments), both as numbers (their
 * addresses), which must return the dispatcher. NULL with a message when that raised. memory: limit of its heap in bytes, 0: none. The
 * thread that builds the loop. */
rille_state *rille_state_new(rille_loop *loop, rille_generation *generation, double memory, const char *source,
                             const char *arguments, size_t arguments_size, char *message, size_t message_size);
/* The state of the program that called rille.run; it lends its VM for the time of the run. */
rille_state *rille_state_host(rille_loop *loop, rille_generation *generation);
rille_inbox *rille_state_inbox(rille_state *state);
uint32_t rille_state_generation(const rille_state *state);
const char *rille_state_label(const rille_state *state);
/* what the names of the library's chunks begin with; a shortage of memory is not raised in the middle of those */
void rille_state_set_library(rille_state *state, const char *prefix);
/* 1: it took the place of one that failed; its loop serves already */
int rille_state_is_renewed(const rille_state *state);
/* loop thread: its on_start has returned. When all have, the listeners accept. */
void rille_state_started(rille_state *state);
/* loop thread: its on_start failed. The server ends; one that replaces another is tried again later. */
void rille_state_refuse_start(rille_state *state);
/* loop thread: its shutdown hooks are through */
void rille_state_hooks_done(rille_state *state);

/* ---- service --------------------------------------------------------------------------------------------------- */

/* The hooks a script has; what it does not have costs no call into Lua. */
enum rille_hook {
  RILLE_HOOK_PREPARE = 1,
  RILLE_HOOK_CONNECT = 2,
  RILLE_HOOK_REQUEST = 4,
  RILLE_HOOK_IDLE = 8,
  RILLE_HOOK_DISCONNECT = 16,
  RILLE_HOOK_CLOSE = 32,
  RILLE_HOOK_MOVE = 64
};

/* Settings of a service (the start values of its connections) and of a connection. Times in ms, 0: none. */
enum rille_setting {
  RILLE_SET_READ = 1,
  RILLE_SET_WRITE,
  RILLE_SET_IDLE,
  RILLE_SET_LIFETIME,
  RILLE_SET_LINGER,
  RILLE_SET_MAX_INPUT,  /* bytes; service only */
  RILLE_SET_HIGH_WATER, /* bytes */
  RILLE_SET_LOW_WATER,  /* bytes; UINT32_MAX: half of the high-water mark */
  RILLE_SET_READ_RATE,  /* bytes a second, 0: no limit */
  RILLE_SET_WRITE_RATE,
  RILLE_SET_NODELAY,     /* 0 or 1 */
  RILLE_SET_KEEPALIVE,   /* seconds idle before the first probe, 0: off */
  RILLE_SET_HTTP,        /* 1: connections speak HTTP/1. This and the rest: service only */
  RILLE_SET_HEAD,        /* bytes of a request head */
  RILLE_SET_TARGET,      /* bytes of a request-target */
  RILLE_SET_HEADERS,     /* fields of a request */
  RILLE_SET_BODY,        /* bytes of a request body, 0: no limit */
  RILLE_SET_HEADER_TIME, /* for a whole head */
  RILLE_SET_BODY_TIME,   /* that a handler waits for a body */
  RILLE_SET_BODY_RATE,   /* bytes of body that give one second more */
  RILLE_SET_REQUESTS,    /* of a connection, 0: no limit */
  RILLE_SET_TUNNEL,      /* 1: the script takes CONNECT */
  RILLE_SET_HANDSHAKE    /* of TLS */
};

rille_service *rille_service_new(rille_state *state, uint32_t id, uint32_t hooks); /* owned by the state */
int rille_service_set(rille_service *service, int setting, double value);

/* ---- conn: loop thread only ------------------------------------------------------------------------------------ */

/* borrowed until rille_conn_free; NULL when the slot is free */
rille_conn *rille_conn_at(rille_loop *loop, uint32_t slot);
double rille_conn_id(const rille_conn *c);
uint32_t rille_conn_slot(const rille_conn *c);
uint32_t rille_conn_service(const rille_conn *c);
/* the same, when it belongs to this state */
rille_conn *rille_conn_of(const rille_state *state, uint32_t slot);
/* The state has a table for it and wants to hear of its end. 1: it brought something from the generation before. */
int rille_conn_know(rille_conn *c);
/* the state saw CLOSE and forgets it */
void rille_conn_free(rille_conn *c);
/* the table of a connection without on_request was collected: nobody can close it any more */
void rille_conn_abandon(rille_loop *loop, double id);

/* on_prepare said yes: read from now on */
void rille_conn_admit(rille_conn *c);
/* on_prepare said no, closed it or raised: nothing is called for it any more but on_close */
void rille_conn_refuse(rille_conn *c);
/* on_connect returned: on_request may start */
void rille_conn_opened(rille_conn *c);
/* a handler other than on_request starts / ended */
void rille_conn_enter(rille_conn *c);
void rille_conn_leave(rille_conn *c);
/* on_request starts: 0 when it need not any more. It returned: 1 when it is to be called again at once */
int rille_conn_begin(rille_conn *c);
int rille_conn_done(rille_conn *c);
/* there is an on_request from now on (or not): input is handed to it */
void rille_conn_serve(rille_conn *c, int served);
/* on_idle returned */
void rille_conn_idle_done(rille_conn *c);

/* 0: n bytes are readable; RILLE_PARK: park until the READ event, then ask again; or an error */
int rille_conn_want(rille_conn *c, double n);
/* the parked reader goes on (and asks again), or goes away for good */
void rille_conn_unwant(rille_conn *c, int for_good);
double rille_conn_len(const rille_conn *c);
/* as rille_conn_want, then next; the slice is borrowed until the handler returns or rille_conn_release */
int rille_conn_next(rille_conn *c, double n, rille_slice *out);
/* at least 1 byte, at most max, contiguous */
int rille_conn_read(rille_conn *c, double max, rille_slice *out);
/* bytes through delim, at most max; scan: where the last attempt ended, kept by the caller */
int rille_conn_read_until(rille_conn *c, const char *delim, size_t delim_size, double max, double *scan,
                          rille_slice *out);
int rille_conn_release(rille_conn *c);
/* borrowed until the handler parks or returns; NULL when there is no memory */
rille_linkbuffer *rille_conn_input(rille_conn *c);
/* borrowed until the handler parks or returns; what is written to it is sent. NULL with *err */
rille_linkbuffer *rille_conn_output(rille_conn *c, int *err);

/* 0; RILLE_PARK: taken, but the output is above its high-water mark; or an error */
int rille_conn_write(rille_conn *c, const char *bytes, size_t size);
/* a slice by its fields, so that the caller's need not exist in memory */
int rille_conn_write_view(rille_conn *c, const uint8_t *base, uint32_t size, rille_cell *cell, rille_block *block,
                          uint32_t epoch);
/* the same of one that does, and has not expired */
int rille_conn_write_slice(rille_conn *c, const rille_slice *s);
int rille_conn_write_buffer(rille_conn *c, rille_linkbuffer *from);
/* before more is encoded in place: 0, or RILLE_PARK above the high-water mark */
int rille_conn_throttle(rille_conn *c);
/* send now; 0 all handed to the kernel, RILLE_PARK: park until the WRITE event, or an error */
int rille_conn_flush(rille_conn *c);
/* a task parks until the output is at most level bytes (below 0: the low-water mark): 0 it is, RILLE_PARK, or an error */
int rille_conn_wait_output(rille_conn *c, double level);

void rille_conn_close(rille_conn *c);
void rille_conn_abort(rille_conn *c);
/* a handler raised: output that is there is still sent */
void rille_conn_raise(rille_conn *c);
int rille_conn_shutdown(rille_conn *c);
/* the descriptor, now the caller's, or an error; RILLE_ERR_BUSY while output is pending */
int rille_conn_detach(rille_conn *c);
void rille_conn_pause(rille_conn *c, int paused);
int rille_conn_is_active(const rille_conn *c);
/* 1: it speaks HTTP/1, and what goes in and out belongs to requests and answers */
int rille_conn_is_http(const rille_conn *c);
int rille_conn_set(rille_conn *c, int setting, double value);
int rille_conn_keepalive(rille_conn *c, int idle_s, int interval_s, int count);
void rille_conn_trace(rille_conn *c, int on);
size_t rille_conn_peer(const rille_conn *c, char *to, size_t size);
size_t rille_conn_local(const rille_conn *c, char *to, size_t size);
/* a connection over a descriptor that is the loop's from now on; without on_request. NULL with *err */
rille_conn *rille_conn_adopt(rille_service *service, int fd, int *err);
int rille_conn_pair(rille_service *service, rille_conn *pair[2]);

/* ---- watch ----------------------------------------------------------------------------------------------------- */

/* One event WATCH with this token when fd is ready (mask 1 readable, 2 writable) or ms are over (0: no limit); fd -1: a timer.
 * Returns its id, or a negative enum rille_err. Loop thread. */
double rille_watch_start(rille_state *state, int fd, int mask, double ms, uint32_t token);
void rille_watch_stop(rille_loop *loop, double id);

/* ---- addresses ------------------------------------------------------------------------------------------------- */

/* Whether url (url_size bytes, NUL behind them) is one that listen and dial understand. 0, or an error with a sentence
 * in message that says what is wrong and what is expected. Looks no name up and never blocks. Any thread. */
int rille_address_check(const char *url, size_t url_size, char *message, double message_size);

/* ---- log ------------------------------------------------------------------------------------------------------- */

/* bytes of a line, its newline included; what is longer is cut and ends in an ellipsis */
enum { RILLE_LOG_LINE_MAX = 8192 };

enum rille_log_level { RILLE_LOG_DEBUG, RILLE_LOG_INFO, RILLE_LOG_WARN, RILLE_LOG_ERROR, RILLE_LOG_OFF };
enum rille_log_format { RILLE_LOG_LOGFMT, RILLE_LOG_JSON };
enum rille_log_target {
  RILLE_LOG_STDERR,
  RILLE_LOG_FILE,
  RILLE_LOG_QUEUE /* kept in memory for rille_log_take */
};

/* Who speaks. Zero and NULL stand for nothing; the text is borrowed for the call. */
typedef struct rille_log_context {
  const char *label; /* the script and its generation, "echo@1" */
  double loop;       /* 1.. */
  double conn;
} rille_log_context;

/* One more key=value of a line; borrowed for the call. */
typedef struct rille_log_field {
  const char *key;
  const char *value;
  size_t size;
} rille_log_field;

typedef struct rille_log_counts {
  double debug, info, warn, error; /* lines written */
  double suppressed;               /* records over their call site's rate */
  double dropped;                  /* lines the target did not take: full, not ready, disk full */
} rille_log_counts;

/* Any thread, all of them; none waits for a slow target. */
/* 0, or the error of opening path (for RILLE_LOG_FILE; else NULL), which leaves everything as it was */
int rille_log_configure(int level, int format, int target, const char *path);
int rille_log_set_level(int level);
int rille_log_level(void);
int rille_log_is_enabled(int level);
/* records a second and call site, 10 at first; 0 is no limit */
void rille_log_set_rate(double per_second);
/* A record of a call site, which is any number that is the same at each call, 0 for one without a limit. context NULL is
 * the calling thread's loop. Does nothing when level is not enabled. */
void rille_log_write(int level, uint32_t site, const rille_log_context *context, const char *message, size_t size,
                     const rille_log_field *fields, int field_count);
/* Open the file again, after it was rotated; on failure goes on with the one that is open and logs why. */
int rille_log_reopen(void);
/* The oldest line of the queue, without its newline and at most max bytes of it: its length, 0 when there is none. */
int rille_log_take(char *to, double max);
void rille_log_count(rille_log_counts *out);

#include "rille_accept.h"
#include "rille_binding.h"
#include "rille_chunk.h"
#include "rille_codec.h"
#include "rille_conn.h"
#include "rille_control.h"
#include "rille_dial.h"
#include "rille_dict.h"
#include "rille_dns.h"
#include "rille_encoding.h"
#include "rille_file_watch.h"
#include "rille_errand.h"
#include "rille_fs.h"
#include "rille_http.h"
#include "rille_http_client.h"
#include "rille_metric.h"
#include "rille_pool.h"
#include "rille_post.h"
#include "rille_prefork.h"
#include "rille_proxy.h"
#include "rille_pump.h"
#include "rille_redis.h"
#include "rille_reload.h"
#include "rille_stream.h"
#include "rille_process.h"
#include "rille_tls.h"
#include "rille_topic.h"
#include "rille_udp.h"

#endif
