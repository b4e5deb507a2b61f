/*
 * bridge: who of a process hands on to a topic what other processes publish to it. Several Lua states may be ready to, on several loops
 * and of several generations; one at a time does, so that each message comes once. The topic has one word for that: the bridge which
 * has it, and in its lowest bit whether another one may take it over.
 *
 * A bridge belongs to the Lua state that made it, and holds its topic. Whatever becomes of that state, its bridges are freed with it.
 */
#include "rille_topic.h"
#include "topic.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

enum { OFFERED = 1 };

struct rille_bridge {
  rille_topic *topic; /* immutable after init */
};

rille_bridge *rille_bridge_new(rille_topic *topic) {
  rille_bridge *b = malloc(sizeof *b);
  if (!b) return NULL;
  b->topic = topic;
  topic_retain(topic);
  return b;
}

void rille_bridge_free(rille_bridge *b) {
  _Atomic(uintptr_t) *word = topic_bridge(b->topic);
  uintptr_t mine = (uintptr_t)b;
  if (!atomic_compare_exchange_strong(word, &mine, 0)) {
    mine = (uintptr_t)b | OFFERED;
    atomic_compare_exchange_strong(word, &mine, 0);
  }
  rille_topic_close(b->topic);
  free(b);
}

static int is_mine(const rille_bridge *b, uintptr_t word) { return (word & ~(uintptr_t)OFFERED) == (uintptr_t)b; }

int rille_bridge_has(const rille_bridge *b) { return is_mine(b, atomic_load(topic_bridge(b->topic))); }

int rille_bridge_may(const rille_bridge *b) {
  uintptr_t word = atomic_load(topic_bridge(b->topic));
  if (word == 0 || is_mine(b, word)) return 1;
  return word & OFFERED ? 2 : 0;
}

int rille_bridge_take(rille_bridge *b) {
  _Atomic(uintptr_t) *word = topic_bridge(b->topic);
  uintptr_t seen = atomic_load(word);
  while (seen == 0 || seen & OFFERED) {
    if (atomic_compare_exchange_weak(word, &seen, (uintptr_t)b)) return 1;
  }
  return is_mine(b, seen);
}

void rille_bridge_offer(rille_bridge *b) {
  uintptr_t mine = (uintptr_t)b;
  atomic_compare_exchange_strong(topic_bridge(b->topic), &mine, (uintptr_t)b | OFFERED);
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
