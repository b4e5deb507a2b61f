/*
 * mailbox: see mailbox.h. A ring in which each slot says by its turn whether it is free for the sender, or full for the receiver, of
 * this round (D. Vyukov's bounded queue).
 */
#include "mailbox.h"

#include "pages.h"

#include <unistd.h>

enum { MASK = RILLE_MAILBOX_SIZE - 1 };

int rille_mailbox_init(rille_mailbox *box, int wake_fd) {
  box->slots = rille_pages_new(RILLE_MAILBOX_SIZE * sizeof *box->slots);
  if (!box->slots) return RILLE_ERR_NO_MEMORY;
  for (uint32_t i = 0; i < RILLE_MAILBOX_SIZE; i++) atomic_store_explicit(&box->slots[i].turn, i, memory_order_relaxed);
  box->wake_fd = wake_fd;
  atomic_store(&box->head, 0);
  atomic_store(&box->tail, 0);
  atomic_store(&box->is_rung, false);
  return RILLE_OK;
}

void rille_mailbox_close(rille_mailbox *box) {
  rille_message m;
  if (!box->slots) return;
  while (rille_mailbox_take(box, &m)) {
    if (m.drop) m.drop(&m);
  }
  rille_pages_free(box->slots, RILLE_MAILBOX_SIZE * sizeof *box->slots);
  box->slots = NULL;
}

int rille_mailbox_send(rille_mailbox *box, const rille_message *m) {
  uint32_t tail = atomic_load_explicit(&box->tail, memory_order_relaxed);
  rille_mail_slot *slot;
  for (;;) {
    slot = &box->slots[tail & MASK];
    int32_t ahead = (int32_t)(atomic_load_explicit(&slot->turn, memory_order_acquire) - tail);
    if (ahead < 0) return RILLE_ERR_FULL;
    if (ahead > 0) {
      tail = atomic_load_explicit(&box->tail, memory_order_relaxed);
    } else if (atomic_compare_exchange_weak_explicit(&box->tail, &tail, tail + 1, memory_order_relaxed,
                                                     memory_order_relaxed)) {
      break;
    }
  }
  slot->message = *m;
  atomic_store_explicit(&slot->turn, tail + 1, memory_order_release);
  if (!atomic_exchange(&box->is_rung, true)) {
    uint64_t one = 1;
    if (write(box->wake_fd, &one, sizeof one) < 0) return RILLE_OK; /* EAGAIN: it is awake already */
  }
  return RILLE_OK;
}

bool rille_mailbox_take(rille_mailbox *box, rille_message *out) {
  uint32_t head = atomic_load_explicit(&box->head, memory_order_relaxed);
  rille_mail_slot *slot = &box->slots[head & MASK];
  if (atomic_load_explicit(&slot->turn, memory_order_acquire) != head + 1) return false;
  *out = slot->message;
  atomic_store_explicit(&slot->turn, head + RILLE_MAILBOX_SIZE, memory_order_release);
  atomic_store_explicit(&box->head, head + 1, memory_order_relaxed);
  return true;
}

/* An exchange, not a store: what a sender wrote that found it rung is then seen by the next rille_mailbox_take. */
void rille_mailbox_hear(rille_mailbox *box) { (void)atomic_exchange(&box->is_rung, false); }

bool rille_mailbox_has_mail(rille_mailbox *box) {
  uint32_t head = atomic_load_explicit(&box->head, memory_order_relaxed);
  return atomic_load_explicit(&box->slots[head & MASK].turn, memory_order_acquire) == head + 1;
}

uint32_t rille_mailbox_depth(const rille_mailbox *box) {
  return atomic_load_explicit(&box->tail, memory_order_relaxed) -
         atomic_load_explicit(&box->head, memory_order_relaxed);
}
