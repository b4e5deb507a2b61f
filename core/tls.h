/*
 * tls: certificates and the rules they are used by, as OpenSSL contexts. One is shared by all loops that ask for the same, and freed with
 * its last reference. Its certificates are loaded again when their files change; connections keep what they began with. Any thread.
 *
 * Sources: tls.c life and choice, tls_load.c files, tls_context.c rules, tls_ticket.c session tickets; conn_tls.c is the connection's side.
 */
#ifndef RILLE_TLS_H
#define RILLE_TLS_H

#include "conn.h"

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

enum {
  RILLE_TLS_CERTIFICATES_MAX = 1024,
  RILLE_TLS_NAME_MAX = 255,
  RILLE_TLS_LOOK_MS = 1000 /* how often files are looked at */
};

enum rille_tls_file {
  RILLE_TLS_FILE_CERTIFICATE,
  RILLE_TLS_FILE_KEY,
  RILLE_TLS_FILE_OCSP,
  RILLE_TLS_FILE_CA,
  RILLE_TLS_FILES
};

/* What a file was when it was read. */
typedef struct rille_tls_stamp {
  dev_t device;
  ino_t inode;
  off_t size;
  struct timespec modified;
} rille_tls_stamp;

typedef struct rille_tls_certificate {
  struct rille_tls_certificate *next;
  /* immutable after the seal; owned */
  char *files[RILLE_TLS_FILES]; /* paths or texts, NULL: none */
  char *given_names;
  /* with the lock */
  char *names; /* owned; one a line, lower case */
  SSL_CTX *context;
  rille_tls_stamp stamps[RILLE_TLS_FILES];
} rille_tls_certificate;

struct rille_tls {
  _Atomic uint32_t references;
  struct rille_tls *next; /* of all, with their lock */

  /* immutable after the seal */
  bool is_server, is_known; /* known: on the list of all */
  bool has_ktls, has_tickets, verifies;
  int client; /* SSL_VERIFY_ bits */
  int min_version;
  char *ciphers; /* owned; NULL: as the default says */
  unsigned char alpn[256];
  unsigned alpn_size;
  unsigned char fingerprint[32];
  bool has_fingerprint;
  char *ca;
  char *identity; /* owned; all that was set, to be compared */
  size_t identity_size;
  unsigned char id[32]; /* its digest: sessions belong to it */

  pthread_mutex_t lock;
  rille_tls_certificate *certificates; /* the list itself is immutable after the seal */
  uint64_t looked_ms;
};

rille_tls *rille_tls_retain(rille_tls *t);
/* A connection of it, with the default certificate; files that have changed are loaded first. NULL: no memory. */
SSL *rille_tls_open(rille_tls *t);
/* The connection gets the certificate for this name. False: no memory. */
bool rille_tls_choose(rille_tls *t, SSL *ssl, const char *name);

/* tls_load.c: a context with this certificate, and its names. False with *out (may be NULL). */
bool rille_tls_load(const rille_tls *t, rille_tls_certificate *from, rille_tls_problem *out);
bool rille_tls_has_changed(const rille_tls_certificate *one);
__attribute__((format(printf, 3, 4))) bool rille_tls_refuse(rille_tls_problem *out, const char *key, const char *format,
                                                            ...);
/* What OpenSSL has to say of its last error. */
const char *rille_tls_reason(void);
/* borrowed until the next call of the thread; a path as people read it */
const char *rille_tls_shown(const char *file);

/* tls_context.c: an empty context with these rules; NULL with *out */
SSL_CTX *rille_tls_context_new(const rille_tls *t, rille_tls_problem *out);
/* conn_tls.c: the certificate is chosen */
int rille_tls_on_hello(SSL *ssl, int *alert, void *arg);

/* tls_ticket.c */
/* Before a process is forked: its tickets are those of the others from then on. */
void rille_tls_tickets_begin(void);
void rille_tls_tickets_use(SSL_CTX *context);

/* ---- the connection's side, conn_tls.c -------------------------------------------------------------------------- */

struct rille_conn_tls {
  rille_tls *tls;    /* a reference */
  rille_tls *chosen; /* a reference; by on_certificate, or NULL */
  rille_conn *conn;  /* whose it is */
  SSL *ssl;          /* owned; NULL before the first byte, and when the socket is gone */
  uint8_t *before;   /* owned; bytes that were received before it began */
  size_t before_size, before_at;
  uint32_t since_ms, patience_ms;
  uint32_t read_turn;  /* the loop's, of the last read that left some */
  uint32_t retry_size; /* bytes of a write that the socket did not take, which has to be repeated */
  int error_number;    /* of the socket */
  int failure;         /* enum rille_err of the handshake */
  bool is_shaking;
  bool is_dead;  /* a fatal error: nothing more is asked of OpenSSL */
  bool is_ended; /* the socket is at its end */
  bool has_more; /* something may be left to read though the socket is quiet */
  bool wants_write, write_wants_read;
  bool is_named, is_asking, is_answered, is_refused;
  bool is_awaited;                     /* a task waits for the handshake */
  bool has_said_bye;                   /* close_notify is with the kernel */
  char name[RILLE_TLS_NAME_MAX + 1];   /* client: whom it wants; server: whom the client wants */
  char wanted[RILLE_TLS_NAME_MAX + 1]; /* what on_certificate said */
  char text[200];                      /* why it failed */
};

#endif
