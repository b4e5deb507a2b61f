/*
 * notify: see notify.h. A message is one datagram of NAME=value lines to a unix socket; NOTIFY_SOCKET is its path, or its abstract
 * name behind an '@' (sd_notify(3)).
 */
#include "notify.h"

#include "log.h"
#include "loop.h"
#include "process_note.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
  CHECK_MS = 5000,   /* between two looks without a watchdog */
  RETRY_MS = 100,    /* after the manager had no room for a message */
  PATIENCE_S = 20,   /* what a drain asks for, each CHECK_MS anew */
  WATCHDOG_LEAST = 2 /* ms: no manager means less */
};

enum { OWES_READY = 1, OWES_STOPPING = 2 };

/* immutable after rille_notify_start */
static struct sockaddr_un manager;
static socklen_t manager_size; /* 0: there is none */
static uint64_t watchdog_ms;   /* 0: none is asked for */

/* any thread, atomic */
static _Atomic uint32_t owed;
static _Atomic uint32_t ready_processes, ready_loops;
static _Atomic bool is_stopping;

/* the thread that ticks */
static uint64_t watchdog_at_ms;
static uint64_t check_at_ms;

/* ---- the manager ----------------------------------------------------------------------------------------------- */

static bool send_text(const char *text) {
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  ssize_t n = sendto(fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&manager, manager_size);
  int error_number = errno;
  close(fd);
  if (n >= 0) return true;
  bool may_pass = error_number == EAGAIN || error_number == ENOBUFS || error_number == EINTR;
  if (!may_pass) {
    errno = error_number;
    RILLE_LOG(RILLE_LOG_WARN, "the service manager does not hear (NOTIFY_SOCKET): %m");
  }
  return !may_pass; /* what will not pass is not tried again */
}

static void find_manager(const char *path) {
  size_t length = strlen(path);
  bool is_abstract = path[0] == '@';
  manager_size = 0;
  if ((!is_abstract && path[0] != '/') || length < 2 || length >= sizeof manager.sun_path) {
    RILLE_LOG(RILLE_LOG_WARN, "NOTIFY_SOCKET is neither a path nor an abstract name: nobody is notified");
    return;
  }
  memset(&manager, 0, sizeof manager);
  manager.sun_family = AF_UNIX;
  memcpy(manager.sun_path, path, length);
  if (is_abstract) manager.sun_path[0] = '\0';
  manager_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (is_abstract ? 0 : 1));
}

/* A whole number above 0, else 0. */
static uint64_t number_of(const char *text) {
  if (!text || text[0] < '0' || text[0] > '9') return 0;
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  return *end == '\0' && errno == 0 ? value : 0;
}

void rille_notify_start(void) {
  atomic_store(&owed, 0);
  atomic_store(&is_stopping, false);
  atomic_store(&ready_processes, 0);
  if (rille_process_is_child()) return; /* the parent has read them */
  /* NOLINTBEGIN(concurrency-mt-unsafe): before the process has threads of its own */
  const char *path = getenv("NOTIFY_SOCKET");
  if (path) find_manager(path);
  const char *pid = getenv("WATCHDOG_PID");
  uint64_t usec = number_of(getenv("WATCHDOG_USEC"));
  if (manager_size && usec > 0 && (!pid || number_of(pid) == (uint64_t)getpid())) {
    watchdog_ms = usec / 1000 < WATCHDOG_LEAST ? WATCHDOG_LEAST : usec / 1000;
  }
  unsetenv("NOTIFY_SOCKET");
  unsetenv("WATCHDOG_USEC");
  unsetenv("WATCHDOG_PID");
  /* NOLINTEND(concurrency-mt-unsafe) */
}

/* ---- what is to be told ---------------------------------------------------------------------------------------- */

static bool send_ready(void) {
  char text[160];
  unsigned processes = atomic_load(&ready_processes), loops = atomic_load(&ready_loops);
  if (processes > 1) {
    snprintf(text, sizeof text, "READY=1\nSTATUS=listening, %u processes with %u loop%s each\nMAINPID=%ld", processes,
             loops, loops == 1 ? "" : "s", (long)getpid());
  } else {
    snprintf(text, sizeof text, "READY=1\nSTATUS=listening, %u loop%s\nMAINPID=%ld", loops, loops == 1 ? "" : "s",
             (long)getpid());
  }
  return send_text(text);
}

static bool send_stopping(void) {
  char text[120];
  snprintf(text, sizeof text, "STOPPING=1\nSTATUS=stopping, connections finish\nEXTEND_TIMEOUT_USEC=%d",
           PATIENCE_S * 1000000);
  return send_text(text);
}

/* In this order whoever sends. */
static void pay(void) {
  uint32_t due = atomic_exchange(&owed, 0);
  if (due & OWES_READY && !send_ready()) {
    atomic_fetch_or(&owed, due);
    return;
  }
  if (due & OWES_STOPPING && !send_stopping()) atomic_fetch_or(&owed, OWES_STOPPING);
}

void rille_notify_ready(uint32_t processes, uint32_t loops) {
  if (rille_process_is_child()) {
    rille_process_ready();
    return;
  }
  if (!manager_size) return;
  atomic_store(&ready_processes, processes);
  atomic_store(&ready_loops, loops);
  atomic_fetch_or(&owed, OWES_READY);
  pay();
}

void rille_notify_stopping(void) {
  if (!manager_size || rille_process_is_child() || atomic_exchange(&is_stopping, true)) return;
  atomic_fetch_or(&owed, OWES_STOPPING);
  pay();
}

/* ---- the tick -------------------------------------------------------------------------------------------------- */

static void beat(uint64_t now_ms, bool (*is_stalled)(uint64_t)) {
  if (is_stalled(watchdog_ms * 1000000)) return;
  if (rille_process_is_child()) rille_process_beat(now_ms * 1000000);
  else send_text("WATCHDOG=1");
}

/* A drain may last as long as its loops make turns: its own time-out is the bound. */
static void check(uint64_t now_ms, bool (*is_stalled)(uint64_t)) {
  enum { STANDSTILL_S = 10 };
  bool is_child = rille_process_is_child();
  if (!is_child && !atomic_load(&is_stopping)) return;
  if (is_stalled((uint64_t)STANDSTILL_S * 1000000000)) return;
  char text[64];
  snprintf(text, sizeof text, "EXTEND_TIMEOUT_USEC=%d", PATIENCE_S * 1000000);
  if (!is_child) send_text(text);
  else if (!watchdog_ms) rille_process_beat(now_ms * 1000000);
}

int rille_notify_tick(bool (*is_stalled)(uint64_t longer_ns)) {
  if (!manager_size) return -1;
  uint64_t now_ms = rille_now_ns() / 1000000;
  if (!rille_process_is_child() && atomic_load(&owed)) pay();
  if (watchdog_ms && now_ms >= watchdog_at_ms) {
    watchdog_at_ms = now_ms + watchdog_ms / 2;
    beat(now_ms, is_stalled);
  }
  if (now_ms >= check_at_ms) {
    check_at_ms = now_ms + CHECK_MS;
    check(now_ms, is_stalled);
  }
  if (atomic_load(&owed)) return RETRY_MS;
  uint64_t next = watchdog_ms && watchdog_at_ms < check_at_ms ? watchdog_at_ms : check_at_ms;
  return (int)(next - now_ms);
}
