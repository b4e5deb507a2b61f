/*
 * errors: text and errno of every enum rille_err, and the way back from an errno. Constant tables, so any thread may
 * call and nobody owns anything.
 */
#include "errors.h"

#include <errno.h>

/* One line an error: the enum's name, the text scripts compare with, the errno (0: the kernel has no such error). */
#define ERRORS(X)                                                                                                      \
  X(RILLE_OK, "ok", 0)                                                                                                 \
  X(RILLE_ERR_CLOSED, "closed", EPIPE)                                                                                 \
  X(RILLE_ERR_RESET, "reset", ECONNRESET)                                                                              \
  X(RILLE_ERR_TIMEOUT, "timeout", ETIMEDOUT)                                                                           \
  X(RILLE_ERR_SHORT, "short", 0)                                                                                       \
  X(RILLE_ERR_TOO_LARGE, "too large", EMSGSIZE)                                                                        \
  X(RILLE_ERR_REFUSED, "refused", ECONNREFUSED)                                                                        \
  X(RILLE_ERR_UNREACHABLE, "unreachable", EHOSTUNREACH)                                                                \
  X(RILLE_ERR_ADDRESS_IN_USE, "address in use", EADDRINUSE)                                                            \
  X(RILLE_ERR_PERMISSION, "permission denied", EACCES)                                                                 \
  X(RILLE_ERR_NOT_FOUND, "not found", ENOENT)                                                                          \
  X(RILLE_ERR_BUSY, "busy", EBUSY)                                                                                     \
  X(RILLE_ERR_FULL, "full", ENOSPC)                                                                                    \
  X(RILLE_ERR_CANCELLED, "cancelled", ECANCELED)                                                                       \
  X(RILLE_ERR_NO_MEMORY, "no memory", ENOMEM)                                                                          \
  X(RILLE_ERR_INVALID, "invalid argument", EINVAL)                                                                     \
  X(RILLE_ERR_EXPIRED, "slice expired", 0)                                                                             \
  X(RILLE_ERR_READ_ONLY, "read only", EROFS)                                                                           \
  X(RILLE_ERR_SHUTDOWN, "shutdown", 0)                                                                                 \
  X(RILLE_ERR_ERROR, "error", 0)                                                                                       \
  X(RILLE_ERR_BAD_ADDRESS, "bad address", 0)                                                                           \
  X(RILLE_ERR_TOO_MANY_FILES, "too many open files", EMFILE)                                                           \
  X(RILLE_ERR_NOT_SUPPORTED, "not supported", EOPNOTSUPP)                                                              \
  X(RILLE_ERR_ADDRESS_NOT_AVAILABLE, "address not available", EADDRNOTAVAIL)                                           \
  X(RILLE_ERR_SYSTEM, "system error", 0)                                                                               \
  X(RILLE_ERR_EXISTS, "exists", EEXIST)                                                                                \
  X(RILLE_ERR_NOT_A_NUMBER, "not a number", 0)                                                                         \
  X(RILLE_ERR_NOT_A_LIST, "value not a list", 0)                                                                       \
  X(RILLE_ERR_A_LIST, "value is a list", 0)                                                                            \
  X(RILLE_ERR_SERVER_FAILURE, "server failure", 0)                                                                     \
  X(RILLE_ERR_HANDSHAKE, "handshake failed", 0)                                                                        \
  X(RILLE_ERR_CERTIFICATE, "bad certificate", 0)                                                                       \
  X(RILLE_ERR_UNAVAILABLE, "unavailable", 0)

static const struct {
  const char *text;
  int error_number;
} errors[] = {
#define ROW(name, text, error_number) [-(name)] = {text, error_number},
    ERRORS(ROW)
#undef ROW
};

/* With as many lines as numbers, and the compiler refusing a number that is given twice, every number has its line. */
#define ONE(name, text, error_number) +1 /* NOLINT(bugprone-macro-parentheses): they are added up */
_Static_assert(0 ERRORS(ONE) == 1 - RILLE_ERR_LAST, "an enum rille_err has no line in the table");
_Static_assert(sizeof errors / sizeof errors[0] == 1 - RILLE_ERR_LAST, "a line is beyond RILLE_ERR_LAST");
#undef ONE

const char *rille_err_text(int err) { return err <= 0 && err >= RILLE_ERR_LAST ? errors[-err].text : "system error"; }

int rille_err_errno(int err) { return err <= 0 && err >= RILLE_ERR_LAST ? errors[-err].error_number : 0; }

int rille_err_is_shortage(int error_number) {
  int err = rille_err_from_errno(error_number);
  return err == RILLE_ERR_TOO_MANY_FILES || err == RILLE_ERR_NO_MEMORY;
}

int rille_err_from_errno(int error_number) {
  switch (error_number) {
  case 0: return RILLE_OK;
  case EPIPE:
  case ENOTCONN:
  case ESHUTDOWN: return RILLE_ERR_CLOSED;
  case ECONNRESET:
  case ECONNABORTED: return RILLE_ERR_RESET;
  case ETIMEDOUT: return RILLE_ERR_TIMEOUT;
  case EMSGSIZE:
  case E2BIG:
  case EFBIG: return RILLE_ERR_TOO_LARGE;
  case ECONNREFUSED: return RILLE_ERR_REFUSED;
  case ENETUNREACH:
  case EHOSTUNREACH:
  case ENETDOWN:
  case EHOSTDOWN: return RILLE_ERR_UNREACHABLE;
  case EADDRINUSE: return RILLE_ERR_ADDRESS_IN_USE;
  case EACCES:
  case EPERM: return RILLE_ERR_PERMISSION;
  case ENOENT:
  case ENOTDIR:
  case ENODEV:
  case ENXIO: return RILLE_ERR_NOT_FOUND;
  case EBUSY:
  case ETXTBSY:
  case EAGAIN: /* connect to a unix socket whose backlog is full */
  case EALREADY:
  case EINPROGRESS: return RILLE_ERR_BUSY;
  case ENOSPC:
  case EDQUOT: return RILLE_ERR_FULL;
  case ECANCELED: return RILLE_ERR_CANCELLED;
  case ENOMEM:
  case ENOBUFS: return RILLE_ERR_NO_MEMORY;
  case EINVAL:
  case EBADF:
  case EISCONN:
  case EISDIR:
  case ELOOP:
  case ENAMETOOLONG: return RILLE_ERR_INVALID;
  case EEXIST:
  case ENOTEMPTY: return RILLE_ERR_EXISTS;
  case EROFS: return RILLE_ERR_READ_ONLY;
  case EDESTADDRREQ: return RILLE_ERR_BAD_ADDRESS;
  case EMFILE:
  case ENFILE: return RILLE_ERR_TOO_MANY_FILES;
  case EOPNOTSUPP:
  case ENOSYS:
  case EAFNOSUPPORT:
  case EPROTONOSUPPORT:
  case ENOPROTOOPT:
  case ENOEXEC:
  case EXDEV: return RILLE_ERR_NOT_SUPPORTED;
  case EADDRNOTAVAIL: return RILLE_ERR_ADDRESS_NOT_AVAILABLE;
  default: return RILLE_ERR_SYSTEM;
  }
}
