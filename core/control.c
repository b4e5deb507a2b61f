/*
 * control: the one thread of a process that takes signals and passes them on to the loops. SIGTERM and SIGINT drain and stop, a
 * second one stops at once; SIGUSR1 reopens the log; SIGQUIT writes the state of each loop and pool to it; SIGHUP is kept for reloads;
 * SIGUSR2, which would end the process by default, is ignored.
 *
 * The list of loops is guarded by a mutex; everything else is the control thread's, or belongs to the thread that starts and stops
 * it.
 */
#include "log.h"
#include "loop.h"
#include "notify.h"
#include "pool.h"
#include "process_note.h"

#include <signal.h>
#include <sys/resource.h>
#include <time.h>

static pthread_mutex_t loops_mutex = PTHREAD_MUTEX_INITIALIZER;
static rille_loop *loops[RILLE_LOOP_MAX];
static uint32_t asked_of_all; /* a stop that loops yet to be made have to hear of as well */

static pthread_t thread;
static bool is_running;
static _Atomic bool is_ending; /* the next signal it takes is its last */
static sigset_t signals;       /* what the control thread waits for */
static sigset_t mask_before;   /* of the thread that started it */
static struct sigaction pipe_before;

void rille_control_add(rille_loop *loop) {
  pthread_mutex_lock(&loops_mutex);
  for (int i = 0; i < RILLE_LOOP_MAX; i++) {
    if (loops[i]) continue;
    loops[i] = loop;
    break;
  }
  if (asked_of_all) rille_loop_ask(loop, asked_of_all);
  pthread_mutex_unlock(&loops_mutex);
}

void rille_control_remove(rille_loop *loop) {
  pthread_mutex_lock(&loops_mutex);
  for (int i = 0; i < RILLE_LOOP_MAX; i++) {
    if (loops[i] == loop) loops[i] = NULL;
  }
  pthread_mutex_unlock(&loops_mutex);
}

static void ask_all(uint32_t bits) {
  pthread_mutex_lock(&loops_mutex);
  asked_of_all |= bits & (RILLE_ASK_STOP | RILLE_ASK_STOP_NOW);
  for (int i = 0; i < RILLE_LOOP_MAX; i++) {
    if (loops[i]) rille_loop_ask(loops[i], bits);
  }
  pthread_mutex_unlock(&loops_mutex);
}

static bool is_any_stalled(uint64_t longer_ns) {
  uint64_t now = rille_now_ns();
  bool result = false;
  pthread_mutex_lock(&loops_mutex);
  for (int i = 0; i < RILLE_LOOP_MAX && !result; i++) {
    uint64_t since = loops[i] ? atomic_load_explicit(&loops[i]->busy_since, memory_order_relaxed) : 0;
    result = since != 0 && now > since && now - since > longer_ns;
  }
  pthread_mutex_unlock(&loops_mutex);
  return result;
}

/* The next signal; 0 or less: none yet. */
static int next_signal(void) {
  int ms = rille_notify_tick(is_any_stalled);
  if (ms < 0) return sigwaitinfo(&signals, NULL);
  struct timespec patience = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
  return sigtimedwait(&signals, NULL, &patience);
}

/* A terminal or a service manager signals all processes of a prefork server at the same time, and their parent does so again; what
 * counts is what the parent wants, which may be a moment behind. */
static bool is_wanted_at_once(bool is_stopping) {
  enum { PATIENCE = 20 };
  if (!rille_process_is_child()) return is_stopping;
  static const struct timespec nap = {.tv_nsec = 2000000};
  for (int i = 0; i < PATIENCE && rille_process_stop_wanted() == RILLE_STOP_NOT; i++) nanosleep(&nap, NULL);
  return rille_process_stop_wanted() == RILLE_STOP_AT_ONCE;
}

static void stop_all(bool *is_stopping) {
  bool at_once = is_wanted_at_once(*is_stopping);
  if (*is_stopping && !at_once) return;
  RILLE_LOG(RILLE_LOG_INFO, "%s", at_once ? "stopping at once" : "stopping: draining connections");
  ask_all(at_once ? RILLE_ASK_STOP_NOW : RILLE_ASK_STOP);
  *is_stopping = true;
}

static void *control_main(void *arg) {
  (void)arg;
  bool is_stopping = false;
  for (;;) {
    int number = next_signal();
    if (atomic_load(&is_ending) && number > 0) return NULL; /* rille_control_stop */
    switch (number) {
    case SIGTERM:
    case SIGINT: stop_all(&is_stopping); break;
    case SIGUSR1: rille_log_reopen(); break;
    case SIGUSR2: RILLE_LOG(RILLE_LOG_DEBUG, "SIGUSR2: ignored"); break;
    case SIGQUIT:
      ask_all(RILLE_ASK_DUMP);
      rille_pools_dump();
      break;
    case SIGHUP: RILLE_LOG(RILLE_LOG_WARN, "SIGHUP: this version cannot reload; restart to run changed scripts"); break;
    default: break;
    }
  }
}

void rille_control_raise_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

int rille_control_start(void) {
  if (is_running) return RILLE_ERR_BUSY;
  asked_of_all = 0;
  rille_control_raise_limit();
  rille_notify_start();
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  sigaddset(&signals, SIGQUIT);
  sigaddset(&signals, SIGUSR1);
  sigaddset(&signals, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &signals, &mask_before);
  struct sigaction ignore = {.sa_handler = SIG_IGN};
  sigaction(SIGPIPE, &ignore, &pipe_before); /* a write to a pipe nobody reads is an error, not a death */
  atomic_store(&is_ending, false);
  int error_number = pthread_create(&thread, NULL, control_main, NULL);
  if (error_number) {
    sigaction(SIGPIPE, &pipe_before, NULL);
    pthread_sigmask(SIG_SETMASK, &mask_before, NULL);
    return rille_err_from_errno(error_number);
  }
  pthread_setname_np(thread, "rille-control");
  is_running = true;
  return RILLE_OK;
}

void rille_control_stop(void) {
  if (!is_running) return;
  atomic_store(&is_ending, true);
  /* NOLINTNEXTLINE(bugprone-bad-signal-to-kill-thread): that thread alone gets it, by sigwait */
  pthread_kill(thread, SIGTERM);
  pthread_join(thread, NULL);
  /* one more that came meanwhile asked for what is done already; unblocked, it would be the end of the process */
  static const struct timespec at_once = {0};
  while (sigtimedwait(&signals, NULL, &at_once) > 0) {
  }
  sigaction(SIGPIPE, &pipe_before, NULL);
  pthread_sigmask(SIG_SETMASK, &mask_before, NULL);
  is_running = false;
}
