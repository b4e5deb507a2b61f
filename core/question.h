/*
 * question: a name and a type on the way to the servers, then in the cache. Inside of the resolver; loop thread.
 */
#ifndef RILLE_QUESTION_H
#define RILLE_QUESTION_H

#include "resolver.h"

typedef struct rille_question {
  struct rille_question *next_in_bucket;
  struct rille_question *older, *newer; /* of the cache */
  rille_resolver *resolver;             /* borrowed */
  rille_lookup *waiters;
  rille_answer *answer; /* owned */
  int err;
  int noted; /* what the last server said that could not help: enum rille_err */
  uint64_t until_ms;
  bool is_known;    /* it was answered */
  bool is_starting; /* who asks looks at it as soon as it was sent */
  int type;
  uint32_t hash;
  char name[]; /* in lower case */
} rille_question;

/* What is known of a name: true with *err and *answer (borrowed until the next call). False: the look-up waits for it. */
bool rille_question_ask(rille_resolver *r, const char *name, int type, rille_lookup *l, int *err,
                        rille_answer **answer);
/* a look-up does not wait any more */
void rille_question_leave(rille_lookup *l);
/* a message came in: c-ares drops what a server says that cannot help, and keeps to itself what it was */
void rille_question_note(rille_resolver *r, const uint8_t *message, size_t size);
void rille_question_answered(void *arg, int status, int timeouts, unsigned char *message, int size);
void rille_questions_end(rille_resolver *r);

/* resolver.c: 0, or an error; it may have been answered then */
int rille_resolver_send(rille_resolver *r, rille_question *q, const char *name, int type);
/* lookup.c: what a look-up waited for is known */
void rille_lookup_answered(rille_lookup *l, int err, rille_answer *answer);

#endif
