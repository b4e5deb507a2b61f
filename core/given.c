/*
 * given: see given.h.
 */
#include "given.h"

#include "log.h"
#include "loop.h"
#include "process_note.h"
#include "socket.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  PASSED_FIRST = 3, /* sd_listen_fds(3): SD_LISTEN_FDS_START */
  PASSED_MAX = 1024,
  GIVEN_MAX = 1 << 16,
  NAME_SIZE = 256
};

typedef struct given {
  int fd;              /* owned; -1: closed, or handed over */
  const char *problem; /* static; why nobody can accept on it, NULL: one can */
  int accept;          /* enum rille_accept it was bound for; passed ones are shared */
  uint32_t process;    /* that has it; 0: every one */
  bool is_passed;
  bool stays;     /* other processes have it too */
  bool is_wanted; /* a server of the configuration has its address */
  bool is_taken;  /* by a listener of this process */
  bool has_address;
  rille_address address;
  dev_t device; /* of a unix path that was bound here */
  ino_t inode;
  char name[NAME_SIZE]; /* of a passed one */
} given;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static given *table;
static uint32_t count, capacity;

static given *add(void) {
  if (count == capacity) {
    uint32_t more = capacity ? capacity * 2 : 16;
    given *grown = more <= GIVEN_MAX ? realloc(table, sizeof *grown * more) : NULL;
    if (!grown) return NULL;
    table = grown;
    capacity = more;
  }
  given *g = &table[count++];
  memset(g, 0, sizeof *g);
  g->fd = -1;
  return g;
}

static bool learn(given *g) {
  struct sockaddr_storage storage = {0};
  socklen_t length = sizeof storage;
  if (getsockname(g->fd, (struct sockaddr *)&storage, &length) != 0) return false;
  g->has_address = rille_address_from_sockaddr(&g->address, (struct sockaddr *)&storage, length) == RILLE_OK;
  return g->has_address;
}

/* ---- passed by a service manager -------------------------------------------------------------------------------- */

static const char *problem_of(given *g) {
  int type = 0, listens = 0;
  socklen_t size = sizeof type;
  if (getsockopt(g->fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0) return "is no socket";
  if (type == SOCK_DGRAM) return "is a datagram socket";
  if (type != SOCK_STREAM || !learn(g)) return "is a socket of a kind that is not served here";
  size = sizeof listens;
  if (getsockopt(g->fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || !listens) return "does not listen";
  return NULL;
}

/* The first of "a:b:c", which is cut off. */
static void take_name(const char **names, char *to) {
  if (!*names) return;
  size_t length = strcspn(*names, ":");
  snprintf(to, NAME_SIZE, "%.*s", (int)(length < NAME_SIZE ? length : NAME_SIZE - 1), *names);
  *names += length;
  *names = **names == ':' ? *names + 1 : NULL;
}

static int adopt(int fd, const char **names, char *message, size_t size) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return rille_socket_say(message, size, rille_err_from_errno(errno),
                            "LISTEN_FDS says that descriptor %d was passed, but it is not open", fd);
  }
  given *g = add();
  if (!g) return rille_socket_say(message, size, RILLE_ERR_NO_MEMORY, "no memory");
  g->fd = fd;
  g->is_passed = g->stays = true;
  take_name(names, g->name);
  g->problem = problem_of(g);
  return RILLE_OK;
}

static bool number_of(const char *text, long *out) {
  char *end;
  if (!text || *text < '0' || *text > '9') return false;
  errno = 0;
  *out = strtol(text, &end, 10);
  return *end == '\0' && errno == 0;
}

int rille_given_adopt(char *message, size_t size) {
  /* NOLINTBEGIN(concurrency-mt-unsafe): before the process has threads of its own */
  const char *pid_text = getenv("LISTEN_PID"), *count_text = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES");
  long pid = 0, fds = 0;
  int err = RILLE_OK;
  bool is_ours = number_of(pid_text, &pid) && pid == (long)getpid();
  if (is_ours && (!number_of(count_text, &fds) || fds > PASSED_MAX)) {
    err = rille_socket_say(message, size, RILLE_ERR_INVALID, "LISTEN_FDS is \"%.40s\"; expected a number up to %d",
                           count_text ? count_text : "", PASSED_MAX);
  }
  for (int fd = PASSED_FIRST; err == RILLE_OK && fd < PASSED_FIRST + (int)fds; fd++) {
    err = adopt(fd, &names, message, size);
  }
  unsetenv("LISTEN_PID");
  unsetenv("LISTEN_FDS");
  unsetenv("LISTEN_FDNAMES");
  /* NOLINTEND(concurrency-mt-unsafe) */
  return err;
}

void rille_given_warn(void) {
  pthread_mutex_lock(&mutex);
  for (uint32_t i = 0; i < count && rille_process_number() <= 1; i++) {
    const given *g = &table[i];
    if (!g->is_passed || g->is_wanted || g->is_taken) continue;
    char address[RILLE_ADDRESS_TEXT_MAX] = "";
    if (g->has_address) rille_address_format(&g->address, address, sizeof address);
    RILLE_LOG(RILLE_LOG_WARN, "no server uses descriptor %d (%s), which was passed%s%s%s%s; it stays open", g->fd,
              g->name, address[0] ? "; it is bound to " : "", address, g->problem ? " and " : "",
              g->problem ? g->problem : "");
  }
  pthread_mutex_unlock(&mutex);
}

/* ---- finding ---------------------------------------------------------------------------------------------------- */

static bool is_same(const rille_address *a, const rille_address *b) {
  if (a->kind != b->kind || a->family != b->family) return false;
  if (a->family == AF_UNIX) {
    const char *path = rille_socket_path(a), *other = rille_socket_path(b);
    if (path || other) return path && other && strcmp(path, other) == 0;
    return a->length == b->length && memcmp(&a->storage, &b->storage, a->length) == 0;
  }
  if (rille_address_port(a) != rille_address_port(b)) return false;
  if (a->family == AF_INET) {
    return ((const struct sockaddr_in *)&a->storage)->sin_addr.s_addr ==
           ((const struct sockaddr_in *)&b->storage)->sin_addr.s_addr;
  }
  const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&a->storage;
  const struct sockaddr_in6 *other = (const struct sockaddr_in6 *)&b->storage;
  return memcmp(&six->sin6_addr, &other->sin6_addr, sizeof six->sin6_addr) == 0 &&
         /* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): {0} fills it all */
         six->sin6_scope_id == other->sin6_scope_id;
}

/* What is free, or else any, of this process on the address. */
static given *find(const rille_address *address) {
  given *best = NULL;
  uint32_t process = rille_process_number();
  for (uint32_t i = 0; i < count; i++) {
    given *g = &table[i];
    if (g->fd < 0 || !g->has_address || (process && g->process && g->process != process)) continue;
    if (!is_same(&g->address, address)) continue;
    if (!g->is_taken) return g;
    best = g;
  }
  return best;
}

static int refuse(const given *g, char *message, size_t size) {
  return rille_socket_say(message, size, RILLE_ERR_INVALID,
                          "descriptor %d (%s), which was passed, %s; pass a listening socket", g->fd, g->name,
                          g->problem);
}

static int resolve(const char *name, rille_address *out, char *message, size_t size) {
  long number = -1;
  given *found = NULL;
  char names[160] = "";
  bool is_number = number_of(name, &number);
  for (uint32_t i = 0; i < count; i++) {
    given *g = &table[i];
    if (!g->is_passed) continue;
    size_t used = strlen(names);
    snprintf(names + used, sizeof names - used, "%s%d (%.40s)", used ? ", " : "", g->fd, g->name);
    if (is_number ? g->fd != number : strcmp(g->name, name) != 0) continue;
    if (found) {
      return rille_socket_say(message, size, RILLE_ERR_INVALID,
                              "descriptors %d and %d have that name; listen on their addresses, or on fd:%d and fd:%d",
                              found->fd, g->fd, found->fd, g->fd);
    }
    found = g;
  }
  if (!found) {
    return rille_socket_say(message, size, RILLE_ERR_NOT_FOUND, "no such descriptor was passed; %s%s",
                            names[0] ? "there are: " : "LISTEN_FDS names none", names);
  }
  if (found->problem) return refuse(found, message, size);
  *out = found->address;
  return 1;
}

int rille_given_resolve(const char *url, rille_address *out, char *message, size_t size) {
  if (strncmp(url, "fd:", 3) != 0) return 0;
  pthread_mutex_lock(&mutex);
  int result = resolve(url + 3, out, message, size);
  pthread_mutex_unlock(&mutex);
  return result;
}

int rille_given_accept(const rille_address *address, int asked, char *message, size_t size) {
  pthread_mutex_lock(&mutex);
  const given *g = find(address);
  bool is_passed = g && g->is_passed;
  int bound_for = g ? g->accept : RILLE_ACCEPT_DEFAULT;
  pthread_mutex_unlock(&mutex);
  bool is_one = address->family == AF_UNIX || is_passed;
  if (asked == RILLE_ACCEPT_REUSEPORT && is_one) {
    return rille_socket_say(message, size, RILLE_ERR_NOT_SUPPORTED, "a %s has no reuseport; use shared or balanced",
                            is_passed ? "passed descriptor" : "Unix socket");
  }
  if (asked != RILLE_ACCEPT_DEFAULT) return asked;
  if (bound_for != RILLE_ACCEPT_DEFAULT) return bound_for;
  return is_one ? RILLE_ACCEPT_SHARED : RILLE_ACCEPT_REUSEPORT;
}

/* ---- for listeners ---------------------------------------------------------------------------------------------- */

static int take(given *g, bool *stays, char *message, size_t size) {
  if (g->problem) return refuse(g, message, size);
  if (g->is_taken) {
    return rille_socket_say(message, size, RILLE_ERR_ADDRESS_IN_USE,
                            "address in use; another server of this configuration listens there");
  }
  g->is_taken = true;
  *stays = g->stays;
  int fd = g->fd;
  if (!g->stays) g->fd = -1;
  return fd;
}

int rille_given_take(const rille_address *address, bool *stays, char *message, size_t size) {
  *stays = false;
  pthread_mutex_lock(&mutex);
  given *g = find(address);
  int fd = g ? take(g, stays, message, size) : RILLE_ERR_NOT_FOUND;
  pthread_mutex_unlock(&mutex);
  return fd;
}

static given *by_fd(int fd) {
  for (uint32_t i = 0; i < count; i++) {
    if (table[i].fd == fd) return &table[i];
  }
  return NULL;
}

static bool is_ending(const given *g) { return g && !g->is_passed && rille_process_stop_wanted() != RILLE_STOP_NOT; }

void rille_given_return(int fd) {
  pthread_mutex_lock(&mutex);
  given *g = by_fd(fd);
  if (g) g->is_taken = false;
  if (is_ending(g)) {
    close(fd);
    g->fd = -1;
  }
  pthread_mutex_unlock(&mutex);
}

bool rille_given_is_ending(int fd) {
  pthread_mutex_lock(&mutex);
  bool result = is_ending(by_fd(fd));
  pthread_mutex_unlock(&mutex);
  return result;
}

bool rille_given_is_passed(int fd) {
  pthread_mutex_lock(&mutex);
  const given *g = by_fd(fd);
  bool result = g && g->is_passed;
  pthread_mutex_unlock(&mutex);
  return result;
}

void rille_given_drop(int fd) {
  if (!rille_given_is_passed(fd)) shutdown(fd, SHUT_RD);
}

void rille_given_forked(void) {
  for (uint32_t i = 0; i < count; i++) {
    given *g = &table[i];
    if (g->fd < 0 || !g->process || g->process == rille_process_number()) continue;
    close(g->fd);
    g->fd = -1;
  }
}

/* ---- bound before the scripts ----------------------------------------------------------------------------------- */

static int bind_one(const rille_address *address, const rille_listen_options *o, int accept, bool is_first,
                    char *message, size_t size) {
  bool is_datagram = rille_address_is_datagram(address);
  rille_socket_options options = {
      .type = is_datagram ? SOCK_DGRAM : SOCK_STREAM,
      .reuseport = accept == RILLE_ACCEPT_REUSEPORT,
      .is_first = is_first,
      .ipv6_only = o->ipv6_only || address->ipv6_only,
      .mode = o->mode,
      .device = o->device,
  };
  int fd = rille_socket_bind(address, &options, message, size);
  if (fd < 0) return fd;
  given *g = add();
  /* the system cuts it to somaxconn */
  if (g && (is_datagram || listen(fd, o->backlog > 0 ? o->backlog : 65535) == 0)) {
    g->fd = fd;
    g->accept = accept;
    learn(g);
    g->address.kind = address->kind;
    g->address.ipv6_only = address->ipv6_only;
    const char *path = rille_socket_path(&g->address);
    struct stat info;
    if (path && stat(path, &info) == 0) {
      g->device = info.st_dev;
      g->inode = info.st_ino;
    }
    return RILLE_OK;
  }
  int err = g ? errno : ENOMEM;
  close(fd);
  if (g) count--;
  if (rille_socket_path(address)) unlink(rille_socket_path(address));
  errno = err;
  return rille_socket_say(message, size, rille_err_from_errno(err), "%m");
}

static int bind_all(rille_address *address, const rille_listen_options *o, uint32_t loops, uint32_t processes,
                    char *message, size_t size) {
  int asked = o->accept;
  /* datagrams of one peer come to one process */
  bool spreads = rille_address_is_datagram(address) && address->family != AF_UNIX;
  if (asked == RILLE_ACCEPT_DEFAULT && processes > 1) asked = spreads ? RILLE_ACCEPT_REUSEPORT : RILLE_ACCEPT_SHARED;
  int accept = rille_given_accept(address, asked, message, size);
  if (accept < 0) return accept;
  given *passed = find(address);
  if (passed && passed->is_passed) {
    passed->is_wanted = true;
    return passed->problem ? refuse(passed, message, size) : RILLE_OK;
  }
  rille_control_raise_limit();
  uint32_t sockets = accept == RILLE_ACCEPT_REUSEPORT ? loops * processes : 1;
  for (uint32_t i = 0; i < sockets; i++) {
    int err = bind_one(address, o, accept, i == 0, message, size);
    if (err < 0) return err;
    given *g = &table[count - 1];
    g->stays = processes > 1;
    g->process = processes > 1 && accept == RILLE_ACCEPT_REUSEPORT ? i / loops + 1 : 0;
    *address = g->address; /* with the port that was picked */
  }
  return RILLE_OK;
}

int rille_given_bind(const char *url, const rille_listen_options *options, uint32_t loops, uint32_t processes, char *to,
                     size_t size, char *message, size_t message_size) {
  rille_address address = {0};
  char why[256];
  int err = rille_given_resolve(url, &address, why, sizeof why);
  if (err == 0) err = rille_address_parse(url, &address, why, sizeof why);
  if (err >= 0) err = bind_all(&address, options, loops, processes, why, sizeof why);
  if (err < 0) return rille_socket_say(message, message_size, err, "cannot listen on %s: %s", url, why);
  return (int)rille_address_format(&address, to, size);
}

void rille_given_close(void) {
  pthread_mutex_lock(&mutex);
  for (uint32_t i = 0; i < count; i++) {
    given *g = &table[i];
    if (g->fd < 0 || g->is_passed) continue;
    close(g->fd);
    g->fd = -1;
    const char *path = rille_socket_path(&g->address);
    struct stat info;
    if (path && stat(path, &info) == 0 && info.st_dev == g->device && info.st_ino == g->inode) unlink(path);
  }
  pthread_mutex_unlock(&mutex);
}
