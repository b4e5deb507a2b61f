/*
 * delay: how long turns of loops last without the time in which their threads waited for a processor, as the kernel counts that
 * (/proc/thread-self/schedstat). It takes two reads of that file a turn, so it is done when it is asked for only. What a virtual machine
 * has lost to others of its host is not told.
 */
#ifndef RILLE_DELAY_H
#define RILLE_DELAY_H

#include "rille.h"

#include <stdbool.h>

/* loop thread */
typedef struct rille_delay {
  bool is_on;
  int fd;             /* owned, while is_on */
  uint64_t began_ns;  /* of what is measured */
  uint64_t waited_ns; /* until then */
  uint64_t longest_ns;
} rille_delay;

/* Now and then: begin, or end, when that is wanted. */
void rille_delay_tend(rille_delay *d);
void rille_delay_end(rille_delay *d);

/* A turn begins, and ends; nothing while it is off. */
void rille_delay_begin_turn(rille_delay *d);
void rille_delay_end_turn(rille_delay *d);

#endif
