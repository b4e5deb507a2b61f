/*
 * resolver: names to records by c-ares, whose sockets are in the loop's poller and whose timer is in its wheel; with a cache, and a file of hosts.
 * A loop has one for each set of options that was asked for, until it ends. Loop thread.
 *
 * A question is one name and type on its way to the servers, or what they answered; there is one at a time. A look-up is somebody who wants to
 * know: it goes through the names that a search list makes of the one it was given.
 */
#ifndef RILLE_RESOLVER_H
#define RILLE_RESOLVER_H

#include "alarm.h"
#include "dns_answer.h"
#include "dns_hosts.h"

#include <ares.h>
#include <stdbool.h>

enum {
  RILLE_RESOLVERS_MAX = 64,         /* of a loop */
  RILLE_RESOLVER_QUESTIONS = 4096,  /* under way */
  RILLE_DNS_NAME_MAX = 255,         /* bytes, as text */
  RILLE_RESOLVER_BUCKETS = 256,     /* at first */
  RILLE_RESOLV_CONF_LOOK_MS = 5000, /* how often the file is looked at */
};

struct rille_question;
struct rille_resolver;

typedef struct rille_lookup {
  void (*done)(struct rille_lookup *l); /* set by who starts it; not called for what rille_lookup_start says at once */
  struct rille_resolver *resolver;      /* borrowed */
  struct rille_question *question;      /* borrowed; NULL: it waits for none */
  struct rille_lookup *next;            /* who waits for the same one */
  int type;
  uint32_t step;
  int err; /* once it is over: 0 with an answer, or an enum rille_err */
  rille_answer *answer;
  char name[RILLE_DNS_NAME_MAX + 1]; /* in lower case */
} rille_lookup;

typedef struct rille_resolver {
  struct rille_resolver *next; /* of the loop */
  rille_loop *loop;
  rille_wheel *wheel; /* borrowed */
  uint32_t serial;
  rille_resolver_options options; /* its text is owned */
  struct rille_channel *channel;  /* owned; NULL: it could not be made */
  struct ares_options known;      /* what c-ares made of resolv.conf: ndots and domains */
  bool has_known;
  uint64_t look_at_ms; /* whether resolv.conf has changed */
  struct timespec conf_changed;
  rille_alarm alarm;
  rille_hosts hosts;
  struct rille_question **buckets;
  uint32_t bucket_count, asking, cached;
  uint32_t in_use;                        /* look-ups that are not over */
  struct rille_question *oldest, *newest; /* of the cache, by last use */
  double queries, questions, hits;
} rille_resolver;

/* the one with these options, made when there is none; NULL with *err and a sentence */
rille_resolver *rille_resolver_of(rille_loop *loop, const rille_resolver_options *options, int *err, char *message,
                                  size_t size);
rille_resolver *rille_resolver_find(const rille_loop *loop, const rille_resolver_options *options);
/* the loop ends; no look-up is left */
void rille_resolvers_end(rille_resolver *first);
/* one of its sockets is ready */
void rille_resolver_ready(rille_loop *loop, uint32_t fd, uint32_t serial, uint32_t events);

/* Whether a name can be asked for: 0, or an error with a sentence */
int rille_dns_check(const char *name, size_t size, char *message, size_t message_size);

/* true: it is over. name was checked; type: RILLE_DNS_A ... */
bool rille_lookup_start(rille_resolver *r, rille_lookup *l, const char *name, int type);
/* Nobody wants it any more; its answer goes. All zero is fine. */
void rille_lookup_end(rille_lookup *l);

#endif
