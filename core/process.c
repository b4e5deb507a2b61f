/*
 * process: see process.h. Who has started a child, holds it and reaps it. A child without a holder has a thread that waits for
 * its end; so none stays behind as a zombie, and there is no thread for the many that are waited for.
 */
#include "process.h"

#include "log.h"
#include "loop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KILL_MS = 1000, LOOK_NS = 2000000 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static rille_process *processes; /* under it: those that were not reaped */
static uint32_t running;         /* under it: these, and those that are being started */
static double running_max = RILLE_PROCESSES;
static double started; /* under it: so far */

/* ---- the list -------------------------------------------------------------------------------------------------- */

void rille_processes_limit(double max) {
  pthread_mutex_lock(&lock);
  running_max = max;
  pthread_mutex_unlock(&lock);
}

int rille_process_reserve(void) {
  pthread_mutex_lock(&lock);
  bool has_room = running < running_max;
  running += has_room;
  pthread_mutex_unlock(&lock);
  return has_room ? RILLE_OK : RILLE_ERR_FULL;
}

void rille_process_unreserve(void) {
  pthread_mutex_lock(&lock);
  running--;
  pthread_mutex_unlock(&lock);
}

void rille_process_add(rille_process *p) {
  pthread_mutex_lock(&lock);
  p->next = processes;
  processes = p;
  started++;
  pthread_mutex_unlock(&lock);
}

/* ---- under the lock -------------------------------------------------------------------------------------------- */

static void unlist(rille_process *p) {
  for (rille_process **at = &processes; *at; at = &(*at)->next) {
    if (*at != p) continue;
    *at = p->next;
    running--;
    return;
  }
}

/* 1: it has ended; 0: not yet; or an error, and it is gone as well. */
static int try_reap(rille_process *p) {
  if (p->has_ended) return 1;
  siginfo_t info = {0};
  int result;
  do result = waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG);
  while (result != 0 && errno == EINTR);
  if (result == 0 && info.si_pid == 0) return 0;
  p->status = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
  p->has_ended = true;
  unlist(p);
  return result == 0 ? 1 : rille_err_from_errno(errno); /* somebody else has waited for it */
}

/* It has not ended, as far as the kernel says; it is left to its holder to reap. */
static bool is_running(const rille_process *p) {
  siginfo_t info = {0};
  int result;
  do result = waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT);
  while (result != 0 && errno == EINTR);
  return result == 0 && info.si_pid == 0;
}

void rille_processes_count(rille_process_counts *out) {
  *out = (rille_process_counts){0};
  pthread_mutex_lock(&lock);
  for (const rille_process *p = processes; p; p = p->next) out->running += is_running(p);
  out->started = started;
  pthread_mutex_unlock(&lock);
}

static int signal_it(const rille_process *p, int number, bool group) {
  if (p->has_ended) return RILLE_ERR_NOT_FOUND;
  int result;
  if (group && p->has_group) {
    result = kill(-p->pid, number);
  } else {
    result = (int)syscall(SYS_pidfd_send_signal, p->exit_fd, number, NULL, 0);
    /* no such call, or no such descriptor: by number, which is as safe as it was not reaped */
    if (result != 0 && (errno == ENOSYS || errno == EBADF)) result = kill(p->pid, number);
  }
  if (result == 0) return RILLE_OK;
  return errno == ESRCH ? RILLE_ERR_NOT_FOUND : rille_err_from_errno(errno);
}

/* ---- one process ----------------------------------------------------------------------------------------------- */

rille_conn *rille_process_adopt(rille_process *p, int which, rille_service *service, int *err) {
  int fd = p->streams[which];
  *err = RILLE_OK;
  if (fd < 0) return NULL;
  p->streams[which] = -1;
  rille_conn *c = rille_conn_adopt(service, fd, err);
  if (!c) close(fd);
  return c;
}

double rille_process_pid(const rille_process *p) { return p->pid; }

int rille_process_exit_fd(const rille_process *p) { return p->exit_fd; }

int rille_process_reap(rille_process *p, int *status) {
  pthread_mutex_lock(&lock);
  int result = try_reap(p);
  *status = p->status;
  pthread_mutex_unlock(&lock);
  return result;
}

int rille_process_kill(rille_process *p, int signal_number, int group) {
  pthread_mutex_lock(&lock);
  int result = signal_it(p, signal_number, group);
  pthread_mutex_unlock(&lock);
  return result;
}

/* Nobody holds it: wait for its end. It is looked at first and reaped under the lock, see process.h. */
static void *reap_later(void *arg) {
  rille_process *p = arg;
  siginfo_t info;
  while (waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
  pthread_mutex_lock(&lock);
  try_reap(p);
  pthread_mutex_unlock(&lock);
  free(p);
  return NULL;
}

void rille_process_close(rille_process *p) {
  for (int i = 0; i < 3; i++) {
    if (p->streams[i] >= 0) close(p->streams[i]);
  }
  pthread_mutex_lock(&lock);
  bool runs = try_reap(p) == 0;
  if (runs && !p->is_detached) signal_it(p, SIGTERM, true);
  if (p->exit_fd >= 0) close(p->exit_fd);
  p->exit_fd = -1;
  pthread_mutex_unlock(&lock);
  pthread_t thread;
  if (!runs) {
    free(p);
  } else if (pthread_create(&thread, NULL, reap_later, p) == 0) {
    pthread_detach(thread);
  } else {
    RILLE_LOG(RILLE_LOG_WARN, "no thread to wait for process %d: it stays until the run ends", (int)p->pid);
  }
}

/* ---- the end of a run ------------------------------------------------------------------------------------------ */

/* Under the lock: how many there still are, after sending them a signal (0: none). */
static int signal_all(int number) {
  int count = 0;
  for (rille_process *p = processes, *next; p; p = next) {
    next = p->next;
    if (p->is_detached || try_reap(p) != 0) continue;
    if (number) signal_it(p, number, true);
    count++;
  }
  return count;
}

static int await_all(uint64_t until_ns) {
  for (;;) {
    pthread_mutex_lock(&lock);
    int count = signal_all(0);
    pthread_mutex_unlock(&lock);
    if (count == 0 || rille_now_ns() >= until_ns) return count;
    nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
  }
}

void rille_processes_stop(double ms) {
  pthread_mutex_lock(&lock);
  int count = signal_all(SIGTERM);
  pthread_mutex_unlock(&lock);
  if (count == 0) return;
  count = await_all(rille_now_ns() + (uint64_t)(ms * 1e6));
  if (count == 0) return;
  RILLE_LOG(RILLE_LOG_WARN, "killing %d processes that did not end in %.1f s", count, ms / 1000);
  pthread_mutex_lock(&lock);
  signal_all(SIGKILL);
  pthread_mutex_unlock(&lock);
  await_all(rille_now_ns() + (uint64_t)KILL_MS * 1000000);
}
