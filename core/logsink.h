/*
 * logsink: where the lines of the log go: a descriptor or the queue. One for the process; any thread may call.
 *
 * A put never waits for whoever reads the other end: what the target does not take at once is dropped, and put says so.
 */
#ifndef RILLE_LOGSINK_H
#define RILLE_LOGSINK_H

#include "rille.h"

/* target: enum rille_log_target; 0, or an error that leaves the sink as it was */
int rille_logsink_configure(int target, const char *path);
/* Open the file again; 0 when there is none or it worked, else the sink keeps the one it has. path: a copy of its name,
 * for the message, cut at size. */
int rille_logsink_reopen(char *path, size_t size);
/* 1 when the whole line (which ends in a newline) was taken, 0 when it was dropped */
int rille_logsink_put(const char *line, size_t size);
int rille_logsink_is_queue(void);
/* The oldest line of the queue without its newline; its length, cut at max, 0 when there is none. */
size_t rille_logsink_take(char *to, size_t max);

#endif
