/*
 * tls_face: what Lua asks about the TLS of a connection, and the names both sides have for each other; see rille_tls.h. Loop thread.
 */
#include "conn_tls.h"
#include "loop.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

void rille_service_set_tls(rille_service *service, rille_tls *t, int from_first, int asks) {
  if (service->tls) rille_tls_release(service->tls);
  service->tls = rille_tls_retain(t);
  service->is_tls = from_first;
  service->asks_certificate = asks;
}

rille_tls *rille_conn_service_tls(const rille_conn *c) { return c->service->tls; }

/* ---- names ----------------------------------------------------------------------------------------------------- */

bool rille_conn_tls_aim(rille_conn_tls *t) {
  if (!t->name[0]) return true;
  unsigned char address[16];
  bool is_address = inet_pton(AF_INET, t->name, address) == 1 || inet_pton(AF_INET6, t->name, address) == 1;
  bool verifies = t->tls->verifies && !t->tls->has_fingerprint;
  if (is_address) return !verifies || X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(t->ssl), t->name) == 1;
  if (SSL_set_tlsext_host_name(t->ssl, t->name) != 1) return false; /* RFC 6066, 3: no addresses */
  SSL_set_hostflags(t->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return !verifies || SSL_set1_host(t->ssl, t->name) == 1;
}

/* RFC 6066, 3: a list of one name: its length, type 0, the name's length, the name. */
static void read_name(SSL *ssl, char to[RILLE_TLS_NAME_MAX + 1]) {
  const unsigned char *bytes;
  size_t size;
  to[0] = '\0';
  if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &bytes, &size) != 1 || size < 5) return;
  size_t length = (size_t)bytes[3] << 8 | bytes[4];
  if (bytes[2] != TLSEXT_NAMETYPE_host_name || length > size - 5 || length > RILLE_TLS_NAME_MAX) return;
  for (size_t i = 0; i < length; i++) {
    if (bytes[5 + i] <= ' ' || bytes[5 + i] >= 127) return; /* no name that a certificate could have */
  }
  memcpy(to, bytes + 5, length);
  to[length] = '\0';
  if (length > 1 && to[length - 1] == '.') to[length - 1] = '\0';
}

int rille_tls_on_hello(SSL *ssl, int *alert, void *arg) {
  (void)arg;
  const rille_tls_line *line = SSL_get_app_data(ssl);
  rille_conn_tls *t = line->owner;
  if (!t) return SSL_CLIENT_HELLO_SUCCESS; /* a worker goes on with what was chosen */
  if (!t->is_named) {
    read_name(ssl, t->name);
    t->is_named = true;
    t->is_answered = !t->conn->service->asks_certificate;
    memcpy(t->wanted, t->name, sizeof t->wanted);
  }
  if (!t->is_answered) return SSL_CLIENT_HELLO_RETRY;
  *alert = t->is_refused ? SSL_AD_UNRECOGNIZED_NAME : SSL_AD_INTERNAL_ERROR;
  if (t->is_refused) return SSL_CLIENT_HELLO_ERROR;
  rille_tls *from = t->chosen ? t->chosen : t->tls;
  if (!rille_tls_choose(from, ssl, t->wanted)) return SSL_CLIENT_HELLO_ERROR;
  t->is_chosen = t->tls->pool != NULL;
  return t->is_chosen ? SSL_CLIENT_HELLO_RETRY : SSL_CLIENT_HELLO_SUCCESS;
}

/* ---- on_certificate -------------------------------------------------------------------------------------------- */

static rille_conn *asking(rille_loop *loop, uint32_t slot) {
  rille_conn *c = rille_conn_at(loop, slot);
  return c && c->rare->tls && c->rare->tls->is_asking && c->fd >= 0 ? c : NULL;
}

int rille_tls_ask(rille_loop *loop, uint32_t slot, rille_tls_question *out) {
  const rille_conn *c = asking(loop, slot);
  if (!c) return 0;
  *out = (rille_tls_question){.ticket = rille_conn_id(c), .service = c->service->id};
  memcpy(out->name, c->rare->tls->name, sizeof c->rare->tls->name);
  out->peer[rille_conn_peer(c, out->peer, sizeof out->peer - 1)] = '\0';
  return 1;
}

void rille_tls_answer(rille_loop *loop, uint32_t slot, double ticket, const char *name, rille_tls *other, int refuse) {
  rille_conn *c = asking(loop, slot);
  if (!c || rille_conn_id(c) != ticket) return;
  rille_conn_tls *t = c->rare->tls;
  t->is_asking = false;
  t->is_answered = true;
  t->is_refused = refuse;
  t->chosen = other ? rille_tls_retain(other) : NULL;
  snprintf(t->wanted, sizeof t->wanted, "%s", name);
  rille_conn_tls_shake(c);
}

/* ---- conn:tls() ------------------------------------------------------------------------------------------------ */

static void take_text(BIO *bio, char *to, size_t size) {
  int n = BIO_read(bio, to, (int)size - 1);
  to[n > 0 ? n : 0] = '\0';
  (void)BIO_reset(bio);
}

static void take_names(const X509 *leaf, char *to, size_t size) {
  GENERAL_NAMES *all = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
  size_t used = 0;
  for (int i = 0; i < sk_GENERAL_NAME_num(all); i++) {
    const GENERAL_NAME *one = sk_GENERAL_NAME_value(all, i);
    bool is_text = one->type == GEN_DNS || one->type == GEN_EMAIL || one->type == GEN_URI;
    if (!is_text) continue;
    const char *text = (const char *)ASN1_STRING_get0_data(one->d.ia5);
    size_t length = (size_t)ASN1_STRING_length(one->d.ia5);
    if (memchr(text, '\n', length) || memchr(text, '\0', length) || used + length + 2 > size) continue;
    memcpy(to + used, text, length);
    used += length;
    to[used++] = '\n';
  }
  to[used] = '\0';
  GENERAL_NAMES_free(all);
}

static void take_peer(const X509 *leaf, rille_tls_info *out) {
  out->has_peer = 1;
  BIO *bio = BIO_new(BIO_s_mem());
  if (bio) {
    X509_NAME_print_ex(bio, X509_get_subject_name(leaf), 0, XN_FLAG_RFC2253);
    take_text(bio, out->subject, sizeof out->subject);
    X509_NAME_print_ex(bio, X509_get_issuer_name(leaf), 0, XN_FLAG_RFC2253);
    take_text(bio, out->issuer, sizeof out->issuer);
    BIO_free(bio);
  }
  take_names(leaf, out->names, sizeof out->names);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (X509_digest(leaf, EVP_sha256(), digest, &size) == 1) {
    for (unsigned i = 0; i < size && i < 32; i++) snprintf(out->fingerprint + 2 * (size_t)i, 3, "%02x", digest[i]);
  }
  struct tm tm;
  if (ASN1_TIME_to_tm(X509_get0_notAfter(leaf), &tm) == 1) out->not_after = (double)timegm(&tm);
}

bool rille_conn_tls_is_kernels(const rille_conn *c) {
  const rille_conn_tls *t = c->rare->tls;
  return t->ssl && !t->is_shaking && !t->is_dead && BIO_get_ktls_send(SSL_get_wbio(t->ssl)) > 0;
}

int rille_conn_tls_info(const rille_conn *c, rille_tls_info *out) {
  const rille_conn_tls *t = c->rare->tls;
  if (!t || !t->ssl || t->is_shaking || t->failure) return 0;
  *out = (rille_tls_info){0};
  snprintf(out->version, sizeof out->version, "%s", SSL_get_version(t->ssl));
  snprintf(out->cipher, sizeof out->cipher, "%s", SSL_get_cipher_name(t->ssl));
  const unsigned char *alpn;
  unsigned size;
  SSL_get0_alpn_selected(t->ssl, &alpn, &size);
  if (size < sizeof out->alpn && size > 0) memcpy(out->alpn, alpn, size);
  snprintf(out->sni, sizeof out->sni, "%s", t->name);
  out->resumed = SSL_session_reused(t->ssl);
  out->ktls_send = BIO_get_ktls_send(SSL_get_wbio(t->ssl)) > 0;
  out->ktls_receive = BIO_get_ktls_recv(SSL_get_rbio(t->ssl)) > 0;
  const X509 *leaf = SSL_get0_peer_certificate(t->ssl);
  if (leaf) take_peer(leaf, out);
  ERR_clear_error();
  return 1;
}
