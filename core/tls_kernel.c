/*
 * tls_kernel: whether the kernel has TLS at all, asked once. Where not, connections do as without kTLS, and the log says so. Any thread.
 */
#include "tls.h"

#include "log.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

static bool has_it;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A socket that is not connected cannot have it; one that could not have it anyway is told otherwise. */
static void ask(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  int rc = setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls");
  has_it = rc == 0 || errno == ENOTCONN;
  close(fd);
  if (!has_it)
    RILLE_LOG(RILLE_LOG_WARN, "TLS: ktls is wanted, but this kernel has no TLS (module `tls`): OpenSSL encrypts");
}

bool rille_tls_kernel_has_it(void) {
  pthread_once(&once, ask);
  return has_it;
}
