/*
 * tls: the life of a rille_tls: filled, sealed, shared by all who ask for the same, looked at again when files change; see tls.h.
 */
#include "tls.h"

#include "log.h"

#include <ctype.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static rille_tls *all; /* with its lock; borrowed: who releases the last reference takes it out */

/* ---- filling --------------------------------------------------------------------------------------------------- */

rille_tls *rille_tls_new(int is_server) {
  rille_tls *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  atomic_store(&t->references, 1);
  pthread_mutex_init(&t->lock, NULL);
  t->is_server = is_server;
  t->has_tickets = t->resumes = t->verifies = true;
  t->min_version = TLS1_2_VERSION;
  return t;
}

/* What was said, so that two that are the same can be told. */
static bool note(rille_tls *t, int what, const char *value, size_t size) {
  size_t more = sizeof what + sizeof size + size;
  char *longer = realloc(t->identity, t->identity_size + more);
  if (!longer) return false;
  memcpy(longer + t->identity_size, &what, sizeof what);
  memcpy(longer + t->identity_size + sizeof what, &size, sizeof size);
  memcpy(longer + t->identity_size + sizeof what + sizeof size, value, size);
  t->identity = longer;
  t->identity_size += more;
  return true;
}

static int add_protocol(rille_tls *t, const char *name, size_t size) {
  if (size < 1 || size > 255) return RILLE_ERR_INVALID;
  if (t->alpn_size + size + 1 > sizeof t->alpn) return RILLE_ERR_FULL;
  t->alpn[t->alpn_size] = (unsigned char)size;
  memcpy(t->alpn + t->alpn_size + 1, name, size);
  t->alpn_size += (unsigned)size + 1;
  return RILLE_OK;
}

static int set_fingerprint(rille_tls *t, const char *text, size_t size) {
  size_t digits = 0;
  memset(t->fingerprint, 0, sizeof t->fingerprint);
  for (size_t i = 0; i < size; i++) {
    static const char hex[] = "0123456789abcdef";
    const char *digit = text[i] ? strchr(hex, tolower((unsigned char)text[i])) : NULL;
    if (text[i] == ':') continue;
    if (!digit || digits == 2 * sizeof t->fingerprint) return RILLE_ERR_INVALID;
    t->fingerprint[digits / 2] = (unsigned char)(t->fingerprint[digits / 2] << 4 | (digit - hex));
    digits++;
  }
  t->has_fingerprint = true;
  return digits == 2 * sizeof t->fingerprint ? RILLE_OK : RILLE_ERR_INVALID;
}

static int set_client(rille_tls *t, const char *value) {
  if (strcmp(value, "optional") == 0) t->client = SSL_VERIFY_PEER;
  else if (strcmp(value, "required") == 0) t->client = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
  else if (strcmp(value, "none") != 0) return RILLE_ERR_INVALID;
  return RILLE_OK;
}

static int set_text(char **to, const char *value, size_t size) {
  free(*to);
  *to = strndup(value, size);
  return *to ? RILLE_OK : RILLE_ERR_NO_MEMORY;
}

int rille_tls_set(rille_tls *t, int setting, const char *value, size_t size) {
  if (memchr(value, '\0', size)) return RILLE_ERR_INVALID;
  if (!note(t, setting, value, size)) return RILLE_ERR_NO_MEMORY;
  bool is_on = size == 1 && value[0] == '1';
  switch (setting) {
  case RILLE_TLS_ALPN: return add_protocol(t, value, size);
  case RILLE_TLS_CA: return set_text(&t->ca, value, size);
  case RILLE_TLS_CIPHERS: return set_text(&t->ciphers, value, size);
  case RILLE_TLS_CLIENT: return set_client(t, value);
  case RILLE_TLS_FINGERPRINT: return set_fingerprint(t, value, size);
  case RILLE_TLS_KTLS: t->has_ktls = is_on; return RILLE_OK;
  case RILLE_TLS_OFFLOAD: return size <= RILLE_POOL_NAME_MAX ? set_text(&t->pool, value, size) : RILLE_ERR_INVALID;
  case RILLE_TLS_RESUME: t->resumes = is_on; return RILLE_OK;
  case RILLE_TLS_TICKETS: t->has_tickets = is_on; return RILLE_OK;
  case RILLE_TLS_VERIFY: t->verifies = is_on; return RILLE_OK;
  case RILLE_TLS_MIN_VERSION:
    if (strcmp(value, "1.3") == 0) t->min_version = TLS1_3_VERSION;
    else if (strcmp(value, "1.2") != 0) return RILLE_ERR_INVALID;
    return RILLE_OK;
  default: return RILLE_ERR_INVALID;
  }
}

static void free_certificate(rille_tls_certificate *one) {
  for (int i = 0; i < RILLE_TLS_FILE_CA; i++) free(one->files[i]); /* that of the authorities is the rules' */
  free(one->given_names);
  free(one->names);
  if (one->context) SSL_CTX_free(one->context);
  free(one);
}

int rille_tls_add(rille_tls *t, const char *certificate, const char *key, const char *ocsp, const char *names) {
  const char *const files[] = {certificate, key, ocsp};
  int count = 0;
  rille_tls_certificate **at = &t->certificates;
  for (; *at; at = &(*at)->next) count++;
  if (count == RILLE_TLS_CERTIFICATES_MAX) return RILLE_ERR_FULL;
  rille_tls_certificate *one = calloc(1, sizeof *one);
  bool ok = one && note(t, 0, names, strlen(names));
  for (int i = 0; ok && i < RILLE_TLS_FILE_CA; i++) {
    ok = note(t, 0, files[i], strlen(files[i])) && (!files[i][0] || (one->files[i] = strdup(files[i])));
  }
  if (ok && names[0]) ok = (one->given_names = strdup(names)) != NULL;
  if (!ok) {
    if (one) free_certificate(one);
    return RILLE_ERR_NO_MEMORY;
  }
  *at = one;
  return RILLE_OK;
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

static void destroy(rille_tls *t) {
  for (rille_tls_certificate *one = t->certificates, *next; one; one = next) {
    next = one->next;
    free_certificate(one);
  }
  rille_tls_sessions_drop(t);
  free(t->ca);
  free(t->ciphers);
  free(t->pool);
  free(t->identity);
  pthread_mutex_destroy(&t->lock);
  free(t);
}

rille_tls *rille_tls_retain(rille_tls *t) {
  atomic_fetch_add(&t->references, 1);
  return t;
}

/* With the lock of all, as somebody may just have found it there. */
void rille_tls_release(rille_tls *t) {
  pthread_mutex_lock(&all_lock);
  bool is_last = atomic_fetch_sub(&t->references, 1) == 1;
  for (rille_tls **at = &all; is_last && *at; at = &(*at)->next) {
    if (*at != t) continue;
    *at = t->next;
    break;
  }
  pthread_mutex_unlock(&all_lock);
  if (is_last) destroy(t);
}

int rille_tls_count(void) {
  int count = 0;
  pthread_mutex_lock(&all_lock);
  for (const rille_tls *t = all; t; t = t->next) count++;
  pthread_mutex_unlock(&all_lock);
  return count;
}

static bool is_same(const rille_tls *a, const rille_tls *b) {
  return a->is_server == b->is_server && a->identity_size == b->identity_size &&
         (a->identity_size == 0 || memcmp(a->identity, b->identity, a->identity_size) == 0);
}

static uint64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* The list's lock is held while files are read: who asks for the same at that moment waits for them. */
static bool load_all(rille_tls *t, rille_tls_problem *out) {
  unsigned size = sizeof t->id;
  EVP_Digest(t->identity ? t->identity : "", t->identity_size, t->id, &size, EVP_sha256(), NULL);
  /* of a client without one, an empty place, which says nothing of what it was asked for */
  if (!t->certificates) t->certificates = calloc(1, sizeof *t->certificates);
  if (!t->certificates) return rille_tls_refuse(out, "", "no memory");
  if (t->pool && t->has_ktls)
    return rille_tls_refuse(out, "offload", "excludes ktls: a worker has no socket to give the keys to");
  t->has_ktls = t->has_ktls && rille_tls_kernel_has_it();
  t->looked_ms = now_ms();
  out->certificate = 1;
  for (rille_tls_certificate *one = t->certificates; one; one = one->next, out->certificate++) {
    one->files[RILLE_TLS_FILE_CA] = t->ca;
    if (!rille_tls_load(t, one, out)) return false;
  }
  return true;
}

rille_tls *rille_tls_seal(rille_tls *t, rille_tls_problem *out) {
  *out = (rille_tls_problem){0};
  pthread_mutex_lock(&all_lock);
  rille_tls *other = all;
  while (other && !is_same(other, t)) other = other->next;
  bool is_loaded = !other && load_all(t, out);
  if (other) {
    rille_tls_retain(other);
  } else if (is_loaded) {
    t->next = all;
    all = t;
  }
  pthread_mutex_unlock(&all_lock);
  if (is_loaded) return t;
  destroy(t);
  return other;
}

/* ---- choice ---------------------------------------------------------------------------------------------------- */

/* With the lock. What cannot be loaded leaves what was there. */
static void look_again(rille_tls *t) {
  uint64_t now = now_ms();
  if (now - t->looked_ms < RILLE_TLS_LOOK_MS) return;
  t->looked_ms = now;
  for (rille_tls_certificate *one = t->certificates; one; one = one->next) {
    if (!rille_tls_has_changed(one)) continue;
    rille_tls_problem problem = {0};
    if (rille_tls_load(t, one, &problem)) {
      rille_tls_sessions_drop(t); /* others may be trusted now, or this side be somebody else */
      RILLE_LOG(RILLE_LOG_INFO, "TLS: loaded %s again", rille_tls_shown(one->files[0] ? one->files[0] : t->ca));
    } else {
      RILLE_LOG(RILLE_LOG_ERROR, "TLS: %s has changed, and the one before is kept: %s", problem.key, problem.text);
    }
  }
}

SSL *rille_tls_open(rille_tls *t) {
  pthread_mutex_lock(&t->lock);
  look_again(t);
  SSL *ssl = t->certificates ? SSL_new(t->certificates->context) : NULL;
  pthread_mutex_unlock(&t->lock);
  return ssl;
}

/* RFC 6125, 6.4.3: the star stands for one whole label, the first. */
static bool has_name(const char *names, const char *name, size_t size, bool is_wild) {
  const char *rest = is_wild ? memchr(name, '.', size) : name;
  if (!rest) return false;
  size_t rest_size = size - (size_t)(rest - name);
  for (const char *at = names; at && *at;) {
    size_t length = strcspn(at, "\n");
    bool is_star = length > 2 && at[0] == '*' && at[1] == '.';
    const char *text = is_star ? at + 1 : at;
    if (is_star == is_wild && length - is_star == rest_size && memcmp(text, rest, rest_size) == 0) return true;
    at += length + (at[length] == '\n');
  }
  return false;
}

/* A sealed one has a certificate, or at least an empty place for one. */
static SSL_CTX *find(const rille_tls *t, const char *name) {
  size_t size = strlen(name);
  for (int is_wild = 0; size > 0 && is_wild < 2; is_wild++) {
    for (const rille_tls_certificate *one = t->certificates; one; one = one->next) {
      if (has_name(one->names, name, size, is_wild)) return one->context;
    }
  }
  return t->certificates ? t->certificates->context : NULL;
}

bool rille_tls_choose(rille_tls *t, SSL *ssl, const char *name) {
  char lower[RILLE_TLS_NAME_MAX + 1];
  size_t size = 0;
  for (; name[size] && size < RILLE_TLS_NAME_MAX; size++) lower[size] = (char)tolower((unsigned char)name[size]);
  lower[size] = '\0';
  pthread_mutex_lock(&t->lock);
  look_again(t);
  SSL_CTX *context = find(t, lower);
  bool ok = context && SSL_set_SSL_CTX(ssl, context) != NULL;
  pthread_mutex_unlock(&t->lock);
  return ok;
}
