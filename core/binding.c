/*
 * binding: see binding.h. First the table of the process, then the lists of a loop, which link the same nodes.
 */
#include "binding.h"

#include "conn.h"
#include "loop.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { SHARDS = 64, BUCKETS_FIRST = 16 };

/* A key that a connection was bound to. The loop of the connection owns it; while the table leads to it, the lock of its shard guards `next`
 * and `id`, and nobody else reads the others but under that. A key bound again leads to another node: the first stays in its list, out of use. */
typedef struct rille_bound {
  struct rille_bound *next;      /* in the table */
  struct rille_bound *next_held; /* in the list of the loop */
  double id;                     /* of the connection */
  uint8_t size;
  char key[];
} rille_bound;

_Static_assert(RILLE_BINDING_KEY_MAX <= UINT8_MAX, "sizes of keys are bytes");

/* ---- the table ------------------------------------------------------------------------------------------------- */

/* under its lock */
struct shard {
  _Alignas(64) pthread_mutex_t lock;
  rille_bound **buckets;
  uint32_t bucket_count, count;
};

static struct shard shards[SHARDS];
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic uint32_t total;
static _Atomic uint32_t most = RILLE_BINDINGS_MAX;

static void init(void) {
  for (int i = 0; i < SHARDS; i++) pthread_mutex_init(&shards[i].lock, NULL);
}

static uint32_t hash_of(const char *key, size_t size) {
  uint32_t hash = 2166136261u;
  for (size_t i = 0; i < size; i++) hash = (hash ^ (uint8_t)key[i]) * 16777619u;
  hash ^= hash >> 15;
  return hash * 0x2c1b3c6du ^ hash >> 13;
}

/* The low bits choose the shard, the others the bucket. */
static struct shard *lock(uint32_t hash) {
  pthread_once(&once, init);
  struct shard *s = &shards[hash % SHARDS];
  pthread_mutex_lock(&s->lock);
  return s;
}

static bool is_of(const rille_bound *one, const char *key, size_t size) {
  return one->size == size && memcmp(one->key, key, size) == 0;
}

static rille_bound **link_of(const struct shard *s, uint32_t hash, const char *key, size_t size) {
  if (s->bucket_count == 0) return NULL;
  rille_bound **at = &s->buckets[hash / SHARDS & (s->bucket_count - 1)];
  while (*at && !is_of(*at, key, size)) at = &(*at)->next;
  return at;
}

static bool grow(struct shard *s) {
  uint32_t wanted = s->bucket_count ? s->bucket_count * 2 : BUCKETS_FIRST;
  rille_bound **buckets = calloc(wanted, sizeof(rille_bound *));
  if (!buckets) return s->bucket_count > 0; /* longer chains, then */
  for (uint32_t i = 0; i < s->bucket_count; i++) {
    while (s->buckets[i]) {
      rille_bound *one = s->buckets[i];
      s->buckets[i] = one->next;
      rille_bound **bucket = &buckets[hash_of(one->key, one->size) / SHARDS & (wanted - 1)];
      one->next = *bucket;
      *bucket = one;
    }
  }
  free(s->buckets);
  s->buckets = buckets;
  s->bucket_count = wanted;
  return true;
}

static int insert(struct shard *s, uint32_t hash, rille_bound *one) {
  if (atomic_fetch_add(&total, 1) >= atomic_load(&most)) {
    atomic_fetch_sub(&total, 1);
    return RILLE_ERR_FULL;
  }
  if (s->count >= s->bucket_count && !grow(s)) {
    atomic_fetch_sub(&total, 1);
    return RILLE_ERR_NO_MEMORY;
  }
  rille_bound **bucket = &s->buckets[hash / SHARDS & (s->bucket_count - 1)];
  one->next = *bucket;
  *bucket = one;
  s->count++;
  return RILLE_OK;
}

/* Its key leads to it. keeps: one that leads to another already stays so. */
static int put(rille_bound *one, bool keeps) {
  uint32_t hash = hash_of(one->key, one->size);
  struct shard *s = lock(hash);
  rille_bound **at = link_of(s, hash, one->key, one->size);
  int err = RILLE_OK;
  if (!at || !*at) {
    err = insert(s, hash, one);
  } else if (*at != one && keeps) {
    err = RILLE_ERR_EXISTS;
  } else if (*at != one) {
    one->next = (*at)->next;
    *at = one;
  }
  pthread_mutex_unlock(&s->lock);
  return err;
}

/* Its key leads to it no more: true when it did. From here on the owner alone knows it. */
static bool take(const rille_bound *one) {
  uint32_t hash = hash_of(one->key, one->size);
  struct shard *s = lock(hash);
  rille_bound **at = link_of(s, hash, one->key, one->size);
  bool is_there = at && *at == one;
  if (is_there) {
    *at = one->next;
    if (--s->count == 0) {
      free(s->buckets); /* leave nothing behind at the end of a process */
      s->buckets = NULL;
      s->bucket_count = 0;
    }
    atomic_fetch_sub(&total, 1);
  }
  pthread_mutex_unlock(&s->lock);
  return is_there;
}

double rille_binding_find(const char *key, size_t size) {
  uint32_t hash = hash_of(key, size);
  struct shard *s = lock(hash);
  rille_bound **at = link_of(s, hash, key, size);
  double id = at && *at ? (*at)->id : 0;
  pthread_mutex_unlock(&s->lock);
  return id;
}

static bool is_in_use(const rille_bound *one) { return rille_binding_find(one->key, one->size) == one->id; }

double rille_binding_count(void) { return atomic_load(&total); }

void rille_binding_set_max(double max) { atomic_store(&most, (uint32_t)max); }

/* ---- what a connection is bound to ----------------------------------------------------------------------------- */

static rille_bound **bucket_of(const rille_bindings *b, double id) {
  return &b->buckets[(uint64_t)id & (b->bucket_count - 1)]; /* an id ends in the slot */
}

/* At the end: keys stay in the order of their binding. */
static void link_held(const rille_bindings *b, rille_bound *one) {
  rille_bound **at = bucket_of(b, one->id);
  while (*at) at = &(*at)->next_held;
  one->next_held = NULL;
  *at = one;
}

static bool grow_bindings(rille_bindings *b) {
  rille_bindings wider = {.bucket_count = b->bucket_count ? b->bucket_count * 2 : BUCKETS_FIRST, .count = b->count};
  wider.buckets = calloc(wider.bucket_count, sizeof(rille_bound *));
  if (!wider.buckets) return b->bucket_count > 0;
  for (uint32_t i = 0; i < b->bucket_count; i++) {
    while (b->buckets[i]) {
      rille_bound *one = b->buckets[i];
      b->buckets[i] = one->next_held;
      link_held(&wider, one);
    }
  }
  free(b->buckets);
  *b = wider;
  return true;
}

static bool hold(rille_conn *c, rille_bound *one) {
  rille_bindings *b = &c->loop->bindings;
  if (b->count >= b->bucket_count && !grow_bindings(b)) return false;
  one->id = rille_conn_id(c);
  link_held(b, one);
  b->count++;
  c->has_names = true;
  return true;
}

static rille_bound *let_go(rille_bindings *b, rille_bound **at) {
  rille_bound *one = *at;
  *at = one->next_held;
  b->count--;
  return one;
}

/* The link to the connection's node of a key, and how many it has. */
static rille_bound **find_held(const rille_conn *c, const char *key, size_t size, uint32_t *count) {
  rille_bound **found = NULL;
  *count = 0;
  if (!c->has_names) return NULL;
  double id = rille_conn_id(c);
  for (rille_bound **at = bucket_of(&c->loop->bindings, id); *at; at = &(*at)->next_held) {
    if ((*at)->id != id) continue;
    ++*count;
    if (is_of(*at, key, size)) found = at;
  }
  return found;
}

/* Nodes whose keys are others' by now, or are not bound any more. */
static uint32_t drop_stale(const rille_conn *c) {
  rille_bindings *b = &c->loop->bindings;
  double id = rille_conn_id(c);
  uint32_t dropped = 0;
  for (rille_bound **at = bucket_of(b, id); *at;) {
    if ((*at)->id != id || is_in_use(*at)) {
      at = &(*at)->next_held;
      continue;
    }
    free(let_go(b, at));
    dropped++;
  }
  return dropped;
}

/* A node becomes the connection's, and its key leads to it; else it is freed. */
static int name(rille_conn *c, rille_bound *one, bool keeps) {
  int err = !rille_conn_is_active(c) ? RILLE_ERR_CLOSED : hold(c, one) ? put(one, keeps) : RILLE_ERR_NO_MEMORY;
  if (!err) return RILLE_OK;
  uint32_t count;
  rille_bound **at = find_held(c, one->key, one->size, &count);
  if (at) let_go(&c->loop->bindings, at);
  free(one);
  return err;
}

int rille_binding_set(rille_conn *c, const char *key, size_t size) {
  if (!rille_conn_is_active(c)) return RILLE_ERR_CLOSED;
  uint32_t count;
  rille_bound **at = find_held(c, key, size, &count);
  if (at) return put(*at, false); /* another may have it meanwhile */
  if (count >= RILLE_BINDINGS_OF_CONN && drop_stale(c) == 0) return RILLE_ERR_FULL;
  rille_bound *one = malloc(offsetof(rille_bound, key) + size); /* not sizeof, which is padded */
  if (!one) return RILLE_ERR_NO_MEMORY;
  one->size = (uint8_t)size;
  memcpy(one->key, key, size);
  return name(c, one, false);
}

int rille_binding_clear(rille_conn *c, const char *key, size_t size) {
  uint32_t count;
  rille_bound **at = find_held(c, key, size, &count);
  if (!at) return 0;
  rille_bound *one = let_go(&c->loop->bindings, at);
  bool was_its = take(one);
  free(one);
  return was_its;
}

const char *rille_binding_key(const rille_conn *c, uint32_t n, size_t *size) {
  if (!c->has_names) return NULL;
  double id = rille_conn_id(c);
  for (const rille_bound *one = *bucket_of(&c->loop->bindings, id); one; one = one->next_held) {
    if (one->id != id || !is_in_use(one) || --n > 0) continue;
    *size = one->size;
    return one->key;
  }
  return NULL;
}

/* Out of the lists, and out of the table. */
struct rille_bound *rille_binding_pack(rille_conn *c) {
  if (!c->has_names) return NULL;
  c->has_names = false;
  rille_bindings *b = &c->loop->bindings;
  double id = rille_conn_id(c);
  rille_bound *list = NULL, **last = &list;
  for (rille_bound **at = bucket_of(b, id); *at;) {
    if ((*at)->id != id) {
      at = &(*at)->next_held;
      continue;
    }
    rille_bound *one = let_go(b, at);
    if (!take(one)) {
      free(one);
      continue;
    }
    one->next_held = NULL;
    *last = one;
    last = &one->next_held;
  }
  return list;
}

void rille_binding_discard(struct rille_bound *list) {
  while (list) {
    rille_bound *one = list;
    list = one->next_held;
    free(one);
  }
}

void rille_binding_leave(rille_conn *c) { rille_binding_discard(rille_binding_pack(c)); }

/* A key that somebody else was given on the way stays theirs. */
void rille_binding_arrive(rille_conn *c, struct rille_bound *list) {
  while (list) {
    rille_bound *one = list;
    list = one->next_held;
    (void)name(c, one, true);
  }
}

void rille_binding_end_loop(rille_bindings *b) { free(b->buckets); }
