/*
 * address: where to listen or connect, written as a URL and kept as a socket address.
 *
 * Plain values without owner: any thread may call everything here. Only rille_address_parse may block, and only when
 * the host is a name that has to be looked up.
 */
#ifndef RILLE_ADDRESS_H
#define RILLE_ADDRESS_H

#include "rille.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
  RILLE_ADDRESS_TEXT_MAX = 512, /* holds every text of rille_address_format, its NUL included */
  RILLE_PEER_TEXT_MAX = 56      /* the same for rille_peer_format */
};

enum rille_address_kind {
  RILLE_ADDRESS_TCP,
  RILLE_ADDRESS_UNIX, /* stream */
  RILLE_ADDRESS_UDP,
  RILLE_ADDRESS_UNIXGRAM
};

typedef struct rille_address {
  struct sockaddr_storage storage;
  socklen_t length; /* of what is used in storage */
  int kind;         /* enum rille_address_kind */
  int family;       /* AF_INET, AF_INET6, AF_UNIX */
  int ipv6_only;    /* value for IPV6_V6ONLY; 0 on an AF_INET6 wildcard means IPv4 peers are welcome too */
} rille_address;

/*
 * tcp://host:port  tcp4://host:port  tcp6://host:port  host:port  :port  unix:///path  unix:@abstract
 * udp://host:port  udp4://host:port  udp6://host:port  unixgram:///path  unixgram:@abstract
 *
 * An empty host is every address: for tcp and udp one AF_INET6 socket that serves both families, with 4 or 6 the family
 * of the scheme. "localhost" is 127.0.0.1 (::1 for tcp6) whatever the resolver thinks, so that a listener and a
 * dialer on one host always meet. Any other name is looked up; the first address wins.
 *
 * 0, or RILLE_ERR_BAD_ADDRESS, RILLE_ERR_NOT_SUPPORTED (a scheme that is known but not served here),
 * RILLE_ERR_NOT_FOUND (no such host), with a sentence in message that says what is wrong and what is expected. out is
 * untouched on failure.
 */
int rille_address_parse(const char *url, rille_address *out, char *message, size_t message_size);
/* The same, but never blocks: a name that needs a look-up is RILLE_ERR_BUSY. */
int rille_address_parse_numeric(const char *url, rille_address *out, char *message, size_t message_size);

/* what accept, getsockname or getpeername returned, of a stream socket; 0, or RILLE_ERR_NOT_SUPPORTED for a family that is not known
 * here */
int rille_address_from_sockaddr(rille_address *out, const struct sockaddr *address, socklen_t length);

/* tcp://127.0.0.1:7000, tcp://[::1]:7000, tcp6://[::]:7000 (IPv6 only), unix:///path, unix:@name, "unix:" for a socket
 * without a name. What came from a URL parses to the same address again; control characters, which only an address from
 * the kernel can hold, show as \xNN. Returns the length without the NUL; the text is cut when size does not hold it. */
size_t rille_address_format(const rille_address *address, char *out, size_t size);

static inline int rille_address_is_datagram(const rille_address *address) {
  return address->kind == RILLE_ADDRESS_UDP || address->kind == RILLE_ADDRESS_UNIXGRAM;
}

/* host byte order, 0 for unix */
uint16_t rille_address_port(const rille_address *address);
/* 1 for 0.0.0.0 and [::]: fine to listen on, not an address to connect to */
int rille_address_is_any(const rille_address *address);

/* snprintf's length, limited to what fits */
static inline size_t rille_address_fitted(int length, size_t size) {
  if (length < 0 || size == 0) {
    return 0;
  }
  return (size_t)length < size ? (size_t)length : size - 1;
}

/* The other end of a connection, small enough to be kept in each. IPv4 uses the first four bytes of ip; a
 * v4-mapped IPv6 address is stored as the IPv4 address it means. */
typedef struct rille_peer {
  uint8_t family; /* AF_INET, AF_INET6, AF_UNIX; 0 for unknown */
  uint8_t pad;
  uint16_t port; /* host byte order */
  uint8_t ip[16];
} rille_peer;

_Static_assert(sizeof(rille_peer) == 20, "it is embedded in every connection");

void rille_peer_from_sockaddr(rille_peer *out, const struct sockaddr *address, socklen_t length);
/* 127.0.0.1:5000, [::1]:5000, unix:, or "?" for an unknown family; length without the NUL, cut at size */
size_t rille_peer_format(const rille_peer *peer, char *out, size_t size);

#endif
