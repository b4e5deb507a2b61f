/*
 * process_note: one of the processes of a prefork server, and the page it shares with its parent (prefork.c). Where a server is one
 * process there is no page, and nothing here does anything.
 *
 * A process writes its own page, the parent reads it, also after the process has died; so what stands there is not to be trusted.
 */
#ifndef RILLE_PROCESS_NOTE_H
#define RILLE_PROCESS_NOTE_H

#include "group.h"
#include "rille.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

enum rille_stage { RILLE_STAGE_LOADING, RILLE_STAGE_BUILT, RILLE_STAGE_READY };
enum rille_stop { RILLE_STOP_NOT, RILLE_STOP_DRAIN, RILLE_STOP_AT_ONCE };

enum { RILLE_PAGE_LABELS = 64, RILLE_PAGE_LABEL = 64 };

typedef struct rille_page {
  /* atomic: the process writes, the parent reads */
  _Atomic uint32_t stage;             /* enum rille_stage */
  _Atomic uint32_t wants_stop;        /* enum rille_stop: of all, by a script or through the control socket */
  _Atomic uint64_t beat_ns;           /* when all loops were last seen to make turns */
  rille_place places[RILLE_LOOP_MAX]; /* through __atomic */
  /* written before the loops run */
  char labels[RILLE_PAGE_LABELS][RILLE_PAGE_LABEL]; /* of states, by index */
} rille_page;

/* One mapping of the parent and all its processes. */
typedef struct rille_processes {
  _Atomic uint32_t stop; /* enum rille_stop; of the parent, or a process that asks for a drain */
  rille_page pages[RILLE_PROCESS_MAX];
} rille_processes;

/* In a process that was just forked: which one it is. wake_fd: an eventfd of the parent. */
void rille_process_begin(rille_processes *all, uint32_t number, uint32_t count, int wake_fd, pid_t parent);

bool rille_process_is_child(void);
/* What the parent wants; a process whose parent has gone drains. Any thread. */
enum rille_stop rille_process_stop_wanted(void);
/* Where the loop says what it does; NULL: there is no page. */
rille_place *rille_process_place(uint32_t loop_id);
void rille_process_label(uint32_t index, const char *label);
/* Any thread: all loops accept; all loops make turns; the server is to stop. */
void rille_process_ready(void);
void rille_process_beat(uint64_t now_ns);
void rille_process_ask_stop(enum rille_stop how);

#endif
