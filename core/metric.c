/*
 * metric: see metric.h.
 */
#include "metric.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 256, HELP_MAX = 1024 };

typedef struct cell {
  struct cell *next;         /* of the series */
  struct cell *next_written; /* of its writer */
  bool is_taken;
  bool is_gauge;
  uint32_t count;
  double numbers[];
} cell;

typedef struct series {
  struct series *next; /* of the bucket */
  cell *cells;
  size_t size;
  char values[]; /* each ended by NUL */
} series;

struct rille_metric {
  rille_metric *next;
  char name[RILLE_METRIC_NAME_MAX + 1];
  char help[HELP_MAX];
  int type;
  char *labels; /* each ended by NUL */
  size_t labels_size;
  int label_count, bound_count;
  double bounds[RILLE_METRIC_BUCKETS_MAX];
  uint32_t series_count;
  series *buckets[BUCKETS];
};

struct rille_metric_writer {
  cell *cells;
};

/* all under the mutex */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static rille_metric *metrics, *last_metric;
static double metric_count, metrics_max = 1000, series_max = 1000;

void rille_metric_limit(double most_metrics, double most_series) {
  pthread_mutex_lock(&mutex);
  metrics_max = most_metrics;
  series_max = most_series;
  pthread_mutex_unlock(&mutex);
}

/* ---- names ----------------------------------------------------------------------------------------------------- */

static size_t size_of_texts(const char *texts, int count) {
  const char *at = texts;
  for (int i = 0; i < count; i++) at += strlen(at) + 1;
  return (size_t)(at - texts);
}

/* Whether a histogram of that name prints a line that is named like the other metric. */
static bool prints(const char *histogram, const char *other) {
  size_t size = strlen(histogram);
  if (strncmp(histogram, other, size) != 0) return false;
  const char *end = other + size;
  return strcmp(end, "_bucket") == 0 || strcmp(end, "_sum") == 0 || strcmp(end, "_count") == 0;
}

static bool is_same(const rille_metric *m, int type, const char *labels, int label_count, const double *bounds,
                    int bound_count) {
  if (m->type != type || m->label_count != label_count || m->bound_count != bound_count) return false;
  for (int i = 0; i < bound_count; i++) {
    if (m->bounds[i] != bounds[i]) return false;
  }
  return memcmp(m->labels, labels, m->labels_size) == 0;
}

static rille_metric *make(const char *name, int type, const char *labels, int label_count, const double *bounds,
                          int bound_count) {
  rille_metric *m = calloc(1, sizeof *m);
  size_t size = size_of_texts(labels, label_count);
  char *copy = m ? malloc(size + 1) : NULL;
  if (!copy) {
    free(m);
    return NULL;
  }
  memcpy(copy, labels, size);
  snprintf(m->name, sizeof m->name, "%s", name);
  m->type = type;
  m->labels = copy;
  m->labels_size = size;
  m->label_count = label_count;
  m->bound_count = bound_count;
  for (int i = 0; i < bound_count; i++) m->bounds[i] = bounds[i];
  if (last_metric) last_metric->next = m;
  else metrics = m;
  last_metric = m;
  metric_count++;
  return m;
}

rille_metric *rille_metric_open(const char *name, int type, const char *help, const char *labels, int label_count,
                                const double *bounds, int bound_count, int *err) {
  *err = RILLE_OK;
  pthread_mutex_lock(&mutex);
  rille_metric *m = metrics;
  for (; m && strcmp(m->name, name) != 0; m = m->next) {
    if (m->type == RILLE_METRIC_HISTOGRAM && prints(m->name, name)) *err = RILLE_ERR_EXISTS;
    if (type == RILLE_METRIC_HISTOGRAM && prints(name, m->name)) *err = RILLE_ERR_EXISTS;
  }
  if (m) *err = is_same(m, type, labels, label_count, bounds, bound_count) ? RILLE_OK : RILLE_ERR_EXISTS;
  if (!m && !*err) {
    if (metric_count >= metrics_max) *err = RILLE_ERR_FULL;
    else m = make(name, type, labels, label_count, bounds, bound_count);
    if (!m && !*err) *err = RILLE_ERR_NO_MEMORY;
  }
  if (m && !*err && !m->help[0]) snprintf(m->help, sizeof m->help, "%s", help);
  pthread_mutex_unlock(&mutex);
  return *err ? NULL : m;
}

/* ---- series and cells ------------------------------------------------------------------------------------------ */

/* FNV-1a */
static uint32_t bucket_of(const char *values, size_t size) {
  uint32_t hash = 2166136261u;
  for (size_t i = 0; i < size; i++) hash = (hash ^ (uint8_t)values[i]) * 16777619u;
  return (hash ^ hash >> 15) % BUCKETS;
}

static series *find_series(const rille_metric *m, const char *values, size_t size) {
  series *s = m->buckets[bucket_of(values, size)];
  while (s && !(s->size == size && memcmp(s->values, values, size) == 0)) s = s->next;
  return s;
}

static series *make_series(rille_metric *m, const char *values, size_t size) {
  series *s = calloc(1, sizeof *s + size);
  if (!s) return NULL;
  s->size = size;
  memcpy(s->values, values, size);
  series **bucket = &m->buckets[bucket_of(values, size)];
  s->next = *bucket;
  *bucket = s;
  m->series_count++;
  return s;
}

static cell *take_cell(const rille_metric *m, series *s, rille_metric_writer *writer) {
  cell *c = s->cells;
  while (c && c->is_taken) c = c->next;
  if (!c) {
    uint32_t count = m->type == RILLE_METRIC_HISTOGRAM ? (uint32_t)m->bound_count + 2 : 1;
    c = calloc(1, sizeof *c + count * sizeof(double));
    if (!c) return NULL;
    c->count = count;
    c->is_gauge = m->type == RILLE_METRIC_GAUGE;
    c->next = s->cells;
    s->cells = c;
  }
  c->is_taken = true;
  c->next_written = writer->cells;
  writer->cells = c;
  return c;
}

double *rille_metric_cell(rille_metric *m, rille_metric_writer *writer, const char *values, size_t size, int *err) {
  cell *c = NULL;
  *err = RILLE_OK;
  pthread_mutex_lock(&mutex);
  series *s = find_series(m, values, size);
  if (!s && m->series_count >= series_max) *err = RILLE_ERR_FULL;
  else if (!s) s = make_series(m, values, size);
  if (s) c = take_cell(m, s, writer);
  if (!c && !*err) *err = RILLE_ERR_NO_MEMORY;
  pthread_mutex_unlock(&mutex);
  return c ? c->numbers : NULL;
}

rille_metric_writer *rille_metric_writer_new(void) { return calloc(1, sizeof(rille_metric_writer)); }

void rille_metric_writer_free(rille_metric_writer *writer) {
  pthread_mutex_lock(&mutex);
  while (writer->cells) {
    cell *c = writer->cells;
    writer->cells = c->next_written;
    c->is_taken = false;
    if (!c->is_gauge) continue;
    double zero = 0;
    __atomic_store(&c->numbers[0], &zero, __ATOMIC_RELAXED);
  }
  pthread_mutex_unlock(&mutex);
  free(writer);
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

/* Its state may store meanwhile, in one move of 8 aligned bytes: compiled Lua by itself, the interpreter by memcpy, which the thread
 * sanitizer takes for a plain write. */
__attribute__((noinline, no_sanitize_thread)) static double sum_of(const series *s, uint32_t index) {
  double sum = 0;
  for (const cell *c = s->cells; c; c = c->next) {
    double number = 0;
    if (index < c->count) __atomic_load(&c->numbers[index], &number, __ATOMIC_RELAXED);
    sum += number;
  }
  return sum;
}

double rille_metric_read(rille_metric *m, const char *values, size_t size, int index) {
  pthread_mutex_lock(&mutex);
  const series *s = find_series(m, values, size);
  double sum = s ? sum_of(s, (uint32_t)index) : 0;
  pthread_mutex_unlock(&mutex);
  return sum;
}

void rille_metric_escape(rille_text *t, const char *text, bool is_label) {
  for (; *text; text++) {
    if (*text == '\\') rille_text_add(t, "\\\\", 2);
    else if (*text == '\n') rille_text_add(t, "\\n", 2);
    else if (*text == '"' && is_label) rille_text_add(t, "\\\"", 2);
    else rille_text_add(t, text, 1);
  }
}

/* {a="1",b="2"}, with le, where it is given, behind the others */
static void write_labels(rille_text *t, const rille_metric *m, const series *s, const char *le) {
  if (m->label_count == 0 && !le) return;
  const char *name = m->labels, *value = s->values;
  rille_text_add(t, "{", 1);
  for (int i = 0; i < m->label_count; i++) {
    rille_text_printf(t, "%s%s=\"", i ? "," : "", name);
    rille_metric_escape(t, value, true);
    rille_text_add(t, "\"", 1);
    name += strlen(name) + 1;
    value += strlen(value) + 1;
  }
  if (le) rille_text_printf(t, "%sle=\"%s\"", m->label_count ? "," : "", le);
  rille_text_add(t, "}", 1);
}

static void write_line(rille_text *t, const rille_metric *m, const series *s, const char *suffix, const char *le,
                       double value) {
  rille_text_printf(t, "%s%s", m->name, suffix);
  write_labels(t, m, s, le);
  rille_text_printf(t, " %.17g\n", value);
}

static void write_histogram(rille_text *t, const rille_metric *m, const series *s) {
  double count = 0;
  for (int i = 0; i <= m->bound_count; i++) {
    char le[32] = "+Inf";
    if (i < m->bound_count) snprintf(le, sizeof le, "%.15g", m->bounds[i]);
    count += sum_of(s, (uint32_t)i + 1);
    write_line(t, m, s, "_bucket", le, count);
  }
  write_line(t, m, s, "_sum", NULL, sum_of(s, 0));
  write_line(t, m, s, "_count", NULL, count);
}

static void write_metric(rille_text *t, const rille_metric *m) {
  static const char *const types[] = {"", "counter", "gauge", "histogram"};
  if (m->help[0]) {
    rille_text_printf(t, "# HELP %s ", m->name);
    rille_metric_escape(t, m->help, false);
    rille_text_add(t, "\n", 1);
  }
  rille_text_printf(t, "# TYPE %s %s\n", m->name, types[m->type]);
  for (int i = 0; i < BUCKETS; i++) {
    for (const series *s = m->buckets[i]; s; s = s->next) {
      if (m->type == RILLE_METRIC_HISTOGRAM) write_histogram(t, m, s);
      else write_line(t, m, s, "", NULL, sum_of(s, 0));
    }
  }
}

void rille_metrics_write(rille_text *t) {
  pthread_mutex_lock(&mutex);
  for (const rille_metric *m = metrics; m; m = m->next) write_metric(t, m);
  pthread_mutex_unlock(&mutex);
}
