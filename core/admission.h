/*
 * admission: whether a connection that was accepted may stay, before any Lua hears of it: the lists of networks and the limit by source
 * address of its listener. Unix sockets have no source, and their path has permissions: they are always let in.
 *
 * Part of a listener; its loop's thread alone.
 */
#ifndef RILLE_ADMISSION_H
#define RILLE_ADMISSION_H

#include "cidr.h"
#include "sources.h"

#include <stdbool.h>

typedef struct rille_admission {
  /* immutable once the listener accepts */
  rille_cidr *allow, *deny; /* references; NULL: no list */
  rille_cidr *trusted;      /* the same; who may send a PROXY header */
  rille_sources *sources;   /* a reference; NULL: no limit */
  uint32_t max_per_address;

  /* loop thread */
  double refused_by_list, refused_by_address;
} rille_admission;

/* False: it is refused, counted and logged; fd is closed, with RST. True: it counts until rille_admission_left. where: of the listener,
 * for the log. */
bool rille_admission_admit(rille_admission *a, int fd, const rille_peer *peer, const rille_address *where);
/* The same for one that a proxy has named; the caller closes it. */
bool rille_admission_check(rille_admission *a, const rille_peer *peer, const rille_address *where);
/* It is refused, counted and logged, and fd closed. */
void rille_admission_refuse(rille_admission *a, int fd, const rille_peer *peer, const rille_address *where,
                            const char *why);
/* a peer of no family was not counted */
void rille_admission_left(rille_admission *a, const rille_peer *peer);
void rille_admission_end(rille_admission *a);

#endif
