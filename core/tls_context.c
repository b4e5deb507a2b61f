/*
 * tls_context: the rules of a rille_tls as an OpenSSL context: versions, ciphers, ALPN, who is asked for a certificate. Any thread.
 */
#include "tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

/* TLS 1.2 with forward secrecy and authenticated encryption alone. */
static const char modern[] = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
                             "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
/* Behind a list of the configuration: whatever that says, never these. */
static const char never[] = ":!aNULL:!eNULL:!EXPORT:!LOW:!RC4:!3DES:!DES:!MD5:!PSK:!SRP";

/* ---- callbacks ------------------------------------------------------------------------------------------------- */

static int on_name(SSL *ssl, int *alert, void *arg) {
  (void)ssl, (void)alert, (void)arg;
  return SSL_TLSEXT_ERR_OK; /* the certificate was chosen when the hello came; this tells the client so */
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_size, const unsigned char *in,
                   unsigned in_size, void *arg) {
  (void)ssl;
  const rille_tls *t = arg;
  unsigned char *found;
  if (SSL_select_next_proto(&found, out_size, t->alpn, t->alpn_size, in, in_size) != OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL; /* RFC 7301, 3.2: no_application_protocol */
  }
  *out = found;
  return SSL_TLSEXT_ERR_OK;
}

/* In place of a chain: the one certificate that is taken. */
static int on_pinned(X509_STORE_CTX *store, void *arg) {
  const rille_tls *t = arg;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  X509 *peer = X509_STORE_CTX_get0_cert(store);
  bool is_it = peer && X509_digest(peer, EVP_sha256(), digest, &size) == 1 && size == sizeof t->fingerprint &&
               CRYPTO_memcmp(digest, t->fingerprint, size) == 0;
  X509_STORE_CTX_set_error(store, is_it ? X509_V_OK : X509_V_ERR_CERT_REJECTED);
  return is_it;
}

/* ---- rules ----------------------------------------------------------------------------------------------------- */

static bool set_ciphers(const rille_tls *t, SSL_CTX *context, rille_tls_problem *out) {
  if (!t->ciphers)
    return SSL_CTX_set_cipher_list(context, modern) == 1 || rille_tls_refuse(out, "ciphers", "no ciphers");
  size_t size = strlen(t->ciphers);
  char *list = OPENSSL_malloc(size + sizeof never);
  if (!list) return rille_tls_refuse(out, "ciphers", "no memory");
  memcpy(list, t->ciphers, size);
  memcpy(list + size, never, sizeof never);
  bool ok = SSL_CTX_set_cipher_list(context, list) == 1;
  OPENSSL_free(list);
  if (ok) { /* those of TLS 1.3 are always in the list */
    int of_1_2 = 0;
    STACK_OF(SSL_CIPHER) *all = SSL_CTX_get_ciphers(context);
    for (int i = 0; i < sk_SSL_CIPHER_num(all); i++) {
      of_1_2 += strcmp(SSL_CIPHER_get_version(sk_SSL_CIPHER_value(all, i)), "TLSv1.3") != 0;
    }
    ok = of_1_2 > 0;
  }
  return ok || rille_tls_refuse(out, "ciphers", "\"%.80s\": none of them is known, or safe", t->ciphers);
}

static bool set_authorities(const rille_tls *t, SSL_CTX *context, rille_tls_problem *out) {
  if (!t->ca) {
    if (!t->is_server && t->verifies && !t->has_fingerprint) SSL_CTX_set_default_verify_paths(context);
    return true;
  }
  bool is_text = strstr(t->ca, "-----BEGIN") != NULL;
  BIO *bio = is_text ? BIO_new_mem_buf(t->ca, -1) : BIO_new_file(t->ca, "r");
  if (!bio)
    return rille_tls_refuse(out, "ca", "cannot read %s: %s", rille_tls_shown(t->ca),
                            rille_tls_reason(ERR_peek_last_error()));
  X509_STORE *store = SSL_CTX_get_cert_store(context);
  int count = 0;
  for (X509 *one; (one = PEM_read_bio_X509(bio, NULL, NULL, NULL)); X509_free(one)) {
    if (X509_STORE_add_cert(store, one) == 1) count++;
    if (t->is_server) SSL_CTX_add_client_CA(context, one);
  }
  BIO_free(bio);
  ERR_clear_error(); /* that there is no further one */
  return count > 0 || rille_tls_refuse(out, "ca", "%s holds no certificate (PEM)", rille_tls_shown(t->ca));
}

static void set_options(const rille_tls *t, SSL_CTX *context) {
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                   SSL_OP_PRIORITIZE_CHACHA);
  if (t->has_ktls) SSL_CTX_set_options(context, SSL_OP_ENABLE_KTLS);
  SSL_CTX_set_mode(context,
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_read_ahead(context, !t->has_ktls); /* head and body of a record in one call */
}

static void set_server(rille_tls *t, SSL_CTX *context) {
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF); /* what is kept is with the client */
  SSL_CTX_set_session_id_context(context, t->id, sizeof t->id);
  if (t->has_tickets) {
    rille_tls_tickets_use(context);
  } else {
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(context, 0);
  }
  SSL_CTX_set_verify(context, t->client, NULL);
  SSL_CTX_set_client_hello_cb(context, rille_tls_on_hello, NULL);
  SSL_CTX_set_tlsext_servername_callback(context, on_name);
  if (t->alpn_size > 0) SSL_CTX_set_alpn_select_cb(context, on_alpn, t);
}

static void set_client(rille_tls *t, SSL_CTX *context) {
  SSL_CTX_set_verify(context, t->verifies || t->has_fingerprint ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
  if (t->has_fingerprint) SSL_CTX_set_cert_verify_callback(context, on_pinned, t);
  SSL_CTX_set_session_cache_mode(context,
                                 t->resumes ? SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL : SSL_SESS_CACHE_OFF);
  SSL_CTX_sess_set_new_cb(context, rille_tls_on_session);
  if (t->alpn_size > 0) SSL_CTX_set_alpn_protos(context, t->alpn, t->alpn_size);
}

SSL_CTX *rille_tls_context_new(const rille_tls *t, rille_tls_problem *out) {
  ERR_clear_error();
  SSL_CTX *context = SSL_CTX_new(t->is_server ? TLS_server_method() : TLS_client_method());
  if (!context) {
    rille_tls_refuse(out, "", "no memory");
    return NULL;
  }
  rille_tls *callee = (rille_tls *)(uintptr_t)t; /* outlives the context: connections hold both */
  SSL_CTX_set_min_proto_version(context, t->min_version);
  set_options(t, context);
  if (t->is_server) set_server(callee, context);
  else set_client(callee, context);
  if (set_ciphers(t, context, out) && set_authorities(t, context, out)) return context;
  SSL_CTX_free(context);
  return NULL;
}
