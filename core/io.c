/*
 * io: see io.h. The way of a request there and back is that of its job; see job.c.
 */
#include "io.h"

#include "linkbuffer.h"
#include "tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
    [RILLE_IO_OPEN] = "open",         [RILLE_IO_READ] = "read",           [RILLE_IO_READ_ALL] = "read_all",
    [RILLE_IO_WRITE] = "write",       [RILLE_IO_SEEK] = "seek",           [RILLE_IO_SYNC] = "sync",
    [RILLE_IO_TRUNCATE] = "truncate", [RILLE_IO_FILE_STAT] = "stat",      [RILLE_IO_COMMIT] = "commit",
    [RILLE_IO_CLOSE] = "close",       [RILLE_IO_READ_FILE] = "read_file", [RILLE_IO_STAT] = "stat",
    [RILLE_IO_LIST] = "list",         [RILLE_IO_MKDIR] = "mkdir",         [RILLE_IO_REMOVE] = "remove",
    [RILLE_IO_RENAME] = "rename",
};

/* ---- life ------------------------------------------------------------------------------------------------------ */

void rille_io_free(rille_io *io) {
  if (io->file) rille_file_release(io->file);
  if (io->buffer) rille_linkbuffer_free(io->buffer);
  if (io->block) rille_block_release(io->block);
  if (io->spawn) rille_spawn_free(io->spawn);
  rille_tls_line_free(io->line);
  free(io->path);
  free(io->other);
  free(io);
}

rille_job *rille_io_send(rille_io *io, rille_pool *pool, rille_state *from, uint32_t token, const char *name,
                         int *err) {
  rille_job *job = rille_job_new(pool, from, NULL, token, 0, name);
  if (!job) {
    *err = RILLE_ERR_NO_MEMORY;
    rille_io_free(io);
    return NULL;
  }
  job->io = io;
  *err = rille_job_submit(job);
  if (!*err) return job;
  rille_job_release(job);
  return NULL;
}

rille_job *rille_io_submit(rille_pool *pool, rille_state *from, uint32_t token, int op, rille_file *file,
                           const char *path, const char *other, double a, double b, rille_linkbuffer *buffer,
                           int *err) {
  rille_io *io = calloc(1, sizeof *io);
  if (!io) {
    if (buffer) rille_linkbuffer_free(buffer);
    *err = RILLE_ERR_NO_MEMORY;
    return NULL;
  }
  *io = (rille_io){.op = op, .a = a, .b = b, .buffer = buffer};
  io->path = path ? strdup(path) : NULL;
  io->other = other ? strdup(other) : NULL;
  if ((path && !io->path) || (other && !io->other)) {
    rille_io_free(io);
    *err = RILLE_ERR_NO_MEMORY;
    return NULL;
  }
  if (file) {
    atomic_fetch_add(&file->refs, 1);
    io->file = file;
  }
  char name[64];
  snprintf(name, sizeof name, "fs.%s", names[op]);
  return rille_io_send(io, pool, from, token, name, err);
}

/* ---- the worker ------------------------------------------------------------------------------------------------ */

int rille_io_fail(rille_io *io, const char *what, int error_number) {
  char text[128];
  const char *why = strerror_r(error_number, text, sizeof text);
  snprintf(io->result.message, sizeof io->result.message, "cannot %s%s%.160s: %s", what, io->path ? " " : "",
           io->path ? io->path : "", why);
  return rille_err_from_errno(error_number);
}

void rille_io_run(rille_io *io) {
  if (io->line) rille_tls_line_run(io->line);
  else if (io->spawn) rille_spawn_run(io->spawn, &io->result);
  else if (io->op <= RILLE_IO_CLOSE) io->result.err = rille_file_run(io);
  else io->result.err = rille_fs_run(io);
  if (io->buffer) rille_linkbuffer_free(io->buffer); /* the blocks go back as soon as they can */
  io->buffer = NULL;
}

/* ---- what came of it ------------------------------------------------------------------------------------------- */

const rille_io_result *rille_io_result_of(const rille_job *job) { return &job->io->result; }

const char *rille_io_bytes(const rille_job *job) { return job->io->block ? (const char *)job->io->block->data : ""; }

int rille_io_take_slice(rille_job *job, rille_slice *out) {
  static rille_cell always = {.epoch = 1}; /* the request holds the block */
  const rille_io *io = job->io;
  rille_slice whole = {.cell_ = &always, .epoch_ = 1, .size_ = (uint32_t)io->result.size};
  if (io->block) {
    whole.base_ = io->block->data;
    whole.block_ = io->block;
  }
  return rille_slice_copy(&whole, out);
}

rille_file *rille_io_take_file(rille_job *job) {
  rille_file *file = job->io->file;
  job->io->file = NULL;
  return file;
}
