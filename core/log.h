/*
 * log: one line a record, as logfmt or JSON, to stderr, a file or a queue; never more than a few lines a second from
 * one call site. Any thread may call everything. rille.h declares what Lua shares.
 *
 *   RILLE_LOG(RILLE_LOG_WARN, "accept failed: %s", rille_err_text(err));
 */
#ifndef RILLE_LOG_H
#define RILLE_LOG_H

#include "rille.h"

#include <stdatomic.h>

/* What limits the rate of one call site: the second of its last record and how many came in it, in one word. */
typedef struct rille_log_site {
  _Atomic uint64_t window; /* any thread: second << 32 | records */
} rille_log_site;

/* The lowest level that is written; read through rille_log_is_on. */
extern _Atomic int rille_log_threshold;

static inline int rille_log_is_on(int level) {
  return level >= atomic_load_explicit(&rille_log_threshold, memory_order_relaxed);
}

/* The loop that lines of this thread name when nothing else is said; 0 for none. */
void rille_log_set_thread_loop(uint32_t loop);

/* The process of a prefork server that lines name from now on; 0 for none. Before the process has other threads. */
void rille_log_set_process(uint32_t process);

__attribute__((format(printf, 4, 5))) void rille_log_printf(rille_log_site *site, int level,
                                                            const rille_log_context *context, const char *format, ...);

/* The arguments are evaluated only when the level is enabled. errno is left as it was. */
#define RILLE_LOG_FOR(level, context, ...)                                                                             \
  do {                                                                                                                 \
    if (rille_log_is_on(level)) {                                                                                      \
      static rille_log_site rille_log_site_;                                                                           \
      rille_log_printf(&rille_log_site_, level, context, __VA_ARGS__);                                                 \
    }                                                                                                                  \
  } while (0)
#define RILLE_LOG(level, ...) RILLE_LOG_FOR(level, NULL, __VA_ARGS__)

/* One more record of site in this second (of any steady clock): 1 when it may be written. *suppressed is how many
 * records the site's last second had above the rate, told once, to the first record after it. */
int rille_log_site_admit(rille_log_site *site, uint32_t second, uint32_t *suppressed);

#endif
