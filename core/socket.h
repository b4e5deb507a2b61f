/*
 * socket: a bound socket for an address, stream or datagram. Plain calls without owner, for any thread; the descriptor is the caller's.
 */
#ifndef RILLE_SOCKET_H
#define RILLE_SOCKET_H

#include "address.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct rille_socket_options {
  int type;       /* SOCK_STREAM or SOCK_DGRAM */
  bool reuseport; /* other sockets of this process are bound to the same address */
  bool is_first;  /* of those: a busy port is noticed, although with SO_REUSEPORT a bind would go through */
  bool ipv6_only;
  uint32_t mode;      /* permission bits of a unix path, 0: what the umask leaves */
  const char *device; /* the interface, "": any; at most 15 bytes */
} rille_socket_options;

/* A non-blocking, CLOEXEC socket bound to address; a unix path on which nobody answers is taken over. Its descriptor, or a negative
 * enum rille_err with a sentence in message. */
int rille_socket_bind(const rille_address *address, const rille_socket_options *options, char *message, size_t size);
/* setsockopt of an int that may be refused: the socket works without */
void rille_socket_set(int fd, int level, int name, int value);
/* the path of a unix socket, NULL for one without and for other families */
const char *rille_socket_path(const rille_address *address);
/* write the sentence, return err */
__attribute__((format(printf, 4, 5))) int rille_socket_say(char *message, size_t size, int err, const char *format,
                                                           ...);

#endif
