/*
 * rille_control.h: the part of rille.h for the control thread: signals, the control socket, what it says of the process; same rules,
 * included at its end.
 */
#ifndef RILLE_RILLE_CONTROL_H
#define RILLE_RILLE_CONTROL_H

#include "rille.h"

enum {
  RILLE_CONTROL_REQUEST_MAX = 65536, /* bytes of a request, the code of the console included */
  RILLE_CONTROL_CLIENTS_MAX = 32
};

/* Signals, process limits, the control socket: one control thread a process. start blocks the signals in the calling thread (and the
 * threads it makes), so that the control thread gets them; stop undoes it. */
int rille_control_start(void);
void rille_control_stop(void);
/* Serve the control socket at a path, mode 0600, until the control thread stops, which removes it. path NULL or "": rille-PID.sock below
 * $XDG_RUNTIME_DIR, else below /tmp. 0, or an error with a sentence in message. The thread that started it. */
int rille_control_listen(const char *path, char *message, size_t message_size);
/* the configuration, for `rille status --conf`; "" for none */
void rille_control_describe(const char *conf);
/* a turn that lasts longer is a stall; 0: none is. Any thread */
void rille_control_set_stall(double ms);

enum rille_health { RILLE_HEALTH_SERVING, RILLE_HEALTH_STARTING, RILLE_HEALTH_DRAINING, RILLE_HEALTH_STALLED };
/* any thread: enum rille_health of the process */
int rille_control_health(void);

/* Any thread: ask the control thread as a client of its socket would. A descriptor to read the answer from, until its end; the caller's. Or
 * RILLE_ERR_BUSY (too many clients), RILLE_ERR_SHUTDOWN (no control thread). */
int rille_control_ask(const char *request, size_t size);

/* Ask the process that serves the control socket at path, and wait for its answer at most so many milliseconds: its bytes, owned (give back
 * with rille_control_free); NULL with *err. RILLE_ERR_PERMISSION: it is somebody else's. */
char *rille_control_call(const char *path, const char *request, size_t size, double timeout_ms, double *answer_size,
                         int *err);
void rille_control_free(char *answer);

/* ---- what the control thread sees of a loop: loop thread ------------------------------------------------------- */

/* What a loop is doing: the control thread looks when it does not come back. */
typedef struct rille_place {
  uint64_t conn;  /* epoch and slot of the connection that the script is busy with; 0: none */
  int32_t fd;     /* its descriptor */
  uint32_t state; /* the number of the Lua state that runs, from 1; 0: none does */
} rille_place;

rille_place *rille_loop_place(rille_loop *loop); /* lives as long as the loop */
/* something of its script raised */
void rille_state_count_error(rille_state *state);

/* ---- console: loop thread -------------------------------------------------------------------------------------- */

typedef struct rille_console rille_console;

/* owned; what RILLE_EVENT_CONSOLE was for, NULL when there is nothing */
rille_console *rille_console_take(rille_state *state);
const char *rille_console_code(const rille_console *console, double *size); /* lives as long as it */
double rille_console_timeout(const rille_console *console);                 /* seconds */
/* the end of it: what the code printed and gave, or why it failed */
void rille_console_answer(rille_console *console, int ok, const char *text, size_t size);

/* ---- leak detector: any thread --------------------------------------------------------------------------------- */

/* what Lua states that begin later take: 0 off, 1 sample, 2 all; one in how many is recorded at 1 */
void rille_leaks_set(int level, int sample);
int rille_leaks_level(void);
int rille_leaks_sample(void);

#endif
