/*
 * reserve: a descriptor a loop keeps so that it can still accept a connection, and close it, when the process or the system has no more.
 * Loop thread only.
 */
#ifndef RILLE_RESERVE_H
#define RILLE_RESERVE_H

typedef struct rille_reserve {
  int fd; /* of /dev/null; -1: none, there was no descriptor for it either */
} rille_reserve;

void rille_reserve_init(rille_reserve *r);
/* have one, where that is possible */
void rille_reserve_take(rille_reserve *r);
void rille_reserve_end(rille_reserve *r);
/* Close the first connection in the queue of a listening socket: 1 it is closed, 0 there is none, -1 there was no descriptor, not even
 * the reserve. */
int rille_reserve_shed(rille_reserve *r, int listen_fd);

#endif
