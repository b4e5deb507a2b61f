/*
 * tls_session: sessions that servers gave to their clients here, to be resumed by the next connection to the same server under the same
 * rules. They stand with the rules, the last first, no more than RILLE_TLS_SESSIONS_MAX of them. One of TLS 1.3 is used once (RFC 8446, C.4).
 * Any thread.
 */
#include "tls.h"

#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct rille_tls_session {
  struct rille_tls_session *next;
  SSL_SESSION *session; /* owned: a copy, as OpenSSL spoils that of a connection which breaks off */
  char key[];
} rille_tls_session;

char *rille_tls_session_key(const rille_tls *t, const char *name, const char *origin) {
  if (t->is_server || !t->resumes || !origin[0]) return NULL;
  size_t name_size = strlen(name), origin_size = strlen(origin);
  char *key = malloc(name_size + origin_size + 2);
  if (!key) return NULL;
  memcpy(key, name, name_size);
  key[name_size] = '\n';
  memcpy(key + name_size + 1, origin, origin_size + 1);
  return key;
}

static void drop(rille_tls_session **at) {
  rille_tls_session *one = *at;
  *at = one->next;
  SSL_SESSION_free(one->session);
  free(one);
}

void rille_tls_sessions_drop(rille_tls *t) {
  while (t->sessions) drop(&t->sessions);
}

static bool is_used_once(const SSL_SESSION *session) {
  return SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION;
}

/* With the lock. Of this server, and of all, only so many stay. */
static void make_room(rille_tls *t, const char *key, int of_server) {
  int all = 1;
  for (rille_tls_session **at = &t->sessions; *at;) {
    bool is_surplus = all >= RILLE_TLS_SESSIONS_MAX || (strcmp((*at)->key, key) == 0 && --of_server < 0);
    if (is_surplus) {
      drop(at);
      continue;
    }
    all++;
    at = &(*at)->next;
  }
}

int rille_tls_on_session(SSL *ssl, SSL_SESSION *session) {
  const rille_tls_line *line = SSL_get_app_data(ssl);
  if (!line->key) return 0;
  size_t size = strlen(line->key) + 1;
  rille_tls_session *one = malloc(sizeof *one + size);
  SSL_SESSION *copy = one ? SSL_SESSION_dup(session) : NULL;
  if (!copy) {
    free(one);
    ERR_clear_error();
    return 0;
  }
  one->session = copy;
  memcpy(one->key, line->key, size);
  pthread_mutex_lock(&line->tls->lock);
  make_room(line->tls, one->key, is_used_once(copy) ? RILLE_TLS_SESSIONS_EACH - 1 : 0);
  one->next = line->tls->sessions;
  line->tls->sessions = one;
  pthread_mutex_unlock(&line->tls->lock);
  return 0;
}

/* Still good, as is the certificate that it stands for: the server does not show that again. */
static bool is_good(const rille_tls *t, const SSL_SESSION *session) {
  long life = SSL_SESSION_get_timeout(session);
  long hint = (long)SSL_SESSION_get_ticket_lifetime_hint(session);
  if (hint > 0 && hint < life) life = hint;
  long age = (long)time(NULL) - SSL_SESSION_get_time(session);
  if (age < 0 || age >= life || !SSL_SESSION_is_resumable(session)) return false;
  const X509 *leaf = SSL_SESSION_get0_peer((SSL_SESSION *)(uintptr_t)session);
  if (!t->verifies || t->has_fingerprint) return true;
  return leaf && X509_cmp_current_time(X509_get0_notAfter(leaf)) > 0;
}

static SSL_SESSION *take(rille_tls *t, const char *key) {
  for (rille_tls_session **at = &t->sessions; *at;) {
    if (strcmp((*at)->key, key) != 0) {
      at = &(*at)->next;
      continue;
    }
    SSL_SESSION *session = is_good(t, (*at)->session) ? SSL_SESSION_dup((*at)->session) : NULL;
    if (!session || is_used_once(session)) drop(at);
    if (session) return session;
  }
  return NULL;
}

void rille_tls_session_use(rille_tls *t, SSL *ssl, const char *key) {
  pthread_mutex_lock(&t->lock);
  SSL_SESSION *session = take(t, key);
  pthread_mutex_unlock(&t->lock);
  if (!session) return;
  if (SSL_set_session(ssl, session) != 1) ERR_clear_error();
  SSL_SESSION_free(session);
}

void rille_tls_session_forget(rille_tls *t, const char *key) {
  pthread_mutex_lock(&t->lock);
  for (rille_tls_session **at = &t->sessions; *at;) {
    if (strcmp((*at)->key, key) == 0) drop(at);
    else at = &(*at)->next;
  }
  pthread_mutex_unlock(&t->lock);
}
