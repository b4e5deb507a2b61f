/*
 * control: the one thread of a process that takes signals and passes them on to the loops, looks whether loops come back, and serves the
 * control socket. SIGTERM and SIGINT drain and stop, a second one stops at once; SIGUSR1 reopens the log; SIGQUIT writes the state of each
 * loop and pool to it; SIGHUP reloads; SIGUSR2, which would end the process by default, is ignored.
 *
 * The list of loops is guarded by a mutex; everything else is the control thread's, or belongs to the thread that starts and stops
 * it. Signals come through a descriptor, so that one poll waits for all there is.
 */
#include "control.h"

#include "log.h"
#include "note.h"
#include "notify.h"
#include "pool.h"
#include "process_note.h"

#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t loops_mutex = PTHREAD_MUTEX_INITIALIZER;
static rille_watched loops[RILLE_LOOP_MAX];
static uint32_t asked_of_all; /* a stop that loops yet to be made have to hear of as well */

static pthread_t thread;
static bool is_running;
static _Atomic bool is_ending;    /* the next time it wakes is its last */
static _Atomic int stop_requests; /* signals and commands to stop, so far */
static _Atomic int wake_fd = -1;  /* an eventfd that wakes the control thread */
static int signal_fd = -1;
static sigset_t signals;     /* what the control thread waits for */
static sigset_t mask_before; /* of the thread that started it */
static struct sigaction pipe_before;

/* ---- loops ----------------------------------------------------------------------------------------------------- */

void rille_control_add(rille_loop *loop) {
  pthread_mutex_lock(&loops_mutex);
  for (int i = 0; i < RILLE_LOOP_MAX; i++) {
    if (loops[i].loop) continue;
    loops[i] = (rille_watched){.loop = loop};
    break;
  }
  if (asked_of_all) rille_loop_ask(loop, asked_of_all);
  pthread_mutex_unlock(&loops_mutex);
}

void rille_control_remove(rille_loop *loop) {
  pthread_mutex_lock(&loops_mutex);
  for (int i = 0; i < RILLE_LOOP_MAX; i++) {
    if (loops[i].loop == loop) loops[i].loop = NULL;
  }
  pthread_mutex_unlock(&loops_mutex);
}

rille_watched *rille_control_lock(void) {
  pthread_mutex_lock(&loops_mutex);
  return loops;
}

void rille_control_unlock(void) { pthread_mutex_unlock(&loops_mutex); }

void rille_control_each(void (*fn)(rille_watched *w, void *to), void *to) {
  pthread_mutex_lock(&loops_mutex);
  for (int i = 0; i < RILLE_LOOP_MAX; i++) {
    if (loops[i].loop) fn(&loops[i], to);
  }
  pthread_mutex_unlock(&loops_mutex);
}

static void ask_one(rille_watched *w, void *bits) { rille_loop_ask(w->loop, *(uint32_t *)bits); }

void rille_control_ask_loops(uint32_t bits) {
  pthread_mutex_lock(&loops_mutex);
  asked_of_all |= bits & (RILLE_ASK_STOP | RILLE_ASK_STOP_NOW);
  pthread_mutex_unlock(&loops_mutex);
  rille_control_each(ask_one, &bits);
}

/* ---- stopping -------------------------------------------------------------------------------------------------- */

static void stop(bool at_once) {
  atomic_fetch_add(&stop_requests, 1);
  RILLE_LOG(RILLE_LOG_INFO, "%s", at_once ? "stopping at once" : "stopping: draining connections");
  rille_control_ask_loops(at_once ? RILLE_ASK_STOP_NOW : RILLE_ASK_STOP);
}

/* Of a process of several: all of them stop. */
void rille_control_stop_loops(bool now) {
  bool at_once = now || atomic_load(&stop_requests) > 0;
  rille_process_ask_stop(at_once ? RILLE_STOP_AT_ONCE : RILLE_STOP_DRAIN);
  stop(at_once);
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

static void stop_by_signal(void) {
  bool is_stopping = atomic_load(&stop_requests) > 0;
  bool at_once = is_wanted_at_once(is_stopping);
  if (!is_stopping || at_once) stop(at_once);
}

static void worst(rille_watched *w, void *to) {
  int *health = to;
  int one = RILLE_HEALTH_SERVING;
  uint32_t phase = atomic_load(&w->loop->phase);
  if (rille_stall_is(w->loop, rille_now_ns())) one = RILLE_HEALTH_STALLED;
  else if (phase == RILLE_LOOP_STARTING) one = RILLE_HEALTH_STARTING;
  else if (phase == RILLE_LOOP_STOPPING) one = RILLE_HEALTH_DRAINING;
  if (*health == RILLE_HEALTH_SERVING || one == RILLE_HEALTH_DRAINING) *health = one;
}

int rille_control_health(void) {
  int health = RILLE_HEALTH_SERVING;
  rille_control_each(worst, &health);
  return health;
}

/* ---- the thread ------------------------------------------------------------------------------------------------ */

void rille_control_wake(void) {
  uint64_t one = 1;
  int fd = atomic_load(&wake_fd);
  if (fd >= 0 && write(fd, &one, sizeof one) < 0) return; /* EAGAIN: it is awake already */
}

static void take_signal(void) {
  struct signalfd_siginfo info;
  if (read(signal_fd, &info, sizeof info) != sizeof info) return;
  switch (info.ssi_signo) {
  case SIGTERM:
  case SIGINT: stop_by_signal(); break;
  case SIGUSR1: rille_log_reopen(); break;
  case SIGUSR2: RILLE_LOG(RILLE_LOG_DEBUG, "SIGUSR2: ignored"); break;
  case SIGQUIT:
    rille_control_ask_loops(RILLE_ASK_DUMP);
    rille_pools_dump();
    break;
  case SIGHUP: rille_note_send(RILLE_NOTE_REQUEST, NULL, NULL, NULL, 0, "SIGHUP", 6); break;
  default: break;
  }
}

static bool is_any_stalled(uint64_t longer_ns) {
  uint64_t now = rille_now_ns();
  bool result = false;
  pthread_mutex_lock(&loops_mutex);
  for (int i = 0; i < RILLE_LOOP_MAX && !result; i++) {
    const rille_loop *loop = loops[i].loop;
    uint64_t since = loop ? atomic_load_explicit(&loop->busy_since, memory_order_relaxed) : 0;
    result = since != 0 && now > since && now - since > longer_ns;
  }
  pthread_mutex_unlock(&loops_mutex);
  return result;
}

/* Both in ms, -1: none. */
static int earlier(int a, int b) { return a < 0 || (b >= 0 && b < a) ? b : a; }

static void *control_main(void *arg) {
  (void)arg;
  while (!atomic_load(&is_ending)) {
    struct pollfd polls[2 + RILLE_CONTROL_POLLS_MAX] = {{.fd = signal_fd, .events = POLLIN},
                                                        {.fd = atomic_load(&wake_fd), .events = POLLIN}};
    int timeout_ms = earlier(rille_stall_check(), rille_notify_tick(is_any_stalled));
    uint32_t count = rille_control_socket_polls(polls + 2, rille_now_ns(), &timeout_ms);
    if (poll(polls, 2 + count, timeout_ms) < 0) continue;
    uint64_t wakes;
    if (polls[1].revents && read(polls[1].fd, &wakes, sizeof wakes) < 0) continue;
    if (polls[0].revents) take_signal();
    rille_control_socket_serve(polls + 2, count);
  }
  rille_control_socket_close();
  return NULL;
}

void rille_control_raise_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

static void close_descriptors(void) {
  int fd = atomic_exchange(&wake_fd, -1);
  if (fd >= 0) close(fd);
  if (signal_fd >= 0) close(signal_fd);
  signal_fd = -1;
}

static int open_descriptors(void) {
  signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  int fd = signal_fd < 0 ? -1 : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  atomic_store(&wake_fd, fd);
  if (fd >= 0) return 0;
  int error_number = errno;
  close_descriptors();
  return error_number;
}

int rille_control_start(void) {
  if (is_running) return RILLE_ERR_BUSY;
  asked_of_all = 0;
  rille_note_expect();
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
  atomic_store(&stop_requests, 0);
  int error_number = open_descriptors();
  if (!error_number) {
    error_number = pthread_create(&thread, NULL, control_main, NULL);
    if (error_number) close_descriptors();
  }
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
  rille_control_wake();
  pthread_join(thread, NULL);
  close_descriptors();
  /* one more that came meanwhile asked for what is done already; unblocked, it would be the end of the process */
  static const struct timespec at_once = {0};
  while (sigtimedwait(&signals, NULL, &at_once) > 0) {
  }
  sigaction(SIGPIPE, &pipe_before, NULL);
  pthread_sigmask(SIG_SETMASK, &mask_before, NULL);
  is_running = false;
}
