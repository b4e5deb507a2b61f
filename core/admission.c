/*
 * admission: see admission.h.
 *
 * Who is refused gets RST: a FIN would leave the server with a socket in FIN_WAIT and TIME_WAIT for each, which is what somebody who
 * connects again and again wants.
 */
#include "admission.h"

#include "log.h"

#include <unistd.h>

static void say(const rille_peer *peer, const rille_address *where, const char *why) {
  char from[RILLE_PEER_TEXT_MAX], at[RILLE_ADDRESS_TEXT_MAX];
  if (!rille_log_is_on(RILLE_LOG_WARN)) return;
  rille_peer_format(peer, from, sizeof from);
  rille_address_format(where, at, sizeof at);
  RILLE_LOG(RILLE_LOG_WARN, "refused %s on %s: %s", from, at, why);
}

static void reset(int fd) {
  struct linger now = {.l_onoff = 1, .l_linger = 0};
  (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close(fd);
}

static bool is_listed(const rille_admission *a, const rille_peer *peer) {
  if (a->deny && rille_cidr_has(a->deny, peer)) return false;
  return !a->allow || rille_cidr_has(a->allow, peer);
}

bool rille_admission_check(rille_admission *a, const rille_peer *peer, const rille_address *where) {
  if (!is_listed(a, peer)) {
    a->refused_by_list++;
    say(peer, where, "by allow and deny");
    return false;
  }
  int err = a->sources ? rille_sources_came(a->sources, peer, a->max_per_address) : RILLE_OK;
  if (!err) return true;
  a->refused_by_address++;
  say(peer, where, err == RILLE_ERR_FULL ? "max_connections_per_address reached" : "no memory to count it");
  return false;
}

bool rille_admission_admit(rille_admission *a, int fd, const rille_peer *peer, const rille_address *where) {
  if (where->family == AF_UNIX || rille_admission_check(a, peer, where)) return true;
  reset(fd);
  return false;
}

void rille_admission_refuse(rille_admission *a, int fd, const rille_peer *peer, const rille_address *where,
                            const char *why) {
  a->refused_by_list++;
  reset(fd);
  say(peer, where, why);
}

void rille_admission_left(rille_admission *a, const rille_peer *peer) {
  if (a->sources && peer->family) rille_sources_left(a->sources, peer);
}

void rille_admission_end(rille_admission *a) {
  rille_cidr_release(a->allow);
  rille_cidr_release(a->deny);
  rille_cidr_release(a->trusted);
  rille_sources_release(a->sources);
  *a = (rille_admission){0};
}
