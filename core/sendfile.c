/*
 * sendfile: see sendfile.h.
 */
#include "sendfile.h"

#include "loop.h"
#include "pump.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
  PIECE = 64 << 10,
  DIRECT_MIN = 256 << 10, /* a file with less left is in the output sooner */
  WINDOW = 1 << 20,       /* sent by one call */
  PAGE = 4096,
  CANNOT_TELL = -1
};

/* ---- through the output ---------------------------------------------------------------------------------------- */

/* A piece is in the output: the next one, or wait for the client. */
static int written(rille_conn *c, size_t size, uint64_t *left) {
  *left -= size;
  return rille_conn_output_len(c) > (size_t)2 * PIECE ? rille_conn_wait_output(c, PIECE) : RILLE_OK;
}

/* What is in the page cache, as all of tmpfs is, though it does not know RWF_NOWAIT. */
static ssize_t read_cached(int fd, const struct iovec *areas, int count) {
  struct statfs system;
  ssize_t got = preadv2(fd, areas, count, -1, RWF_NOWAIT);
  if (got >= 0 || errno != EOPNOTSUPP) return got;
  bool is_memory = fstatfs(fd, &system) == 0 && system.f_type == TMPFS_MAGIC;
  if (is_memory) return readv(fd, areas, count);
  errno = EOPNOTSUPP;
  return -1;
}

/* Not all file systems can tell without waiting; those that cannot are read by workers. */
static int error_of_read(int error_number) {
  bool is_cold =
      error_number == EAGAIN || error_number == EOPNOTSUPP || error_number == ENOSYS || error_number == EINVAL;
  return is_cold ? RILLE_HTTP_COLD : rille_err_from_errno(error_number);
}

static int read_piece(rille_conn *c, const rille_file *file, uint64_t *left) {
  int err = RILLE_OK;
  rille_linkbuffer *out = rille_conn_output(c, &err);
  if (!out) return err;
  size_t size = *left < PIECE ? (size_t)*left : PIECE;
  struct iovec areas[2];
  int count = rille_linkbuffer_reserve(out, size, size, areas);
  if (count < 0) return count;
  if (count > 1) areas[1].iov_len = size - areas[0].iov_len;
  else areas[0].iov_len = size;
  ssize_t got = read_cached(file->fd, areas, count);
  int error_number = errno;
  rille_linkbuffer_commit(out, got > 0 ? (size_t)got : 0);
  if (got > 0) return written(c, (size_t)got, left);
  return got < 0 ? error_of_read(error_number) : RILLE_ERR_SHORT;
}

int rille_sendfile_read(rille_conn *c, const rille_job *job, uint64_t *left) {
  static rille_cell always = {.epoch = 1}; /* the request holds the block */
  const rille_io *io = job->io;
  int err = RILLE_OK;
  if (*left == 0) return RILLE_HTTP_END;
  if (io->result.size == 0) return RILLE_ERR_SHORT;
  rille_linkbuffer *out = rille_conn_output(c, &err);
  if (!out) return err;
  size_t size = (size_t)io->result.size;
  if (size > *left) size = (size_t)*left;
  rille_slice piece = {
      .base_ = io->block->data, .cell_ = &always, .block_ = io->block, .size_ = (uint32_t)size, .epoch_ = 1};
  err = rille_linkbuffer_write_slice(out, &piece);
  return err ? err : written(c, size, left);
}

/* ---- by the kernel --------------------------------------------------------------------------------------------- */

/* Bytes from where the file stands that are in the page cache, at most size; CANNOT_TELL: the kernel tells only those who own the file. */
static ssize_t resident(int fd, off_t at, size_t size) {
  struct stat info;
  if (fstat(fd, &info) != 0 || (info.st_uid != geteuid() && geteuid() != 0)) return CANNOT_TELL;
  if (at >= info.st_size) return 0;
  off_t base = at - at % PAGE;
  size_t ahead = (size_t)(at - base), span = ahead + size, pages = (span + PAGE - 1) / PAGE, known = 0;
  unsigned char there[WINDOW / PAGE + 2];
  void *map = mmap(NULL, span, PROT_READ, MAP_SHARED, fd, base);
  if (map == MAP_FAILED) return CANNOT_TELL;
  int failed = mincore(map, span, there);
  munmap(map, span);
  if (failed) return CANNOT_TELL;
  while (known < pages && there[known] & 1) known++;
  if (known == 0) return 0;
  size_t bytes = known * PAGE - ahead;
  return (ssize_t)(bytes < size ? bytes : size);
}

/* The task goes on after the WRITE event: when there is room, or in the next turn. */
static int park(rille_conn *c, bool is_full) {
  if (!is_full) {
    rille_state_emit_later(c->state, RILLE_EVENT_WRITE, c->slot, 0);
    return RILLE_PARK;
  }
  if (!(c->flags & RILLE_CONN_WRITER)) c->drain_to = 0;
  c->flags |= RILLE_CONN_WRITER;
  rille_conn_note_blocked(c);
  rille_conn_mark_dirty(c); /* its interest */
  return RILLE_PARK;
}

static int send_piece(rille_conn *c, const rille_file *file, size_t size, uint64_t *left) {
  ssize_t sent;
  do sent = sendfile(c->fd, file->fd, NULL, size);
  while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno != EAGAIN) {
    int err = rille_err_from_errno(errno);
    rille_conn_break_output(c);
    rille_conn_mark_dirty(c);
    return err;
  }
  if (sent == 0) return RILLE_ERR_SHORT;
  if (sent < 0) sent = 0;
  *left -= (size_t)sent;
  c->loop->bytes_out += (double)sent;
  c->written_ms = c->loop->now_ms;
  if ((size_t)sent < size) return park(c, true);
  return rille_conn_over_budget(c) ? park(c, false) : RILLE_OK;
}

static bool is_direct(const rille_conn *c, uint64_t left) {
  return left >= DIRECT_MIN && rille_conn_sends_plain(c) && rille_conn_takes_output(c);
}

int rille_sendfile_piece(rille_conn *c, const rille_file *file, uint64_t *left) {
  if (*left == 0) return RILLE_HTTP_END;
  if (!is_direct(c, *left)) return read_piece(c, file, left);
  off_t at = lseek(file->fd, 0, SEEK_CUR);
  ssize_t size = at < 0 ? CANNOT_TELL : resident(file->fd, at, *left < WINDOW ? (size_t)*left : WINDOW);
  if (size == CANNOT_TELL) return read_piece(c, file, left);
  if (size == 0) return RILLE_HTTP_COLD;
  int err = rille_conn_flush(c); /* what was written before goes first */
  return err ? err : send_piece(c, file, (size_t)size, left);
}

/* ---- for connections without HTTP ------------------------------------------------------------------------------ */

int rille_conn_write_file(rille_conn *c, const rille_file *file, double *left) {
  if (c->is_http) return RILLE_ERR_BUSY;
  uint64_t rest = (uint64_t)*left;
  int code = rille_sendfile_piece(c, file, &rest);
  *left = (double)rest;
  return code;
}

int rille_conn_write_read(rille_conn *c, const rille_job *job, double *left) {
  uint64_t rest = (uint64_t)*left;
  int code = rille_sendfile_read(c, job, &rest);
  *left = (double)rest;
  return code;
}
