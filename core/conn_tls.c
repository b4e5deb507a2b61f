/*
 * conn_tls: TLS between a connection's socket and its LinkBuffers: what is received is decrypted straight into room of the input, what is sent
 * is encrypted from the output's own blocks. Loop thread.
 */
#include "conn_tls.h"

#include "listener.h"
#include "log.h"
#include "loop.h"
#include "pump.h"
#include "topic.h"

#include <openssl/err.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { RECORD = 16384, PIECE_WORTH = 8192 /* a piece of so many bytes is not copied to be joined with the next */ };

/* ---- life ------------------------------------------------------------------------------------------------------ */

static rille_conn_tls *begin(rille_conn *c, rille_tls *tls, uint32_t patience_ms) {
  rille_rare *rare = rille_conn_rare(c);
  rille_conn_tls *t = rare ? calloc(1, sizeof *t) : NULL;
  if (!t) return NULL;
  t->tls = rille_tls_retain(tls);
  t->conn = c;
  t->is_shaking = true;
  t->patience_ms = patience_ms;
  t->since_ms = rille_loop_fresh_ms(c->loop);
  t->read_turn = (uint32_t)c->loop->turn - 1;
  rare->tls = t;
  return t;
}

bool rille_conn_tls_accept(rille_conn *c) {
  return begin(c, c->service->tls, c->service->timeouts.handshake_ms) != NULL;
}

static void tell(rille_conn *c) {
  rille_conn_tls *t = c->rare->tls;
  if (t->is_awaited) rille_state_emit(c->state, RILLE_EVENT_TLS, c->slot, RILLE_TLS_OVER);
  t->is_awaited = false;
}

static bool waits_for_open(const rille_conn *c) {
  return c->flags & RILLE_CONN_OPENING && !(c->service->hooks & RILLE_HOOK_PREPARE) && !c->rare->tls->is_awaited;
}

/* It is over without success: for a worker that has a step of it, and for the task that waits for it. */
static void end_handshake(rille_conn *c, int err) {
  rille_conn_tls *t = c->rare->tls;
  t->failure = err;
  t->is_dead = true;
  t->is_shaking = t->is_asking = t->wants_write = false;
  rille_tls_abandon(t);
  if (waits_for_open(c)) c->flags &= ~(uint32_t)RILLE_CONN_OPENING; /* on_connect is not called */
  tell(c);
}

void rille_conn_tls_leave_socket(rille_conn *c) {
  rille_conn_tls *t = c->rare->tls;
  if (t->is_shaking) end_handshake(c, c->reason ? c->reason : RILLE_ERR_CLOSED);
  rille_tls_line_free(t->line);
  t->line = NULL;
  t->ssl = NULL;
  t->is_dead = true;
  t->has_more = false;
}

void rille_conn_tls_free(rille_conn_tls *t) {
  rille_tls_abandon(t);
  rille_tls_line_free(t->line);
  if (t->chosen) rille_tls_release(t->chosen);
  rille_tls_release(t->tls);
  free(t->key);
  free(t->before);
  free(t);
}

/* What was received in plain: the peer may have been quick, or somebody has put in words of his own, with which the handshake fails. */
static int take_input(rille_conn *c, rille_conn_tls *t) {
  size_t size = rille_conn_input_len(c);
  if (size == 0) return RILLE_OK;
  t->before = malloc(size);
  if (!t->before) return RILLE_ERR_NO_MEMORY;
  rille_linkbuffer_copy(c->in, 0, t->before, size);
  t->before_size = size;
  return rille_linkbuffer_skip(c->in, (double)size);
}

int rille_conn_starttls(rille_conn *c, rille_tls *tls, const char *name, const char *origin, double timeout_ms) {
  enum { OVER = RILLE_CONN_CLOSING | RILLE_CONN_SHUT | RILLE_CONN_BROKEN | RILLE_CONN_FINISHED | RILLE_CONN_EOF };
  if (c->fd < 0 || c->error || c->flags & OVER) return RILLE_ERR_CLOSED;
  if (c->rare->tls) return RILLE_ERR_EXISTS;
  if (!(c->flags & RILLE_CONN_SOCKET)) return RILLE_ERR_NOT_SUPPORTED;
  if (c->is_http || c->flags & RILLE_CONN_READER || rille_conn_output_len(c) > 0) return RILLE_ERR_BUSY;
  if (c->rare->part && c->rare->part->feed) return RILLE_ERR_BUSY; /* a pump's bytes would go out as they are */
  enum { BEFORE_MAX = 64 << 10 };
  if (rille_conn_input_len(c) > BEFORE_MAX) return RILLE_ERR_TOO_LARGE;
  if (strlen(name) > RILLE_TLS_NAME_MAX || !(timeout_ms >= 0)) return RILLE_ERR_INVALID;
  rille_conn_tls *t = begin(c, tls, timeout_ms < (double)INT32_MAX ? (uint32_t)ceil(timeout_ms) : INT32_MAX);
  if (!t) return RILLE_ERR_NO_MEMORY;
  if (!tls->is_server) memcpy(t->name, name, strlen(name) + 1);
  t->key = rille_tls_session_key(tls, name, origin);
  int err = take_input(c, t);
  if (err) {
    c->rare->tls = NULL;
    rille_conn_tls_free(t);
    return err;
  }
  t->is_awaited = true;
  rille_conn_arm(c);
  if (!tls->is_server || t->before_size > 0) rille_conn_tls_shake(c);
  rille_conn_mark_dirty(c);
  return t->is_shaking ? RILLE_PARK : rille_conn_tls_result(c);
}

/* ---- the handshake --------------------------------------------------------------------------------------------- */

void rille_conn_tls_fail(rille_conn *c, int err, const char *why) {
  rille_conn_tls *t = c->rare->tls;
  char peer[64];
  peer[rille_conn_peer(c, peer, sizeof peer - 1)] = '\0';
  rille_log_context context = {.label = c->state->label, .conn = rille_conn_id(c), .loop = c->loop->id};
  RILLE_LOG_FOR(RILLE_LOG_INFO, &context, "TLS handshake with %s failed: %s", peer, why);
  snprintf(t->text, sizeof t->text, "%s", why);
  if (t->line && t->line->key) rille_tls_session_forget(t->tls, t->line->key);
  end_handshake(c, err);
  c->flags |= RILLE_CONN_BROKEN;
  rille_conn_give_output(c);
  rille_conn_wake_writers(c);
  if (!c->reason) c->reason = (int16_t)err;
  rille_conn_close(c);
  rille_conn_mark_dirty(c); /* the script may have closed it before */
}

/* Something was received that OpenSSL has not taken. */
static bool has_before(const rille_conn_tls *t) { return t->line->before_at < t->line->before_size; }

static void opened(rille_conn *c) {
  rille_conn_tls *t = c->rare->tls;
  rille_tls_line *line = t->line;
  t->is_shaking = t->wants_write = false;
  bool is_left = has_before(t);
  if (is_left && !line->is_filled) { /* it was more than the handshake: nobody can say by now what it is */
    rille_conn_tls_fail(c, RILLE_ERR_HANDSHAKE, "bytes that came before it were not part of it");
    return;
  }
  if (!is_left) rille_tls_line_spend(line);
  c->read_ms = c->written_ms = c->loop->now_ms;
  if (waits_for_open(c)) rille_state_emit(c->state, RILLE_EVENT_OPEN, c->slot, 0);
  tell(c);
  t->has_more = has_before(t) || SSL_has_pending(t->ssl);
  rille_conn_mark_dirty(c); /* output may wait, and other events are of interest */
}

static void ask(rille_conn *c) {
  rille_conn_tls *t = c->rare->tls;
  t->is_asking = true;
  if (!rille_state_emit(c->state, RILLE_EVENT_TLS, c->slot, RILLE_TLS_ASKS)) {
    rille_conn_tls_fail(c, RILLE_ERR_NO_MEMORY, "no memory");
  }
}

/* Somebody speaks HTTP here; a browser shows the answer. */
static void answer_http(const rille_conn *c) {
  static const char answer[] = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 35\r\n"
                               "Connection: close\r\n\r\nThis port speaks HTTPS, not HTTP.\r\n";
  (void)send(c->fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
}

/* The first and the last of OpenSSL's errors. */
static void explain(rille_conn *c, unsigned long error, unsigned long last) {
  rille_conn_tls *t = c->rare->tls;
  int reason = ERR_GET_LIB(error) == ERR_LIB_SSL ? ERR_GET_REASON(error) : 0;
  long verdict = SSL_get_verify_result(t->ssl);
  if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
    rille_conn_tls_fail(c, RILLE_ERR_CERTIFICATE, X509_verify_cert_error_string(verdict));
  } else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
    rille_conn_tls_fail(c, RILLE_ERR_CERTIFICATE, "the peer sent no certificate");
  } else if (reason == SSL_R_HTTP_REQUEST) {
    if (c->service->http) answer_http(c);
    rille_conn_tls_fail(c, RILLE_ERR_HANDSHAKE, "the peer speaks HTTP without TLS");
  } else if (t->error_number) {
    rille_conn_tls_fail(c, rille_err_from_errno(t->error_number),
                        strerror(t->error_number)); /* NOLINT(concurrency-mt-unsafe) */
  } else if (t->is_ended || reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    rille_conn_tls_fail(c, RILLE_ERR_CLOSED, "the peer has closed the connection");
  } else {
    rille_conn_tls_fail(c, RILLE_ERR_HANDSHAKE,
                        t->is_refused ? "no certificate for this name" : rille_tls_reason(last));
  }
}

/* With the first byte of the peer, so that who says nothing costs nothing. */
static bool begin_line(rille_conn_tls *t) {
  t->line = rille_tls_line_new(t);
  t->ssl = t->line ? t->line->ssl : NULL;
  return t->line && (t->tls->is_server || rille_conn_tls_aim(t));
}

/* A worker goes on with it. */
static void send_away(rille_conn *c) {
  int err = rille_tls_send_away(c);
  if (err) rille_conn_tls_fail(c, err, err == RILLE_ERR_FULL ? "too many wait for a worker" : rille_err_text(err));
  else rille_conn_mark_dirty(c); /* nothing is read meanwhile */
}

/* What a worker made comes first. False: the socket takes no more now, or it failed. */
static bool has_sent(rille_conn *c) {
  rille_conn_tls *t = c->rare->tls;
  int err = rille_tls_line_flush(t->line);
  if (err == RILLE_OK) return true;
  t->wants_write = err == RILLE_PARK;
  if (t->wants_write) rille_conn_mark_dirty(c);
  else explain(c, 0, 0);
  return false;
}

void rille_conn_tls_shake(rille_conn *c) {
  rille_conn_tls *t = c->rare->tls;
  if (!t->line && !begin_line(t)) {
    rille_conn_tls_fail(c, RILLE_ERR_NO_MEMORY, "no memory");
    return;
  }
  ERR_clear_error();
  t->wants_write = t->is_chosen = false;
  if (!has_sent(c)) return;
  if (rille_tls_goes_away(t)) {
    int waiting = rille_tls_line_fill(t->line);
    if (waiting == 0) rille_conn_mark_dirty(c);
    else if (waiting > 0) send_away(c);
    if (waiting >= 0) return;
  }
  int rc = SSL_do_handshake(t->ssl);
  if (rc == 1) {
    opened(c);
    return;
  }
  switch (SSL_get_error(t->ssl, rc)) {
  case SSL_ERROR_WANT_READ: break;
  case SSL_ERROR_WANT_WRITE: t->wants_write = true; break;
  case SSL_ERROR_WANT_CLIENT_HELLO_CB:
    if (t->is_chosen) send_away(c);
    else ask(c);
    break;
  default: explain(c, ERR_peek_error(), ERR_peek_last_error()); return;
  }
  rille_conn_mark_dirty(c); /* for what epoll is to look for */
}

void rille_conn_tls_go_on(rille_conn *c) {
  rille_conn_tls *t = c->rare->tls;
  const rille_tls_line *line = t->line;
  if (line->result == 1 || line->why == SSL_ERROR_WANT_READ) {
    rille_conn_tls_shake(c);
    return;
  }
  (void)rille_tls_line_flush(t->line); /* the alert */
  explain(c, line->first_error, line->last_error);
}

int rille_conn_tls_result(rille_conn *c) {
  rille_conn_tls *t = c->rare->tls;
  if (!t) return RILLE_OK;
  if (!t->is_shaking) return t->failure;
  t->is_awaited = true;
  return RILLE_PARK;
}

const char *rille_conn_tls_failure(const rille_conn *c) { return c->rare->tls ? c->rare->tls->text : ""; }

/* ---- events ---------------------------------------------------------------------------------------------------- */

uint32_t rille_conn_tls_events(rille_conn *c, uint32_t events) {
  rille_conn_tls *t = c->rare->tls;
  if (t->is_shaking) {
    if (!t->is_asking && !t->job) rille_conn_tls_shake(c);
    else if (events & (EPOLLHUP | EPOLLERR)) rille_conn_tls_fail(c, RILLE_ERR_RESET, "the peer has gone");
    return 0;
  }
  if (t->wants_write && events & EPOLLOUT) {
    t->wants_write = false;
    t->has_more = !t->is_dead;
    rille_conn_mark_dirty(c);
  }
  if (t->write_wants_read && events & EPOLLIN) {
    t->write_wants_read = false;
    events |= EPOLLOUT;
  }
  return events;
}

uint8_t rille_conn_tls_interest(const rille_conn *c, uint8_t interest) {
  const rille_conn_tls *t = c->rare->tls;
  if (t->is_shaking) return t->is_asking || t->job ? 0 : t->wants_write ? EPOLLOUT : EPOLLIN;
  if (t->wants_write) interest |= EPOLLOUT;
  if (t->write_wants_read) interest &= (uint8_t)~EPOLLOUT;
  return interest;
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

/* A read has failed, and errno says how. */
static void lose(rille_conn *c) {
  rille_conn_tls *t = c->rare->tls;
  unsigned long error = ERR_peek_error();
  t->is_dead = true;
  bool is_cut = t->is_ended || ERR_GET_REASON(error) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
  if (!t->error_number && !is_cut) {
    rille_log_context context = {.label = c->state->label, .conn = rille_conn_id(c), .loop = c->loop->id};
    RILLE_LOG_FOR(RILLE_LOG_INFO, &context, "TLS: what the peer sent is damaged: %s",
                  rille_tls_reason(ERR_peek_last_error()));
  }
  /* an end without close_notify may be an attacker's; that OpenSSL could not complain of it to the peer says nothing */
  if (is_cut || !t->error_number) t->error_number = ECONNRESET;
}

/* False: no more for now, and errno says why; 0 is the peer's close_notify. */
static bool read_more(rille_conn *c, uint8_t *to, size_t size, size_t *got) {
  rille_conn_tls *t = c->rare->tls;
  ERR_clear_error();
  errno = 0;
  if (SSL_read_ex(t->ssl, to, size, got) == 1) return true;
  int socket_error = errno;
  switch (SSL_get_error(t->ssl, 0)) {
  case SSL_ERROR_WANT_READ: errno = EAGAIN; return false;
  case SSL_ERROR_WANT_WRITE: /* an answer of the protocol's own */
    t->wants_write = true;
    rille_conn_mark_dirty(c);
    errno = EAGAIN;
    return false;
  case SSL_ERROR_ZERO_RETURN: errno = 0; return false;
  case SSL_ERROR_SYSCALL:
    if (!t->error_number) t->error_number = socket_error;
    break;
  default: break;
  }
  lose(c);
  errno = t->error_number;
  return false;
}

ssize_t rille_conn_tls_read(rille_conn *c, const struct iovec *areas, int count) {
  rille_conn_tls *t = c->rare->tls;
  size_t total = 0, got = 0;
  t->has_more = false;
  if (t->is_dead) {
    errno = t->error_number ? t->error_number : ECONNRESET;
    return -1;
  }
  bool is_on = true;
  for (int i = 0; i < count && is_on; i++) {
    for (size_t at = 0; at < areas[i].iov_len && is_on; at += got, total += got) {
      got = 0;
      if (!read_more(c, (uint8_t *)areas[i].iov_base + at, areas[i].iov_len - at, &got)) {
        if (total == 0) return errno == 0 ? 0 : -1;
        if (errno != EAGAIN) t->has_more = true; /* the end is told by the next read */
        is_on = false;
      } else if (got < PIECE_WORTH && !SSL_has_pending(t->ssl)) {
        is_on = false; /* most likely that was all, and if not epoll says so */
      }
    }
  }
  if (!t->is_dead && (SSL_pending(t->ssl) > 0 || has_before(t))) t->has_more = true;
  if (is_on && SSL_has_pending(t->ssl)) t->has_more = true;
  if (t->has_more) {
    t->read_turn = (uint32_t)c->loop->turn;
    rille_conn_mark_dirty(c);
  }
  return (ssize_t)total;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

/* n bytes of the output from the at-th on, as they are or joined in scratch; *n is less where a long piece ends. */
static const uint8_t *gather(rille_conn *c, size_t at, size_t *n, bool is_fixed, uint8_t *scratch) {
  const uint8_t *from;
  size_t piece = rille_linkbuffer_piece(c->out, at, &from);
  if (piece >= *n) return from;
  if (!is_fixed && piece >= PIECE_WORTH) {
    *n = piece;
    return from;
  }
  rille_linkbuffer_copy(c->out, at, scratch, *n);
  return scratch;
}

ssize_t rille_conn_tls_write(rille_conn *c, size_t size) {
  rille_conn_tls *t = c->rare->tls;
  uint8_t scratch[RECORD];
  size_t done = 0;
  errno = EPIPE;
  while (done < size && !t->is_dead && !t->is_shaking) {
    size_t n = t->retry_size ? t->retry_size : size - done < RECORD ? size - done : RECORD;
    const uint8_t *from = gather(c, done, &n, t->retry_size > 0, scratch);
    size_t sent = 0;
    ERR_clear_error();
    errno = 0;
    if (SSL_write_ex(t->ssl, from, n, &sent) == 1) {
      t->retry_size = 0;
      done += sent;
      continue;
    }
    int socket_error = errno, why = SSL_get_error(t->ssl, 0);
    if (why == SSL_ERROR_WANT_WRITE || why == SSL_ERROR_WANT_READ) {
      t->retry_size = (uint32_t)n;
      t->write_wants_read = why == SSL_ERROR_WANT_READ;
      errno = EAGAIN;
      break;
    }
    t->is_dead = true;
    if (!t->error_number) t->error_number = socket_error ? socket_error : EPIPE;
    errno = t->error_number;
  }
  if (t->is_shaking) errno = EAGAIN;
  return done > 0 ? (ssize_t)done : -1;
}

bool rille_conn_tls_goodbye(rille_conn *c) {
  rille_conn_tls *t = c->rare->tls;
  if (!t->ssl || t->is_dead || t->is_shaking || t->has_said_bye || c->flags & RILLE_CONN_BROKEN) return true;
  ERR_clear_error();
  int rc = SSL_shutdown(t->ssl);
  if (rc < 0 && SSL_get_error(t->ssl, rc) == SSL_ERROR_WANT_WRITE) {
    t->wants_write = true;
    return false;
  }
  t->has_said_bye = true;
  return true;
}
