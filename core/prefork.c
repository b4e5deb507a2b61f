/*
 * prefork: the parent of the processes that serve together. It binds nothing and runs no loop: it forks, waits, passes signals on,
 * and starts a process again that ended when it should not have. It has one thread for all its life, so that a fork copies all there
 * is of it.
 *
 * What a process says of itself stands in its page (process_note.h); an eventfd says that there is news.
 */
#include "given.h"
#include "log.h"
#include "loop.h"
#include "notify.h"
#include "process_note.h"
#include "tls.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
  YOUNG_MS = 10000, /* a process that dies younger waits longer for the next start */
  DELAY_FIRST_MS = 250,
  DELAY_MAX_MS = 30000,
  KILL_AFTER_MS = 5000 /* "at once" has an end */
};

typedef struct child {
  pid_t pid; /* 0: none */
  bool is_ready;
  uint64_t started_ms;
  uint64_t start_at_ms; /* not before */
  uint32_t delay_ms;    /* before the next start */
} child;

static rille_processes *processes; /* owned; a mapping that the children have too */
static child children[RILLE_PROCESS_MAX];
static uint32_t count, loops;
static int signal_fd = -1, wake_fd = -1;
static sigset_t child_mask; /* of a new process, until its control thread takes the signals */
static int status;          /* of the whole server */
static bool has_started;    /* all of them have been ready at the same time, once */
static enum rille_stop stop;
static uint64_t kill_at_ms = UINT64_MAX;

static uint64_t now_ms(void) { return rille_now_ns() / 1000000; }

/* ---- start ----------------------------------------------------------------------------------------------------- */

int rille_prefork_start(uint32_t how_many, uint32_t loop_count) {
  if (how_many < 1 || how_many > RILLE_PROCESS_MAX) return RILLE_ERR_INVALID;
  processes = mmap(NULL, sizeof *processes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (processes == MAP_FAILED) return rille_err_from_errno(errno);
  count = how_many;
  loops = loop_count;
  sigset_t taken;
  sigemptyset(&taken);
  static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaddset(&taken, numbers[i]);
  pthread_sigmask(SIG_BLOCK, &taken, NULL);
  pthread_sigmask(SIG_BLOCK, NULL, &child_mask);
  sigaddset(&taken, SIGCHLD);
  pthread_sigmask(SIG_BLOCK, &taken, NULL);
  signal(SIGCHLD, SIG_DFL); /* who ignores it hears of no end */
  signal(SIGPIPE, SIG_IGN);
  signal_fd = signalfd(-1, &taken, SFD_NONBLOCK | SFD_CLOEXEC);
  wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (signal_fd < 0 || wake_fd < 0) return rille_err_from_errno(errno);
  rille_notify_start();
  return RILLE_OK;
}

static void become_child(uint32_t number, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGTERM); /* the parent may be killed */
  if (getppid() != parent) _exit(1);
  close(signal_fd);
  rille_process_begin(processes, number, count, wake_fd, parent);
  rille_given_forked();
  pthread_sigmask(SIG_SETMASK, &child_mask, NULL);
}

/* When to start it again: at once the first time. */
static void delay(uint32_t i) {
  child *c = &children[i];
  if (c->delay_ms > 0) RILLE_LOG(RILLE_LOG_WARN, "process %u: next start in %u ms", i + 1, c->delay_ms);
  c->start_at_ms = now_ms() + c->delay_ms;
  c->delay_ms = c->delay_ms == 0 ? DELAY_FIRST_MS : c->delay_ms * 2 < DELAY_MAX_MS ? c->delay_ms * 2 : DELAY_MAX_MS;
}

/* True in the child. */
static bool start(uint32_t i) {
  child *c = &children[i];
  memset(&processes->pages[i], 0, sizeof processes->pages[i]);
  c->is_ready = false;
  c->started_ms = now_ms();
  pid_t parent = getpid();
  rille_tls_tickets_begin();
  pid_t pid = fork();
  if (pid == 0) {
    become_child(i + 1, parent);
    return true;
  }
  if (pid < 0) {
    RILLE_LOG(RILLE_LOG_ERROR, "cannot start process %u: %m", i + 1);
    delay(i);
    return false;
  }
  c->pid = pid;
  if (has_started) RILLE_LOG(RILLE_LOG_INFO, "process %u started again, pid %ld", i + 1, (long)pid);
  return false;
}

/* The first process goes ahead until its scripts are loaded: what is wrong with them is said once. */
static bool may_start(uint32_t i) {
  if (stop || children[i].pid || now_ms() < children[i].start_at_ms) return false;
  return i == 0 || has_started || atomic_load(&processes->pages[0].stage) >= RILLE_STAGE_BUILT;
}

/* ---- stop ------------------------------------------------------------------------------------------------------ */

static void signal_all(int number) {
  for (uint32_t i = 0; i < count; i++) {
    if (children[i].pid) kill(children[i].pid, number);
  }
}

static void begin_stop(enum rille_stop how) {
  if (how <= stop) return;
  if (!stop) {
    if (has_started) RILLE_LOG(RILLE_LOG_INFO, "stopping %u processes", count);
    rille_given_close(); /* with the last process that does so too, newcomers are refused */
    rille_notify_stopping();
  }
  stop = how;
  if (how == RILLE_STOP_AT_ONCE) kill_at_ms = now_ms() + KILL_AFTER_MS;
  atomic_store(&processes->stop, (uint32_t)how);
  signal_all(SIGTERM);
}

static void take_signals(void) {
  struct signalfd_siginfo info;
  while (read(signal_fd, &info, sizeof info) == sizeof info) {
    int number = (int)info.ssi_signo;
    switch (number) {
    case SIGTERM:
    case SIGINT: begin_stop(stop ? RILLE_STOP_AT_ONCE : RILLE_STOP_DRAIN); break;
    case SIGUSR1: rille_log_reopen(); /* fall through */
    case SIGHUP: signal_all(number); break;
    case SIGQUIT:
      if (info.ssi_code != SI_KERNEL) signal_all(number); /* the terminal has told them */
      break;
    default: break;
    }
  }
}

/* ---- the end of a process -------------------------------------------------------------------------------------- */

/* Which script held a loop when the process died, as far as its page tells. */
static void say_who(uint32_t i) {
  const rille_page *page = &processes->pages[i];
  bool is_said = false;
  for (uint32_t k = 0; k < loops; k++) {
    uint32_t state = __atomic_load_n(&page->places[k].state, __ATOMIC_RELAXED);
    uint64_t conn = __atomic_load_n(&page->places[k].conn, __ATOMIC_RELAXED);
    if (state == 0 || state > RILLE_PAGE_LABELS) continue;
    char label[RILLE_PAGE_LABEL];
    snprintf(label, sizeof label, "%.*s", RILLE_PAGE_LABEL - 1, page->labels[state - 1]);
    rille_log_context context = {
        .label = label, .loop = k + 1, .conn = conn ? (double)((uint64_t)(k + 1) << 44 | conn) : 0};
    RILLE_LOG_FOR(RILLE_LOG_ERROR, &context, "process %u was in script %s on loop %u%s", i + 1, label, k + 1,
                  conn ? ", last with this connection" : "");
    is_said = true;
  }
  if (!is_said) RILLE_LOG(RILLE_LOG_ERROR, "process %u was in no script", i + 1);
}

/* What a process asks for on behalf of all. */
static enum rille_stop wanted_by(uint32_t i) {
  uint32_t how = atomic_load(&processes->pages[i].wants_stop);
  return how == RILLE_STOP_NOT ? RILLE_STOP_NOT : how == RILLE_STOP_AT_ONCE ? RILLE_STOP_AT_ONCE : RILLE_STOP_DRAIN;
}

static void say_end(uint32_t i, pid_t pid, int how) {
  if (WIFSIGNALED(how)) {
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread */
    RILLE_LOG(RILLE_LOG_ERROR, "process %u (pid %ld) was ended by signal %d, %s%s", i + 1, (long)pid, WTERMSIG(how),
              strsignal(WTERMSIG(how)), WCOREDUMP(how) ? ", and left a core" : "");
    say_who(i);
  } else if (WEXITSTATUS(how) != 0 || !stop) {
    int level = WEXITSTATUS(how) != 0 ? RILLE_LOG_ERROR : RILLE_LOG_WARN;
    RILLE_LOG(level, "process %u (pid %ld) ended with status %d", i + 1, (long)pid, WEXITSTATUS(how));
  }
}

static void bury(uint32_t i, int how) {
  child *c = &children[i];
  pid_t pid = c->pid;
  c->pid = 0;
  begin_stop(wanted_by(i));
  if (has_started || WIFSIGNALED(how)) say_end(i, pid, how); /* one that did not start has said why */
  if (stop || !has_started) {
    int code = WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
    if (!status) status = code;
    if (!stop) begin_stop(RILLE_STOP_AT_ONCE); /* a server starts as a whole or not at all */
    return;
  }
  if (now_ms() - c->started_ms >= YOUNG_MS) c->delay_ms = 0;
  delay(i);
}

static void reap(void) {
  for (uint32_t i = 0; i < count; i++) {
    int how = 0;
    if (children[i].pid && waitpid(children[i].pid, &how, WNOHANG) == children[i].pid) bury(i, how);
  }
}

static void kill_late(void) {
  if (now_ms() < kill_at_ms) return;
  for (uint32_t i = 0; i < count; i++) {
    if (!children[i].pid) continue;
    RILLE_LOG(RILLE_LOG_ERROR, "process %u (pid %ld) does not stop: killed", i + 1, (long)children[i].pid);
    kill(children[i].pid, SIGKILL);
  }
  kill_at_ms = now_ms() + KILL_AFTER_MS;
}

/* ---- the wait -------------------------------------------------------------------------------------------------- */

static void look_at_pages(void) {
  for (uint32_t i = 0; i < count; i++) {
    if (!children[i].pid) continue;
    children[i].is_ready = atomic_load(&processes->pages[i].stage) == RILLE_STAGE_READY;
    begin_stop(wanted_by(i));
  }
}

static bool are_all_ready(void) {
  for (uint32_t i = 0; i < count; i++) {
    if (!children[i].pid || !children[i].is_ready) return false;
  }
  return true;
}

static bool is_any_left(void) {
  for (uint32_t i = 0; i < count; i++) {
    if (children[i].pid) return true;
  }
  return false;
}

/* Of those that serve; one that is being started again is in the parent's hands. */
static bool is_any_stalled(uint64_t longer_ns) {
  uint64_t now = rille_now_ns();
  for (uint32_t i = 0; i < count; i++) {
    uint64_t beat = atomic_load(&processes->pages[i].beat_ns);
    if (children[i].pid && children[i].is_ready && now > beat && now - beat > longer_ns) return true;
  }
  return false;
}

static void sleep_until_news(void) {
  int timeout = rille_notify_tick(is_any_stalled);
  uint64_t now = now_ms(), next = stop ? kill_at_ms : UINT64_MAX;
  for (uint32_t i = 0; i < count && !stop; i++) {
    bool is_due = !children[i].pid && (has_started || i == 0);
    if (is_due && children[i].start_at_ms < next) next = children[i].start_at_ms;
  }
  uint64_t left = next == UINT64_MAX ? UINT64_MAX : next > now ? next - now : 0;
  if (left < INT32_MAX && (timeout < 0 || (int)left < timeout)) timeout = (int)left;
  struct pollfd fds[] = {{.fd = signal_fd, .events = POLLIN}, {.fd = wake_fd, .events = POLLIN}};
  poll(fds, 2, timeout);
  uint64_t news;
  if (read(wake_fd, &news, sizeof news) < 0) return; /* no news */
}

int rille_prefork_wait(void) {
  for (;;) {
    take_signals(); /* before their ends: a process may have had the same signal */
    look_at_pages();
    reap();
    kill_late();
    if (stop && !is_any_left()) return RILLE_PREFORK_OVER;
    for (uint32_t i = 0; i < count; i++) {
      if (may_start(i) && start(i)) return RILLE_PREFORK_CHILD;
    }
    if (!has_started && !stop && are_all_ready()) {
      has_started = true;
      rille_notify_ready(count, loops);
      return RILLE_PREFORK_READY;
    }
    sleep_until_news();
  }
}

int rille_prefork_status(void) { return status; }
