/*
 * logline: builds one line of the log in a buffer of the caller, who owns it; no state, any thread.
 *
 * Whatever bytes come in, a line stays one line of valid UTF-8: quotes, backslashes, control characters and bytes
 * that are not UTF-8 are escaped, and what does not fit is cut between two characters and ends in an ellipsis.
 */
#ifndef RILLE_LOGLINE_H
#define RILLE_LOGLINE_H

#include "rille.h"

#include <time.h>

typedef struct rille_logline {
  size_t used;
  int format;  /* enum rille_log_format */
  int is_full; /* a value was cut; later fields that do not fit are left out */
  char bytes[RILLE_LOG_LINE_MAX];
} rille_logline;

/* time, level and msg; some room is kept for fields behind a long message */
void rille_logline_begin(rille_logline *line, int format, const struct timespec *realtime, int level,
                         const char *message, size_t size);
/* key: bytes other than letters, digits and "_.-" become '_' */
void rille_logline_text(rille_logline *line, const char *key, const char *value, size_t size);
/* a whole number from 0 to 2^53; any other is left out */
void rille_logline_integer(rille_logline *line, const char *key, double value);
/* Ends the line with a newline; returns its size. */
size_t rille_logline_end(rille_logline *line);

#endif
