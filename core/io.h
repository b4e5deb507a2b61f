/*
 * io: requests for what blocks, such as reading a file, that run in C on the workers of a pool; see rille_fs.h. A request belongs to
 * its job, and is used by whoever has that: the loop, the worker, the loop again.
 *
 *   io.c        the way of a request, and what is common
 *   file.c      files that are open
 *   fs.c        paths
 *   spawn.c     the start of a process
 */
#ifndef RILLE_IO_H
#define RILLE_IO_H

#include "block.h"
#include "pool.h"
#include "rille.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>

struct rille_spawn;

struct rille_file {
  _Atomic uint32_t refs;
  int fd;          /* -1: closed */
  char *temporary; /* owned; where it stands until it is committed, NULL for one that is not atomic */
  char *target;    /* owned; where it belongs */
};

typedef struct rille_io {
  int op;
  rille_file *file;   /* a reference; of OPEN the result */
  char *path, *other; /* owned */
  double a, b;
  rille_linkbuffer *buffer;    /* owned: what is written */
  struct rille_spawn *spawn;   /* owned */
  struct rille_tls_line *line; /* owned; a step of a handshake, see tls_away.c: no Lua state hears of it */

  rille_io_result result;
  rille_block *block; /* owned: what was read, result.size bytes of it */
} rille_io;

/* worker: do what is asked */
void rille_io_run(rille_io *io);
void rille_io_free(rille_io *io);
/* Loop thread: owned; a request in the queue, NULL with *err and the request freed. */
rille_job *rille_io_send(rille_io *io, rille_pool *pool, rille_state *from, uint32_t token, const char *name, int *err);

/* The request failed: "cannot WHAT: WHY" becomes its message. Returns the enum rille_err of the errno. */
int rille_io_fail(rille_io *io, const char *what, int error_number);

/* file.c: 0, or the error of rille_io_fail */
int rille_file_run(rille_io *io);
void rille_file_stat_set(rille_file_stat *out, const struct stat *s);
/* what fd has left, at most max bytes, to the request's block */
int rille_file_slurp(rille_io *io, int fd, double max);
/* fs.c */
int rille_fs_run(rille_io *io);
char rille_fs_type(mode_t mode);

/* spawn.c */
int rille_spawn_run(struct rille_spawn *spawn, rille_io_result *result);
void rille_spawn_free(struct rille_spawn *spawn);

enum { RILLE_IO_SPAWN = 100 };

#define RILLE_IO_POOL "io"

#endif
