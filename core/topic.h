/*
 * topic: a name that connections of any loop subscribe to, and that any thread publishes to.
 *
 * The topics of a process stand in one table under a lock, which only opening and the end of one take. A topic has a side for each loop:
 * the subscribers there, touched by that loop alone; others read no more of it than their number. A message goes to the other loops
 * that have subscribers through their mailboxes, once for each loop, and is sent by each to its own connections; all of them
 * share one block. A thread that is no loop may publish as long as the loops are not freed.
 *
 * A topic lives while somebody has it open, a connection is subscribed, or a message is on its way.
 */
#ifndef RILLE_TOPIC_H
#define RILLE_TOPIC_H

#include "bridge.h"

#include <stdatomic.h>

/* A loop's subscriptions, of all topics. */
typedef struct rille_subscriptions {
  struct rille_subscription **buckets; /* by topic and connection */
  uint32_t bucket_count;               /* 0 or a power of two */
  uint32_t count;
} rille_subscriptions;

/* any thread: a reference; and what bridge.c keeps, good as long as there is one */
void topic_retain(rille_topic *topic);
rille_seat *topic_seat(rille_topic *topic);
/* any thread: visit topics, at most so many; how many there are */
uint32_t rille_topics_each(void (*visit)(void *to, const char *name, size_t size, const rille_topic_stats *stats),
                           void *to, uint32_t max);
/* loop thread: the connection can no longer be written to: it leaves every topic */
void rille_topic_leave(rille_conn *c);
/* the end of a loop; its connections have left */
void rille_topic_end(rille_subscriptions *subscriptions);

#endif
