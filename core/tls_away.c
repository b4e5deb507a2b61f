/*
 * tls_away: steps of a handshake that workers take, so that the loop does not wait for a private key; see tls.h. Loop thread, but for
 * rille_tls_line_run.
 *
 * The line goes with the job, and nobody else has it until the job is back: the connection meanwhile has none, and may end as any other. It
 * keeps a reference to the job alone, by which it knows that what comes back is its own. What comes back for a connection that is gone is
 * freed with its job.
 *
 * Of a server that is the step from the client's hello on, where it signs, and with a key exchange by RSA alone the one that decrypts; of a
 * client whatever follows its hello.
 */
#include "conn_tls.h"
#include "io.h"
#include "loop.h"

#include <openssl/err.h>
#include <stdlib.h>

bool rille_tls_goes_away(const rille_conn_tls *t) {
  if (!t->tls->pool || !t->ssl || SSL_in_before(t->ssl) || SSL_is_init_finished(t->ssl)) return false;
  if (!t->tls->is_server) return true;
  const SSL_CIPHER *cipher = SSL_get_pending_cipher(t->ssl);
  return cipher && SSL_CIPHER_get_kx_nid(cipher) == NID_kx_rsa;
}

void rille_tls_line_run(rille_tls_line *line) {
  ERR_clear_error();
  line->result = SSL_do_handshake(line->ssl);
  line->why = SSL_get_error(line->ssl, line->result);
  line->first_error = ERR_peek_error();
  line->last_error = ERR_peek_last_error();
  ERR_clear_error();
}

static rille_job *submit(const rille_conn *c, rille_tls_line *line, int *err) {
  static const rille_pool_options as_it_is = {
      .max = -1, .scale_threshold = -1, .queue = -1, .idle_ms = -1, .memory = -1};
  rille_pool *pool = rille_pool_open(line->tls->pool, &as_it_is, err);
  rille_io *io = pool ? calloc(1, sizeof *io) : NULL;
  rille_job *job = NULL;
  if (io) {
    io->line = line;
    job = rille_io_send(io, pool, c->state, 0, "tls.handshake", err);
  } else {
    *err = RILLE_ERR_NO_MEMORY;
    rille_tls_line_free(line);
  }
  if (pool) rille_pool_release(pool);
  return job;
}

int rille_tls_send_away(rille_conn *c) {
  rille_conn_tls *t = c->rare->tls;
  rille_tls_line *line = t->line;
  int err = RILLE_OK;
  t->line = NULL;
  t->ssl = NULL;
  line->owner = NULL;
  line->slot = c->slot;
  if (t->chosen && !line->chosen) line->chosen = rille_tls_retain(t->chosen);
  t->job = submit(c, line, &err);
  return t->job ? RILLE_OK : err;
}

void rille_tls_come_back(rille_loop *loop, rille_job *job) {
  rille_tls_line *line = job->io->line;
  rille_conn *c = rille_conn_at(loop, line->slot);
  rille_conn_tls *t = c ? c->rare->tls : NULL;
  bool is_awaited = t && t->job == job;
  if (is_awaited) {
    job->io->line = NULL;
    line->owner = t;
    t->line = line;
    t->ssl = line->ssl;
    t->job = NULL;
    rille_job_release(job); /* the connection's reference */
  }
  rille_job_release(job);
  if (is_awaited) rille_conn_tls_go_on(c);
}

void rille_tls_abandon(rille_conn_tls *t) {
  rille_job *job = t->job;
  if (!job) return;
  t->job = NULL;
  rille_job_abandon(job);
  rille_job_release(job);
}
