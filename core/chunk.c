/*
 * chunk: see chunk.h. First the sets of the process, then the table of one, then what is asked of it.
 */
#include "chunk.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUCKETS_FIRST = 128 };

/* A path: a file, or none, or (looked for in vain, later loaded by name) both. */
struct entry {
  struct entry *next;
  uint64_t hash;
  const rille_chunk *file; /* owned */
  char *absolute;          /* owned, or path */
  uint32_t miss_index;     /* of set->misses, plus 1; 0: it is none */
  bool is_module;          /* a module's name stands for it */
  bool is_passed;          /* a module's name stands for a path behind it: never with is_module */
  char path[];
};

struct list {
  struct entry **items;
  uint32_t count, capacity;
};

struct rille_chunks {
  /* immutable after init */
  double id;
  char *label;

  /* under the lock of all sets */
  uint32_t refs;
  struct rille_chunks *next;

  /* under its own */
  pthread_mutex_t lock;
  struct entry **buckets;
  uint32_t bucket_count; /* a power of two */
  uint32_t entry_count;
  struct list files, misses;
  struct list former; /* entries of their own, that hold chunks which did not compile and were replaced */
  double bytes, version;
};

static struct {
  pthread_mutex_t lock;
  rille_chunks *first;
  double last_id;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Atomic(rille_chunks *) library; /* never freed */
static _Atomic(char *) library_root;    /* the same */

/* ---- sets ------------------------------------------------------------------------------------------------------ */

static void free_entry(struct entry *e) {
  if (e->file) free((void *)(uintptr_t)e->file->bytes);
  free((void *)(uintptr_t)e->file);
  if (e->absolute != e->path) free(e->absolute);
  free(e);
}

static void destroy(rille_chunks *set) {
  for (uint32_t i = 0; i < set->bucket_count; i++) {
    for (struct entry *e = set->buckets[i]; e;) {
      struct entry *next = e->next;
      free_entry(e);
      e = next;
    }
  }
  for (uint32_t i = 0; i < set->former.count; i++) free_entry(set->former.items[i]);
  free(set->buckets);
  free(set->files.items);
  free(set->misses.items);
  free(set->former.items);
  free(set->label);
  pthread_mutex_destroy(&set->lock);
  free(set);
}

static rille_chunks *make(const char *label) {
  rille_chunks *set = calloc(1, sizeof *set);
  if (!set) return NULL;
  set->refs = 1;
  set->bucket_count = BUCKETS_FIRST;
  set->buckets = calloc(BUCKETS_FIRST, sizeof(struct entry *));
  set->label = strdup(label);
  pthread_mutex_init(&set->lock, NULL);
  if (set->buckets && set->label) return set;
  set->bucket_count = 0;
  destroy(set);
  return NULL;
}

rille_chunks *rille_chunks_new(const char *label, int *err) {
  rille_chunks *set = make(label);
  *err = set ? RILLE_OK : RILLE_ERR_NO_MEMORY;
  if (!set) return NULL;
  pthread_mutex_lock(&all.lock);
  set->id = ++all.last_id;
  set->next = all.first;
  all.first = set;
  pthread_mutex_unlock(&all.lock);
  return set;
}

double rille_chunks_id(const rille_chunks *set) { return set->id; }

const char *rille_chunks_label(const rille_chunks *set) { return set->label; }

rille_chunks *rille_chunks_find(double id) {
  pthread_mutex_lock(&all.lock);
  rille_chunks *set = all.first;
  while (set && set->id != id) set = set->next;
  if (set) set->refs++;
  pthread_mutex_unlock(&all.lock);
  return set;
}

void rille_chunks_release(rille_chunks *set) {
  pthread_mutex_lock(&all.lock);
  bool is_last = --set->refs == 0;
  if (is_last) {
    rille_chunks **at = &all.first;
    while (*at != set) at = &(*at)->next;
    *at = set->next;
  }
  pthread_mutex_unlock(&all.lock);
  if (is_last) destroy(set);
}

rille_chunks *rille_chunks_library(void) {
  rille_chunks *set = atomic_load(&library);
  if (set) return set;
  rille_chunks *mine = make("rille");
  if (mine && !atomic_compare_exchange_strong(&library, &set, mine)) destroy(mine);
  return atomic_load(&library);
}

void rille_chunks_set_library(const char *root) {
  if (atomic_load(&library_root)) return;
  char *mine = strdup(root), *none = NULL;
  if (mine && !atomic_compare_exchange_strong(&library_root, &none, mine)) free(mine);
}

const char *rille_chunks_library_root(void) { return atomic_load(&library_root); }

bool rille_chunks_is_library(const char *path) {
  static const char folder[] = "rille/";
  const char *root = rille_chunks_library_root();
  size_t size = root ? strlen(root) : 0;
  return root && strncmp(path, root, size) == 0 && strncmp(path + size, folder, sizeof folder - 1) == 0;
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

static uint64_t hash_of(const char *path) {
  rille_digest d;
  size_t size = strlen(path), whole = size & ~(size_t)7;
  rille_digest_begin(&d);
  rille_digest_add(&d, path, whole);
  return rille_digest_end(&d, path + whole, size - whole);
}

static struct entry *find(const rille_chunks *set, const char *path, uint64_t hash) {
  struct entry *e = set->buckets[hash & (set->bucket_count - 1)];
  while (e && (e->hash != hash || strcmp(e->path, path) != 0)) e = e->next;
  return e;
}

static void grow(rille_chunks *set) {
  uint32_t count = set->bucket_count * 2;
  struct entry **buckets = calloc(count, sizeof(struct entry *));
  if (!buckets) return; /* longer chains, then */
  for (uint32_t i = 0; i < set->bucket_count; i++) {
    for (struct entry *e = set->buckets[i]; e;) {
      struct entry *next = e->next, **bucket = &buckets[e->hash & (count - 1)];
      e->next = *bucket;
      *bucket = e;
      e = next;
    }
  }
  free(set->buckets);
  set->buckets = buckets;
  set->bucket_count = count;
}

/* From the root on; NULL: no memory. Where there is no current folder any more the path stays as it is. */
static char *absolute_of(const char *path) {
  char folder[4096]; /* PATH_MAX */
  if (path[0] == '/' || !getcwd(folder, sizeof folder)) return strdup(path);
  while (path[0] == '.' && path[1] == '/') path += 2;
  char *absolute = NULL;
  const char *slash = folder[1] ? "/" : ""; /* the folder may be the root */
  return asprintf(&absolute, "%s%s%s", folder, slash, path) < 0 ? NULL : absolute;
}

static struct entry *make_entry(const char *path, uint64_t hash) {
  size_t size = strlen(path) + 1;
  struct entry *e = calloc(1, sizeof *e + size);
  if (!e) return NULL;
  e->hash = hash;
  memcpy(e->path, path, size);
  e->absolute = path[0] == '/' ? e->path : absolute_of(path);
  if (e->absolute) return e;
  free(e);
  return NULL;
}

static struct entry *find_or_add(rille_chunks *set, const char *path) {
  uint64_t hash = hash_of(path);
  struct entry *e = find(set, path, hash);
  if (e) return e;
  e = make_entry(path, hash);
  if (!e) return NULL;
  if (set->entry_count >= set->bucket_count) grow(set);
  struct entry **bucket = &set->buckets[hash & (set->bucket_count - 1)];
  e->next = *bucket;
  *bucket = e;
  set->entry_count++;
  return e;
}

/* There is room for one more behind this. */
static bool reserve(struct list *list) {
  if (list->count < list->capacity) return true;
  uint32_t capacity = list->capacity ? list->capacity * 2 : 16;
  struct entry **items = realloc(list->items, capacity * sizeof(struct entry *));
  if (!items) return false;
  list->items = items;
  list->capacity = capacity;
  return true;
}

/* ---- misses ---------------------------------------------------------------------------------------------------- */

/* What cannot be kept is not watched, and that is all. NULL then. */
static struct entry *add_miss(rille_chunks *set, const char *path) {
  struct entry *e = find(set, path, hash_of(path));
  if (e && (e->miss_index || (e->file && !e->is_passed))) return e;
  if (set->misses.count == RILLE_CHUNK_MISSES_MAX || !reserve(&set->misses)) return NULL;
  if (!e) e = find_or_add(set, path);
  if (!e) return NULL;
  set->misses.items[set->misses.count++] = e;
  e->miss_index = set->misses.count;
  set->version++;
  return e;
}

static void drop_miss(rille_chunks *set, struct entry *e) {
  if (!e->miss_index) return;
  struct entry *last = set->misses.items[--set->misses.count];
  set->misses.items[e->miss_index - 1] = last;
  last->miss_index = e->miss_index;
  e->miss_index = 0;
}

void rille_chunks_note_miss(rille_chunks *set, const char *path) {
  pthread_mutex_lock(&set->lock);
  add_miss(set, path);
  pthread_mutex_unlock(&set->lock);
}

bool rille_chunks_is_passed(rille_chunks *set, const char *path) {
  pthread_mutex_lock(&set->lock);
  const struct entry *e = find(set, path, hash_of(path));
  bool is_passed = e && e->is_passed;
  pthread_mutex_unlock(&set->lock);
  return is_passed;
}

static bool may_settle(const rille_chunks *set, const struct entry *e, const char *before, const char *end) {
  if (e->is_passed) return false;
  for (; before < end; before += strlen(before) + 1) {
    const struct entry *other = find(set, before, hash_of(before));
    if (other && other->is_module && other != e) return false;
  }
  return true;
}

bool rille_chunks_settle(rille_chunks *set, const char *path, const char *before, size_t before_size) {
  const char *end = before + before_size;
  pthread_mutex_lock(&set->lock);
  struct entry *e = find(set, path, hash_of(path));
  bool is_settled = may_settle(set, e, before, end);
  if (is_settled) e->is_module = true;
  for (; is_settled && before < end; before += strlen(before) + 1) {
    struct entry *miss = add_miss(set, before);
    if (miss && miss != e) miss->is_passed = true;
  }
  pthread_mutex_unlock(&set->lock);
  return is_settled;
}

/* ---- files ----------------------------------------------------------------------------------------------------- */

static void write_hash(char *to, uint64_t hash) { snprintf(to, RILLE_CHUNK_HASH, "%016llx", (unsigned long long)hash); }

static rille_chunk *make_chunk(const rille_source *source, int kind, char *bytes, size_t bytes_size) {
  rille_chunk *c = malloc(sizeof *c);
  if (!c) return NULL;
  *c = (rille_chunk){
      .bytes = bytes,
      .bytes_size = (double)bytes_size,
      .size = (double)source->size,
      .device = (double)source->stat.st_dev,
      .inode = (double)source->stat.st_ino,
      .mtime_s = (double)source->stat.st_mtim.tv_sec,
      .mtime_ns = (double)source->stat.st_mtim.tv_nsec,
      .kind = kind,
      .is_text = !(source->bytes && source->size > 0 && source->bytes[0] == '\033'),
  };
  write_hash(c->hash, source->hash);
  return c;
}

static bool stays(const rille_chunk *old, const rille_chunk *c) {
  if (!old) return false;
  if (c->kind == RILLE_CHUNK_LUA) return old->kind == RILLE_CHUNK_LUA; /* data may be code as well */
  return old->kind != RILLE_CHUNK_BROKEN || c->kind != old->kind || strcmp(old->hash, c->hash) == 0;
}

/* The old chunk lives on, in an entry that nobody finds: somebody may look at it. */
static bool put_aside(rille_chunks *set, struct entry *e) {
  struct entry *former = reserve(&set->former) ? calloc(1, sizeof *former + 1) : NULL;
  if (!former) return false;
  former->absolute = former->path;
  former->file = e->file;
  set->former.items[set->former.count++] = former;
  return true;
}

/* NULL: c is the caller's still */
static const rille_chunk *put(rille_chunks *set, const char *path, rille_chunk *c, int *err) {
  struct entry *e = find(set, path, hash_of(path));
  if (e && stays(e->file, c)) return e->file;
  *err = RILLE_ERR_FULL;
  if (set->files.count + set->former.count >= RILLE_CHUNK_FILES_MAX) return NULL;
  if (set->bytes + c->bytes_size > RILLE_CHUNK_BYTES_MAX) return NULL;
  *err = RILLE_ERR_NO_MEMORY;
  if (!reserve(&set->files)) return NULL;
  if (!e) e = find_or_add(set, path);
  if (!e || (e->file && !put_aside(set, e))) return NULL;
  if (!e->file) set->files.items[set->files.count++] = e;
  if (!e->is_passed) drop_miss(set, e);
  c->path = e->path;
  c->absolute = e->absolute;
  e->file = c;
  set->bytes += c->bytes_size;
  set->version++;
  return c;
}

const rille_chunk *rille_chunks_put(rille_chunks *set, const char *path, const rille_source *source, int kind,
                                    char *bytes, size_t bytes_size, int *err) {
  *err = RILLE_ERR_NO_MEMORY;
  rille_chunk *c = make_chunk(source, kind, bytes, bytes_size);
  const rille_chunk *kept = NULL;
  if (c) {
    pthread_mutex_lock(&set->lock);
    kept = put(set, path, c, err);
    pthread_mutex_unlock(&set->lock);
  }
  if (kept) *err = RILLE_OK;
  if (kept == c && c) return kept;
  free(c);
  free(bytes);
  return kept;
}

const rille_chunk *rille_chunks_look(rille_chunks *set, const char *path) {
  pthread_mutex_lock(&set->lock);
  const struct entry *e = find(set, path, hash_of(path));
  const rille_chunk *file = e ? e->file : NULL;
  pthread_mutex_unlock(&set->lock);
  return file;
}

int rille_chunks_note(rille_chunks *set, const char *path, int kind) {
  rille_source source;
  int err;
  if (rille_chunks_look(set, path)) return RILLE_OK;
  int result = rille_source_read(&source, path, false);
  if (result == RILLE_SOURCE_READ) {
    rille_chunks_put(set, path, &source, kind, NULL, 0, &err);
    return err;
  }
  if (result == RILLE_SOURCE_ABSENT) rille_chunks_note_miss(set, path);
  return rille_err_from_errno(source.error_number);
}

/* ---- to look at ------------------------------------------------------------------------------------------------ */

static double read_number(rille_chunks *set, const double *number, const uint32_t *count) {
  pthread_mutex_lock(&set->lock);
  double value = number ? *number : (count ? *count : 0);
  pthread_mutex_unlock(&set->lock);
  return value;
}

double rille_chunks_count(rille_chunks *set) { return read_number(set, NULL, &set->files.count); }

double rille_chunks_misses(rille_chunks *set) { return read_number(set, NULL, &set->misses.count); }

double rille_chunks_bytes(rille_chunks *set) { return read_number(set, &set->bytes, NULL); }

double rille_chunks_version(rille_chunks *set) { return read_number(set, &set->version, NULL); }

const rille_chunk *rille_chunks_file(rille_chunks *set, double index) {
  pthread_mutex_lock(&set->lock);
  bool is_there = index >= 0 && index < set->files.count;
  const rille_chunk *file = is_there ? set->files.items[(uint32_t)index]->file : NULL;
  pthread_mutex_unlock(&set->lock);
  return file;
}

const char *rille_chunks_miss(rille_chunks *set, double index) {
  pthread_mutex_lock(&set->lock);
  bool is_there = index >= 0 && index < set->misses.count;
  const char *path = is_there ? set->misses.items[(uint32_t)index]->absolute : NULL;
  pthread_mutex_unlock(&set->lock);
  return path;
}

static bool has_changed(const rille_chunk *c) {
  struct stat s;
  rille_source now;
  char hash[RILLE_CHUNK_HASH];
  if (stat(c->absolute, &s) != 0) return true;
  if ((double)s.st_size == c->size && (double)s.st_ino == c->inode && (double)s.st_dev == c->device &&
      (double)s.st_mtim.tv_sec == c->mtime_s && (double)s.st_mtim.tv_nsec == c->mtime_ns)
    return false;
  if (rille_source_read(&now, c->absolute, false) != RILLE_SOURCE_READ) return !rille_err_is_shortage(now.error_number);
  write_hash(hash, now.hash);
  return strcmp(hash, c->hash) != 0;
}

const char *rille_chunks_changed(rille_chunks *set) {
  const rille_chunk *c;
  for (double i = 0; (c = rille_chunks_file(set, i)); i++) { /* NOLINT(*FLP30-C,*float-loop-counter) */
    if (has_changed(c)) return c->absolute;
  }
  for (double i = rille_chunks_misses(set); i-- > 0;) {
    const char *path = rille_chunks_miss(set, i);
    if (path && access(path, R_OK) == 0) return path;
  }
  return NULL;
}

static int compare(const void *a, const void *b) {
  return strcmp((*(const rille_chunk *const *)a)->path, (*(const rille_chunk *const *)b)->path);
}

int rille_chunks_hash(rille_chunks *set, char *out) {
  pthread_mutex_lock(&set->lock);
  uint32_t count = set->files.count;
  const rille_chunk **files = malloc((count + 1) * sizeof(const rille_chunk *));
  for (uint32_t i = 0; files && i < count; i++) files[i] = set->files.items[i]->file;
  pthread_mutex_unlock(&set->lock);
  if (!files) return RILLE_ERR_NO_MEMORY;
  qsort(files, count, sizeof(const rille_chunk *), compare);
  rille_digest d;
  rille_digest_begin(&d);
  for (uint32_t i = 0; i < count; i++) rille_digest_add(&d, files[i]->hash, RILLE_CHUNK_HASH - 1);
  write_hash(out, rille_digest_end(&d, "", 0));
  free(files);
  return RILLE_OK;
}
