/*
 * bridge: who of a process hands on to a topic what other processes publish to it. Several Lua states may be ready to, on several loops
 * and of several generations; one at a time does, so that each message comes once. One that retires offers its place; another claims it,
 * and gets it where both see the same message of the claim go by, so that none comes twice and none is missed.
 *
 * A bridge belongs to the Lua state that made it, and holds its topic. Whatever becomes of that state, its bridges are freed with it.
 */
#include "bridge.h"

#include "rille_topic.h"
#include "topic.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

struct rille_bridge {
  rille_topic *topic; /* immutable after init */
};

/* of every seat: it is taken and given up when states come and go */
static pthread_mutex_t seats = PTHREAD_MUTEX_INITIALIZER;
static double last_claim; /* under it */

static rille_seat *lock_seat(const rille_bridge *b) {
  pthread_mutex_lock(&seats);
  return topic_seat(b->topic);
}

static void unlock_seat(void) { pthread_mutex_unlock(&seats); }

static const rille_bridge *holder(const rille_seat *seat) {
  return atomic_load_explicit(&seat->holder, memory_order_acquire);
}

/* under the lock; NULL: the seat is free */
static void seat_one(rille_seat *seat, const rille_bridge *b) {
  atomic_store_explicit(&seat->holder, b, memory_order_release);
  seat->is_offered = false;
  if (seat->claimant == b || !b) seat->claimant = NULL;
}

rille_bridge *rille_bridge_new(rille_topic *topic) {
  rille_bridge *b = malloc(sizeof *b);
  if (!b) return NULL;
  b->topic = topic;
  topic_retain(topic);
  return b;
}

void rille_bridge_free(rille_bridge *b) {
  rille_seat *seat = lock_seat(b);
  if (seat->claimant == b) seat->claimant = NULL;
  if (holder(seat) == b) seat_one(seat, seat->claimant);
  unlock_seat();
  rille_topic_close(b->topic);
  free(b);
}

int rille_bridge_has(const rille_bridge *b) { return holder(topic_seat(b->topic)) == b; }

int rille_bridge_take(rille_bridge *b) {
  rille_seat *seat = lock_seat(b);
  if (!holder(seat)) seat_one(seat, b);
  bool is_its = holder(seat) == b;
  unlock_seat();
  return is_its;
}

void rille_bridge_offer(rille_bridge *b) {
  rille_seat *seat = lock_seat(b);
  if (holder(seat) == b) seat->is_offered = true;
  if (seat->claimant == b) seat->claimant = NULL; /* it is not to get what it would have to give away */
  unlock_seat();
}

double rille_bridge_claim(rille_bridge *b) {
  rille_seat *seat = lock_seat(b);
  double claim = 0;
  if (seat->is_offered && holder(seat) != b && (!seat->claimant || seat->claimant == b)) {
    seat->claimant = b;
    claim = seat->claim = ++last_claim;
  }
  unlock_seat();
  return claim;
}

int rille_bridge_pass(rille_bridge *b, double claim) {
  rille_seat *seat = lock_seat(b);
  bool passes = holder(seat) == b && seat->is_offered && seat->claimant && (claim == 0 || seat->claim == claim);
  if (passes) seat_one(seat, seat->claimant);
  unlock_seat();
  return passes;
}

int rille_bridge_seize(rille_bridge *b) {
  rille_seat *seat = lock_seat(b);
  if (!holder(seat) || (seat->is_offered && seat->claimant == b)) seat_one(seat, b);
  bool is_its = holder(seat) == b;
  unlock_seat();
  return is_its;
}

/* ---- the mark of the process ------------------------------------------------------------------------------------- */

static struct {
  pthread_mutex_t lock;
  pid_t pid; /* of the process it is the mark of: one that is forked has another */
  unsigned char mark[RILLE_MARK_SIZE / 2];
} process = {.lock = PTHREAD_MUTEX_INITIALIZER};

int rille_process_mark(char *to) {
  static const char digits[] = "0123456789abcdef";
  pthread_mutex_lock(&process.lock);
  int err = RILLE_OK;
  if (process.pid != getpid()) {
    if (getrandom(process.mark, sizeof process.mark, 0) == (ssize_t)sizeof process.mark) process.pid = getpid();
    else err = RILLE_ERR_SYSTEM;
  }
  for (size_t i = 0; i < sizeof process.mark; i++) {
    to[2 * i] = digits[process.mark[i] >> 4];
    to[2 * i + 1] = digits[process.mark[i] & 15];
  }
  pthread_mutex_unlock(&process.lock);
  return err;
}
