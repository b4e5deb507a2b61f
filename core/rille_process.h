/*
 * rille_process.h: the part of rille.h for the processes that scripts start; same rules, included at its end. A start is a request as
 * in rille_fs.h: it takes a worker as long as the kernel needs to load the program.
 */
#ifndef RILLE_RILLE_PROCESS_H
#define RILLE_RILLE_PROCESS_H

#include "rille.h"
#include "rille_pool.h"

typedef struct rille_process rille_process;

enum { RILLE_PROCESS_ARGUMENTS_MAX = 4096, RILLE_PROCESSES = 256 };

/* What a standard stream of a child is, other than a descriptor. */
enum rille_stdio { RILLE_STDIO_NULL = -1, RILLE_STDIO_PIPE = -2, RILLE_STDIO_INHERIT = -3, RILLE_STDIO_OUTPUT = -4 };

typedef struct rille_spawn_options {
  const char *args, *env; /* strings with a NUL behind each; env NULL: as this process has it */
  double args_size, env_size;
  const char *cwd; /* NULL: the same */
  int stdio[3];    /* a descriptor, which is duplicated at once, or an enum rille_stdio; OUTPUT: where stdout goes */
  int pty;         /* 1: a terminal for all three */
  int rows, columns;
  int group;  /* 1: in a process group of its own */
  int detach; /* 1: in a session of its own, and not ended with the run */
} rille_spawn_options;

/* owned, a reference: a request in the queue, which RILLE_EVENT_JOB answers; NULL with *err. Loop thread */
rille_job *rille_process_spawn(rille_pool *pool, rille_state *from, uint32_t token, const rille_spawn_options *options,
                               int *err);
/* owned; NULL when it was not started. The thread that has the job */
rille_process *rille_process_take(rille_job *job);

/* Any thread; one at a time has a process. */
/* This end of a stream, as a connection: as rille_conn_adopt. NULL with *err 0: there is none, or no more. Of a terminal, stdin has the one there
 * is. Loop thread */
rille_conn *rille_process_adopt(rille_process *p, int which, rille_service *service, int *err);
double rille_process_pid(const rille_process *p);
/* borrowed; readable when the process has ended */
int rille_process_exit_fd(const rille_process *p);
/* 1: it has ended, *status its exit status, or the number of the signal below 0; 0: not yet; or an error: nobody knows. Its pid
 * may belong to another process from then on. */
int rille_process_reap(rille_process *p, int *status);
/* 0; RILLE_ERR_NOT_FOUND: it was reaped; or another error. group: with all of its process group */
int rille_process_kill(rille_process *p, int signal_number, int group);
/* The end of the handle. A child that runs is sent SIGTERM, with its group, unless it is detached; it is reaped either way. */
void rille_process_close(rille_process *p);
/* how many may run at a time, of the whole process; 1.. */
void rille_processes_limit(double max);
/* The end of a run: children that are not detached are sent SIGTERM with their groups, and SIGKILL after ms. */
void rille_processes_stop(double ms);
/* for tests: 0 goes on as if the kernel had no pidfd_open */
void rille_process_use_pidfd(int on);

/* the environment variable number i of this process, from 0, "NAME=value"; NULL behind the last. Borrowed until it changes */
const char *rille_environment_at(int i);

#endif
