/*
 * cidr: a list of networks, asked whether an address is in one of them. Plain memory with a count of references; one thread fills and seals it,
 * then it is immutable and any thread may ask. rille_accept.h declares what Lua shares.
 *
 * IPv4 and IPv6 are lists of their own. An IPv4 address written as IPv6 (::ffff:10.0.0.1) is the IPv4 address it means, here as in
 * rille_peer; so ::/0 is every IPv6 address and no IPv4 one.
 */
#ifndef RILLE_CIDR_H
#define RILLE_CIDR_H

#include "address.h"
#include "rille.h"

#include <stdbool.h>

void rille_cidr_retain(rille_cidr *list);
bool rille_cidr_has(const rille_cidr *list, const rille_peer *peer);

#endif
