/*
 * tls_ticket: the keys of session tickets, of all loops and, with prefork, of all processes. A key serves for an hour and opens tickets for
 * one more. The next one is made from it by a hash that cannot be turned round, so that processes need not tell each other of it,
 * and a key that is gone is gone: who gets hold of the present one reads no older sessions. Any thread.
 */
#include "tls.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <string.h>
#include <time.h>

enum { PERIOD_S = 3600, NAME_SIZE = 16, IV_SIZE = 16, KEY_SIZE = 32 };

typedef struct ticket_key {
  unsigned char seed[KEY_SIZE];
  unsigned char name[KEY_SIZE]; /* of which NAME_SIZE bytes are used */
  unsigned char cipher[KEY_SIZE];
  unsigned char mac[KEY_SIZE];
} ticket_key;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  bool is_set, has_former;
  uint64_t period;
  ticket_key now, former;
  EVP_CIPHER *cipher;
} keys; /* with the lock */

static uint64_t present(void) {
  struct timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  return (uint64_t)t.tv_sec / PERIOD_S;
}

static bool derive(const unsigned char *seed, const char *what, unsigned char *to) {
  unsigned size = KEY_SIZE;
  return HMAC(EVP_sha256(), seed, KEY_SIZE, (const unsigned char *)what, strlen(what), to, &size) != NULL;
}

static bool spread(ticket_key *key) {
  return derive(key->seed, "name", key->name) && derive(key->seed, "cipher", key->cipher) &&
         derive(key->seed, "mac", key->mac);
}

/* With the lock. False: OpenSSL has no memory or no random bytes. */
static bool come_to_date(void) {
  uint64_t period = present();
  if (!keys.is_set) {
    if (RAND_priv_bytes(keys.now.seed, KEY_SIZE) != 1 || !spread(&keys.now)) return false;
    keys.cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
    keys.period = period;
    keys.is_set = keys.cipher != NULL;
    return keys.is_set;
  }
  while (keys.period < period) {
    ticket_key next;
    if (!derive(keys.now.seed, "next", next.seed) || !spread(&next)) return false;
    keys.former = keys.now;
    keys.now = next;
    OPENSSL_cleanse(&next, sizeof next);
    keys.has_former = true;
    keys.period++;
  }
  return true;
}

void rille_tls_tickets_begin(void) {
  pthread_mutex_lock(&lock);
  (void)come_to_date();
  pthread_mutex_unlock(&lock);
}

/* 0: none */
static int pick(const unsigned char *name, ticket_key *out) {
  int found = 0;
  pthread_mutex_lock(&lock);
  if (come_to_date()) {
    if (!name || memcmp(name, keys.now.name, NAME_SIZE) == 0) found = 1;
    else if (keys.has_former && memcmp(name, keys.former.name, NAME_SIZE) == 0) found = 2;
    if (found) *out = found == 1 ? keys.now : keys.former;
  }
  pthread_mutex_unlock(&lock);
  return found;
}

static bool set_mac(EVP_MAC_CTX *mac, ticket_key *key) {
  char digest[] = "SHA256";
  OSSL_PARAM params[] = {OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key->mac, KEY_SIZE),
                         OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                         OSSL_PARAM_construct_end()};
  return EVP_MAC_CTX_set_params(mac, params) == 1;
}

/* OpenSSL's question, for a ticket that is made or one that has come. 0: not one of ours; 2: it is to be renewed. */
static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                     int is_new) {
  ticket_key key;
  int found = pick(is_new ? NULL : name, &key);
  if (!found) return is_new ? -1 : 0;
  bool ok;
  if (is_new) {
    memcpy(name, key.name, NAME_SIZE);
    ok = RAND_bytes(iv, IV_SIZE) == 1 && EVP_EncryptInit_ex(cipher, keys.cipher, NULL, key.cipher, iv) == 1;
  } else {
    ok = EVP_DecryptInit_ex(cipher, keys.cipher, NULL, key.cipher, iv) == 1;
  }
  ok = ok && set_mac(mac, &key);
  OPENSSL_cleanse(&key, sizeof key);
  if (ok && !is_new && SSL_version(ssl) >= TLS1_3_VERSION) found = 2; /* one is used once: the client needs another */
  return ok ? found : -1;
}

void rille_tls_tickets_use(SSL_CTX *context) {
  SSL_CTX_set_timeout(context, PERIOD_S); /* no longer than its key is surely known */
  SSL_CTX_set_tlsext_ticket_key_evp_cb(context, on_ticket);
}
