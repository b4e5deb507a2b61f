/*
 * control: the inside of the control thread, for control.c (the thread, signals), stall.c (loops that do not come back),
 * control_door.c (how clients come), control_socket.c (what becomes of them), status.c and exposition.c (what they are told), conn_list.c and console.c (what loops are asked).
 *
 * The list of loops is guarded by a mutex, which loops take only when they begin and end.
 */
#ifndef RILLE_CONTROL_H
#define RILLE_CONTROL_H

#include "json_write.h"
#include "loop.h"
#include "rille_control.h"
#include "snapshot.h"

#include <poll.h>

/* ---- loops ----------------------------------------------------------------------------------------------------- */

/* A loop as the control thread knows it. */
typedef struct rille_watched {
  rille_loop *loop;        /* NULL: free */
  uint64_t stall_since_ns; /* of the stall that was told of; 0: none */
  char stall_text[256];    /* who held it */
  rille_log_context stall_context;
  char stall_label[64];
} rille_watched;

/* What is said of a loop. */
typedef struct rille_loop_view {
  rille_loop *loop;
  const rille_snapshot *snapshot;
  bool has_answered; /* the snapshot is as of the question */
  bool is_stalled;
  double busy_seconds; /* in the turn that it does not come back from; 0 when it answers */
} rille_loop_view;

/* any thread */
void rille_control_wake(void);
void rille_control_ask_loops(uint32_t bits);
void rille_control_stop_loops(bool now);
/* the mutex, and RILLE_LOOP_MAX places for loops */
rille_watched *rille_control_lock(void);
void rille_control_unlock(void);
/* fn for each loop, under the mutex */
void rille_control_each(void (*fn)(rille_watched *w, void *to), void *to);

/* ---- stall.c --------------------------------------------------------------------------------------------------- */

/* control thread: look at each loop, log what is to be said. Returns when to look again, in ms; -1: not at all */
int rille_stall_check(void);
/* any thread: whether the loop is in a turn that began too long ago */
bool rille_stall_is(const rille_loop *loop, uint64_t now_ns);

/* ---- control_socket.c: control thread -------------------------------------------------------------------------- */

enum { RILLE_CONTROL_POLLS_MAX = RILLE_CONTROL_CLIENTS_MAX + 1 };

uint32_t rille_control_socket_polls(struct pollfd *polls, uint64_t now_ns, int *timeout_ms);
void rille_control_socket_serve(const struct pollfd *polls, uint32_t count);
/* the thread is over */
void rille_control_socket_close(void);

/* ---- control_door.c: control thread --------------------------------------------------------------------------- */

enum { RILLE_CONTROL_LINE_MAX = 512 }; /* bytes of a request's first line, its end included */

/* Hand on those who came from inside; add takes the descriptor in any case. */
void rille_control_door_admit(bool (*add)(int fd));
/* the listening socket, or -1 */
int rille_control_door_fd(void);
/* nobody comes any more; the socket file goes */
void rille_control_door_close(void);

/* ---- what is told ---------------------------------------------------------------------------------------------- */

typedef struct rille_usage {
  double uptime, rss_bytes, descriptors;
  const char *conf;
} rille_usage;

void rille_usage_read(rille_usage *out);
/* a double of a struct, for tables of them */
static inline double rille_number_at(const void *of, size_t offset) {
  return *(const double *)(const void *)((const char *)of + offset);
}
/* under the mutex of the loops, as views point at them; health: enum rille_health */
void rille_status_write(rille_text *t, const rille_loop_view *views, uint32_t count, int health);
void rille_exposition_write(rille_text *t, const rille_loop_view *views, uint32_t count, int health);

/* ---- conn_list.c ----------------------------------------------------------------------------------------------- */

typedef struct rille_conn_list rille_conn_list;

/* Ask a loop for its connections, at most limit; 0: only for how many each generation has. NULL when it cannot be asked. A reference. */
rille_conn_list *rille_conn_list_ask(rille_loop *loop, uint32_t limit);
bool rille_conn_list_is_done(const rille_conn_list *list);
/* its items, at most limit of them; how many were written. *total: those of the loop */
uint32_t rille_conn_list_write(const rille_conn_list *list, rille_text *t, uint32_t limit, double *total);
/* the same of generations, all of them; limit was 0 */
void rille_conn_list_write_generations(const rille_conn_list *list, rille_text *t, double *total);
void rille_conn_list_release(rille_conn_list *list);

/* ---- console.c ------------------------------------------------------------------------------------------------- */

/* code is copied; state "": the first one. A reference; NULL with *err */
rille_console *rille_console_new(const char *state, double timeout_ms, const char *code, size_t size, int *err);
int rille_console_send(rille_console *console, rille_loop *loop);
bool rille_console_is_done(const rille_console *console);
void rille_console_write(const rille_console *console, rille_text *t);
void rille_console_release(rille_console *console);
/* loop thread: the state ends, what waits for it is answered */
void rille_console_forget(rille_state *state);

#endif
