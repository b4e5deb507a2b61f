/*
 * table: the yardstick for rille.dict: the least C that several threads can share, a chained hash table under one mutex. No bound, no
 * times to live, no order of use; each key is a block of its own from malloc. Loaded through the FFI by dict_work.lua.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 1 << 16 };

struct entry {
  struct entry *next;
  size_t key_size, size;
  double number;
  char *bytes;
  char key[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry *buckets[BUCKETS];

static struct entry **find(const char *key, size_t key_size) {
  uint64_t hash = 14695981039346656037u; /* FNV-1a */
  for (size_t i = 0; i < key_size; i++) hash = (hash ^ (uint8_t)key[i]) * 1099511628211u;
  struct entry **at = &buckets[hash % BUCKETS];
  while (*at && ((*at)->key_size != key_size || memcmp((*at)->key, key, key_size) != 0)) at = &(*at)->next;
  return at;
}

static struct entry *find_or_make(const char *key, size_t key_size) {
  struct entry **at = find(key, key_size);
  if (*at) return *at;
  struct entry *e = calloc(1, sizeof *e + key_size);
  if (!e) abort();
  e->key_size = key_size;
  memcpy(e->key, key, key_size);
  return *at = e;
}

void table_set(const char *key, size_t key_size, const char *bytes, size_t size) {
  pthread_mutex_lock(&lock);
  struct entry *e = find_or_make(key, key_size);
  if (e->size != size || !e->bytes) {
    free(e->bytes);
    e->bytes = malloc(size ? size : 1);
    if (!e->bytes) abort();
    e->size = size;
  }
  memcpy(e->bytes, bytes, size);
  pthread_mutex_unlock(&lock);
}

/* Bytes of the value, which are in `to` if there was room; -1 without one. */
double table_get(const char *key, size_t key_size, char *to, size_t room) {
  pthread_mutex_lock(&lock);
  const struct entry *e = *find(key, key_size);
  double size = e ? (double)e->size : -1;
  if (e && e->size <= room) memcpy(to, e->bytes, e->size);
  pthread_mutex_unlock(&lock);
  return size;
}

double table_incr(const char *key, size_t key_size, double by) {
  pthread_mutex_lock(&lock);
  double number = find_or_make(key, key_size)->number += by;
  pthread_mutex_unlock(&lock);
  return number;
}
