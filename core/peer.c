/*
 * peer: the other end of a connection, see address.h.
 */
#include "address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

void rille_peer_from_sockaddr(rille_peer *out, const struct sockaddr *address, socklen_t length) {
  memset(out, 0, sizeof *out);
  int family = length >= sizeof address->sa_family ? address->sa_family : AF_UNSPEC;
  if (family == AF_UNIX) {
    out->family = AF_UNIX;
  } else if (family == AF_INET && length >= sizeof(struct sockaddr_in)) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)address;
    out->family = AF_INET;
    out->port = ntohs(in->sin_port);
    memcpy(out->ip, &in->sin_addr, 4);
  } else if (family == AF_INET6 && length >= sizeof(struct sockaddr_in6)) {
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
    out->port = ntohs(in6->sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
      out->family = AF_INET;
      memcpy(out->ip, in6->sin6_addr.s6_addr + 12, 4);
    } else {
      out->family = AF_INET6;
      memcpy(out->ip, &in6->sin6_addr, 16);
    }
  }
}

size_t rille_peer_format(const rille_peer *peer, char *out, size_t size) {
  char ip[INET6_ADDRSTRLEN] = "";
  if (peer->family == AF_INET) {
    inet_ntop(AF_INET, peer->ip, ip, sizeof ip);
    return rille_address_fitted(snprintf(out, size, "%s:%u", ip, peer->port), size);
  }
  if (peer->family == AF_INET6) {
    inet_ntop(AF_INET6, peer->ip, ip, sizeof ip);
    return rille_address_fitted(snprintf(out, size, "[%s]:%u", ip, peer->port), size);
  }
  return rille_address_fitted(snprintf(out, size, "%s", peer->family == AF_UNIX ? "unix:" : "?"), size);
}
