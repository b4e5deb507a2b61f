/*
 * dns_cache: answers of DNS, found by name, type, class, DO and CD. An answer is kept as it came, without EDNS, beside the places of its TTLs:
 * one that is served is copied once, then gets the client's id, flags and letters, and its TTLs less the seconds it has been here. What is
 * least recently used goes when there is no room. Belongs to one thread; see rille_dns.h.
 */
#include "dns_message.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
  BUCKETS_FIRST = 64,
  BUCKETS_MAX = 1 << 24,
  STALE_TTL = 30, /* seconds: what RFC 8767, 4, has for answers beyond their time, ... */
  STALE_FOR = 30, /* ... and for how long nobody is asked again */
  COST = 32       /* bytes of an entry's place in the table, and of malloc */
};

typedef struct entry {
  struct entry *chain;         /* of its bucket */
  struct entry *newer, *older; /* by use */
  uint64_t hash;
  double since, until; /* seconds */
  double gone;         /* when it is of no use, however stale */
  double stale_until;  /* good until then, beyond its time; 0: not */
  uint32_t cost;
  uint32_t size, additional_at;
  uint32_t ttl_count;
  uint16_t rcode, answers, authorities, additionals;
  uint16_t key_size;
  bool is_authentic; /* AD */
  uint16_t ttl_at[]; /* then the key, then the message */
} entry;

struct rille_dns_cache {
  entry **buckets;
  uint32_t bucket_mask, count;
  entry *newest, *oldest;
  size_t bytes;
  rille_dns_options options;
  dns_clamp clamp;
  uint64_t secret[2];
  double hits, stale, misses, errors, ignored, evicted;
};

static uint8_t *key_of(const entry *e) { return (uint8_t *)(uintptr_t)(e->ttl_at + e->ttl_count); }

static uint8_t *message_of(const entry *e) { return key_of(e) + e->key_size; }

/* ---- the table ------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t a, uint64_t b) {
  __extension__ unsigned __int128 product = (unsigned __int128)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Names are chosen by strangers, so the hash has a secret. */
static uint64_t hash_of(const rille_dns_cache *c, const uint8_t *p, size_t n) {
  uint64_t h = c->secret[0] ^ n;
  for (; n > 8; p += 8, n -= 8) {
    uint64_t v;
    memcpy(&v, p, 8);
    h = mix(v ^ c->secret[1], h | 1);
    h ^= c->secret[0];
  }
  uint64_t rest = 0;
  memcpy(&rest, p, n);
  return mix(mix(rest ^ c->secret[1], h | 1) ^ c->secret[0], c->secret[1] | 1);
}

static entry **bucket_of(const rille_dns_cache *c, uint64_t hash) { return &c->buckets[hash & c->bucket_mask]; }

static entry *find(const rille_dns_cache *c, const rille_dns_query *q, uint64_t hash) {
  for (entry *e = *bucket_of(c, hash); e; e = e->chain) {
    if (e->hash == hash && e->key_size == q->key_size && memcmp(key_of(e), q->key, q->key_size) == 0) return e;
  }
  return NULL;
}

/* Twice the buckets; where there is no memory for that, chains are longer. */
static void widen(rille_dns_cache *c) {
  uint32_t before = c->bucket_mask + 1;
  if (c->count < before || before >= BUCKETS_MAX) return;
  entry **wide = calloc((size_t)before * 2, sizeof(entry *)), **narrow = c->buckets;
  if (!wide) return;
  c->buckets = wide;
  c->bucket_mask = before * 2 - 1;
  for (uint32_t i = 0; i < before; i++) {
    for (entry *e = narrow[i], *next; e; e = next) {
      next = e->chain;
      entry **at = bucket_of(c, e->hash);
      e->chain = *at;
      *at = e;
    }
  }
  free(narrow);
}

/* ---- by use ---------------------------------------------------------------------------------------------------- */

static void unlink_use(rille_dns_cache *c, entry *e) {
  *(e->newer ? &e->newer->older : &c->newest) = e->older;
  *(e->older ? &e->older->newer : &c->oldest) = e->newer;
}

static void link_newest(rille_dns_cache *c, entry *e) {
  e->newer = NULL;
  e->older = c->newest;
  *(c->newest ? &c->newest->newer : &c->oldest) = e;
  c->newest = e;
}

static void drop(rille_dns_cache *c, entry *e) {
  entry **at = bucket_of(c, e->hash);
  while (*at != e) at = &(*at)->chain;
  *at = e->chain;
  unlink_use(c, e);
  c->count--;
  c->bytes -= e->cost;
  free(e);
}

static void make_room(rille_dns_cache *c, double cost) {
  for (entry *e = c->oldest, *newer; e && (double)c->bytes + cost > c->options.bytes_max; e = newer) {
    newer = e->newer;
    drop(c, e);
    c->evicted++;
  }
}

static void add(rille_dns_cache *c, entry *e) {
  entry **at = bucket_of(c, e->hash);
  e->chain = *at;
  *at = e;
  link_newest(c, e);
  c->count++;
  c->bytes += e->cost;
  widen(c);
}

/* ---- entries --------------------------------------------------------------------------------------------------- */

/* An answer that was read, as it is kept; owned, in no table. NULL: no memory. */
static entry *make(const rille_dns_cache *c, const rille_dns_query *q, const uint8_t *message, const dns_answer *a) {
  size_t size = sizeof(entry) + a->record_count * sizeof(uint16_t) + q->key_size + a->size;
  entry *e = malloc(size);
  if (!e) return NULL;
  *e = (entry){.cost = (uint32_t)size + COST,
               .size = a->size,
               .additional_at = a->additional_at,
               .ttl_count = a->record_count,
               .rcode = a->rcode,
               .answers = a->answers,
               .authorities = a->authorities,
               .additionals = a->additionals,
               .key_size = q->key_size,
               .is_authentic = (a->flags & DNS_AD) != 0};
  memcpy(key_of(e), q->key, q->key_size);
  memcpy(message_of(e), message, a->size);
  dns_answer_note(q, a, &c->clamp, message_of(e), e->ttl_at);
  return e;
}

/* What of it fits; the rest is asked for over TCP (RFC 2181, 9: what is additional may be missing without a word). */
typedef struct part {
  size_t end;
  uint32_t additionals;
  bool is_cut;
} part;

static part part_of(const entry *e, const rille_dns_query *q, size_t room) {
  size_t edns = q->udp_size ? DNS_OPT : 0;
  part p = {.end = e->size, .additionals = e->additionals};
  if (p.end + edns <= room) return p;
  p = (part){.end = e->additional_at};
  if (p.end + edns <= room) return p;
  return (part){.end = DNS_HEADER + q->name_size + 4u, .is_cut = true};
}

static size_t room_of(const rille_dns_query *q) {
  enum { UDP_MIN = 512 };
  if (q->is_stream) return RILLE_DNS_MESSAGE_MAX;
  size_t room = q->udp_size < RILLE_DNS_UDP_MAX ? q->udp_size : RILLE_DNS_UDP_MAX;
  return room > UDP_MIN ? room : UDP_MIN;
}

/* bytes: the client's message, whose letters the question keeps. age: seconds; is_stale: TTLs are STALE_TTL instead. */
static int write(const entry *e, const rille_dns_query *q, const uint8_t *bytes, uint32_t age, bool is_stale,
                 uint8_t *to) {
  part p = part_of(e, q, room_of(q));
  bool wants_ad = q->dnssec_ok || q->flags & DNS_AD;
  uint32_t flags = dns_flags_of(q, e->rcode);
  if (e->is_authentic && wants_ad && !is_stale) flags |= DNS_AD;
  if (p.is_cut) flags |= DNS_TC;
  memcpy(to, message_of(e), p.end);
  dns_put_u16(to, q->id);
  dns_put_u16(to + 2, flags);
  dns_put_u16(to + 6, p.is_cut ? 0 : e->answers);
  dns_put_u16(to + 8, p.is_cut ? 0 : e->authorities);
  dns_put_u16(to + 10, p.additionals + (q->udp_size ? 1 : 0));
  memcpy(to + DNS_HEADER, bytes + DNS_HEADER, q->name_size);
  for (uint32_t i = 0; i < e->ttl_count && e->ttl_at[i] < p.end; i++) {
    uint8_t *ttl = to + e->ttl_at[i];
    uint32_t left = dns_u32(ttl);
    dns_put_u32(ttl, is_stale ? STALE_TTL : left > age ? left - age : 0);
  }
  uint8_t *end = to + p.end;
  if (q->udp_size) end = dns_put_opt(end, q, e->rcode);
  return (int)(end - to);
}

/* ---- calls ----------------------------------------------------------------------------------------------------- */

static uint32_t seconds(double s) { return s >= INT32_MAX ? INT32_MAX : s > 0 ? (uint32_t)s : 0; }

rille_dns_cache *rille_dns_cache_new(const rille_dns_options *options) {
  rille_dns_cache *c = calloc(1, sizeof *c);
  if (!c) return NULL;
  c->options = *options;
  c->clamp = (dns_clamp){seconds(options->ttl_min), seconds(options->ttl_max), seconds(options->negative_max)};
  c->buckets = calloc(BUCKETS_FIRST, sizeof(entry *));
  c->bucket_mask = BUCKETS_FIRST - 1;
  if (c->buckets && getrandom(c->secret, sizeof c->secret, 0) == sizeof c->secret) return c;
  free(c->buckets);
  free(c);
  return NULL;
}

void rille_dns_cache_clear(rille_dns_cache *c) {
  for (entry *e = c->oldest, *newer; e; e = newer) {
    newer = e->newer;
    drop(c, e);
  }
}

void rille_dns_cache_free(rille_dns_cache *c) {
  if (!c) return;
  rille_dns_cache_clear(c);
  free(c->buckets);
  free(c);
}

static int serve_error(rille_dns_cache *c, const rille_dns_query *q, const uint8_t *bytes, int rcode, uint8_t *to) {
  if (rcode < 0) {
    c->ignored++;
    return -1;
  }
  c->errors++;
  return rille_dns_error(q, bytes, rcode, to);
}

int rille_dns_cache_serve(rille_dns_cache *c, const uint8_t *bytes, double size, int is_stream, double now,
                          rille_dns_query *q, uint8_t *to) {
  int rcode = rille_dns_query_read(bytes, size, q);
  if (rcode) return serve_error(c, q, bytes, rcode, to);
  q->is_stream = is_stream != 0;
  entry *e = find(c, q, hash_of(c, q->key, q->key_size));
  if (e && now >= e->gone) {
    drop(c, e);
    e = NULL;
  }
  bool is_fresh = e && now < e->until;
  if (!e || (!is_fresh && now >= e->stale_until)) {
    c->misses++;
    return 0;
  }
  if (e != c->newest) {
    unlink_use(c, e);
    link_newest(c, e);
  }
  c->hits++;
  if (!is_fresh) c->stale++;
  return write(e, q, bytes, seconds(now - e->since), !is_fresh, to);
}

/* In the place of what there was; one that is larger than the cache is dropped. */
static int put(rille_dns_cache *c, const rille_dns_query *q, entry *e, double now, double ttl, double stale) {
  e->hash = hash_of(c, q->key, q->key_size);
  e->since = now;
  e->until = now + ttl;
  e->gone = e->until + stale;
  entry *before = find(c, q, e->hash);
  if (before) drop(c, before);
  if (e->cost > c->options.bytes_max) {
    free(e);
    return 1;
  }
  make_room(c, e->cost);
  add(c, e);
  return 0;
}

/* What was said before does not hold any more, not even when no server answers. */
static void forget(rille_dns_cache *c, const rille_dns_query *q) {
  entry *e = find(c, q, hash_of(c, q->key, q->key_size));
  if (e) drop(c, e);
}

int rille_dns_cache_store(rille_dns_cache *c, const rille_dns_query *q, const uint8_t *message, double size,
                          double now) {
  dns_answer a;
  if (!q->key_size || !(size >= 0) || dns_answer_read(q, message, (size_t)size, &c->clamp, &a)) {
    return RILLE_ERR_SERVER_FAILURE;
  }
  if (!a.ttl) {
    forget(c, q);
    return 1;
  }
  entry *e = make(c, q, message, &a);
  if (!e) return RILLE_ERR_NO_MEMORY;
  return put(c, q, e, now, a.ttl, c->options.stale);
}

int rille_dns_cache_fail(rille_dns_cache *c, const rille_dns_query *q, double for_seconds, double now) {
  uint8_t message[RILLE_DNS_QUERY_MAX] = {0};
  entry *e = find(c, q, hash_of(c, q->key, q->key_size));
  if (e && now < e->gone && e->rcode != RILLE_DNS_SERVFAIL) {
    e->stale_until = now + STALE_FOR;
    return 0;
  }
  memcpy(message + DNS_HEADER, q->key, q->name_size + 4u);
  dns_put_u16(message + 4, 1);
  dns_answer a = {.size = DNS_HEADER + q->name_size + 4u, .rcode = RILLE_DNS_SERVFAIL};
  a.additional_at = a.size;
  e = make(c, q, message, &a);
  if (!e) return RILLE_ERR_NO_MEMORY;
  return put(c, q, e, now, for_seconds, 0);
}

int rille_dns_reply(const rille_dns_cache *c, const rille_dns_query *q, const uint8_t *bytes, const uint8_t *message,
                    double size, uint8_t *to) {
  dns_answer a;
  bool is_good = size >= 0 && dns_answer_read(q, message, (size_t)size, &c->clamp, &a) == RILLE_OK && a.rcode <= 15;
  entry *e = is_good ? make(c, q, message, &a) : NULL;
  if (!e) return rille_dns_error(q, bytes, RILLE_DNS_SERVFAIL, to);
  int used = write(e, q, bytes, 0, false, to);
  free(e);
  return used;
}

void rille_dns_cache_stats(const rille_dns_cache *c, rille_dns_stats *out) {
  *out = (rille_dns_stats){
      .entries = c->count,
      .bytes = (double)c->bytes,
      .hits = c->hits,
      .stale = c->stale,
      .misses = c->misses,
      .errors = c->errors,
      .ignored = c->ignored,
      .evicted = c->evicted,
  };
}
