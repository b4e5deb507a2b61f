/*
 * http_file: answers that are files; see rille.h for the contract of each, and sendfile.h for how the bytes go.
 */
#include "http.h"
#include "sendfile.h"

#include <errno.h>
#include <unistd.h>

int rille_http_file_seek(const rille_file *file, double at) {
  return lseek(file->fd, (off_t)at, SEEK_SET) < 0 ? rille_err_from_errno(errno) : RILLE_OK;
}

int rille_http_write_file(rille_conn *c, const rille_file *file) {
  if (c->http->framing != RILLE_HTTP_COUNTED) return RILLE_HTTP_END;
  return rille_sendfile_piece(c, file, &c->http->answer_left);
}

int rille_http_write_read(rille_conn *c, const rille_job *job) {
  if (c->http->framing != RILLE_HTTP_COUNTED) return RILLE_HTTP_END;
  return rille_sendfile_read(c, job, &c->http->answer_left);
}
