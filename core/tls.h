/*
 * tls: certificates and the rules they are used by, as OpenSSL contexts. One is shared by all loops that ask for the same, and freed with
 * its last reference. Its certificates are loaded again when their files change; connections keep what they began with. Any thread.
 *
 * Sources: tls.c life and choice, tls_load.c files, tls_context.c rules, tls_ticket.c session tickets, tls_session.c those that others gave;
 * conn_tls.c is the connection's side, with tls_line.c what OpenSSL works on, tls_away.c the handshake's steps on workers, tls_face.c Lua's.
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
  RILLE_TLS_SESSIONS_MAX = 256, /* that are kept under the same rules */
  RILLE_TLS_SESSIONS_EACH = 4,  /* of one server */
  RILLE_TLS_LOOK_MS = 1000      /* how often files are looked at */
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
  bool has_ktls, has_tickets, resumes, verifies;
  char *pool; /* owned; whose workers do what needs a private key, NULL: the loop does */
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
  struct rille_tls_session *sessions; /* owned; that servers gave, the last first */
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
/* What OpenSSL has to say of an error of its, 0: nothing. */
const char *rille_tls_reason(unsigned long last);
/* borrowed until the next call of the thread; a path as people read it */
const char *rille_tls_shown(const char *file);

/* tls_context.c: an empty context with these rules; NULL with *out */
SSL_CTX *rille_tls_context_new(const rille_tls *t, rille_tls_problem *out);
/* conn_tls.c: the certificate is chosen */
int rille_tls_on_hello(SSL *ssl, int *alert, void *arg);

/* tls_kernel.c */
bool rille_tls_kernel_has_it(void);

/* tls_ticket.c */
/* Before a process is forked: its tickets are those of the others from then on. */
void rille_tls_tickets_begin(void);
void rille_tls_tickets_use(SSL_CTX *context);

/* tls_session.c: what a session with the server at `origin` is found by, owned; NULL: none is kept. */
char *rille_tls_session_key(const rille_tls *t, const char *name, const char *origin);
/* OpenSSL has a new session for a line. 0: it keeps its reference */
int rille_tls_on_session(SSL *ssl, SSL_SESSION *session);
/* The connection tries to go on with a session of this server, if there is one. */
void rille_tls_session_use(rille_tls *t, SSL *ssl, const char *key);
/* A handshake with that server has failed. */
void rille_tls_session_forget(rille_tls *t, const char *key);
/* with the lock, or the last reference: what was agreed on before does not hold any more */
void rille_tls_sessions_drop(rille_tls *t);

/* ---- the connection's side, conn_tls.c -------------------------------------------------------------------------- */

struct rille_job;
typedef struct rille_conn_tls rille_conn_tls;

/* What OpenSSL works on, and the bytes on their way to it and from it. It belongs to its connection; during a step of the handshake that a
 * worker takes it belongs to the job, and knows neither the connection nor the socket. */
typedef struct rille_tls_line {
  SSL *ssl;
  rille_conn_tls *owner;   /* borrowed; NULL: a job has it */
  rille_tls *tls, *chosen; /* references: contexts call back with them */
  char *key;               /* owned; what its sessions are found by, or NULL */
  uint8_t *before;         /* owned; was received and not taken */
  size_t before_size, before_at;
  bool is_filled; /* by the loop for a worker, with what came over the socket since it began */
  uint8_t *after; /* owned; was made by a worker and not sent */
  size_t after_size, after_at;
  /* of the job: whose it was, what came of it */
  uint32_t slot;
  int result, why;
  unsigned long first_error, last_error;
} rille_tls_line;

/* tls_line.c: it takes over what the connection received before. NULL: no memory. */
rille_tls_line *rille_tls_line_new(rille_conn_tls *t);
void rille_tls_line_free(rille_tls_line *line);
/* What was received before is taken. */
void rille_tls_line_spend(rille_tls_line *line);
/* Send what a worker made. 0; RILLE_PARK: the socket takes no more now; or it failed. */
int rille_tls_line_flush(rille_tls_line *line);
/* Receive for a worker. How much there is, 0: nothing yet; below 0: the socket is at its end, or failed */
int rille_tls_line_fill(rille_tls_line *line);

/* tls_away.c: whether the next step is a worker's; loop thread, as all but the second */
bool rille_tls_goes_away(const rille_conn_tls *t);
/* the worker */
void rille_tls_line_run(rille_tls_line *line);
/* The connection's line goes to a worker. 0, or an error, and the line is gone. */
int rille_tls_send_away(rille_conn *c);
/* The job is done; takes its reference. */
void rille_tls_come_back(rille_loop *loop, struct rille_job *job);
/* The connection waits no more. */
void rille_tls_abandon(rille_conn_tls *t);

struct rille_conn_tls {
  rille_tls *tls;        /* a reference */
  rille_tls *chosen;     /* a reference; by on_certificate, or NULL */
  rille_conn *conn;      /* whose it is */
  rille_tls_line *line;  /* owned; NULL before the first byte, while a worker has it, and when the socket is gone */
  SSL *ssl;              /* borrowed; that of the line */
  struct rille_job *job; /* a reference; the step of the handshake that a worker takes, or NULL */
  char *key;             /* owned, until the line has it */
  uint8_t *before;       /* owned, until the line has it; bytes that were received before it began */
  size_t before_size;
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
  bool is_chosen;                      /* what is left to do for the hello is a worker's */
  bool is_awaited;                     /* a task waits for the handshake */
  bool has_said_bye;                   /* close_notify is with the kernel */
  char name[RILLE_TLS_NAME_MAX + 1];   /* client: whom it wants; server: whom the client wants */
  char wanted[RILLE_TLS_NAME_MAX + 1]; /* what on_certificate said */
  char text[200];                      /* why it failed */
};

#endif
