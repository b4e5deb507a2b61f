/*
 * spawn: starts a process, on a worker. posix_spawn does what has to happen between fork and exec without touching what other
 * threads may hold; the child has no signal blocked, SIGPIPE as it is by default, and no descriptor but its three.
 */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { FIRST_FREE = 3 }; /* below it stands what the child's own streams go to */

static _Atomic int has_pidfd = 1;

void rille_process_use_pidfd(int on) { atomic_store(&has_pidfd, on); }

const char *rille_environment_at(int i) { return environ ? environ[i] : NULL; }

/* ---- the request ----------------------------------------------------------------------------------------------- */

void rille_spawn_free(struct rille_spawn *s) {
  for (int i = 0; i < 3; i++) {
    if (s->stdio[i] >= 0) close(s->stdio[i]);
  }
  if (s->process) rille_process_close(s->process);
  free(s->args);
  free(s->env);
  free(s->cwd);
  free(s->argv);
  free(s->envp);
  free(s);
}

/* A copy of strings with a NUL behind each, and pointers to them. */
static bool copy_list(const char *bytes, double size, char **copy, char ***list) {
  size_t count = 0, length = (size_t)size;
  for (size_t i = 0; i < length; i++) count += bytes[i] == '\0';
  *copy = malloc(length + 1);
  *list = calloc(count + 1, sizeof **list);
  if (!*copy || !*list) return false;
  memcpy(*copy, bytes, length);
  char *at = *copy;
  for (size_t i = 0; i < count; i++, at += strlen(at) + 1) (*list)[i] = at;
  return true;
}

static int copy_options(struct rille_spawn *s, const rille_spawn_options *o) {
  s->pty = o->pty;
  s->rows = o->rows;
  s->columns = o->columns;
  s->group = o->group;
  s->detach = o->detach;
  if (!copy_list(o->args, o->args_size, &s->args, &s->argv)) return RILLE_ERR_NO_MEMORY;
  if (o->env && !copy_list(o->env, o->env_size, &s->env, &s->envp)) return RILLE_ERR_NO_MEMORY;
  s->cwd = o->cwd ? strdup(o->cwd) : NULL;
  if (o->cwd && !s->cwd) return RILLE_ERR_NO_MEMORY;
  for (int i = 0; i < 3; i++) {
    s->stdio[i] = o->stdio[i] >= 0 ? fcntl(o->stdio[i], F_DUPFD_CLOEXEC, FIRST_FREE) : o->stdio[i];
    if (o->stdio[i] >= 0 && s->stdio[i] < 0) return errno == EBADF ? RILLE_ERR_INVALID : rille_err_from_errno(errno);
  }
  return RILLE_OK;
}

rille_job *rille_process_spawn(rille_pool *pool, rille_state *from, uint32_t token, const rille_spawn_options *options,
                               int *err) {
  rille_io *io = calloc(1, sizeof *io);
  struct rille_spawn *s = calloc(1, sizeof *s);
  *err = io && s ? RILLE_OK : RILLE_ERR_NO_MEMORY;
  if (s) s->stdio[0] = s->stdio[1] = s->stdio[2] = RILLE_STDIO_NULL;
  if (!*err) *err = copy_options(s, options);
  if (*err) {
    if (s) rille_spawn_free(s);
    free(io);
    return NULL;
  }
  io->op = RILLE_IO_SPAWN;
  io->spawn = s;
  char name[64];
  snprintf(name, sizeof name, "process.spawn %.48s", s->argv[0]);
  return rille_io_send(io, pool, from, token, name, err);
}

rille_process *rille_process_take(rille_job *job) {
  struct rille_spawn *s = job->io->spawn;
  rille_process *p = s->process;
  s->process = NULL;
  return p;
}

/* ---- descriptors ----------------------------------------------------------------------------------------------- */

/* The ends of the three streams: the child's, which are closed when it runs, and ours. */
typedef struct ends {
  int child[3];      /* owned */
  int ours[3];       /* owned; -1: none */
  char terminal[64]; /* the path of the child's */
} ends;

static void close_all(int fds[3]) {
  for (int i = 0; i < 3; i++) {
    if (fds[i] >= 0) close(fds[i]);
    fds[i] = -1;
  }
}

/* The descriptor, out of the way of 0 to 2. */
static int lift(int fd) {
  if (fd < 0 || fd >= FIRST_FREE) return fd;
  int lifted = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FREE);
  int why = errno;
  close(fd);
  errno = why;
  return lifted;
}

static bool open_null(ends *e, int i) {
  e->child[i] = lift(open("/dev/null", O_RDWR | O_CLOEXEC));
  return e->child[i] >= 0;
}

static bool open_pipe(ends *e, int i) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return false;
  int theirs = i == 0 ? 0 : 1;
  e->child[i] = lift(fds[theirs]);
  e->ours[i] = lift(fds[1 - theirs]);
  return e->child[i] >= 0 && e->ours[i] >= 0;
}

static bool open_stream(struct rille_spawn *s, ends *e, int i) {
  switch (s->stdio[i]) {
  case RILLE_STDIO_NULL: return open_null(e, i);
  case RILLE_STDIO_PIPE: return open_pipe(e, i);
  case RILLE_STDIO_INHERIT:
    e->child[i] = fcntl(i, F_DUPFD_CLOEXEC, FIRST_FREE);
    return e->child[i] >= 0 || open_null(e, i); /* this process may have closed its own */
  case RILLE_STDIO_OUTPUT: e->child[i] = fcntl(e->child[1], F_DUPFD_CLOEXEC, FIRST_FREE); return e->child[i] >= 0;
  default: {
    e->child[i] = s->stdio[i];
    s->stdio[i] = RILLE_STDIO_NULL;
    int status = fcntl(e->child[i], F_GETFL); /* programs do not expect one that the loop had */
    return status >= 0 && fcntl(e->child[i], F_SETFL, status & ~O_NONBLOCK) == 0;
  }
  }
}

static bool open_terminal(const struct rille_spawn *s, ends *e) {
  int fd = lift(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (fd < 0) return false;
  e->ours[0] = fd;
  struct winsize size = {.ws_row = (unsigned short)s->rows, .ws_col = (unsigned short)s->columns};
  if (grantpt(fd) != 0 || unlockpt(fd) != 0) return false;
  int why = ptsname_r(fd, e->terminal, sizeof e->terminal);
  if (why) errno = why;
  (void)ioctl(fd, TIOCSWINSZ, &size);
  return why == 0;
}

/* ---- the start ------------------------------------------------------------------------------------------------- */

static int set_actions(posix_spawn_file_actions_t *actions, const struct rille_spawn *s, const ends *e) {
  int why = 0;
  for (int i = 0; i < 3 && !why; i++) {
    if (!s->pty) why = posix_spawn_file_actions_adddup2(actions, e->child[i], i);
    else if (i == 0) why = posix_spawn_file_actions_addopen(actions, 0, e->terminal, O_RDWR, 0); /* becomes its own */
    else why = posix_spawn_file_actions_adddup2(actions, 0, i);
  }
  if (!why && s->cwd) why = posix_spawn_file_actions_addchdir_np(actions, s->cwd);
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
  /* what a library opened without O_CLOEXEC */
  if (!why) why = posix_spawn_file_actions_addclosefrom_np(actions, FIRST_FREE);
#endif
  return why;
}

static int set_attributes(posix_spawnattr_t *attributes, const struct rille_spawn *s) {
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE); /* this process ignores it */
  sigaddset(&defaults, SIGCHLD);
  short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
  if (s->pty || s->detach) flags |= POSIX_SPAWN_SETSID;
  else if (s->group) flags |= POSIX_SPAWN_SETPGROUP;
  int why = posix_spawnattr_setsigmask(attributes, &none);
  if (!why) why = posix_spawnattr_setsigdefault(attributes, &defaults);
  if (!why) why = posix_spawnattr_setpgroup(attributes, 0);
  return why ? why : posix_spawnattr_setflags(attributes, flags);
}

static int start(const struct rille_spawn *s, const ends *e, pid_t *pid) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  int why = posix_spawn_file_actions_init(&actions);
  if (why) return why;
  why = posix_spawnattr_init(&attributes);
  if (!why) {
    why = set_actions(&actions, s, e);
    if (!why) why = set_attributes(&attributes, s);
    if (!why) why = posix_spawnp(pid, s->argv[0], &actions, &attributes, s->argv, s->envp ? s->envp : environ);
    posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_destroy(&actions);
  return why;
}

/* ---- its end can be waited for --------------------------------------------------------------------------------- */

typedef struct watcher {
  pid_t pid;
  int fd;
} watcher;

static void *watch(void *arg) {
  watcher w = *(watcher *)arg;
  free(arg);
  siginfo_t info;
  uint64_t one = 1;
  while (waitid(P_PID, (id_t)w.pid, &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
  (void)!write(w.fd, &one, sizeof one); /* it cannot be full */
  close(w.fd);
  return NULL;
}

/* Where the kernel has no descriptors for processes: an event that a thread of its own sets. -1 with errno. */
static int watch_by_thread(pid_t pid) {
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return -1;
  watcher *w = malloc(sizeof *w);
  int copy = w ? fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FREE) : -1;
  int why = errno;
  if (copy >= 0) {
    *w = (watcher){.pid = pid, .fd = copy};
    pthread_t thread;
    why = pthread_create(&thread, NULL, watch, w);
    if (why == 0) {
      pthread_detach(thread);
      return fd;
    }
    close(copy);
  }
  free(w);
  close(fd);
  errno = why;
  return -1;
}

static int watch_exit(pid_t pid) {
  if (atomic_load(&has_pidfd)) {
    long fd = syscall(SYS_pidfd_open, pid, 0);
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) return (int)fd;
    atomic_store(&has_pidfd, 0);
  }
  return watch_by_thread(pid);
}

/* ---- all of it ------------------------------------------------------------------------------------------------- */

/* Children whose end the kernel does not keep could not be asked how they ended. */
static void keep_ends(void) {
  struct sigaction now;
  if (sigaction(SIGCHLD, NULL, &now) != 0 || now.sa_handler != SIG_IGN) return;
  now.sa_handler = SIG_DFL;
  sigaction(SIGCHLD, &now, NULL);
}

static int fail(const struct rille_spawn *s, rille_io_result *result, const char *what, int why) {
  char text[128];
  snprintf(result->message, sizeof result->message, "cannot %s %.160s: %s", what, s->argv[0],
           strerror_r(why, text, sizeof text));
  return rille_err_from_errno(why);
}

static int spawn(struct rille_spawn *s, ends *e, rille_io_result *result, bool *is_placed) {
  if (s->cwd && access(s->cwd, X_OK) != 0) return fail(s, result, "enter the folder for", errno);
  bool is_good = s->pty ? open_terminal(s, e) : true;
  for (int i = 0; i < 3 && is_good && !s->pty; i++) is_good = open_stream(s, e, i);
  if (!is_good) return fail(s, result, "open the streams of", errno);
  rille_process *p = calloc(1, sizeof *p);
  if (!p) return fail(s, result, "run", ENOMEM);
  int why = start(s, e, &p->pid);
  if (why) {
    free(p);
    return fail(s, result, "run", why);
  }
  p->has_group = s->group || s->pty || s->detach;
  p->is_detached = s->detach;
  for (int i = 0; i < 3; i++) p->streams[i] = e->ours[i];
  e->ours[0] = e->ours[1] = e->ours[2] = -1;
  p->exit_fd = watch_exit(p->pid);
  why = errno;
  rille_process_add(p);
  if (p->exit_fd >= 0) {
    s->process = p;
    return RILLE_OK;
  }
  rille_process_kill(p, SIGKILL, p->has_group);
  rille_process_close(p); /* and with it its place */
  *is_placed = true;
  return fail(s, result, "watch", why);
}

int rille_spawn_run(struct rille_spawn *s, rille_io_result *result) {
  ends e = {.child = {-1, -1, -1}, .ours = {-1, -1, -1}};
  keep_ends();
  result->err = rille_process_reserve();
  if (result->err) {
    snprintf(result->message, sizeof result->message, "cannot run %.160s: too many processes run", s->argv[0]);
    return result->err;
  }
  bool is_placed = false;
  result->err = spawn(s, &e, result, &is_placed);
  if (result->err && !is_placed) rille_process_unreserve();
  close_all(e.child);
  close_all(e.ours);
  return result->err;
}
