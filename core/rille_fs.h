/*
 * rille_fs.h: the part of rille.h for files and other calls that block, which workers of the pool "io" make; same rules, included
 * at its end. A request is a job without a Lua state: it goes through the pool as every job does, and comes back as
 * RILLE_EVENT_JOB, also when nobody waits for it any more, so that the next request for its file may begin.
 */
#ifndef RILLE_RILLE_FS_H
#define RILLE_RILLE_FS_H

#include "rille.h"
#include "rille_pool.h"

/* An open file. Reference-counted: its holder has one reference and each request for it another; the last one closes the descriptor
 * and removes what was not committed. One request at a time. */
typedef struct rille_file rille_file;

enum { RILLE_IO_PATH_MAX = 4095, RILLE_IO_READ_MAX = (1 << 30) - 1 };

/* What is asked for; path, other, a and b mean: */
enum rille_io_op {
  RILLE_IO_OPEN =
      1, /* path, a: enum rille_file_mode bits, b: permission bits, below 0: 0666 or as they are. Gives a file */
  RILLE_IO_READ,     /* of the file: at most a bytes */
  RILLE_IO_READ_ALL, /* of the file: what is left, at most a bytes */
  RILLE_IO_WRITE,    /* to the file: the buffer */
  RILLE_IO_SEEK,     /* a: offset, b: 0 from the start, 1 from here, 2 from the end */
  RILLE_IO_SYNC,
  RILLE_IO_TRUNCATE,  /* a: bytes */
  RILLE_IO_FILE_STAT, /* of the file */
  RILLE_IO_COMMIT,    /* a: 1 with fsync. The file takes its name, and is closed */
  RILLE_IO_CLOSE,
  RILLE_IO_READ_FILE, /* path, a: bytes at most */
  RILLE_IO_STAT,      /* path, a: 1 of a symbolic link itself */
  RILLE_IO_LIST,   /* path. Gives a letter ("f", "d", "l", "o") and a name with a NUL behind for each entry, sorted */
  RILLE_IO_MKDIR,  /* path, a: permission bits, b: 1 with what is missing above it */
  RILLE_IO_REMOVE, /* path, of a file or an empty folder */
  RILLE_IO_RENAME  /* path, other */
};

enum rille_file_mode {
  RILLE_FILE_READ = 1,
  RILLE_FILE_WRITE = 2,
  RILLE_FILE_CREATE = 4,
  RILLE_FILE_TRUNCATE = 8,
  RILLE_FILE_APPEND = 16,
  RILLE_FILE_EXCLUSIVE = 32,
  RILLE_FILE_ATOMIC = 64 /* written beside path; RILLE_IO_COMMIT puts it there */
};

typedef struct rille_file_stat {
  double size, mode, modified, accessed, changed, uid, gid, inode, device, links;
  int type; /* as RILLE_IO_LIST has it */
} rille_file_stat;

typedef struct rille_io_result {
  int err;     /* 0 or negative */
  double size; /* bytes read or written; the position after a seek */
  rille_file_stat stat;
  char message[320]; /* for people; empty: nothing went wrong */
} rille_io_result;

/* owned, a reference: a request in the queue; NULL with *err. buffer is taken, whatever comes of it. file, path, other and buffer may be
 * NULL. Loop thread, as the rest. */
rille_job *rille_io_submit(rille_pool *pool, rille_state *from, uint32_t token, int op, rille_file *file,
                           const char *path, const char *other, double a, double b, rille_linkbuffer *buffer, int *err);
/* lives as long as the job, and is complete when RILLE_EVENT_JOB has come */
const rille_io_result *rille_io_result_of(const rille_job *job);
const char *rille_io_bytes(const rille_job *job); /* result->size bytes; the same */
int rille_io_take_slice(rille_job *job, rille_slice *out /* owned */);
rille_file *rille_io_take_file(rille_job *job); /* owned */

void rille_file_release(rille_file *file);
/* owned; a regular file, opened for reading if that needs no disk. NULL with *err: RILLE_ERR_BUSY: ask a worker. Any thread */
rille_file *rille_file_open_cached(const char *path, int *err);
/* size and time of a file that is open: 0, or an error. Any thread */
int rille_file_look(const rille_file *file, rille_file_stat *out);

/* 1: a URL with a name that has to be looked up, which takes time. Any thread */
int rille_address_needs_lookup(const char *url);

#endif
