/*
 * log: levels, the rate limit of each call site, and the way of a record: admit, format (logline), put (logsink). Any
 * thread may call; all state is atomic or behind the sink's mutexes, and nothing here allocates or waits for a reader.
 */
#include "log.h"

#include "logline.h"
#include "logsink.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
  SITES = 1024, /* of Lua call sites; a power of two */
  SITE_PROBES = 8,
  RATE_DEFAULT = 10
};

_Atomic int rille_log_threshold = RILLE_LOG_INFO;

/* any thread, atomic */
static _Atomic int log_format = RILLE_LOG_LOGFMT;
static _Atomic uint32_t log_rate = RATE_DEFAULT;
static _Atomic uint64_t written[RILLE_LOG_OFF];
static _Atomic uint64_t suppressed_total;
static _Atomic uint64_t dropped_total;
static _Atomic uint64_t dropped_unreported;
static struct {
  _Atomic uint32_t key; /* 0: free */
  rille_log_site site;
} sites[SITES];

/* immutable once there are threads */
static uint32_t log_process;

/* of each thread */
static _Thread_local uint32_t thread_loop;

static void add(_Atomic uint64_t *counter, uint64_t n) { atomic_fetch_add_explicit(counter, n, memory_order_relaxed); }

static uint64_t value_of(_Atomic uint64_t *counter) { return atomic_load_explicit(counter, memory_order_relaxed); }

/* ---- the rate of a call site ---- */

int rille_log_site_admit(rille_log_site *site, uint32_t second, uint32_t *suppressed) {
  uint32_t rate = atomic_load_explicit(&log_rate, memory_order_relaxed);
  uint64_t before = atomic_load_explicit(&site->window, memory_order_relaxed);
  uint64_t after;
  do {
    uint32_t records = (uint32_t)before;
    *suppressed = 0;
    if ((uint32_t)(before >> 32) != second) {
      *suppressed = rate > 0 && records > rate ? records - rate : 0;
      records = 0;
    }
    after = (uint64_t)second << 32 | (records < UINT32_MAX ? records + 1 : records);
  } while (!atomic_compare_exchange_weak_explicit(&site->window, &before, after, memory_order_relaxed,
                                                  memory_order_relaxed));
  return rate == 0 || (uint32_t)after <= rate;
}

/* The site of a key that Lua made from source and line. Keys hash into a short run of entries; when all of them
 * are taken, the one that has been silent longest changes hands, so that lines of scripts long gone do not fill
 * the table. */
static rille_log_site *site_of(uint32_t key) {
  size_t oldest = 0;
  uint32_t oldest_second = UINT32_MAX;
  for (size_t probe = 0; probe < SITE_PROBES; probe++) {
    size_t i = (key + probe) & (SITES - 1);
    uint32_t found = atomic_load_explicit(&sites[i].key, memory_order_relaxed);
    if (found == key || (found == 0 && (atomic_compare_exchange_strong(&sites[i].key, &found, key) || found == key))) {
      return &sites[i].site;
    }
    uint32_t second = (uint32_t)(atomic_load_explicit(&sites[i].site.window, memory_order_relaxed) >> 32);
    if (second <= oldest_second) {
      oldest = i;
      oldest_second = second;
    }
  }
  atomic_store_explicit(&sites[oldest].key, key, memory_order_relaxed);
  atomic_store_explicit(&sites[oldest].site.window, 0, memory_order_relaxed);
  return &sites[oldest].site;
}

static uint32_t steady_second(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return (uint32_t)now.tv_sec;
}

/* ---- records ---- */

static void begin(rille_logline *line, int level, const char *message, size_t size) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  rille_logline_begin(line, atomic_load_explicit(&log_format, memory_order_relaxed), &now, level, message, size);
}

/* One line for all that were dropped since the last such line. */
static size_t drop_report(rille_logline *line, uint64_t lost) {
  static const char message[] = "log lines were dropped because the target did not take them";
  begin(line, RILLE_LOG_WARN, message, sizeof message - 1);
  rille_logline_integer(line, "dropped", (double)lost);
  return rille_logline_end(line);
}

/* Out of line, so that its buffer is on the stack only when it is needed. */
__attribute__((noinline)) static int report_drops(void) {
  uint64_t lost = atomic_exchange_explicit(&dropped_unreported, 0, memory_order_relaxed);
  if (lost == 0) {
    return 1;
  }
  rille_logline line;
  if (rille_logsink_put(line.bytes, drop_report(&line, lost))) {
    add(&written[RILLE_LOG_WARN], 1);
    return 1;
  }
  add(&dropped_unreported, lost);
  return 0;
}

static void emit(int level, const rille_log_context *context, uint32_t suppressed, const char *message, size_t size,
                 const rille_log_field *fields, int field_count) {
  rille_logline line;
  begin(&line, level, message, size);
  double loop = context != NULL && context->loop > 0 ? context->loop : (double)thread_loop;
  if (loop > 0) {
    rille_logline_integer(&line, "loop", loop);
  }
  if (context != NULL && context->label != NULL && *context->label != '\0') {
    rille_logline_text(&line, "script", context->label, strlen(context->label));
  }
  if (context != NULL && context->conn > 0) {
    rille_logline_integer(&line, "conn", context->conn);
  }
  if (log_process > 0) {
    rille_logline_integer(&line, "process", log_process);
  }
  if (suppressed > 0) {
    rille_logline_integer(&line, "suppressed", suppressed);
  }
  for (int i = 0; i < field_count; i++) {
    rille_logline_text(&line, fields[i].key, fields[i].value, fields[i].size);
  }
  size_t line_size = rille_logline_end(&line);
  if ((value_of(&dropped_unreported) == 0 || report_drops()) && rille_logsink_put(line.bytes, line_size)) {
    add(&written[level], 1);
  } else {
    add(&dropped_unreported, 1);
    add(&dropped_total, 1);
  }
}

static int admit(rille_log_site *site, uint32_t *suppressed) {
  if (rille_log_site_admit(site, steady_second(), suppressed)) {
    return 1;
  }
  add(&suppressed_total, 1);
  return 0;
}

static int is_written(int level) { return level >= RILLE_LOG_DEBUG && level < RILLE_LOG_OFF && rille_log_is_on(level); }

void rille_log_printf(rille_log_site *site, int level, const rille_log_context *context, const char *format, ...) {
  uint32_t suppressed = 0;
  int error_number = errno;
  if (!is_written(level) || !admit(site, &suppressed)) {
    errno = error_number;
    return;
  }
  /* as long as a line: a text that is cut here, maybe inside a character, is cut shorter again in the line */
  char message[RILLE_LOG_LINE_MAX];
  va_list args;
  va_start(args, format);
  errno = error_number; /* for %m */
  int n = vsnprintf(message, sizeof message, format, args);
  va_end(args);
  size_t size = n < 0 ? 0 : (size_t)n < sizeof message ? (size_t)n : sizeof message - 1;
  emit(level, context, suppressed, message, size, NULL, 0);
  errno = error_number;
}

void rille_log_write(int level, uint32_t site, const rille_log_context *context, const char *message, size_t size,
                     const rille_log_field *fields, int field_count) {
  uint32_t suppressed = 0;
  int error_number = errno;
  if (is_written(level) && (site == 0 || admit(site_of(site), &suppressed))) {
    emit(level, context, suppressed, message, size, fields, field_count);
  }
  errno = error_number;
}

/* ---- control ---- */

void rille_log_set_process(uint32_t process) { log_process = process; }

void rille_log_set_thread_loop(uint32_t loop) { thread_loop = loop; }

int rille_log_set_level(int level) {
  if (level < RILLE_LOG_DEBUG || level > RILLE_LOG_OFF) {
    return RILLE_ERR_INVALID;
  }
  atomic_store_explicit(&rille_log_threshold, level, memory_order_relaxed);
  return 0;
}

int rille_log_level(void) { return atomic_load_explicit(&rille_log_threshold, memory_order_relaxed); }

int rille_log_is_enabled(int level) { return rille_log_is_on(level); }

void rille_log_set_rate(double per_second) {
  uint32_t rate = per_second >= 1 ? (per_second < UINT32_MAX ? (uint32_t)per_second : UINT32_MAX) : 0;
  atomic_store_explicit(&log_rate, rate, memory_order_relaxed);
}

int rille_log_configure(int level, int format, int target, const char *path) {
  if (level < RILLE_LOG_DEBUG || level > RILLE_LOG_OFF || (format != RILLE_LOG_LOGFMT && format != RILLE_LOG_JSON) ||
      target < RILLE_LOG_STDERR || target > RILLE_LOG_QUEUE) {
    return RILLE_ERR_INVALID;
  }
  int rc = rille_logsink_configure(target, path);
  if (rc < 0) {
    return rc;
  }
  atomic_store_explicit(&log_format, format, memory_order_relaxed);
  return rille_log_set_level(level);
}

int rille_log_reopen(void) {
  char path[256];
  int rc = rille_logsink_reopen(path, sizeof path);
  if (rc < 0) {
    RILLE_LOG(RILLE_LOG_ERROR, "the log file %s was not reopened (%s); the one that was open goes on", path,
              rille_err_text(rc));
  }
  return rc;
}

int rille_log_take(char *to, double max) {
  size_t room = max >= 1 ? (max < RILLE_LOG_LINE_MAX ? (size_t)max : RILLE_LOG_LINE_MAX) : 0;
  size_t size = rille_logsink_take(to, room);
  if (size > 0 || room == 0 || !rille_logsink_is_queue()) {
    return (int)size;
  }
  uint64_t lost = atomic_exchange_explicit(&dropped_unreported, 0, memory_order_relaxed);
  if (lost == 0) {
    return 0;
  }
  rille_logline line;
  size = drop_report(&line, lost) - 1;
  size = size < room ? size : room;
  memcpy(to, line.bytes, size);
  return (int)size;
}

void rille_log_count(rille_log_counts *out) {
  out->debug = (double)value_of(&written[RILLE_LOG_DEBUG]);
  out->info = (double)value_of(&written[RILLE_LOG_INFO]);
  out->warn = (double)value_of(&written[RILLE_LOG_WARN]);
  out->error = (double)value_of(&written[RILLE_LOG_ERROR]);
  out->suppressed = (double)value_of(&suppressed_total);
  out->dropped = (double)value_of(&dropped_total);
}
