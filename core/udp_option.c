/*
 * udp_option: what can be set on a datagram socket: groups of multicast, where they go out, broadcast. See udp.h.
 */
#include "udp.h"

#include "listener.h"
#include "loop.h"
#include "socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/udp.h>
#include <string.h>

void rille_udp_prepare(int fd, const rille_address *address, const rille_listen_options *options) {
  if (options->receive_buffer) rille_socket_set(fd, SOL_SOCKET, SO_RCVBUF, options->receive_buffer);
  if (options->send_buffer) rille_socket_set(fd, SOL_SOCKET, SO_SNDBUF, options->send_buffer);
  if (options->broadcast) rille_socket_set(fd, SOL_SOCKET, SO_BROADCAST, 1);
  if (address->family == AF_UNIX) return;
  rille_socket_set(fd, SOL_SOCKET, SO_RXQ_OVFL, 1);
  /* only what this socket has joined, not what any other of this host has */
  rille_socket_set(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0);
  if (address->family == AF_INET6) rille_socket_set(fd, IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0);
  if (!rille_address_is_any(address)) return;
  if (address->family == AF_INET) rille_socket_set(fd, IPPROTO_IP, IP_PKTINFO, 1);
  else rille_socket_set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
}

/* A run of datagrams comes as a whole: not where that may be more than a queue or limits.max_handlers has room for, nor where each may be
 * another loop's. A given socket is another program's next time, which may not know of it. */
static bool may_join(const rille_listener *l) {
  bool is_one = !l->group || l->group->accept != RILLE_ACCEPT_BALANCED;
  return is_one && !l->is_given && !l->options.session_max && l->options.max_datagrams >= 2 * RILLE_UDP_RUN_MAX;
}

bool rille_udp_set_gro(const rille_listener *l) {
  int value = may_join(l);
  if (l->fd < 0 || l->address.family == AF_UNIX) return false;
  return setsockopt(l->fd, IPPROTO_UDP, UDP_GRO, &value, sizeof value) == 0 && value;
}

static int set(const rille_udp *u, int level, int name, const void *value, socklen_t size) {
  return setsockopt(u->fd, level, name, value, size) == 0 ? RILLE_OK : rille_err_from_errno(errno);
}

static int set_int(const rille_udp *u, int level, int name, int value) {
  return set(u, level, name, &value, sizeof value);
}

/* For both families where the socket has both. */
static int set_both(const rille_udp *u, int ipv4, int ipv6, int value) {
  int err = set_int(u, IPPROTO_IP, ipv4, value);
  return u->address.family == AF_INET6 ? set_int(u, IPPROTO_IPV6, ipv6, value) : err;
}

int rille_udp_set(rille_udp *u, int setting, double value) {
  if (u->is_closed || u->fd < 0) return RILLE_ERR_CLOSED;
  if (setting != RILLE_UDP_BROADCAST && u->address.family == AF_UNIX) return RILLE_ERR_NOT_SUPPORTED;
  switch (setting) {
  case RILLE_UDP_TTL: return set_both(u, IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS, (int)value);
  case RILLE_UDP_LOOP: return set_both(u, IP_MULTICAST_LOOP, IPV6_MULTICAST_LOOP, (int)value);
  case RILLE_UDP_BROADCAST: return set_int(u, SOL_SOCKET, SO_BROADCAST, (int)value);
  default: return RILLE_ERR_INVALID;
  }
}

/* Its index; 0: the system's choice; or an error. */
static int index_of(const char *interface) {
  if (!interface[0]) return 0;
  unsigned index = if_nametoindex(interface);
  return index ? (int)index : RILLE_ERR_NOT_FOUND;
}

int rille_udp_set_interface(rille_udp *u, const char *name) {
  if (u->is_closed || u->fd < 0) return RILLE_ERR_CLOSED;
  if (u->address.family == AF_UNIX) return RILLE_ERR_NOT_SUPPORTED;
  int index = index_of(name);
  if (index < 0) return index;
  struct ip_mreqn request = {.imr_ifindex = index};
  int err = set(u, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request);
  return u->address.family == AF_INET6 ? set_int(u, IPPROTO_IPV6, IPV6_MULTICAST_IF, index) : err;
}

static int change_membership(const rille_udp *u, const char *group, const char *interface, int leave) {
  struct ip_mreqn four = {0};
  struct ipv6_mreq six = {0};
  if (u->is_closed || u->fd < 0) return RILLE_ERR_CLOSED;
  int index = index_of(interface);
  if (index < 0) return index;
  if (u->address.family == AF_UNIX) return RILLE_ERR_NOT_SUPPORTED;
  if (inet_pton(AF_INET, group, &four.imr_multiaddr) == 1) {
    if (!IN_MULTICAST(ntohl(four.imr_multiaddr.s_addr))) return RILLE_ERR_BAD_ADDRESS;
    four.imr_ifindex = index;
    return set(u, IPPROTO_IP, leave ? IP_DROP_MEMBERSHIP : IP_ADD_MEMBERSHIP, &four, sizeof four);
  }
  if (inet_pton(AF_INET6, group, &six.ipv6mr_multiaddr) != 1) return RILLE_ERR_BAD_ADDRESS;
  if (!IN6_IS_ADDR_MULTICAST(&six.ipv6mr_multiaddr)) return RILLE_ERR_BAD_ADDRESS;
  if (u->address.family != AF_INET6) return RILLE_ERR_INVALID;
  six.ipv6mr_interface = (unsigned)index;
  return set(u, IPPROTO_IPV6, leave ? IPV6_LEAVE_GROUP : IPV6_JOIN_GROUP, &six, sizeof six);
}

int rille_udp_join(rille_udp *u, const char *group, const char *interface, int leave) {
  int err = change_membership(u, group, interface, leave);
  /* of a listener's socket: for the state before this one */
  bool has_joined = err == RILLE_ERR_ADDRESS_IN_USE && u->listener;
  return has_joined ? RILLE_OK : err;
}

void rille_udp_stats_read(const rille_udp *u, rille_udp_stats *out) {
  *out = u->stats;
  out->sessions = u->session_count;
  out->in_handlers = u->in_flight;
}
