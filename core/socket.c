/*
 * socket: see socket.h.
 */
#include "socket.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int rille_socket_say(char *message, size_t size, int err, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, size, format, arguments);
  va_end(arguments);
  return err;
}

static const char *reason(int error_number) {
  return strerror(error_number); /* NOLINT(concurrency-mt-unsafe): glibc keeps the text by thread */
}

void rille_socket_set(int fd, int level, int name, int value) {
  (void)setsockopt(fd, level, name, &value, sizeof value);
}

const char *rille_socket_path(const rille_address *address) {
  const struct sockaddr_un *name = (const struct sockaddr_un *)&address->storage;
  return address->family == AF_UNIX && name->sun_path[0] != '\0' ? name->sun_path : NULL;
}

/* A socket file that a server left behind: it is one, and nobody answers. */
static bool is_stale_path(const rille_address *address, int type) {
  struct stat info;
  if (lstat(rille_socket_path(address), &info) != 0 || !S_ISSOCK(info.st_mode)) return false;
  int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  int result = connect(fd, (const struct sockaddr *)&address->storage, address->length);
  bool refused = result != 0 && errno == ECONNREFUSED;
  close(fd);
  return refused;
}

static int make_socket(const rille_address *address, const rille_socket_options *o, bool reuseport, char *message,
                       size_t size) {
  int fd = socket(address->family, o->type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return rille_socket_say(message, size, rille_err_from_errno(errno), "no socket: %s", reason(errno));
  if (address->family != AF_UNIX) {
    /* of datagrams SO_REUSEADDR would share the port as SO_REUSEPORT does, without asking */
    if (o->type == SOCK_STREAM) rille_socket_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (reuseport) rille_socket_set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    if (address->family == AF_INET6) rille_socket_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, o->ipv6_only);
  }
  const char *device = o->device ? o->device : "";
  if (device[0] && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, (socklen_t)strnlen(device, 15)) != 0) {
    int err = errno;
    close(fd);
    return rille_socket_say(message, size, rille_err_from_errno(err), "cannot bind to device %.15s: %s", device,
                            reason(err));
  }
  if (bind(fd, (const struct sockaddr *)&address->storage, address->length) == 0) return fd;
  int err = errno;
  close(fd);
  if (err == EADDRINUSE)
    return rille_socket_say(message, size, RILLE_ERR_ADDRESS_IN_USE,
                            "address in use; stop what listens there, or choose another address");
  return rille_socket_say(message, size, rille_err_from_errno(err), "%s", reason(err));
}

int rille_socket_bind(const rille_address *address, const rille_socket_options *o, char *message, size_t size) {
  if (o->reuseport && o->is_first && rille_address_port(address) != 0) {
    /* With SO_REUSEPORT a second server of the same user binds silently; the first bind without it finds a busy port. */
    int probe = make_socket(address, o, false, message, size);
    if (probe < 0) return probe;
    close(probe);
  }
  int fd = make_socket(address, o, o->reuseport, message, size);
  const char *path = rille_socket_path(address);
  if (fd == RILLE_ERR_ADDRESS_IN_USE && path && is_stale_path(address, o->type)) {
    unlink(path);
    fd = make_socket(address, o, o->reuseport, message, size);
  }
  if (fd >= 0 && path && o->mode) (void)chmod(path, o->mode);
  return fd;
}
