/*
 * http_file: answers that are files; see rille.h for the contract of each. What is read goes from the page cache straight into
 * the output's blocks, a piece at a time, so that a slow client holds 64 KiB of a large file and no more. What is not in the
 * page cache is read by a worker, see io.h: the loop does not wait for a disk.
 */
#include "http.h"
#include "io.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { PIECE = 64 << 10 };

int rille_http_file_seek(const rille_file *file, double at) {
  return lseek(file->fd, (off_t)at, SEEK_SET) < 0 ? rille_err_from_errno(errno) : RILLE_OK;
}

/* A piece is in the output: the next one, or wait for the client. */
static int written(rille_conn *c, size_t size) {
  c->http->answer_left -= size;
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

int rille_http_write_file(rille_conn *c, const rille_file *file) {
  rille_http *http = c->http;
  int err = RILLE_OK;
  if (http->framing != RILLE_HTTP_COUNTED || http->answer_left == 0) return RILLE_HTTP_END;
  rille_linkbuffer *out = rille_conn_output(c, &err);
  if (!out) return err;
  size_t size = http->answer_left < PIECE ? (size_t)http->answer_left : PIECE;
  struct iovec areas[2];
  int count = rille_linkbuffer_reserve(out, size, size, areas);
  if (count < 0) return count;
  if (count > 1) areas[1].iov_len = size - areas[0].iov_len;
  else areas[0].iov_len = size;
  ssize_t got = read_cached(file->fd, areas, count);
  int error_number = errno;
  rille_linkbuffer_commit(out, got > 0 ? (size_t)got : 0);
  if (got > 0) return written(c, (size_t)got);
  return got < 0 ? error_of_read(error_number) : RILLE_ERR_SHORT;
}

int rille_http_write_read(rille_conn *c, const rille_job *job) {
  static rille_cell always = {.epoch = 1}; /* the request holds the block */
  const rille_io *io = job->io;
  rille_http *http = c->http;
  int err = RILLE_OK;
  if (http->framing != RILLE_HTTP_COUNTED || http->answer_left == 0) return RILLE_HTTP_END;
  if (io->result.size == 0) return RILLE_ERR_SHORT;
  rille_linkbuffer *out = rille_conn_output(c, &err);
  if (!out) return err;
  size_t size = (size_t)io->result.size;
  if (size > http->answer_left) size = (size_t)http->answer_left;
  rille_slice piece = {
      .base_ = io->block->data, .cell_ = &always, .block_ = io->block, .size_ = (uint32_t)size, .epoch_ = 1};
  err = rille_linkbuffer_write_slice(out, &piece);
  return err ? err : written(c, size);
}
