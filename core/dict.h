/*
 * dict: the inside of a dict, for dict.c (keys and values), dict_list.c (lists as values) and dict_store.c (its memory, and who
 * has to go when that is used up). Everybody else uses rille.h.
 *
 * A dict is one mapping of exactly the size that was asked for: this header, the hash table, and cells of 128 bytes. Everything is
 * made of cells, chained where one is not enough, so any free cell serves any need and memory does not fragment. Keys belong to
 * shards by their hash; a shard's lock guards its buckets, its entries and the free cells it keeps at hand. Free cells go to and
 * from the pool, which all shards share, in batches. Order of locks: one shard, then the pool; never two shards.
 *
 * Dicts are found by name, shared by all threads, and live until the process ends.
 */
#ifndef RILLE_DICT_H
#define RILLE_DICT_H

#include "rille.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum {
  DICT_CELL_SIZE = 128,
  DICT_SHARDS_MAX = 16,
  DICT_BATCH_MAX = 32,
  DICT_NAME_MAX = 255,
  DICT_ENTRY_ROOM = 76,
  DICT_ITEM_ROOM = 100,
  DICT_REST_ROOM = 124
};

/* Number of a cell, from 1; 0: none. */
typedef uint32_t dict_ref;

/* The first cell of a key. Its bytes are the key, then the value if that is a string; they go on in the cells behind `more`. */
struct dict_entry {
  dict_ref more;
  dict_ref chain;        /* next entry of the bucket */
  dict_ref newer, older; /* by last use, in its shard */
  uint32_t hash;         /* its upper half: most other keys are told apart without looking at their bytes */
  uint32_t flags;        /* the user's */
  int64_t expires_ns;    /* 0: never */
  union {
    double number;
    struct {
      dict_ref first, last;
    } list;
  } value;
  uint32_t size; /* bytes of a string, items of a list */
  uint16_t key_size;
  uint8_t type; /* enum rille_dict_type */
  uint8_t unused;
  uint32_t used_at; /* uses of the shard when it was made the newest */
  uint8_t bytes[DICT_ENTRY_ROOM];
};

/* The first cell of a list's item: a number, or the bytes of a string. */
struct dict_item {
  dict_ref more;
  dict_ref next, previous;
  uint32_t size;
  double number;
  uint8_t type;
  uint8_t unused[3];
  uint8_t bytes[DICT_ITEM_ROOM];
};

/* What did not fit into the first cell. */
struct dict_rest {
  dict_ref more;
  uint8_t bytes[DICT_REST_ROOM];
};

union dict_cell {
  struct {
    dict_ref more;
    dict_ref next_batch;
  } free;
  struct dict_entry entry;
  struct dict_item item;
  struct dict_rest rest;
};

struct dict_shard {
  pthread_mutex_t lock;
  dict_ref *buckets;
  dict_ref newest, oldest;
  uint32_t uses; /* how often one was made the newest */
  dict_ref free; /* cells at hand */
  uint32_t free_count;
  uint32_t sweep_at;      /* the bucket to look at next for what has expired */
  int64_t expiry_min;     /* nothing expires before this: sweeping would find nothing */
  int64_t sweep_min;      /* the same, of what this round of sweeping has seen */
  _Atomic uint32_t used;  /* cells of entries; stored under the lock, read by any thread */
  _Atomic uint32_t count; /* entries; the same */
} __attribute__((aligned(64)));

struct dict_pool {
  pthread_mutex_t lock;
  dict_ref batches; /* of shard_batch cells each */
  uint32_t count;   /* cells in them */
  uint32_t fresh;   /* cells from here on were never used */
} __attribute__((aligned(64)));

struct rille_dict {
  /* immutable after it was made */
  rille_dict *next;
  union dict_cell *cells; /* by dict_ref: the first one is cells[1] */
  uint64_t secret[4];     /* of the hash: who sends keys must not know which collide */
  size_t size;
  uint32_t cell_count;
  uint32_t shard_count; /* a power of two */
  uint32_t bucket_mask;
  uint32_t batch; /* cells that go to or from the pool at a time */
  char name[DICT_NAME_MAX + 1];
  struct dict_pool pool;
  struct dict_shard shards[DICT_SHARDS_MAX];
};

static inline union dict_cell *dict_cell(const rille_dict *d, dict_ref ref) { return &d->cells[ref]; }
static inline struct dict_entry *dict_entry(const rille_dict *d, dict_ref ref) { return &d->cells[ref].entry; }

/* A place in the bytes of a chain. */
struct dict_cursor {
  uint8_t *at;
  uint32_t room; /* in this cell */
  dict_ref more;
};

static inline struct dict_cursor dict_entry_bytes(struct dict_entry *e) {
  return (struct dict_cursor){e->bytes, DICT_ENTRY_ROOM, e->more};
}
static inline struct dict_cursor dict_item_bytes(struct dict_item *i) {
  return (struct dict_cursor){i->bytes, DICT_ITEM_ROOM, i->more};
}

/* Cells for so many bytes, of which `room` fit into the first. */
static inline uint32_t dict_cells_for(size_t bytes, size_t room) {
  return bytes <= room ? 1 : 1 + (uint32_t)((bytes - room + DICT_REST_ROOM - 1) / DICT_REST_ROOM);
}
static inline uint32_t dict_entry_cells(size_t bytes) { return dict_cells_for(bytes, DICT_ENTRY_ROOM); }

/* ---- dict_store.c; the caller holds the shard's lock unless it says otherwise ---- */

/* Results of dict_reserve beside RILLE_OK and RILLE_ERR_NO_MEMORY. */
enum { DICT_STEAL = 1 };

int64_t dict_now_ns(void);
bool dict_has_expired(const struct dict_entry *e);

/* Copy from, to, or compare with the bytes at the cursor, which moves on. */
void dict_put_bytes(const rille_dict *d, struct dict_cursor *c, const void *from, size_t n);
void dict_get_bytes(const rille_dict *d, struct dict_cursor *c, void *to, size_t n);
bool dict_same_bytes(const rille_dict *d, struct dict_cursor c, const void *with, size_t n);
void dict_skip_bytes(const rille_dict *d, struct dict_cursor *c, size_t n);

/* Who goes when there is no room. */
enum dict_effort {
  DICT_EXPIRED, /* only what has expired */
  DICT_FAIR,    /* what was not used for longest, but little of a shard that has little */
  DICT_ALL      /* anything in this shard: others have given what they had */
};

/* See that the shard has `need` free cells at hand; `keep` stays in any case. DICT_STEAL: what this shard has to give is not
 * enough; unlock, dict_steal what is missing, and begin again with DICT_ALL. */
int dict_reserve(rille_dict *d, struct dict_shard *s, uint32_t need, dict_ref keep, enum dict_effort effort,
                 bool *has_evicted);
/* Without any lock: make other shards give the cells that they keep at hand to the pool. */
void dict_collect(rille_dict *d, const struct dict_shard *for_whom);
/* The same, and more if need be. Whether entries had to go for it. */
bool dict_steal(rille_dict *d, const struct dict_shard *for_whom, uint32_t need);
/* A chain of n cells out of those at hand. */
dict_ref dict_take_cells(rille_dict *d, struct dict_shard *s, uint32_t n);
/* A whole chain back. */
void dict_give_cells(rille_dict *d, struct dict_shard *s, dict_ref chain);
/* Give what is too much to keep at hand to the pool. */
void dict_trim(rille_dict *d, struct dict_shard *s);

/* The end of an entry, with all it holds. */
void dict_remove(rille_dict *d, struct dict_shard *s, struct dict_entry *e);
/* The end of the items of a list. */
void dict_drop_items(rille_dict *d, struct dict_shard *s, struct dict_entry *e);
/* It is used now: make it the newest, unless it is among them anyway. */
void dict_use(rille_dict *d, struct dict_shard *s, struct dict_entry *e);
void dict_link_newest(rille_dict *d, struct dict_shard *s, dict_ref ref);
void dict_expires_at(struct dict_shard *s, struct dict_entry *e, int64_t expires_ns);

static inline dict_ref *dict_bucket(const rille_dict *d, struct dict_shard *s, uint32_t hash) {
  return &s->buckets[hash & d->bucket_mask];
}
static inline dict_ref dict_ref_of(const rille_dict *d, const void *cell) {
  return (dict_ref)((const union dict_cell *)cell - d->cells);
}
static inline void dict_add_used(struct dict_shard *s, uint32_t by) { /* wraps: a negative number goes too */
  atomic_store_explicit(&s->used, atomic_load_explicit(&s->used, memory_order_relaxed) + by, memory_order_relaxed);
}
static inline void dict_add_count(struct dict_shard *s, uint32_t by) {
  atomic_store_explicit(&s->count, atomic_load_explicit(&s->count, memory_order_relaxed) + by, memory_order_relaxed);
}

/* ---- dict.c, for status.c; any thread ---- */

/* visit each dict; none ever goes */
void dict_each(void (*visit)(void *to, rille_dict *d), void *to);
/* entries, those that have expired and were not swept yet among them */
double dict_count(const rille_dict *d);

/* ---- dict.c, for dict_list.c ---- */

struct dict_key {
  const void *bytes;
  uint32_t size;
  uint64_t hash;
  struct dict_shard *shard;
};

/* RILLE_OK, or RILLE_ERR_INVALID for a size that no key has. */
int dict_key_of(rille_dict *d, const void *key, double key_size, struct dict_key *out);
/* Under the lock: the entry, which is not expired, or NULL. */
struct dict_entry *dict_find(rille_dict *d, const struct dict_key *key);
/* A new entry of nothing out of `cells` cells at hand. */
struct dict_entry *dict_insert(rille_dict *d, const struct dict_key *key, uint32_t cells);
/* Copy the value's bytes if there is room for them. */
void dict_copy_out(const rille_dict *d, struct dict_cursor from, uint32_t size, rille_dict_value *out);
/* Whether n cells are more than this dict can ever free. */
bool dict_is_beyond(const rille_dict *d, uint64_t cells);

#endif
