/*
 * http_file: answers that are files; see rille.h for the contract of each. What is read goes from the page cache straight into
 * the output's blocks, a piece at a time, so that a slow client holds 64 KiB of a large file and no more.
 */
#include "http.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 64 << 10 };

int rille_http_file_open(const char *path, double *size, double *modified) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a pipe must not block the loop */
  struct stat status;
  if (fd < 0) return rille_err_from_errno(errno);
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(fd);
    return RILLE_ERR_NOT_FOUND;
  }
  *size = (double)status.st_size;
  *modified = (double)status.st_mtim.tv_sec;
  return fd;
}

void rille_http_file_close(int fd) { close(fd); }

int rille_http_file_seek(int fd, double at) {
  return lseek(fd, (off_t)at, SEEK_SET) < 0 ? rille_err_from_errno(errno) : RILLE_OK;
}

int rille_http_write_file(rille_conn *c, int fd) {
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
  ssize_t got = readv(fd, areas, count);
  int error_number = errno;
  rille_linkbuffer_commit(out, got > 0 ? (size_t)got : 0);
  if (got <= 0) return got < 0 ? rille_err_from_errno(error_number) : RILLE_ERR_SHORT;
  http->answer_left -= (uint64_t)got;
  return rille_conn_output_len(c) > (size_t)2 * PIECE ? rille_conn_wait_output(c, PIECE) : RILLE_OK;
}
