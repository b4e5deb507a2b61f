/*
 * rille_topic.h: the part of rille.h that topics need; same rules, included at its end.
 */
#ifndef RILLE_RILLE_TOPIC_H
#define RILLE_RILLE_TOPIC_H

#include "rille.h"

typedef struct rille_topic rille_topic;
typedef struct rille_bridge rille_bridge;

/* What happens to a message for a subscriber whose output is above its high-water mark. */
enum rille_topic_slow {
  RILLE_TOPIC_ANY = 0,   /* as the topic has it already; "drop" while nobody has said */
  RILLE_TOPIC_DROP,      /* it misses the message */
  RILLE_TOPIC_DISCONNECT /* it is aborted; on_close gets "too large" */
};

enum { RILLE_TOPIC_NAME_MAX = 255 /* bytes */ };

typedef struct rille_topic_stats {
  double publishes;  /* calls */
  double deliveries; /* messages handed to a connection */
  double
      dropped; /* messages that a slow subscriber missed, or a loop whose mailbox was full, for each subscriber there */
  double disconnected; /* slow subscribers */
  double subscribers;  /* now */
} rille_topic_stats;

/* any thread */
/* The topic of that name, made when it is not there: a reference to be given back with rille_topic_close. NULL with *err: RILLE_ERR_INVALID
 * (an empty or long name), RILLE_ERR_BUSY (it treats slow subscribers in another way), RILLE_ERR_NO_MEMORY. */
rille_topic *rille_topic_open(const char *name, size_t size, int slow, int *err); /* owned */
void rille_topic_close(rille_topic *topic);
/* How many connections, of all loops, have been sent the message or will be, or an error. own: the loop of the calling thread, NULL if it
 * has none. *full: subscribers of loops whose mailbox was full, who are not in it. Bytes are copied once, if there is anybody. */
double rille_topic_publish(rille_topic *topic, rille_loop *own, const char *bytes, double size, double *full);
/* no copy; a slice by its fields, the block gets references */
double rille_topic_publish_view(rille_topic *topic, rille_loop *own, const uint8_t *base, uint32_t size,
                                rille_block *block, double *full);
/* what can be read of it, which stays there; gathered once if it lies in several blocks */
double rille_topic_publish_buffer(rille_topic *topic, rille_loop *own, rille_linkbuffer *from, double *full);
double rille_topic_count(const rille_topic *topic);
void rille_topic_stats_read(const rille_topic *topic, rille_topic_stats *out);

/* ---- bridges: of a topic, one at a time hands on to it what other processes publish ------------------------------- */

enum { RILLE_MARK_SIZE = 16 /* hexadecimal digits */ };

/* One who would; it holds the topic. NULL: no memory. */
rille_bridge *rille_bridge_new(rille_topic *topic); /* owned */
void rille_bridge_free(rille_bridge *b);
/* whether it is the one */
int rille_bridge_has(const rille_bridge *b);
/* be the one if nobody is: 1 when it is; 0: another one is */
int rille_bridge_take(rille_bridge *b);
/* stay the one until a claimant takes over; who is a claimant is it no more */
void rille_bridge_offer(rille_bridge *b);
/* be the next one, where the present one has offered its place: the number of the claim; 0: there is no offer, or another claimant */
double rille_bridge_claim(rille_bridge *b);
/* The one gives its place to the claimant of that number, 0: to any. 1 when it did. */
int rille_bridge_pass(rille_bridge *b, double claim);
/* The claimant takes its place, whether it was passed or not: 1; 0 when it is not the claimant any more. */
int rille_bridge_seize(rille_bridge *b);
/* RILLE_MARK_SIZE digits that no other process has. 0 or an error. */
int rille_process_mark(char *to);

/* loop thread */
/* 0, also when it is subscribed already; or RILLE_ERR_BUSY (it speaks HTTP), RILLE_ERR_CLOSED, RILLE_ERR_NO_MEMORY */
int rille_topic_subscribe(rille_topic *topic, rille_conn *c);
/* 1; 0 when it was not subscribed */
int rille_topic_unsubscribe(rille_topic *topic, rille_conn *c);

#endif
