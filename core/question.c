/*
 * question: see question.h. Questions stand in a hash table of their resolver from the moment they are asked; what may be kept of the answers stays
 * there, in a list by last use, until it is too old or there are too many.
 */
#include "question.h"

#include "loop.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static uint32_t hash_of(const char *name, int type) {
  uint32_t hash = 2166136261u ^ (uint32_t)type;
  for (; *name; name++) hash = (hash ^ (uint8_t)*name) * 16777619u;
  return hash ^ hash >> 15;
}

static rille_question **bucket_of(const rille_resolver *r, uint32_t hash) {
  return &r->buckets[hash & (r->bucket_count - 1)];
}

static void grow(rille_resolver *r) {
  uint32_t wanted = r->bucket_count * 2;
  rille_question **buckets = calloc(wanted, sizeof(rille_question *));
  if (!buckets) return; /* longer chains, then */
  for (uint32_t i = 0; i < r->bucket_count; i++) {
    while (r->buckets[i]) {
      rille_question *q = r->buckets[i];
      r->buckets[i] = q->next_in_bucket;
      q->next_in_bucket = buckets[q->hash & (wanted - 1)];
      buckets[q->hash & (wanted - 1)] = q;
    }
  }
  free(r->buckets);
  r->buckets = buckets;
  r->bucket_count = wanted;
}

static rille_question *find(const rille_resolver *r, const char *name, int type) {
  uint32_t hash = hash_of(name, type);
  rille_question *q = *bucket_of(r, hash);
  while (q && !(q->hash == hash && q->type == type && strcmp(q->name, name) == 0)) q = q->next_in_bucket;
  return q;
}

static rille_question *make(rille_resolver *r, const char *name, int type) {
  if (r->asking + r->cached >= r->bucket_count) grow(r);
  size_t size = strlen(name) + 1;
  rille_question *q = calloc(1, sizeof *q + size);
  if (!q) return NULL;
  q->resolver = r;
  q->type = type;
  q->hash = hash_of(name, type);
  memcpy(q->name, name, size);
  rille_question **bucket = bucket_of(r, q->hash);
  q->next_in_bucket = *bucket;
  *bucket = q;
  r->asking++;
  return q;
}

/* ---- the cache ------------------------------------------------------------------------------------------------- */

static void unlink_use(rille_question *q) {
  rille_resolver *r = q->resolver;
  *(q->older ? &q->older->newer : &r->oldest) = q->newer;
  *(q->newer ? &q->newer->older : &r->newest) = q->older;
  q->older = q->newer = NULL;
}

static void link_use(rille_question *q) {
  rille_resolver *r = q->resolver;
  q->older = r->newest;
  *(r->newest ? &r->newest->newer : &r->oldest) = q;
  r->newest = q;
}

static void remove_hash(const rille_question *q) {
  rille_question **at = bucket_of(q->resolver, q->hash);
  while (*at != q) at = &(*at)->next_in_bucket;
  *at = q->next_in_bucket;
}

static void destroy(rille_question *q) {
  rille_answer_drop(q->answer);
  free(q);
}

static void forget(rille_question *q) {
  remove_hash(q);
  unlink_use(q);
  q->resolver->cached--;
  destroy(q);
}

static void forget_oldest(rille_resolver *r) {
  rille_question *q = r->oldest;
  r->oldest = q->newer;
  *(q->newer ? &q->newer->older : &r->newest) = NULL;
  remove_hash(q);
  r->cached--;
  destroy(q);
}

static void keep(rille_question *q) {
  rille_resolver *r = q->resolver;
  while (r->cached >= r->options.cache) forget_oldest(r);
  link_use(q);
  r->cached++;
}

/* ---- asking ---------------------------------------------------------------------------------------------------- */

static void join(rille_question *q, rille_lookup *l) {
  l->question = q;
  l->next = q->waiters;
  q->waiters = l;
}

void rille_question_leave(rille_lookup *l) {
  if (!l->question) return;
  rille_lookup **at = &l->question->waiters;
  while (*at != l) at = &(*at)->next;
  *at = l->next;
  l->question = NULL;
}

/* It has been answered: those who wait hear of it, one by one, because each may make others leave. */
static void tell(rille_question *q) {
  int err = q->err;
  rille_answer *answer = q->answer ? rille_answer_keep(q->answer) : NULL;
  while (q->waiters) {
    rille_lookup *l = q->waiters;
    rille_question_leave(l);
    rille_lookup_answered(l, err, answer);
  }
  rille_answer_drop(answer);
}

/* From now on it is in the cache, or in nothing but the caller's hands. */
static bool settle(rille_question *q) {
  rille_resolver *r = q->resolver;
  q->is_known = true;
  r->asking--;
  if (q->until_ms > r->loop->clock_ms && r->options.cache > 0) return true;
  remove_hash(q);
  return false;
}

static bool look_at_cache(rille_resolver *r, rille_question *q, int *err, rille_answer **answer) {
  if (q->until_ms <= r->loop->clock_ms) {
    forget(q);
    return false;
  }
  unlink_use(q);
  link_use(q);
  r->hits++;
  *err = q->err;
  *answer = q->answer;
  return true;
}

bool rille_question_ask(rille_resolver *r, const char *name, int type, rille_lookup *l, int *err,
                        rille_answer **answer) {
  *answer = NULL;
  r->questions++;
  rille_question *q = find(r, name, type);
  if (q && !q->is_known) {
    join(q, l);
    return false;
  }
  if (q && look_at_cache(r, q, err, answer)) return true;
  q = r->asking < RILLE_RESOLVER_QUESTIONS ? make(r, name, type) : NULL;
  if (!q) {
    *err = r->asking < RILLE_RESOLVER_QUESTIONS ? RILLE_ERR_NO_MEMORY : RILLE_ERR_FULL;
    return true;
  }
  q->is_starting = true;
  join(q, l);
  int failed = rille_resolver_send(r, q, name, type);
  q->is_starting = false;
  if (failed) q->err = failed;
  if (!failed && !q->is_known) return false;
  /* It was answered while it was sent: such answers are errors, and not kept. */
  rille_question_leave(l);
  *err = q->err;
  if (!q->is_known) r->asking--;
  remove_hash(q);
  destroy(q);
  return true;
}

/* ---- answers --------------------------------------------------------------------------------------------------- */

static int err_of_rcode(int rcode) {
  enum { SERVFAIL = 2, NOTIMP = 4, REFUSED = 5 };
  if (rcode == REFUSED) return RILLE_ERR_REFUSED;
  return rcode == SERVFAIL || rcode == NOTIMP ? RILLE_ERR_SERVER_FAILURE : RILLE_OK;
}

void rille_question_note(rille_resolver *r, const uint8_t *message, size_t size) {
  enum { HEADER = 12, CODE = 3 };
  int err = size > HEADER ? err_of_rcode(message[CODE] & 15) : RILLE_OK;
  if (!err) return;
  char *name = NULL;
  long used = 0;
  if (ares_expand_name(message + HEADER, message, (int)size, &name, &used) != ARES_SUCCESS) return;
  size_t at = HEADER + (size_t)used;
  for (char *c = name; *c; c++) *c = (char)(*c >= 'A' && *c <= 'Z' ? *c | 0x20 : *c);
  rille_question *q = at + 2 <= size ? find(r, name, message[at] << 8 | message[at + 1]) : NULL;
  if (q && !q->is_known) q->noted = err;
  ares_free_string(name);
}

static int err_of_status(int status, const rille_question *q) {
  switch (status) {
  case ARES_SUCCESS: return RILLE_OK;
  case ARES_ENODATA:
  case ARES_ENOTFOUND: return RILLE_ERR_NOT_FOUND;
  case ARES_ETIMEOUT: return q->noted ? q->noted : RILLE_ERR_TIMEOUT;
  case ARES_EREFUSED: return RILLE_ERR_REFUSED;
  case ARES_ECONNREFUSED: return q->noted ? q->noted : RILLE_ERR_REFUSED;
  case ARES_ENOMEM: return RILLE_ERR_NO_MEMORY;
  case ARES_EBADNAME:
  case ARES_EBADQUERY: return RILLE_ERR_INVALID;
  case ARES_ECANCELLED:
  case ARES_EDESTRUCTION: return RILLE_ERR_CANCELLED;
  default: return RILLE_ERR_SERVER_FAILURE;
  }
}

void rille_question_answered(void *arg, int status, int timeouts, unsigned char *message, int size) {
  (void)timeouts;
  rille_question *q = arg;
  rille_resolver *r = q->resolver;
  uint32_t ttl = 0;
  q->err = err_of_status(status, q);
  if (status == ARES_SUCCESS && message)
    q->answer = rille_answer_read(message, (size_t)size, q->name, q->type, &q->err, &ttl);
  else if (q->err == RILLE_ERR_NOT_FOUND && message) ttl = rille_answer_negative_ttl(message, (size_t)size);
  uint64_t ms = (q->answer ? (uint64_t)q->answer->ttl : ttl) * 1000;
  if (!q->answer && (double)ms > r->options.negative_ms) ms = (uint64_t)r->options.negative_ms;
  if (q->err == RILLE_OK || q->err == RILLE_ERR_NOT_FOUND) q->until_ms = ms ? r->loop->clock_ms + ms : 0;
  if (q->is_starting) {
    q->until_ms = 0;
    r->asking--;
    q->is_known = true;
    return;
  }
  bool is_kept = settle(q);
  if (is_kept) keep(q); /* it is the newest one, and stays while they hear of it */
  tell(q);
  if (!is_kept) destroy(q);
}

void rille_questions_end(rille_resolver *r) {
  while (r->oldest) forget_oldest(r);
}
