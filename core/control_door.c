/*
 * control_door: how clients come to the control thread: by the control socket, which the thread that starts it binds, and from inside,
 * by rille_control_ask. Both are guarded by one mutex, which is held for moments only.
 */
#include "control.h"
#include "socket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* under the mutex */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int listen_fd = -1;
static rille_address address;
static dev_t device; /* of the socket file, so that only our own is removed */
static ino_t inode;
static int asked_fds[RILLE_CONTROL_CLIENTS_MAX]; /* of rille_control_ask, not clients yet */
static uint32_t asked_count;
static bool is_open; /* the control thread runs */

/* ---- the control thread ---------------------------------------------------------------------------------------- */

void rille_control_door_admit(bool (*add)(int fd)) {
  pthread_mutex_lock(&mutex);
  while (asked_count > 0) (void)add(asked_fds[--asked_count]);
  is_open = true;
  pthread_mutex_unlock(&mutex);
}

int rille_control_door_fd(void) {
  pthread_mutex_lock(&mutex);
  int fd = listen_fd;
  pthread_mutex_unlock(&mutex);
  return fd;
}

void rille_control_door_close(void) {
  pthread_mutex_lock(&mutex);
  is_open = false;
  while (asked_count > 0) close(asked_fds[--asked_count]);
  if (listen_fd >= 0) {
    struct stat info;
    const char *path = rille_socket_path(&address);
    if (path && lstat(path, &info) == 0 && info.st_dev == device && info.st_ino == inode) unlink(path);
    close(listen_fd);
    listen_fd = -1;
  }
  pthread_mutex_unlock(&mutex);
}

/* ---- other threads --------------------------------------------------------------------------------------------- */

/* A folder where others may put something in the place of our socket, or of the one a client looks for. */
static bool is_open_to_all(const char *path) {
  char folder[sizeof((struct sockaddr_un *)NULL)->sun_path];
  snprintf(folder, sizeof folder, "%s", path);
  char *slash = strrchr(folder, '/');
  if (!slash) snprintf(folder, sizeof folder, ".");
  else if (slash == folder) folder[1] = 0;
  else *slash = 0;
  struct stat info;
  if (stat(folder, &info) != 0) return false; /* bind says so better */
  return info.st_mode & (S_IWGRP | S_IWOTH) && !(info.st_mode & S_ISVTX);
}

static int default_path(char *to, size_t size) {
  const char *folder = getenv("XDG_RUNTIME_DIR"); /* NOLINT(concurrency-mt-unsafe): before there are other threads */
  if (!folder || folder[0] != '/' || access(folder, W_OK) != 0) folder = "/tmp";
  return snprintf(to, size, "%s/rille-%d.sock", folder, (int)getpid());
}

int rille_control_listen(const char *path, char *message, size_t message_size) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  char own[256], why[256];
  if (!path || !path[0]) {
    default_path(own, sizeof own);
    path = own;
  }
  if (strlen(path) >= sizeof name.sun_path) {
    return rille_socket_say(message, message_size, RILLE_ERR_BAD_ADDRESS,
                            "control socket %s: the path is longer than %zu bytes", path, sizeof name.sun_path - 1);
  }
  memcpy(name.sun_path, path, strlen(path) + 1);
  if (is_open_to_all(path)) {
    return rille_socket_say(message, message_size, RILLE_ERR_PERMISSION,
                            "control socket %s: others may write to its folder; choose another for control.path", path);
  }
  rille_address wanted = {.kind = RILLE_ADDRESS_UNIX, .family = AF_UNIX, .length = sizeof name};
  memcpy(&wanted.storage, &name, sizeof name);
  rille_socket_options options = {.type = SOCK_STREAM, .mode = 0600};
  mode_t mask = umask(0177); /* never open to others, not even for a moment */
  int fd = rille_socket_bind(&wanted, &options, why, sizeof why);
  umask(mask);
  if (fd < 0) return rille_socket_say(message, message_size, fd, "control socket %s: %s", path, why);
  struct stat info = {0};
  if (listen(fd, RILLE_CONTROL_CLIENTS_MAX) != 0 || lstat(path, &info) != 0) {
    int err = rille_err_from_errno(errno);
    close(fd);
    return rille_socket_say(message, message_size, err, "control socket %s: %s", path, rille_err_text(err));
  }
  pthread_mutex_lock(&mutex);
  listen_fd = fd;
  address = wanted;
  device = info.st_dev;
  inode = info.st_ino;
  pthread_mutex_unlock(&mutex);
  rille_control_wake();
  return RILLE_OK;
}

int rille_control_ask(const char *request, size_t size) {
  int pair[2];
  if (size >= RILLE_CONTROL_LINE_MAX) return RILLE_ERR_TOO_LARGE;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0) return rille_err_from_errno(errno);
  pthread_mutex_lock(&mutex);
  int err = !is_open ? RILLE_ERR_SHUTDOWN : asked_count == RILLE_CONTROL_CLIENTS_MAX ? RILLE_ERR_BUSY : RILLE_OK;
  if (!err && send(pair[0], request, size, MSG_NOSIGNAL) != (ssize_t)size) err = RILLE_ERR_SYSTEM;
  if (!err) asked_fds[asked_count++] = pair[1];
  pthread_mutex_unlock(&mutex);
  if (err) {
    close(pair[0]);
    close(pair[1]);
    return err;
  }
  rille_control_wake();
  return pair[0];
}
