/*
 * sources: see sources.h. Open addressing with linear probing; a source without connections has no entry, so a table is never larger than
 * its connections need. The hash is seeded: who could choose addresses that collide would slow down every accept.
 */
#include "sources.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/random.h>

enum { SHARDS = 16, FIRST_CAPACITY = 64 };

typedef struct source {
  uint64_t address; /* IPv4, or the upper half of IPv6 */
  uint32_t family;
  uint32_t count; /* 0: a free entry */
} source;

typedef struct shard {
  _Alignas(64) pthread_mutex_t lock; /* of what follows */
  source *items;                     /* owned */
  uint32_t count, capacity;          /* a power of two, at least a quarter free */
} shard;

struct rille_sources {
  /* any thread, atomic */
  _Atomic uint32_t refs;

  /* immutable after init */
  uint64_t seed[2];

  shard shards[SHARDS];
};

rille_sources *rille_sources_new(void) {
  rille_sources *s = aligned_alloc(_Alignof(rille_sources), sizeof *s);
  if (!s) return NULL;
  *s = (rille_sources){.seed = {0x9e3779b97f4a7c15u, 0xd1b54a32d192ed03u}};
  /* without randomness the table works all the same */
  if (getrandom(s->seed, sizeof s->seed, 0) < 0) s->seed[0] ^= (uintptr_t)s;
  atomic_store(&s->refs, 1);
  for (int i = 0; i < SHARDS; i++) pthread_mutex_init(&s->shards[i].lock, NULL);
  return s;
}

void rille_sources_retain(rille_sources *s) {
  if (s) atomic_fetch_add(&s->refs, 1);
}

void rille_sources_release(rille_sources *s) {
  if (!s || atomic_fetch_sub(&s->refs, 1) != 1) return;
  for (int i = 0; i < SHARDS; i++) {
    pthread_mutex_destroy(&s->shards[i].lock);
    free(s->shards[i].items);
  }
  free(s);
}

static source source_of(const rille_peer *peer) {
  uint64_t address = 0;
  for (int i = 0; i < (peer->family == AF_INET ? 4 : 8); i++) address = address << 8 | peer->ip[i];
  return (source){.address = address, .family = peer->family};
}

static uint64_t hash_of(const rille_sources *s, const source *key) {
  uint64_t x = (key->address + key->family) ^ s->seed[0];
  for (int i = 0; i < 2; i++) {
    x ^= x >> 32;
    x *= s->seed[1] | 1;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9u;
  }
  return x ^ x >> 32;
}

static shard *shard_of(rille_sources *s, uint64_t hash) { return &s->shards[hash >> 60]; }

/* The entry of key, or the free one where it belongs. */
static uint32_t find(const shard *in, const source *key, uint64_t hash) {
  uint32_t mask = in->capacity - 1, at = (uint32_t)hash & mask;
  while (in->items[at].count && (in->items[at].address != key->address || in->items[at].family != key->family)) {
    at = (at + 1) & mask;
  }
  return at;
}

static bool grow(const rille_sources *s, shard *in) {
  if (in->count + 1 <= in->capacity / 4 * 3) return true;
  shard larger = {.capacity = in->capacity ? in->capacity * 2 : FIRST_CAPACITY};
  larger.items = calloc(larger.capacity, sizeof *larger.items);
  if (!larger.items) return false;
  for (uint32_t i = 0; i < in->capacity; i++) {
    const source *one = &in->items[i];
    if (one->count) larger.items[find(&larger, one, hash_of(s, one))] = *one;
  }
  free(in->items);
  in->items = larger.items;
  in->capacity = larger.capacity;
  return true;
}

static int count_up(const rille_sources *s, shard *in, const source *key, uint64_t hash, uint32_t max) {
  if (!grow(s, in)) return RILLE_ERR_NO_MEMORY;
  source *at = &in->items[find(in, key, hash)];
  if (at->count >= max) return RILLE_ERR_FULL;
  if (at->count == 0) {
    *at = *key;
    in->count++;
  }
  at->count++;
  return RILLE_OK;
}

int rille_sources_came(rille_sources *s, const rille_peer *peer, uint32_t max) {
  source key = source_of(peer);
  uint64_t hash = hash_of(s, &key);
  shard *in = shard_of(s, hash);
  pthread_mutex_lock(&in->lock);
  int err = count_up(s, in, &key, hash, max);
  pthread_mutex_unlock(&in->lock);
  return err;
}

/* Entries behind a free one that were pushed on by it move up, so that every search still finds its own. */
static void take_out(const rille_sources *s, shard *in, uint32_t hole) {
  uint32_t mask = in->capacity - 1;
  in->count--;
  in->items[hole].count = 0;
  for (uint32_t at = (hole + 1) & mask; in->items[at].count; at = (at + 1) & mask) {
    uint32_t home = (uint32_t)hash_of(s, &in->items[at]) & mask;
    if (((at - home) & mask) < ((at - hole) & mask)) continue; /* its home is behind the hole */
    in->items[hole] = in->items[at];
    in->items[at].count = 0;
    hole = at;
  }
}

void rille_sources_left(rille_sources *s, const rille_peer *peer) {
  source key = source_of(peer);
  uint64_t hash = hash_of(s, &key);
  shard *in = shard_of(s, hash);
  pthread_mutex_lock(&in->lock);
  if (in->capacity) {
    uint32_t at = find(in, &key, hash);
    if (in->items[at].count && --in->items[at].count == 0) take_out(s, in, at);
  }
  pthread_mutex_unlock(&in->lock);
}
