/*
 * binding: see binding.h. First the table of the process, then the lists of a loop.
 */
#include "binding.h"

#include "conn.h"
#include "loop.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SHARDS = 64, BUCKETS_FIRST = 16 };

/* ---- the table ------------------------------------------------------------------------------------------------- */

struct entry {
  struct entry *next;
  double id;
  uint32_t hash;
  uint32_t size;
  char key[];
};

/* under its lock */
struct shard {
  _Alignas(64) pthread_mutex_t lock;
  struct entry **buckets;
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

static struct entry **link_of(const struct shard *s, uint32_t hash, const char *key, size_t size) {
  if (s->bucket_count == 0) return NULL;
  struct entry **at = &s->buckets[hash / SHARDS & (s->bucket_count - 1)];
  while (*at && !((*at)->hash == hash && (*at)->size == size && memcmp((*at)->key, key, size) == 0)) at = &(*at)->next;
  return at;
}

static bool grow(struct shard *s) {
  uint32_t wanted = s->bucket_count ? s->bucket_count * 2 : BUCKETS_FIRST;
  struct entry **buckets = calloc(wanted, sizeof(struct entry *));
  if (!buckets) return s->bucket_count > 0; /* longer chains, then */
  for (uint32_t i = 0; i < s->bucket_count; i++) {
    while (s->buckets[i]) {
      struct entry *e = s->buckets[i];
      s->buckets[i] = e->next;
      struct entry **bucket = &buckets[e->hash / SHARDS & (wanted - 1)];
      e->next = *bucket;
      *bucket = e;
    }
  }
  free(s->buckets);
  s->buckets = buckets;
  s->bucket_count = wanted;
  return true;
}

static int insert(struct shard *s, uint32_t hash, const char *key, size_t size, double id) {
  if (atomic_fetch_add(&total, 1) >= atomic_load(&most)) {
    atomic_fetch_sub(&total, 1);
    return RILLE_ERR_FULL;
  }
  struct entry *e = s->count < s->bucket_count || grow(s) ? malloc(sizeof *e + size) : NULL;
  if (!e) {
    atomic_fetch_sub(&total, 1);
    return RILLE_ERR_NO_MEMORY;
  }
  *e = (struct entry){.id = id, .hash = hash, .size = (uint32_t)size};
  memcpy(e->key, key, size);
  struct entry **bucket = &s->buckets[hash / SHARDS & (s->bucket_count - 1)];
  e->next = *bucket;
  *bucket = e;
  s->count++;
  return RILLE_OK;
}

/* keeps: one that is another's already stays so. */
static int put(uint32_t hash, const char *key, size_t size, double id, bool keeps) {
  struct shard *s = lock(hash);
  struct entry **at = link_of(s, hash, key, size);
  int err = RILLE_OK;
  if (at && *at && !keeps) (*at)->id = id;
  else if (at && *at) err = RILLE_ERR_EXISTS;
  else err = insert(s, hash, key, size, id);
  pthread_mutex_unlock(&s->lock);
  return err;
}

/* Only while it is this connection's: 1 when it was. */
static int take(uint32_t hash, const char *key, size_t size, double id) {
  struct shard *s = lock(hash);
  struct entry **at = link_of(s, hash, key, size);
  struct entry *e = at ? *at : NULL;
  if (e && e->id == id) {
    *at = e->next;
    if (--s->count == 0) {
      free(s->buckets); /* leave nothing behind at the end of a process */
      s->buckets = NULL;
      s->bucket_count = 0;
    }
    atomic_fetch_sub(&total, 1);
  } else {
    e = NULL;
  }
  pthread_mutex_unlock(&s->lock);
  free(e);
  return e != NULL;
}

double rille_binding_find(const char *key, size_t size) {
  uint32_t hash = hash_of(key, size);
  struct shard *s = lock(hash);
  struct entry **at = link_of(s, hash, key, size);
  double id = at && *at ? (*at)->id : 0;
  pthread_mutex_unlock(&s->lock);
  return id;
}

double rille_binding_count(void) { return atomic_load(&total); }

void rille_binding_set_max(double max) { atomic_store(&most, (uint32_t)max); }

/* ---- what a connection has bound ------------------------------------------------------------------------------- */

typedef struct rille_bound {
  struct rille_bound *next;
  uint32_t slot;
  uint32_t hash;
  uint32_t size;
  char key[];
} rille_bound;

static bool grow_bindings(rille_bindings *b) {
  uint32_t wanted = b->bucket_count ? b->bucket_count * 2 : BUCKETS_FIRST;
  rille_bound **buckets = calloc(wanted, sizeof(rille_bound *));
  if (!buckets) return b->bucket_count > 0;
  for (uint32_t i = 0; i < b->bucket_count; i++) {
    while (b->buckets[i]) {
      rille_bound *one = b->buckets[i];
      b->buckets[i] = one->next;
      one->next = buckets[one->slot & (wanted - 1)];
      buckets[one->slot & (wanted - 1)] = one;
    }
  }
  free(b->buckets);
  b->buckets = buckets;
  b->bucket_count = wanted;
  return true;
}

static rille_bound **bucket_of(const rille_bindings *b, uint32_t slot) {
  return &b->buckets[slot & (b->bucket_count - 1)];
}

/* The link to the connection's own note of a key, and how many keys it has. */
static rille_bound **find_bound(const rille_conn *c, uint32_t hash, const char *key, size_t size, uint32_t *count) {
  const rille_bindings *b = &c->loop->bindings;
  rille_bound **found = NULL;
  *count = 0;
  if (!c->has_names) return NULL;
  for (rille_bound **at = bucket_of(b, c->slot); *at; at = &(*at)->next) {
    const rille_bound *one = *at;
    if (one->slot != c->slot) continue;
    ++*count;
    if (one->hash == hash && one->size == size && memcmp(one->key, key, size) == 0) found = at;
  }
  return found;
}

static void drop_bound(rille_bindings *b, rille_bound **at) {
  rille_bound *one = *at;
  *at = one->next;
  b->count--;
  free(one);
}

/* Notes of keys that others have by now, or that are not bound any more. */
static uint32_t drop_stale(const rille_conn *c) {
  rille_bindings *b = &c->loop->bindings;
  double id = rille_conn_id(c);
  uint32_t dropped = 0;
  for (rille_bound **at = bucket_of(b, c->slot); *at;) {
    rille_bound *one = *at;
    if (one->slot != c->slot || rille_binding_find(one->key, one->size) == id) {
      at = &one->next;
      continue;
    }
    drop_bound(b, at);
    dropped++;
  }
  return dropped;
}

static rille_bound *add_bound(rille_conn *c, uint32_t hash, const char *key, size_t size) {
  rille_bindings *b = &c->loop->bindings;
  if (b->count >= b->bucket_count && !grow_bindings(b)) return NULL;
  rille_bound *one = malloc(sizeof *one + size);
  if (!one) return NULL;
  *one = (rille_bound){.slot = c->slot, .hash = hash, .size = (uint32_t)size};
  memcpy(one->key, key, size);
  rille_bound **bucket = bucket_of(b, c->slot);
  one->next = *bucket;
  *bucket = one;
  b->count++;
  c->has_names = true;
  return one;
}

static int bind_to(rille_conn *c, const char *key, size_t size, bool keeps) {
  if (!rille_conn_is_active(c)) return RILLE_ERR_CLOSED;
  uint32_t hash = hash_of(key, size), count;
  double id = rille_conn_id(c);
  if (find_bound(c, hash, key, size, &count))
    return put(hash, key, size, id, keeps); /* another may have it meanwhile */
  if (count >= RILLE_BINDINGS_OF_CONN && drop_stale(c) == 0) return RILLE_ERR_FULL;
  if (!add_bound(c, hash, key, size)) return RILLE_ERR_NO_MEMORY;
  int err = put(hash, key, size, id, keeps);
  if (err) drop_bound(&c->loop->bindings, find_bound(c, hash, key, size, &count));
  return err;
}

int rille_binding_set(rille_conn *c, const char *key, size_t size) { return bind_to(c, key, size, false); }

int rille_binding_clear(rille_conn *c, const char *key, size_t size) {
  uint32_t hash = hash_of(key, size), count;
  rille_bound **at = find_bound(c, hash, key, size, &count);
  if (!at) return 0;
  drop_bound(&c->loop->bindings, at);
  return take(hash, key, size, rille_conn_id(c));
}

/* Out of the lists, and out of the table. */
struct rille_bound *rille_binding_pack(rille_conn *c) {
  if (!c->has_names) return NULL;
  c->has_names = false;
  rille_bindings *b = &c->loop->bindings;
  double id = rille_conn_id(c);
  rille_bound *list = NULL;
  for (rille_bound **at = bucket_of(b, c->slot); *at;) {
    rille_bound *one = *at;
    if (one->slot != c->slot) {
      at = &one->next;
      continue;
    }
    *at = one->next;
    b->count--;
    if (take(one->hash, one->key, one->size, id)) {
      one->next = list;
      list = one;
    } else {
      free(one);
    }
  }
  return list;
}

void rille_binding_discard(struct rille_bound *list) {
  while (list) {
    rille_bound *one = list;
    list = one->next;
    free(one);
  }
}

void rille_binding_leave(rille_conn *c) { rille_binding_discard(rille_binding_pack(c)); }

/* A key that somebody else was given on the way stays theirs. */
void rille_binding_arrive(rille_conn *c, struct rille_bound *list) {
  for (const rille_bound *one = list; one; one = one->next) (void)bind_to(c, one->key, one->size, true);
  rille_binding_discard(list);
}

void rille_binding_end_loop(rille_bindings *b) { free(b->buckets); }
