/*
 * tls_load: a certificate with its key, its OCSP answer and its names, from files or from text. Any thread; with the lock of its rille_tls
 * when that is in use.
 */
#include "tls.h"

#include "log.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const keys[RILLE_TLS_FILES] = {"certificate", "key", "ocsp", "ca"};

static bool is_text(const char *file) { return strstr(file, "-----BEGIN") != NULL; }

const char *rille_tls_shown(const char *file) { return is_text(file) ? "the text" : file; }

bool rille_tls_refuse(rille_tls_problem *out, const char *key, const char *format, ...) {
  if (!out) return false;
  snprintf(out->key, sizeof out->key, "%s", key);
  va_list list;
  va_start(list, format);
  vsnprintf(out->text, sizeof out->text, format, list);
  va_end(list);
  return false;
}

const char *rille_tls_reason(unsigned long last) {
  if (ERR_GET_LIB(last) == ERR_LIB_SYS) return strerror(ERR_GET_REASON(last)); /* NOLINT(concurrency-mt-unsafe) */
  const char *text = last ? ERR_reason_error_string(last) : NULL;
  return text ? text : "unknown error";
}

/* ---- files ----------------------------------------------------------------------------------------------------- */

static void look(const char *file, rille_tls_stamp *out) {
  struct stat s;
  memset(out, 0, sizeof *out);
  if (!file || is_text(file) || stat(file, &s) != 0) return;
  *out = (rille_tls_stamp){.device = s.st_dev, .inode = s.st_ino, .size = s.st_size, .modified = s.st_mtim};
}

static bool is_same(const rille_tls_stamp *a, const rille_tls_stamp *b) {
  return a->device == b->device && a->inode == b->inode && a->size == b->size &&
         a->modified.tv_sec == b->modified.tv_sec && a->modified.tv_nsec == b->modified.tv_nsec;
}

bool rille_tls_has_changed(const rille_tls_certificate *one) {
  for (int i = 0; i < RILLE_TLS_FILES; i++) {
    rille_tls_stamp now;
    if (!one->files[i] || is_text(one->files[i])) continue;
    look(one->files[i], &now);
    if (!is_same(&now, &one->stamps[i])) return true;
  }
  return false;
}

static BIO *open_file(const rille_tls_certificate *one, int which, rille_tls_problem *out) {
  const char *file = one->files[which];
  ERR_clear_error();
  BIO *bio = is_text(file) ? BIO_new_mem_buf(file, -1) : BIO_new_file(file, "rb");
  if (!bio)
    rille_tls_refuse(out, keys[which], "cannot read %s: %s", rille_tls_shown(file),
                     rille_tls_reason(ERR_peek_last_error()));
  return bio;
}

/* ---- its parts ------------------------------------------------------------------------------------------------- */

static void warn_of_age(const rille_tls_certificate *one, const X509 *leaf) {
  if (X509_cmp_current_time(X509_get0_notAfter(leaf)) >= 0) return;
  RILLE_LOG(RILLE_LOG_WARN, "the certificate of %s has expired", rille_tls_shown(one->files[0]));
}

static bool use_certificate(const rille_tls_certificate *one, SSL_CTX *context, rille_tls_problem *out) {
  BIO *bio = open_file(one, RILLE_TLS_FILE_CERTIFICATE, out);
  if (!bio) return false;
  X509 *leaf = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL);
  const char *shown = rille_tls_shown(one->files[0]);
  if (!leaf) {
    BIO_free(bio);
    return rille_tls_refuse(out, "certificate", "%s holds no certificate (PEM): %s", shown,
                            rille_tls_reason(ERR_peek_last_error()));
  }
  bool ok = SSL_CTX_use_certificate(context, leaf) == 1;
  if (ok) warn_of_age(one, leaf);
  else rille_tls_refuse(out, "certificate", "%s: %s", shown, rille_tls_reason(ERR_peek_last_error()));
  X509_free(leaf);
  X509 *above;
  while (ok && (above = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
    if (SSL_CTX_add0_chain_cert(context, above) == 1) continue;
    X509_free(above);
    ok = rille_tls_refuse(out, "certificate", "%s: %s", shown, rille_tls_reason(ERR_peek_last_error()));
  }
  BIO_free(bio);
  if (ok && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
    ok = rille_tls_refuse(out, "certificate", "%s: a certificate of its chain is damaged", shown);
  }
  ERR_clear_error();
  return ok;
}

/* Nobody is there to be asked. */
static int no_password(char *to, int size, int is_writing, void *arg) {
  (void)to, (void)size, (void)is_writing;
  *(bool *)arg = true;
  return -1;
}

static bool use_key(const rille_tls_certificate *one, SSL_CTX *context, rille_tls_problem *out) {
  BIO *bio = open_file(one, RILLE_TLS_FILE_KEY, out);
  if (!bio) return false;
  bool is_encrypted = false;
  EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_password, &is_encrypted);
  BIO_free(bio);
  const char *shown = rille_tls_shown(one->files[RILLE_TLS_FILE_KEY]);
  if (!key && is_encrypted) return rille_tls_refuse(out, "key", "%s is encrypted; give one without a password", shown);
  if (!key)
    return rille_tls_refuse(out, "key", "%s holds no private key (PEM): %s", shown,
                            rille_tls_reason(ERR_peek_last_error()));
  ERR_clear_error();
  bool ok = SSL_CTX_use_PrivateKey(context, key) == 1 && SSL_CTX_check_private_key(context) == 1;
  EVP_PKEY_free(key);
  return ok || rille_tls_refuse(out, "key", "%s is not the key of the certificate in %s", shown,
                                rille_tls_shown(one->files[0]));
}

/* An answer belongs to its context, which connections hold when the files have changed. */
typedef struct ocsp_answer {
  size_t size;
  unsigned char bytes[];
} ocsp_answer;

static int ocsp_index = -1;
static pthread_once_t ocsp_once = PTHREAD_ONCE_INIT;

static void free_answer(void *context, void *answer, CRYPTO_EX_DATA *data, int index, long a, void *b) {
  (void)context, (void)data, (void)index, (void)a, (void)b;
  free(answer);
}

static void make_index(void) { ocsp_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_answer); }

static int on_status(SSL *ssl, void *arg) {
  const ocsp_answer *answer = arg;
  unsigned char *copy = OPENSSL_memdup(answer->bytes, answer->size);
  if (!copy) return SSL_TLSEXT_ERR_NOACK;
  if (SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)answer->size) == 1) return SSL_TLSEXT_ERR_OK;
  OPENSSL_free(copy);
  return SSL_TLSEXT_ERR_NOACK;
}

static bool use_ocsp(const rille_tls_certificate *one, SSL_CTX *context, rille_tls_problem *out) {
  if (!one->files[RILLE_TLS_FILE_OCSP]) return true;
  BIO *bio = open_file(one, RILLE_TLS_FILE_OCSP, out);
  if (!bio) return false;
  enum { ANSWER_MAX = 64 << 10 };
  ocsp_answer *answer = malloc(sizeof *answer + ANSWER_MAX);
  int size = answer ? BIO_read(bio, answer->bytes, ANSWER_MAX) : -1;
  BIO_free(bio);
  pthread_once(&ocsp_once, make_index);
  /* DER of an OCSPResponse is a sequence */
  if (size < 5 || answer->bytes[0] != 0x30 || SSL_CTX_set_ex_data(context, ocsp_index, answer) != 1) {
    free(answer);
    return rille_tls_refuse(out, "ocsp", "%s holds no OCSP answer (DER)",
                            rille_tls_shown(one->files[RILLE_TLS_FILE_OCSP]));
  }
  answer->size = (size_t)size;
  SSL_CTX_set_tlsext_status_cb(context, on_status);
  SSL_CTX_set_tlsext_status_arg(context, answer);
  return true;
}

/* ---- names ----------------------------------------------------------------------------------------------------- */

/* One more line, in lower case; names with odd bytes are left out. */
static char *add_name(char *names, const unsigned char *from, int size) {
  if (size <= 0 || size > RILLE_TLS_NAME_MAX) return names;
  for (int i = 0; i < size; i++) {
    if (from[i] <= ' ' || from[i] >= 127) return names;
  }
  size_t before = names ? strlen(names) : 0;
  char *longer = realloc(names, before + (size_t)size + 2);
  if (!longer) return names;
  for (int i = 0; i < size; i++) longer[before + (size_t)i] = (char)tolower(from[i]);
  longer[before + (size_t)size] = '\n';
  longer[before + (size_t)size + 1] = '\0';
  return longer;
}

/* RFC 6125: the alternative names, and only without any the common name. */
static char *names_of(const X509 *leaf) {
  char *names = NULL;
  GENERAL_NAMES *all = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
  for (int i = 0; i < sk_GENERAL_NAME_num(all); i++) {
    const GENERAL_NAME *one = sk_GENERAL_NAME_value(all, i);
    if (one->type != GEN_DNS) continue;
    names = add_name(names, ASN1_STRING_get0_data(one->d.dNSName), ASN1_STRING_length(one->d.dNSName));
  }
  GENERAL_NAMES_free(all);
  if (names) return names;
  X509_NAME *subject = X509_get_subject_name(leaf);
  int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at < 0) return NULL;
  const ASN1_STRING *name = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
  return add_name(NULL, ASN1_STRING_get0_data(name), ASN1_STRING_length(name));
}

static char *given_names(const rille_tls_certificate *one) {
  char *names = NULL;
  for (const char *at = one->given_names; at && *at;) {
    size_t size = strcspn(at, "\n");
    names = add_name(names, (const unsigned char *)at, (int)(size < 1024 ? size : 1024));
    at += size + (at[size] == '\n');
  }
  return names;
}

/* ---- all of it ------------------------------------------------------------------------------------------------- */

bool rille_tls_load(const rille_tls *t, rille_tls_certificate *from, rille_tls_problem *out) {
  rille_tls_stamp stamps[RILLE_TLS_FILES];
  for (int i = 0; i < RILLE_TLS_FILES; i++)
    look(from->files[i], &stamps[i]);          /* what is written now is seen the next time */
  memcpy(from->stamps, stamps, sizeof stamps); /* the same files are not tried twice, whether they are good or not */
  SSL_CTX *context = rille_tls_context_new(t, out);
  if (!context) return false;
  bool has_one = from->files[RILLE_TLS_FILE_CERTIFICATE];
  if (has_one &&
      !(use_certificate(from, context, out) && use_key(from, context, out) && use_ocsp(from, context, out))) {
    SSL_CTX_free(context);
    return false;
  }
  const X509 *leaf = SSL_CTX_get0_certificate(context);
  char *names = from->given_names ? given_names(from) : leaf ? names_of(leaf) : NULL;
  free(from->names);
  if (from->context) SSL_CTX_free(from->context);
  from->names = names;
  from->context = context;
  return true;
}
