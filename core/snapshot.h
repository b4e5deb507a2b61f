/*
 * snapshot: the numbers of a loop as others see them. The loop publishes a copy ten times a second while it works, before the
 * work of a turn, and when the control thread asks; that one reads the latest at any time, of a loop that does not come
 * back as well. Neither waits for the other: there are three copies, one the loop fills, one that is read, and the latest between them.
 */
#ifndef RILLE_SNAPSHOT_H
#define RILLE_SNAPSHOT_H

#include "rille.h"

#include <stdatomic.h>
#include <stdbool.h>

enum {
  RILLE_SNAPSHOT_STATES_MAX = 64,
  RILLE_SNAPSHOT_LISTENERS_MAX = 64, /* of a loop; more are only counted */
  RILLE_SNAPSHOT_ADDRESS_MAX = 160
};

typedef struct rille_state_snapshot {
  char label[64]; /* "": there is none at this place */
  uint32_t generation;
  const char *phase; /* static */
  double chunks;     /* the id of its files */
  double connections, lua_bytes, errors, failures;
} rille_state_snapshot;

typedef struct rille_listener_snapshot {
  char address[RILLE_SNAPSHOT_ADDRESS_MAX];
  char label[64]; /* of its state */
  double accepted;
  double connections; /* open; below 0: not known for itself */
  double refused_by_list, refused_by_address, shed;
  bool is_udp; /* the next two are its */
  double datagrams, datagrams_dropped;
} rille_listener_snapshot;

typedef struct rille_snapshot {
  uint64_t taken_ns; /* 0: none was */
  rille_loop_stats stats;
  double turn_p50, turn_p99, turn_seconds; /* of the last minute; in all */
  uint32_t state_count, listener_count, more_listeners;
  rille_state_snapshot states[RILLE_SNAPSHOT_STATES_MAX];
  rille_listener_snapshot listeners[RILLE_SNAPSHOT_LISTENERS_MAX];
} rille_snapshot;

typedef struct rille_publisher {
  rille_snapshot copies[3];
  uint32_t back;            /* loop thread: the copy it fills */
  uint32_t front;           /* control thread: the copy it reads */
  _Atomic uint32_t latest;  /* the copy between them, with RILLE_SNAPSHOT_NEW while it was not read */
  _Atomic uint32_t answers; /* the number of the last question it was published for */
} rille_publisher;

enum { RILLE_SNAPSHOT_NEW = 4 };

void rille_publisher_init(rille_publisher *p);
/* loop thread */
void rille_snapshot_publish(rille_loop *loop);
/* control thread: publish, then say so; false when the mailbox is full */
bool rille_snapshot_ask(rille_loop *loop, uint32_t question);
/* control thread: the latest, good until the next call for this loop */
const rille_snapshot *rille_snapshot_read(rille_loop *loop);

#endif
