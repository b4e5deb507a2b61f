/*
 * dict: shared memory of the process by name: values with a time to live under keys, in a size that is kept. See dict.h for what
 * it is made of. Each call locks one shard and holds it for the time of a look-up and a copy.
 */
#include "dict.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

enum {
  SIZE_DEFAULT = 16 << 20,
  SIZE_MIN = 16 << 10,
  KEY_MAX = 65535,
  TRIES = 16,
  KEYS_BUCKETS = 256,
  FLUSH_AT_A_TIME = 256
};
static const double SIZE_MAX_BYTES = 256.0 * (1 << 30);
static const double VALUE_MAX = INT32_MAX; /* what a Lua string may have */
static const double TTL_MAX = 3e9;         /* seconds: whoever asks for more than 95 years means for ever */

/* ---- by name --------------------------------------------------------------------------------------------------- */

static pthread_mutex_t dicts_lock = PTHREAD_MUTEX_INITIALIZER;
static rille_dict *dicts;

static uint32_t power_of_two_within(size_t n) {
  uint32_t p = 1;
  while (p <= n / 2 && p < UINT32_MAX / 2) p *= 2;
  return p;
}

static void set_up_shard(rille_dict *d, uint32_t i, dict_ref *buckets) {
  struct dict_shard *s = &d->shards[i];
  pthread_mutex_init(&s->lock, NULL);
  s->buckets = buckets + (size_t)i * (d->bucket_mask + 1);
  s->expiry_min = s->sweep_min = INT64_MAX;
}

/* Header, buckets and cells in one mapping; pages that nothing was written to cost nothing. */
static rille_dict *make(const char *name, size_t name_size, size_t size) {
  void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return NULL;
  rille_dict *d = base;
  if (getrandom(d->secret, sizeof d->secret, 0) != sizeof d->secret) {
    munmap(base, size);
    return NULL;
  }
  memcpy(d->name, name, name_size);
  d->size = size;
  size_t left = size - sizeof *d;
  d->shard_count = power_of_two_within(size / SIZE_MIN);
  if (d->shard_count > DICT_SHARDS_MAX) d->shard_count = DICT_SHARDS_MAX;
  uint32_t buckets = power_of_two_within(left / DICT_CELL_SIZE / d->shard_count);
  d->bucket_mask = buckets - 1;
  size_t table = ((size_t)buckets * d->shard_count * sizeof(dict_ref) + DICT_CELL_SIZE - 1) / DICT_CELL_SIZE;
  size_t header = (sizeof *d + DICT_CELL_SIZE - 1) / DICT_CELL_SIZE;
  /* cells[0] would be the last of the table: no dict_ref names it */
  d->cells = (union dict_cell *)base + header + table - 1;
  d->cell_count = (uint32_t)(size / DICT_CELL_SIZE - header - table);
  d->batch = d->cell_count / d->shard_count / 32;
  if (d->batch > DICT_BATCH_MAX) d->batch = DICT_BATCH_MAX;
  if (d->batch == 0) d->batch = 1;
  pthread_mutex_init(&d->pool.lock, NULL);
  d->pool.fresh = 1;
  dict_ref *table_at = (dict_ref *)(void *)((union dict_cell *)base + header);
  for (uint32_t i = 0; i < d->shard_count; i++) set_up_shard(d, i, table_at);
  return d;
}

/* Names of dicts that are elsewhere. Kept until the process ends. */
static struct reserved {
  struct reserved *next;
  char name[DICT_NAME_MAX + 1];
} * reserved;

static bool is_reserved(const char *name, size_t name_size) {
  for (const struct reserved *one = reserved; one; one = one->next) {
    if (strlen(one->name) == name_size && memcmp(one->name, name, name_size) == 0) return true;
  }
  return false;
}

static rille_dict *find_dict(const char *name, size_t name_size) {
  for (rille_dict *d = dicts; d; d = d->next) {
    if (strlen(d->name) == name_size && memcmp(d->name, name, name_size) == 0) return d;
  }
  return NULL;
}

rille_dict *rille_dict_open(const char *name, double name_size, double size, int *err) {
  *err = RILLE_ERR_INVALID;
  if (!(name_size >= 1 && name_size <= DICT_NAME_MAX) || memchr(name, 0, (size_t)name_size)) return NULL;
  if (size != 0 && !(size >= SIZE_MIN && size <= SIZE_MAX_BYTES)) return NULL;
  pthread_mutex_lock(&dicts_lock);
  rille_dict *d = find_dict(name, (size_t)name_size);
  *err = RILLE_OK;
  if (!d && is_reserved(name, (size_t)name_size)) {
    *err = RILLE_ERR_NOT_SUPPORTED;
  } else if (!d) {
    d = make(name, (size_t)name_size, size != 0 ? (size_t)size : SIZE_DEFAULT);
    if (d) {
      d->next = dicts;
      dicts = d;
    } else {
      *err = RILLE_ERR_NO_MEMORY;
    }
  } else if (size != 0 && (double)d->size != size) {
    *err = RILLE_ERR_EXISTS;
    d = NULL;
  }
  pthread_mutex_unlock(&dicts_lock);
  return d;
}

static int reserve(const char *name, size_t name_size) {
  if (find_dict(name, name_size)) return RILLE_ERR_EXISTS;
  if (is_reserved(name, name_size)) return RILLE_OK;
  struct reserved *one = calloc(1, sizeof *one);
  if (!one) return RILLE_ERR_NO_MEMORY;
  memcpy(one->name, name, name_size);
  one->next = reserved;
  reserved = one;
  return RILLE_OK;
}

int rille_dict_reserve(const char *name, double name_size) {
  if (!(name_size >= 1 && name_size <= DICT_NAME_MAX) || memchr(name, 0, (size_t)name_size)) return RILLE_ERR_INVALID;
  pthread_mutex_lock(&dicts_lock);
  int err = reserve(name, (size_t)name_size);
  pthread_mutex_unlock(&dicts_lock);
  return err;
}

void dict_each(void (*visit)(void *to, rille_dict *d), void *to) {
  pthread_mutex_lock(&dicts_lock);
  for (rille_dict *d = dicts; d; d = d->next) visit(to, d);
  pthread_mutex_unlock(&dicts_lock);
}

double dict_count(const rille_dict *d) {
  double count = 0;
  for (uint32_t i = 0; i < d->shard_count; i++) {
    count += atomic_load_explicit(&d->shards[i].count, memory_order_relaxed);
  }
  return count;
}

double rille_dict_capacity(const rille_dict *d) { return (double)d->size; }

double rille_dict_free_space(rille_dict *d) {
  uint64_t cells = 0;
  for (uint32_t i = 0; i < d->shard_count; i++) {
    pthread_mutex_lock(&d->shards[i].lock);
    cells += d->shards[i].free_count;
    pthread_mutex_unlock(&d->shards[i].lock);
  }
  pthread_mutex_lock(&d->pool.lock);
  cells += d->pool.count + (d->cell_count + 1 - d->pool.fresh);
  pthread_mutex_unlock(&d->pool.lock);
  return (double)(cells * DICT_CELL_SIZE);
}

/* ---- keys ------------------------------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t a, uint64_t b) {
  __extension__ unsigned __int128 product = (unsigned __int128)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t read_up_to_8(const uint8_t *p, size_t n) {
  uint64_t v = 0;
  memcpy(&v, p, n < 8 ? n : 8);
  return v;
}

/* Each 16 bytes are folded by one multiplication, both factors of which hold a secret. */
static uint64_t hash_of(const rille_dict *d, const uint8_t *p, size_t n) {
  uint64_t h = d->secret[0] ^ n;
  for (; n > 16; p += 16, n -= 16)
    h = mix(read_up_to_8(p, 8) ^ d->secret[1], read_up_to_8(p + 8, 8) ^ d->secret[2] ^ h);
  uint64_t low = read_up_to_8(p, n), high = n > 8 ? read_up_to_8(p + 8, n - 8) : 0;
  h = mix(low ^ d->secret[1], high ^ d->secret[2] ^ h);
  return mix(h ^ d->secret[3], d->secret[0] | 1);
}

int dict_key_of(rille_dict *d, const void *key, double key_size, struct dict_key *out) {
  if (!(key_size >= 1 && key_size <= KEY_MAX)) return RILLE_ERR_INVALID;
  out->bytes = key;
  out->size = (uint32_t)key_size;
  out->hash = hash_of(d, key, out->size);
  out->shard = &d->shards[out->hash & (d->shard_count - 1)];
  return RILLE_OK;
}

struct dict_entry *dict_find(rille_dict *d, const struct dict_key *key) {
  uint32_t hash = (uint32_t)(key->hash >> 32);
  for (dict_ref at = *dict_bucket(d, key->shard, hash); at; at = dict_entry(d, at)->chain) {
    struct dict_entry *e = dict_entry(d, at);
    if (e->hash != hash || e->key_size != key->size) continue;
    if (!dict_same_bytes(d, dict_entry_bytes(e), key->bytes, key->size)) continue;
    if (!dict_has_expired(e)) return e;
    dict_remove(d, key->shard, e);
    return NULL;
  }
  return NULL;
}

struct dict_entry *dict_insert(rille_dict *d, const struct dict_key *key, uint32_t cells) {
  struct dict_shard *s = key->shard;
  dict_ref ref = dict_take_cells(d, s, cells);
  struct dict_entry *e = dict_entry(d, ref);
  e->hash = (uint32_t)(key->hash >> 32);
  e->key_size = (uint16_t)key->size;
  e->flags = 0;
  e->expires_ns = 0;
  e->size = 0;
  e->type = RILLE_DICT_NIL;
  dict_ref *bucket = dict_bucket(d, s, e->hash);
  e->chain = *bucket;
  *bucket = ref;
  dict_link_newest(d, s, ref);
  dict_add_count(s, 1);
  struct dict_cursor c = dict_entry_bytes(e);
  dict_put_bytes(d, &c, key->bytes, key->size);
  return e;
}

bool dict_is_beyond(const rille_dict *d, uint64_t cells) {
  /* less than a batch may stay with each shard */
  return cells + (uint64_t)d->shard_count * d->batch > d->cell_count;
}

/* ---- values ---------------------------------------------------------------------------------------------------- */

/* 0 for never */
static int64_t expiry_of(double ttl) {
  if (ttl <= 0 || ttl > TTL_MAX) return 0;
  return dict_now_ns() + (ttl < 1e-9 ? 1 : (int64_t)(ttl * 1e9));
}

void dict_copy_out(const rille_dict *d, struct dict_cursor from, uint32_t size, rille_dict_value *out) {
  out->size = size;
  if (size <= out->room) dict_get_bytes(d, &from, out->bytes, size);
}

int rille_dict_get(rille_dict *d, const void *key, double key_size, rille_dict_value *out) {
  struct dict_key k;
  int result = dict_key_of(d, key, key_size, &k);
  if (result) return result;
  out->flags = 0;
  pthread_mutex_lock(&k.shard->lock);
  struct dict_entry *e = dict_find(d, &k);
  if (!e) {
    result = RILLE_DICT_NIL;
  } else {
    dict_use(d, k.shard, e);
    result = e->type == RILLE_DICT_LIST ? RILLE_ERR_A_LIST : e->type;
    out->flags = e->flags;
    if (e->type == RILLE_DICT_NUMBER) out->number = e->value.number;
    if (e->type == RILLE_DICT_STRING) {
      struct dict_cursor c = dict_entry_bytes(e);
      dict_skip_bytes(d, &c, e->key_size);
      dict_copy_out(d, c, e->size, out);
    }
  }
  dict_trim(d, k.shard);
  pthread_mutex_unlock(&k.shard->lock);
  return result;
}

struct new_value {
  int mode, type;
  double number, ttl;
  const void *bytes;
  uint32_t size; /* 0 but for a string */
  uint32_t flags;
};

static uint32_t cells_of(const struct dict_entry *e) {
  return dict_entry_cells((size_t)e->key_size + (e->type == RILLE_DICT_STRING ? e->size : 0));
}

/* The chain of e is made as long as `cells`; those that are missing are at hand. */
static void resize(rille_dict *d, struct dict_shard *s, struct dict_entry *e, uint32_t cells) {
  uint32_t now = cells_of(e);
  if (now == cells) return;
  union dict_cell *at = (union dict_cell *)(void *)e;
  for (uint32_t i = 1; i < now && i < cells; i++) at = dict_cell(d, at->free.more);
  if (now < cells) {
    at->free.more = dict_take_cells(d, s, cells - now);
  } else {
    dict_ref rest = at->free.more;
    at->free.more = 0;
    dict_give_cells(d, s, rest);
  }
}

/* Under the lock. DICT_STEAL with how many cells are missing: nothing was changed. */
static int put(rille_dict *d, const struct dict_key *k, const struct new_value *v, enum dict_effort effort,
               bool *has_evicted, uint32_t *missing) {
  struct dict_shard *s = k->shard;
  struct dict_entry *e = dict_find(d, k);
  if (v->mode == RILLE_DICT_ADD && e) return RILLE_ERR_EXISTS;
  if (v->mode == RILLE_DICT_REPLACE && !e) return RILLE_ERR_NOT_FOUND;
  if (v->type == RILLE_DICT_NIL) {
    if (e) dict_remove(d, s, e);
    return RILLE_OK;
  }
  uint32_t cells = dict_entry_cells((size_t)k->size + v->size), have = e ? cells_of(e) : 0;
  if (e) dict_use(d, s, e);
  if (cells > have) {
    int err = dict_reserve(d, s, cells - have, e ? dict_ref_of(d, e) : 0, effort, has_evicted);
    if (err == DICT_STEAL) *missing = cells - have - s->free_count;
    if (err) return err;
  }
  if (e) resize(d, s, e, cells);
  else e = dict_insert(d, k, cells);
  if (e->type == RILLE_DICT_LIST) dict_drop_items(d, s, e);
  e->type = (uint8_t)v->type;
  e->flags = v->flags;
  e->size = v->size;
  e->value.number = v->number;
  dict_expires_at(s, e, expiry_of(v->ttl));
  struct dict_cursor c = dict_entry_bytes(e);
  dict_skip_bytes(d, &c, k->size);
  dict_put_bytes(d, &c, v->bytes, v->size);
  return RILLE_OK;
}

static int put_with_room(rille_dict *d, const struct dict_key *k, const struct new_value *v) {
  if (dict_is_beyond(d, dict_entry_cells((size_t)k->size + v->size))) return RILLE_ERR_NO_MEMORY;
  bool is_gentle = v->mode == RILLE_DICT_IF_ROOM;
  enum dict_effort effort = is_gentle ? DICT_EXPIRED : DICT_FAIR;
  bool has_evicted = false;
  for (int i = 0; i < TRIES; i++) {
    uint32_t missing = 0;
    pthread_mutex_lock(&k->shard->lock);
    int err = put(d, k, v, effort, &has_evicted, &missing);
    if (err != DICT_STEAL) dict_trim(d, k->shard);
    pthread_mutex_unlock(&k->shard->lock);
    if (is_gentle && err == RILLE_ERR_NO_MEMORY && i == 0) {
      dict_collect(d, k->shard);
      continue;
    }
    if (err != DICT_STEAL) return err ? err : has_evicted ? RILLE_DICT_FORCED : RILLE_OK;
    has_evicted |= dict_steal(d, k->shard, missing);
    effort = DICT_ALL;
  }
  return RILLE_ERR_NO_MEMORY;
}

int rille_dict_set(rille_dict *d, const void *key, double key_size, int mode, int type, double number,
                   const void *bytes, double size, double ttl, double flags) {
  struct dict_key k;
  int err = dict_key_of(d, key, key_size, &k);
  if (err) return err;
  if (type < RILLE_DICT_NIL || type > RILLE_DICT_STRING || !(ttl >= 0) || !(flags >= 0 && flags <= UINT32_MAX))
    return RILLE_ERR_INVALID;
  struct new_value v = {.mode = mode, .type = type, .number = number, .ttl = ttl, .flags = (uint32_t)flags};
  if (type == RILLE_DICT_STRING) {
    if (!(size >= 0 && size <= VALUE_MAX)) return RILLE_ERR_TOO_LARGE;
    v.bytes = bytes;
    v.size = (uint32_t)size;
  }
  return put_with_room(d, &k, &v);
}

int rille_dict_incr(rille_dict *d, const void *key, double key_size, double by, int has_init, double init, double ttl,
                    double *result) {
  struct dict_key k;
  int err = dict_key_of(d, key, key_size, &k);
  if (err) return err;
  if (!(ttl >= 0)) return RILLE_ERR_INVALID;
  for (int i = 0; i < TRIES; i++) {
    pthread_mutex_lock(&k.shard->lock);
    struct dict_entry *e = dict_find(d, &k);
    if (e) {
      dict_use(d, k.shard, e);
      if (e->type == RILLE_DICT_NUMBER) *result = e->value.number += by;
      else err = RILLE_ERR_NOT_A_NUMBER;
    }
    dict_trim(d, k.shard);
    pthread_mutex_unlock(&k.shard->lock);
    if (e) return err;
    if (!has_init) return RILLE_ERR_NOT_FOUND;
    /* somebody else may come first: then there is a number to add to */
    struct new_value v = {.mode = RILLE_DICT_ADD, .type = RILLE_DICT_NUMBER, .number = init + by, .ttl = ttl};
    *result = init + by;
    int added = put_with_room(d, &k, &v);
    if (added != RILLE_ERR_EXISTS) return added;
  }
  return RILLE_ERR_BUSY;
}

double rille_dict_ttl(rille_dict *d, const void *key, double key_size) {
  struct dict_key k;
  int err = dict_key_of(d, key, key_size, &k);
  if (err) return err;
  double left = 0;
  pthread_mutex_lock(&k.shard->lock);
  struct dict_entry *e = dict_find(d, &k);
  if (!e) left = RILLE_ERR_NOT_FOUND;
  else if (e->expires_ns) left = (double)(e->expires_ns - dict_now_ns()) / 1e9;
  /* its time came in between: the least that is not 0, which would say that it does not expire */
  if (e && e->expires_ns && left <= 0) left = 1e-9;
  pthread_mutex_unlock(&k.shard->lock);
  return left;
}

int rille_dict_touch(rille_dict *d, const void *key, double key_size, double ttl) {
  struct dict_key k;
  int err = dict_key_of(d, key, key_size, &k);
  if (err) return err;
  if (ttl != ttl) return RILLE_ERR_INVALID;
  pthread_mutex_lock(&k.shard->lock);
  struct dict_entry *e = dict_find(d, &k);
  if (e) {
    dict_use(d, k.shard, e);
    if (ttl >= 0) dict_expires_at(k.shard, e, expiry_of(ttl));
  }
  pthread_mutex_unlock(&k.shard->lock);
  return e ? RILLE_OK : RILLE_ERR_NOT_FOUND;
}

/* ---- all of them ----------------------------------------------------------------------------------------------- */

void rille_dict_flush(rille_dict *d) {
  for (uint32_t i = 0; i < d->shard_count; i++) {
    struct dict_shard *s = &d->shards[i];
    uint32_t left = atomic_load_explicit(&s->count, memory_order_relaxed);
    while (left > 0) { /* others get their turn in between */
      pthread_mutex_lock(&s->lock);
      uint32_t n = 0;
      for (; n < FLUSH_AT_A_TIME && n < left && s->oldest; n++) dict_remove(d, s, dict_entry(d, s->oldest));
      dict_trim(d, s);
      pthread_mutex_unlock(&s->lock);
      left = n < FLUSH_AT_A_TIME ? 0 : left - n;
    }
  }
}

/* The keys of one bucket behind *to; false when they need more room, which walk->wanted tells. */
static bool write_bucket(const rille_dict *d, dict_ref first, rille_dict_walk *walk, uint8_t *to, double room) {
  double needed = 0;
  for (dict_ref at = first; at; at = dict_entry(d, at)->chain) needed += 2 + dict_entry(d, at)->key_size;
  if (walk->used + needed > room) {
    if (needed > room) walk->wanted = needed;
    return false;
  }
  uint8_t *p = to + (size_t)walk->used;
  for (dict_ref at = first; at; at = dict_entry(d, at)->chain) {
    struct dict_entry *e = dict_entry(d, at);
    if (dict_has_expired(e)) continue;
    *p++ = (uint8_t)e->key_size;
    *p++ = (uint8_t)(e->key_size >> 8);
    struct dict_cursor c = dict_entry_bytes(e);
    dict_get_bytes(d, &c, p, e->key_size);
    p += e->key_size;
  }
  walk->used = (double)(p - to);
  return true;
}

int rille_dict_keys(rille_dict *d, rille_dict_walk *walk, uint8_t *to, double room) {
  walk->used = walk->wanted = 0;
  bool has_room = true;
  while (has_room && walk->shard < d->shard_count) {
    struct dict_shard *s = &d->shards[walk->shard];
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < KEYS_BUCKETS && walk->bucket <= d->bucket_mask; i++) {
      has_room = write_bucket(d, s->buckets[walk->bucket], walk, to, room);
      if (!has_room) break;
      walk->bucket++;
    }
    pthread_mutex_unlock(&s->lock);
    if (walk->bucket > d->bucket_mask) {
      walk->bucket = 0;
      walk->shard++;
    }
  }
  return walk->shard < d->shard_count;
}
