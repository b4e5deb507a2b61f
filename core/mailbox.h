/*
 * mailbox: how other threads reach a loop. A bounded queue of small messages, many senders, one receiver (the loop), no lock; a
 * send wakes the loop only when nobody has since it last looked.
 */
#ifndef RILLE_MAILBOX_H
#define RILLE_MAILBOX_H

#include "rille.h"

#include <stdatomic.h>
#include <stdbool.h>

enum {
  RILLE_MAILBOX_SIZE = 4096, /* messages; a power of two */
  RILLE_MAILBOX_BATCH = 256  /* taken in a turn, so that mail never starves sockets */
};

/* What crosses. `what` belongs to the message until one of the two functions has run. */
typedef struct rille_message {
  void (*deliver)(rille_loop *loop, const struct rille_message *m); /* on the loop's thread */
  void (*drop)(const struct rille_message *m); /* instead, when the loop ends before; NULL: nothing to free */
  void *what;
  uint64_t number;
  uint32_t words[6];
} rille_message;

typedef struct rille_mail_slot {
  _Atomic uint32_t turn; /* number of the message that may be written here next; one more: it is written */
  rille_message message;
} rille_mail_slot;

typedef struct rille_mailbox {
  /* immutable after init */
  rille_mail_slot *slots;
  int wake_fd; /* borrowed */

  /* any thread, atomic */
  _Alignas(64) _Atomic uint32_t tail; /* the next one to be written */
  _Atomic bool is_rung;               /* the loop is awake, or was told to wake up */

  /* receiver */
  _Alignas(64) _Atomic uint32_t head; /* atomic for rille_mailbox_depth alone */
} rille_mailbox;

int rille_mailbox_init(rille_mailbox *box, int wake_fd);
/* What is still in it is dropped. Nobody may send any more. */
void rille_mailbox_close(rille_mailbox *box);

/* any thread: RILLE_OK, or RILLE_ERR_FULL: the message is still the caller's */
int rille_mailbox_send(rille_mailbox *box, const rille_message *m);

/* loop thread: the oldest message, if there is one */
bool rille_mailbox_take(rille_mailbox *box, rille_message *out);
/* loop thread, before it takes: from now on a send rings again */
void rille_mailbox_hear(rille_mailbox *box);
/* loop thread: whether there is one */
bool rille_mailbox_has_mail(rille_mailbox *box);
/* any thread: how many, about */
uint32_t rille_mailbox_depth(const rille_mailbox *box);

#endif
