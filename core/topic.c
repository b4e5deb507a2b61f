/*
 * topic: see topic.h. First the table of topics, then the subscribers of a loop, then publishing.
 */
#include "topic.h"

#include "loop.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS_FIRST = 64, MEMBERS_FIRST = 8, PREFETCH = 6 };

typedef struct rille_subscription {
  rille_conn *conn; /* borrowed; it leaves before it ends */
  struct side *side;
  struct rille_subscription *next_in_bucket;
  struct rille_subscription *next, **link; /* of the connection */
  uint32_t index;                          /* of side->members */
} rille_subscription;

struct member {
  rille_conn *conn; /* here as well: a message looks at nothing else of the subscription */
  rille_subscription *subscription;
};

/* The subscribers of one loop. It is not freed before the topic. */
struct side {
  /* immutable once it is in the list */
  rille_topic *topic;
  struct side *next;
  uint32_t loop_id;

  /* loop thread */
  struct member *members;
  uint32_t capacity;

  /* stored by the loop thread, any thread reads */
  _Alignas(64) _Atomic(rille_loop *) loop; /* good while count is not 0 */
  _Atomic uint32_t count;
  _Atomic uint64_t deliveries, dropped, disconnected;
};

struct rille_topic {
  /* immutable after init */
  uint32_t hash;

  /* under the lock */
  rille_topic *next_in_table;

  /* any thread, atomic */
  _Atomic uint32_t refs; /* becomes 0, and more than 0, under the lock only */
  _Atomic int slow;      /* enum rille_topic_slow; set once */
  _Atomic(struct side *) sides;
  _Atomic uint64_t publishes, dropped;
  rille_seat seat; /* of bridge.c */

  /* immutable after init */
  size_t name_size;
  char name[];
};

/* ---- the table of topics --------------------------------------------------------------------------------------- */

static struct {
  pthread_mutex_t lock;
  rille_topic **buckets;
  uint32_t bucket_count, count;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* FNV-1a */
static uint32_t hash_of(const char *name, size_t size) {
  uint32_t hash = 2166136261u;
  for (size_t i = 0; i < size; i++) hash = (hash ^ (uint8_t)name[i]) * 16777619u;
  return hash ^ hash >> 15;
}

static bool grow_table(void) {
  uint32_t wanted = table.bucket_count ? table.bucket_count * 2 : BUCKETS_FIRST;
  rille_topic **buckets = calloc(wanted, sizeof(rille_topic *));
  if (!buckets) return table.bucket_count > 0; /* longer chains, then */
  for (uint32_t i = 0; i < table.bucket_count; i++) {
    for (rille_topic *topic = table.buckets[i]; topic;) {
      rille_topic *next = topic->next_in_table;
      rille_topic **bucket = &buckets[topic->hash & (wanted - 1)];
      topic->next_in_table = *bucket;
      *bucket = topic;
      topic = next;
    }
  }
  free(table.buckets);
  table.buckets = buckets;
  table.bucket_count = wanted;
  return true;
}

static rille_topic *find(uint32_t hash, const char *name, size_t size) {
  if (table.bucket_count == 0) return NULL;
  rille_topic *topic = table.buckets[hash & (table.bucket_count - 1)];
  while (topic && !(topic->hash == hash && topic->name_size == size && memcmp(topic->name, name, size) == 0)) {
    topic = topic->next_in_table;
  }
  return topic;
}

static rille_topic *make(uint32_t hash, const char *name, size_t size) {
  if (table.count >= table.bucket_count && !grow_table()) return NULL;
  rille_topic *topic = calloc(1, sizeof *topic + size);
  if (!topic) return NULL;
  topic->hash = hash;
  topic->name_size = size;
  memcpy(topic->name, name, size);
  rille_topic **bucket = &table.buckets[hash & (table.bucket_count - 1)];
  topic->next_in_table = *bucket;
  *bucket = topic;
  table.count++;
  return topic;
}

/* What the first who has a wish wishes stays. */
static bool agree(rille_topic *topic, int slow) {
  int present = atomic_load_explicit(&topic->slow, memory_order_relaxed);
  if (present == RILLE_TOPIC_ANY) atomic_store_explicit(&topic->slow, slow, memory_order_relaxed);
  return slow == RILLE_TOPIC_ANY || present == RILLE_TOPIC_ANY || present == slow;
}

rille_topic *rille_topic_open(const char *name, size_t size, int slow, int *err) {
  *err = size >= 1 && size <= RILLE_TOPIC_NAME_MAX ? RILLE_OK : RILLE_ERR_INVALID;
  if (*err) return NULL;
  uint32_t hash = hash_of(name, size);
  pthread_mutex_lock(&table.lock);
  rille_topic *topic = find(hash, name, size);
  if (!topic) topic = make(hash, name, size);
  if (!topic) *err = RILLE_ERR_NO_MEMORY;
  else if (!agree(topic, slow)) *err = RILLE_ERR_BUSY;
  else atomic_fetch_add(&topic->refs, 1);
  pthread_mutex_unlock(&table.lock);
  return *err ? NULL : topic;
}

void topic_retain(rille_topic *topic) { atomic_fetch_add_explicit(&topic->refs, 1, memory_order_relaxed); }

static void destroy(rille_topic *topic) {
  for (struct side *side = atomic_load(&topic->sides); side;) {
    struct side *next = side->next;
    free(side); /* its members went with the last of them */
    side = next;
  }
  free(topic);
}

static void unlink_topic(rille_topic *topic) {
  rille_topic **at = &table.buckets[topic->hash & (table.bucket_count - 1)];
  while (*at != topic) at = &(*at)->next_in_table;
  *at = topic->next_in_table;
  if (--table.count > 0) return;
  free(table.buckets); /* leave nothing behind at the end of a process */
  table.buckets = NULL;
  table.bucket_count = 0;
}

static void release(rille_topic *topic) {
  uint32_t refs = atomic_load_explicit(&topic->refs, memory_order_relaxed);
  while (refs > 1) {
    if (atomic_compare_exchange_weak(&topic->refs, &refs, refs - 1)) return;
  }
  /* perhaps the last one, unless somebody opens it meanwhile */
  pthread_mutex_lock(&table.lock);
  bool is_last = atomic_fetch_sub(&topic->refs, 1) == 1;
  if (is_last) unlink_topic(topic);
  pthread_mutex_unlock(&table.lock);
  if (is_last) destroy(topic);
}

void rille_topic_close(rille_topic *topic) { release(topic); }

rille_seat *topic_seat(rille_topic *topic) { return &topic->seat; }

/* ---- the subscribers of a loop --------------------------------------------------------------------------------- */

static uint32_t count_of(const struct side *side) { return atomic_load_explicit(&side->count, memory_order_relaxed); }

static void count_one(_Atomic uint64_t *counter) {
  /* one thread stores: no read-modify-write needed */
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

static struct side *side_of(const rille_topic *topic, const rille_loop *loop) {
  struct side *side = atomic_load_explicit(&topic->sides, memory_order_acquire);
  while (side && side->loop_id != loop->id) side = side->next;
  return side;
}

static struct side *add_side(rille_topic *topic, const rille_loop *loop) {
  struct side *side = aligned_alloc(_Alignof(struct side), sizeof *side);
  if (!side) return NULL;
  memset(side, 0, sizeof *side);
  side->topic = topic;
  side->loop_id = loop->id;
  side->next = atomic_load_explicit(&topic->sides, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(&topic->sides, &side->next, side, memory_order_release,
                                                memory_order_relaxed)) {
  }
  return side;
}

static bool add_member(struct side *side, rille_subscription *subscription) {
  uint32_t count = count_of(side);
  if (count == side->capacity) {
    uint32_t capacity = count ? count * 2 : MEMBERS_FIRST;
    struct member *members = realloc(side->members, capacity * sizeof *members);
    if (!members) return false;
    side->members = members;
    side->capacity = capacity;
  }
  subscription->index = count;
  side->members[count] = (struct member){.conn = subscription->conn, .subscription = subscription};
  atomic_store_explicit(&side->loop, subscription->conn->loop, memory_order_relaxed);
  atomic_store_explicit(&side->count, count + 1, memory_order_release); /* with the loop */
  return true;
}

/* The last one takes its place: who walks over the members from the end may remove the one it is at. */
static void remove_member(struct side *side, const rille_subscription *subscription) {
  uint32_t count = count_of(side) - 1;
  struct member last = side->members[count];
  side->members[subscription->index] = last;
  last.subscription->index = subscription->index;
  atomic_store_explicit(&side->count, count, memory_order_relaxed);
  if (count > 0) return;
  free(side->members);
  side->members = NULL;
  side->capacity = 0;
}

static rille_subscription **bucket_of(const rille_subscriptions *all, const struct side *side, const rille_conn *c) {
  uint64_t key = (uint64_t)(uintptr_t)side * 0x9e3779b97f4a7c15u + c->slot;
  return &all->buckets[(key * 0xff51afd7ed558ccdu >> 32) & (all->bucket_count - 1)];
}

static bool grow_buckets(rille_subscriptions *all) {
  rille_subscriptions wide = {.bucket_count = all->bucket_count ? all->bucket_count * 2 : BUCKETS_FIRST,
                              .count = all->count};
  wide.buckets = calloc(wide.bucket_count, sizeof(rille_subscription *));
  if (!wide.buckets) return all->bucket_count > 0; /* longer chains, then */
  for (uint32_t i = 0; i < all->bucket_count; i++) {
    for (rille_subscription *one = all->buckets[i]; one;) {
      rille_subscription *next = one->next_in_bucket;
      rille_subscription **bucket = bucket_of(&wide, one->side, one->conn);
      one->next_in_bucket = *bucket;
      *bucket = one;
      one = next;
    }
  }
  free(all->buckets);
  *all = wide;
  return true;
}

/* The link that points to it in its bucket; NULL: it is not subscribed. */
static rille_subscription **link_of(const rille_subscriptions *all, const struct side *side, const rille_conn *c) {
  if (!side || all->count == 0) return NULL;
  rille_subscription **at = bucket_of(all, side, c);
  while (*at && ((*at)->side != side || (*at)->conn != c)) at = &(*at)->next_in_bucket;
  return *at ? at : NULL;
}

int rille_topic_subscribe(rille_topic *topic, rille_conn *c) {
  if (c->is_http) return RILLE_ERR_BUSY;
  if (!rille_conn_takes_output(c)) return RILLE_ERR_CLOSED;
  rille_subscriptions *all = &c->loop->subscriptions;
  struct side *side = side_of(topic, c->loop);
  if (link_of(all, side, c)) return RILLE_OK;
  if (!side) side = add_side(topic, c->loop);
  if (!side || (all->count >= all->bucket_count && !grow_buckets(all))) return RILLE_ERR_NO_MEMORY;
  rille_subscription *one = malloc(sizeof *one);
  if (!one) return RILLE_ERR_NO_MEMORY;
  *one = (rille_subscription){.conn = c, .side = side, .next = c->subscriptions, .link = &c->subscriptions};
  if (!add_member(side, one)) {
    free(one);
    return RILLE_ERR_NO_MEMORY;
  }
  if (c->subscriptions) c->subscriptions->link = &one->next;
  c->subscriptions = one;
  rille_subscription **bucket = bucket_of(all, side, c);
  one->next_in_bucket = *bucket;
  *bucket = one;
  all->count++;
  topic_retain(topic);
  return RILLE_OK;
}

static void unsubscribe(rille_subscriptions *all, rille_subscription **at) {
  rille_subscription *one = *at;
  rille_topic *topic = one->side->topic;
  *at = one->next_in_bucket;
  all->count--;
  *one->link = one->next;
  if (one->next) one->next->link = one->link;
  remove_member(one->side, one);
  free(one);
  release(topic);
}

int rille_topic_unsubscribe(rille_topic *topic, rille_conn *c) {
  rille_subscriptions *all = &c->loop->subscriptions;
  rille_subscription **at = link_of(all, side_of(topic, c->loop), c);
  if (at) unsubscribe(all, at);
  return at != NULL;
}

void rille_topic_leave(rille_conn *c) {
  rille_subscriptions *all = &c->loop->subscriptions;
  while (c->subscriptions) unsubscribe(all, link_of(all, c->subscriptions->side, c));
}

void rille_topic_end(rille_subscriptions *subscriptions) { free(subscriptions->buckets); }

/* ---- publishing ------------------------------------------------------------------------------------------------ */

static void disconnect(rille_conn *c) {
  if (!c->reason) c->reason = RILLE_ERR_TOO_LARGE;
  rille_conn_abort(c);
}

/* To the subscribers of the own loop: how many got it. Whoever it ends leaves the side while this walks over it. */
static uint32_t deliver_here(struct side *side, rille_block *block, const uint8_t *base, uint32_t size) {
  bool disconnects = atomic_load_explicit(&side->topic->slow, memory_order_relaxed) == RILLE_TOPIC_DISCONNECT;
  uint32_t delivered = 0;
  for (uint32_t i = count_of(side); i-- > 0;) {
    rille_conn *c = side->members[i].conn;
    if (i >= PREFETCH) __builtin_prefetch(side->members[i - PREFETCH].conn, 1);
    if (rille_conn_output_len(c) > c->high_water) {
      count_one(disconnects ? &side->disconnected : &side->dropped);
      if (disconnects) disconnect(c);
      continue;
    }
    int err = rille_conn_share(c, block, base, size);
    if (!err) delivered++;
    else if (err == RILLE_ERR_NO_MEMORY) count_one(&side->dropped);
  }
  uint64_t before = atomic_load_explicit(&side->deliveries, memory_order_relaxed);
  atomic_store_explicit(&side->deliveries, before + delivered, memory_order_relaxed);
  return delivered;
}

/* number: the side; words: the size, and where in the block it begins. The message has a reference to the block and the topic. */
static void drop(const rille_message *m) {
  rille_block_release(m->what);
  release(((struct side *)(uintptr_t)m->number)->topic);
}

static void deliver(rille_loop *loop, const rille_message *m) {
  (void)loop;
  rille_block *block = m->what;
  deliver_here((struct side *)(uintptr_t)m->number, block, block->data + m->words[1], m->words[0]);
  drop(m);
}

static bool send_to(struct side *side, rille_block *block, const uint8_t *base, uint32_t size) {
  rille_message m = {.deliver = deliver, .drop = drop, .what = block, .number = (uintptr_t)side};
  m.words[0] = size;
  m.words[1] = (uint32_t)(base - block->data);
  rille_block_retain(block);
  topic_retain(side->topic);
  rille_loop *loop = atomic_load_explicit(&side->loop, memory_order_relaxed);
  if (rille_mailbox_send(&loop->mailbox, &m) == RILLE_OK) return true;
  drop(&m);
  return false;
}

/* Others first: their loops work while this one sends. */
static double publish(rille_topic *topic, const rille_loop *own, rille_block *block, const uint8_t *base, uint32_t size,
                      double *full) {
  struct side *here = NULL;
  double receivers = 0;
  for (struct side *side = atomic_load_explicit(&topic->sides, memory_order_acquire); side; side = side->next) {
    uint32_t count = atomic_load_explicit(&side->count, memory_order_acquire);
    if (own && side->loop_id == own->id) {
      here = side;
    } else if (count > 0 && send_to(side, block, base, size)) {
      receivers += count;
    } else if (count > 0) {
      atomic_fetch_add_explicit(&topic->dropped, count, memory_order_relaxed);
      *full += count;
    }
  }
  return here ? receivers + deliver_here(here, block, base, size) : receivers;
}

/* Nothing to send, or nobody to send it to: the answer is known. */
static bool is_trivial(rille_topic *topic, double size, double *receivers, double *full) {
  atomic_fetch_add_explicit(&topic->publishes, 1, memory_order_relaxed);
  *full = 0;
  *receivers = rille_topic_count(topic);
  return size == 0 || *receivers == 0;
}

double rille_topic_publish(rille_topic *topic, rille_loop *own, const char *bytes, double size, double *full) {
  double receivers;
  if (size > RILLE_BLOCK_REQUEST_MAX) return RILLE_ERR_TOO_LARGE;
  if (is_trivial(topic, size, &receivers, full)) return receivers;
  rille_block *block = rille_block_take((size_t)size);
  if (!block) return RILLE_ERR_NO_MEMORY;
  memcpy(block->data, bytes, (size_t)size);
  receivers = publish(topic, own, block, block->data, (uint32_t)size, full);
  rille_block_release(block);
  return receivers;
}

double rille_topic_publish_view(rille_topic *topic, rille_loop *own, const uint8_t *base, uint32_t size,
                                rille_block *block, double *full) {
  double receivers;
  if (is_trivial(topic, size, &receivers, full)) return receivers;
  rille_block_retain(block); /* the slice may be of a connection that this ends */
  receivers = publish(topic, own, block, base, size, full);
  rille_block_release(block);
  return receivers;
}

double rille_topic_publish_buffer(rille_topic *topic, rille_loop *own, rille_linkbuffer *from, double *full) {
  rille_slice all;
  int err = rille_linkbuffer_peek(from, rille_linkbuffer_len(from), &all);
  return err ? err : rille_topic_publish_view(topic, own, all.base_, all.size_, all.block_, full);
}

double rille_topic_count(const rille_topic *topic) {
  double count = 0;
  for (const struct side *side = atomic_load_explicit(&topic->sides, memory_order_acquire); side; side = side->next) {
    count += count_of(side);
  }
  return count;
}

void rille_topic_stats_read(const rille_topic *topic, rille_topic_stats *out) {
  *out = (rille_topic_stats){
      .publishes = (double)atomic_load_explicit(&topic->publishes, memory_order_relaxed),
      .dropped = (double)atomic_load_explicit(&topic->dropped, memory_order_relaxed),
      .subscribers = rille_topic_count(topic),
  };
  for (const struct side *side = atomic_load_explicit(&topic->sides, memory_order_acquire); side; side = side->next) {
    out->deliveries += (double)atomic_load_explicit(&side->deliveries, memory_order_relaxed);
    out->dropped += (double)atomic_load_explicit(&side->dropped, memory_order_relaxed);
    out->disconnected += (double)atomic_load_explicit(&side->disconnected, memory_order_relaxed);
  }
}

uint32_t rille_topics_each(void (*visit)(void *to, const char *name, size_t size, const rille_topic_stats *stats),
                           void *to, uint32_t max) {
  pthread_mutex_lock(&table.lock);
  uint32_t count = table.count, seen = 0;
  for (uint32_t i = 0; i < table.bucket_count && seen < max; i++) {
    for (const rille_topic *topic = table.buckets[i]; topic && seen < max; topic = topic->next_in_table, seen++) {
      rille_topic_stats stats;
      rille_topic_stats_read(topic, &stats);
      visit(to, topic->name, topic->name_size, &stats);
    }
  }
  pthread_mutex_unlock(&table.lock);
  return count;
}
