/*
 * dict_store: the memory of a dict: its cells, who has used what last, and who goes when there is no room. Everything here runs
 * under a shard's lock except dict_collect and dict_steal, which take those of other shards, one at a time.
 */
#include "dict.h"

#include <string.h>
#include <time.h>

_Static_assert(sizeof(union dict_cell) == DICT_CELL_SIZE, "entries, items and the rest fill a cell");

enum { SWEEP_BUCKETS = 16 }; /* looked at for one need of room: bounds the time under the lock */

int64_t dict_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

bool dict_has_expired(const struct dict_entry *e) { return e->expires_ns && e->expires_ns <= dict_now_ns(); }

/* ---- bytes ----------------------------------------------------------------------------------------------------- */

static inline void next_cell(const rille_dict *d, struct dict_cursor *c) {
  struct dict_rest *rest = &dict_cell(d, c->more)->rest;
  *c = (struct dict_cursor){rest->bytes, DICT_REST_ROOM, rest->more};
}

/* How many of n bytes are in the cell of the cursor, which is moved to one that has any. */
static inline uint32_t piece(const rille_dict *d, struct dict_cursor *c, size_t n) {
  if (c->room == 0) next_cell(d, c);
  return n < c->room ? (uint32_t)n : c->room;
}

static inline void move_on(struct dict_cursor *c, uint32_t n) {
  c->at += n;
  c->room -= n;
}

void dict_put_bytes(const rille_dict *d, struct dict_cursor *c, const void *from, size_t n) {
  const uint8_t *p = from;
  while (n > 0) {
    uint32_t some = piece(d, c, n);
    memcpy(c->at, p, some);
    move_on(c, some);
    p += some;
    n -= some;
  }
}

void dict_get_bytes(const rille_dict *d, struct dict_cursor *c, void *to, size_t n) {
  uint8_t *p = to;
  while (n > 0) {
    uint32_t some = piece(d, c, n);
    memcpy(p, c->at, some);
    move_on(c, some);
    p += some;
    n -= some;
  }
}

bool dict_same_bytes(const rille_dict *d, struct dict_cursor c, const void *with, size_t n) {
  const uint8_t *p = with;
  while (n > 0) {
    uint32_t some = piece(d, &c, n);
    if (memcmp(c.at, p, some) != 0) return false;
    move_on(&c, some);
    p += some;
    n -= some;
  }
  return true;
}

void dict_skip_bytes(const rille_dict *d, struct dict_cursor *c, size_t n) {
  while (n > 0) {
    uint32_t some = piece(d, c, n);
    move_on(c, some);
    n -= some;
  }
}

/* ---- free cells ------------------------------------------------------------------------------------------------ */

/* One batch from the pool, or cells that were never used; false when there is neither. */
static bool refill(rille_dict *d, struct dict_shard *s) {
  struct dict_pool *pool = &d->pool;
  dict_ref first = 0;
  uint32_t fresh = 0, fresh_count = 0;
  pthread_mutex_lock(&pool->lock);
  if (pool->batches) {
    first = pool->batches;
    pool->batches = dict_cell(d, first)->free.next_batch;
    pool->count -= d->batch;
  } else {
    uint32_t left = d->cell_count + 1 - pool->fresh;
    fresh = pool->fresh;
    fresh_count = left < d->batch ? left : d->batch;
    pool->fresh += fresh_count;
  }
  pthread_mutex_unlock(&pool->lock);
  if (first) {
    dict_ref last = first;
    while (dict_cell(d, last)->free.more) last = dict_cell(d, last)->free.more;
    dict_cell(d, last)->free.more = s->free;
    s->free = first;
    s->free_count += d->batch;
    return true;
  }
  for (uint32_t i = fresh_count; i-- > 0;) {
    dict_cell(d, fresh + i)->free.more = s->free;
    s->free = fresh + i;
  }
  s->free_count += fresh_count;
  return fresh_count > 0;
}

/* Give batches to the pool until fewer than `keep` cells and one batch are at hand. */
static void drain(rille_dict *d, struct dict_shard *s, uint32_t keep) {
  while (s->free_count >= keep + d->batch) {
    dict_ref first = s->free, last = first;
    for (uint32_t i = 1; i < d->batch; i++) last = dict_cell(d, last)->free.more;
    s->free = dict_cell(d, last)->free.more;
    s->free_count -= d->batch;
    dict_cell(d, last)->free.more = 0;
    pthread_mutex_lock(&d->pool.lock);
    dict_cell(d, first)->free.next_batch = d->pool.batches;
    d->pool.batches = first;
    d->pool.count += d->batch;
    pthread_mutex_unlock(&d->pool.lock);
  }
}

void dict_trim(rille_dict *d, struct dict_shard *s) { drain(d, s, d->batch); }

dict_ref dict_take_cells(rille_dict *d, struct dict_shard *s, uint32_t n) {
  if (n == 0) return 0;
  dict_ref first = s->free, last = first;
  for (uint32_t i = 1; i < n; i++) last = dict_cell(d, last)->free.more;
  s->free = dict_cell(d, last)->free.more;
  s->free_count -= n;
  dict_cell(d, last)->free.more = 0;
  dict_add_used(s, n);
  return first;
}

void dict_give_cells(rille_dict *d, struct dict_shard *s, dict_ref chain) {
  if (!chain) return;
  uint32_t n = 1;
  dict_ref last = chain;
  while (dict_cell(d, last)->free.more) {
    last = dict_cell(d, last)->free.more;
    n++;
  }
  dict_cell(d, last)->free.more = s->free;
  s->free = chain;
  s->free_count += n;
  dict_add_used(s, 0u - n);
}

/* ---- who was used when ----------------------------------------------------------------------------------------- */

static void unlink_use(rille_dict *d, struct dict_shard *s, struct dict_entry *e) {
  if (e->newer) dict_entry(d, e->newer)->older = e->older;
  else s->newest = e->older;
  if (e->older) dict_entry(d, e->older)->newer = e->newer;
  else s->oldest = e->newer;
}

void dict_link_newest(rille_dict *d, struct dict_shard *s, dict_ref ref) {
  struct dict_entry *e = dict_entry(d, ref);
  e->newer = 0;
  e->used_at = ++s->uses;
  e->older = s->newest;
  if (s->newest) dict_entry(d, s->newest)->newer = ref;
  else s->oldest = ref;
  s->newest = ref;
}

void dict_use(rille_dict *d, struct dict_shard *s, struct dict_entry *e) {
  if (!e->newer) return;
  /* Before e are as many as became the newest since, at most. In the newest eighth it stays where it is: what all threads use
   * all the time would have them fight for the cells of its neighbours. */
  if (s->uses - e->used_at < atomic_load_explicit(&s->count, memory_order_relaxed) / 8) return;
  unlink_use(d, s, e);
  dict_link_newest(d, s, dict_ref_of(d, e));
}

void dict_expires_at(struct dict_shard *s, struct dict_entry *e, int64_t expires_ns) {
  e->expires_ns = expires_ns;
  if (!expires_ns) return;
  if (expires_ns < s->expiry_min) s->expiry_min = expires_ns;
  if (expires_ns < s->sweep_min) s->sweep_min = expires_ns;
}

/* ---- making room ----------------------------------------------------------------------------------------------- */

void dict_drop_items(rille_dict *d, struct dict_shard *s, struct dict_entry *e) {
  for (dict_ref at = e->value.list.first; at;) {
    dict_ref next = dict_cell(d, at)->item.next;
    dict_give_cells(d, s, at);
    at = next;
  }
}

void dict_remove(rille_dict *d, struct dict_shard *s, struct dict_entry *e) {
  dict_ref ref = dict_ref_of(d, e);
  dict_ref *at = dict_bucket(d, s, e->hash);
  while (*at != ref) at = &dict_entry(d, *at)->chain;
  *at = e->chain;
  unlink_use(d, s, e);
  if (e->type == RILLE_DICT_LIST) dict_drop_items(d, s, e);
  dict_give_cells(d, s, ref);
  dict_add_count(s, UINT32_MAX);
}

/* Look at a few buckets, in turn, for what has expired; true when there was something. */
static bool sweep(rille_dict *d, struct dict_shard *s, dict_ref keep, int64_t now) {
  bool has_removed = false;
  for (uint32_t i = 0; i < SWEEP_BUCKETS; i++) {
    dict_ref next;
    for (dict_ref at = s->buckets[s->sweep_at]; at; at = next) {
      struct dict_entry *e = dict_entry(d, at);
      next = e->chain;
      if (!e->expires_ns) continue;
      if (e->expires_ns <= now && at != keep) {
        dict_remove(d, s, e);
        has_removed = true;
        continue;
      }
      int64_t soonest = e->expires_ns > now ? e->expires_ns : now + 1; /* keep, whose time has just come */
      if (soonest < s->sweep_min) s->sweep_min = soonest;
    }
    s->sweep_at = (s->sweep_at + 1) & d->bucket_mask;
    if (s->sweep_at == 0) {
      s->expiry_min = s->sweep_min;
      s->sweep_min = INT64_MAX;
      if (s->expiry_min > now) break;
    }
  }
  return has_removed;
}

/* A shard with much less than its share does not have to give what little it has: others do, see dict_steal. */
static bool is_poor(const rille_dict *d, const struct dict_shard *s) {
  uint32_t used = atomic_load_explicit(&s->used, memory_order_relaxed);
  return d->shard_count > 1 && used < d->cell_count / d->shard_count / 2;
}

int dict_reserve(rille_dict *d, struct dict_shard *s, uint32_t need, dict_ref keep, enum dict_effort effort,
                 bool *has_evicted) {
  bool may_evict = effort != DICT_EXPIRED;
  int64_t now = 0;
  while (s->free_count < need) {
    if (refill(d, s)) continue;
    if (s->expiry_min != INT64_MAX && now == 0) now = dict_now_ns();
    if (s->expiry_min <= now) {
      /* who may not evict looks everywhere, once: a whole round sets expiry_min anew */
      if (sweep(d, s, keep, now) || !may_evict) continue;
    }
    if (!may_evict) return RILLE_ERR_NO_MEMORY;
    if ((effort == DICT_FAIR && is_poor(d, s)) || !s->oldest || s->oldest == keep) {
      return d->shard_count > 1 ? DICT_STEAL : RILLE_ERR_NO_MEMORY;
    }
    dict_remove(d, s, dict_entry(d, s->oldest));
    *has_evicted = true;
  }
  return RILLE_OK;
}

static struct dict_shard *fullest(rille_dict *d, const struct dict_shard *but) {
  struct dict_shard *found = NULL;
  uint32_t most = 0;
  for (uint32_t i = 0; i < d->shard_count; i++) {
    struct dict_shard *s = &d->shards[i];
    uint32_t used = atomic_load_explicit(&s->used, memory_order_relaxed);
    if (s != but && used > most) {
      found = s;
      most = used;
    }
  }
  return found;
}

static uint32_t pool_left(rille_dict *d) {
  pthread_mutex_lock(&d->pool.lock);
  uint32_t left = d->pool.count;
  pthread_mutex_unlock(&d->pool.lock);
  return left;
}

void dict_collect(rille_dict *d, const struct dict_shard *for_whom) {
  for (uint32_t i = 0; i < d->shard_count; i++) {
    struct dict_shard *s = &d->shards[i];
    if (s == for_whom) continue;
    pthread_mutex_lock(&s->lock);
    drain(d, s, 0);
    pthread_mutex_unlock(&s->lock);
  }
}

bool dict_steal(rille_dict *d, const struct dict_shard *for_whom, uint32_t need) {
  dict_collect(d, for_whom); /* it costs nobody anything */
  /* others may take from the pool meanwhile: an end to it all the same */
  bool has_evicted = false;
  int64_t now = dict_now_ns();
  uint64_t given = 0, enough = (uint64_t)need + (uint64_t)d->shard_count * d->batch;
  while (given < enough && pool_left(d) < need) {
    struct dict_shard *s = fullest(d, for_whom);
    if (!s) break;
    pthread_mutex_lock(&s->lock);
    uint32_t before = s->free_count;
    while (s->free_count < before + d->batch && s->oldest) {
      if (s->expiry_min <= now && sweep(d, s, 0, now)) continue;
      dict_remove(d, s, dict_entry(d, s->oldest));
      has_evicted = true;
    }
    given += s->free_count - before;
    drain(d, s, 0);
    pthread_mutex_unlock(&s->lock);
  }
  return has_evicted;
}
