/*
 * tls_line: what OpenSSL works on; see tls.h. Whoever owns it: the connection's loop, or a worker.
 *
 * OpenSSL reads and writes through a BIO of ours: system calls without a signal, and first whatever was received before TLS began. On a
 * worker there is no socket: what is to be read was received before, what is written is kept. With kTLS the BIO is OpenSSL's own, which
 * alone tells the kernel the keys.
 */
#include "conn.h"
#include "conn_tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- the socket as OpenSSL sees it ----------------------------------------------------------------------------- */

/* The answer may be there before the hello is quite out, and is a worker's. */
static bool leaves_reading(const rille_conn_tls *t) {
  return t->is_shaking && t->tls->pool && !t->tls->is_server && !t->is_ended && !t->error_number;
}

static int bio_read(BIO *bio, char *to, size_t size, size_t *got) {
  rille_tls_line *line = BIO_get_data(bio);
  rille_conn_tls *t = line->owner;
  BIO_clear_retry_flags(bio);
  size_t left = line->before_size - line->before_at;
  if (left > 0) {
    *got = size < left ? size : left;
    memcpy(to, line->before + line->before_at, *got);
    line->before_at += *got;
    if (t && line->before_at == line->before_size) rille_tls_line_spend(line);
    return 1;
  }
  if (!t || leaves_reading(t)) {
    BIO_set_retry_read(bio);
    return 0;
  }
  ssize_t n;
  do n = recv(t->conn->fd, to, size, 0);
  while (n < 0 && errno == EINTR);
  if (n > 0) {
    *got = (size_t)n;
    return 1;
  }
  if (n == 0) t->is_ended = true;
  else if (errno == EAGAIN) BIO_set_retry_read(bio);
  else t->error_number = errno;
  return 0;
}

/* The loop sends it. */
static int keep(rille_tls_line *line, const char *from, size_t size) {
  uint8_t *longer = realloc(line->after, line->after_size + size);
  if (!longer) return 0;
  memcpy(longer + line->after_size, from, size);
  line->after = longer;
  line->after_size += size;
  return 1;
}

static int bio_write(BIO *bio, const char *from, size_t size, size_t *sent) {
  rille_tls_line *line = BIO_get_data(bio);
  rille_conn_tls *t = line->owner;
  BIO_clear_retry_flags(bio);
  if (!t) {
    *sent = size;
    return keep(line, from, size);
  }
  ssize_t n;
  do n = send(t->conn->fd, from, size, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  if (n >= 0) {
    *sent = (size_t)n;
    return 1;
  }
  if (errno == EAGAIN) BIO_set_retry_write(bio);
  else t->error_number = errno;
  return 0;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer) {
  (void)number, (void)pointer;
  const rille_tls_line *line = BIO_get_data(bio);
  if (command == BIO_CTRL_EOF) return line->owner && line->owner->is_ended;
  return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

static void make_method(void) {
  BIO_METHOD *made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "rille connection");
  if (!made) return;
  BIO_meth_set_read_ex(made, bio_read);
  BIO_meth_set_write_ex(made, bio_write);
  BIO_meth_set_ctrl(made, bio_ctrl);
  method = made;
}

static BIO *make_bio(rille_tls_line *line) {
  if (line->tls->has_ktls && line->before_size == 0) return BIO_new_socket(line->owner->conn->fd, BIO_NOCLOSE);
  pthread_once(&method_once, make_method);
  BIO *bio = method ? BIO_new(method) : NULL;
  if (!bio) return NULL;
  BIO_set_data(bio, line);
  BIO_set_init(bio, 1);
  return bio;
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

static bool open_line(rille_tls_line *line) {
  ERR_clear_error();
  line->ssl = rille_tls_open(line->tls);
  BIO *bio = line->ssl ? make_bio(line) : NULL;
  if (!bio) return false;
  SSL_set_bio(line->ssl, bio, bio);
  SSL_set_app_data(line->ssl, line);
  if (line->tls->is_server) SSL_set_accept_state(line->ssl);
  else SSL_set_connect_state(line->ssl);
  if (line->key) rille_tls_session_use(line->tls, line->ssl, line->key);
  return true;
}

rille_tls_line *rille_tls_line_new(rille_conn_tls *t) {
  rille_tls_line *line = calloc(1, sizeof *line);
  if (!line) return NULL;
  line->owner = t;
  line->tls = rille_tls_retain(t->tls);
  line->key = t->key;
  line->before = t->before;
  line->before_size = t->before_size;
  t->key = NULL;
  t->before = NULL;
  t->before_size = 0;
  if (open_line(line)) return line;
  rille_tls_line_free(line);
  return NULL;
}

void rille_tls_line_spend(rille_tls_line *line) {
  free(line->before);
  line->before = NULL;
  line->before_size = line->before_at = 0;
}

void rille_tls_line_free(rille_tls_line *line) {
  if (!line) return;
  SSL_free(line->ssl);
  if (line->chosen) rille_tls_release(line->chosen);
  rille_tls_release(line->tls);
  free(line->key);
  free(line->before);
  free(line->after);
  free(line);
}

/* ---- for a worker ---------------------------------------------------------------------------------------------- */

int rille_tls_line_flush(rille_tls_line *line) {
  rille_conn_tls *t = line->owner;
  while (line->after_at < line->after_size) {
    ssize_t n = send(t->conn->fd, line->after + line->after_at, line->after_size - line->after_at, MSG_NOSIGNAL);
    if (n >= 0) {
      line->after_at += (size_t)n;
    } else if (errno != EINTR) {
      if (errno == EAGAIN) return RILLE_PARK;
      t->error_number = errno;
      return rille_err_from_errno(errno);
    }
  }
  free(line->after);
  line->after = NULL;
  line->after_size = line->after_at = 0;
  return RILLE_OK;
}

int rille_tls_line_fill(rille_tls_line *line) {
  enum { FLIGHT = 16 << 10 };
  rille_conn_tls *t = line->owner;
  if (line->before_at < line->before_size) return (int)(line->before_size - line->before_at);
  uint8_t *room = realloc(line->before, FLIGHT);
  if (!room) return RILLE_ERR_NO_MEMORY;
  line->before = room;
  line->before_size = line->before_at = 0;
  line->is_filled = true;
  ssize_t n;
  do n = recv(t->conn->fd, room, FLIGHT, 0);
  while (n < 0 && errno == EINTR);
  if (n > 0) {
    line->before_size = (size_t)n;
    return (int)n;
  }
  if (n < 0 && errno == EAGAIN) return 0;
  if (n == 0) t->is_ended = true;
  else t->error_number = errno;
  return RILLE_ERR_CLOSED;
}
