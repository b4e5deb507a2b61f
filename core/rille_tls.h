/*
 * rille_tls.h: the part of rille.h for TLS; same rules, included at its end.
 */
#ifndef RILLE_RILLE_TLS_H
#define RILLE_RILLE_TLS_H

#include "rille.h"

/* ---- certificates and rules: any thread ------------------------------------------------------------------------ */

typedef struct rille_tls rille_tls;

enum rille_tls_setting {
  RILLE_TLS_ALPN = 1, /* one protocol, the most wanted first */
  RILLE_TLS_CA, /* who may have signed the peer's certificate: a file, or its text; client: without, whom the system trusts */
  RILLE_TLS_CIPHERS,     /* of TLS 1.2, as OpenSSL writes lists */
  RILLE_TLS_CLIENT,      /* server: "none", "optional", "required" */
  RILLE_TLS_FINGERPRINT, /* client: SHA-256 of the one certificate that is taken, hex digits */
  RILLE_TLS_KTLS,        /* "1": the kernel encrypts where it can */
  RILLE_TLS_MIN_VERSION, /* "1.2", "1.3" */
  RILLE_TLS_OFFLOAD,     /* the pool whose workers do what needs a private key */
  RILLE_TLS_RESUME,      /* client: "0": sessions are neither kept nor resumed */
  RILLE_TLS_TICKETS,     /* server: "0": no session is resumed */
  RILLE_TLS_VERIFY       /* client: "0": any certificate is taken */
};

/* What is wrong with one: which key of the configuration, in which certificate (0: the rules), a sentence. */
typedef struct rille_tls_problem {
  int certificate;
  char key[16];
  char text[480];
} rille_tls_problem;

/* owned, to be filled and sealed; NULL: no memory */
rille_tls *rille_tls_new(int is_server);
int rille_tls_set(rille_tls *t, int setting, const char *value, size_t size);
/* One more certificate, the first is the default: files, or their text (PEM). names: one a line, "": those in the certificate.
 * ocsp: "": none. RILLE_ERR_FULL, RILLE_ERR_NO_MEMORY. */
int rille_tls_add(rille_tls *t, const char *certificate, const char *key, const char *ocsp, const char *names);
/* Load what it names. owned: a reference, to the one that is there already if one is the same; t is gone in any case. NULL with *out. */
rille_tls *rille_tls_seal(rille_tls *t, rille_tls_problem *out);
void rille_tls_release(rille_tls *t);
/* How many there are in the process; for tests. */
int rille_tls_count(void);

/* ---- connections: loop thread ---------------------------------------------------------------------------------- */

/* arg of RILLE_EVENT_TLS */
enum rille_tls_event {
  RILLE_TLS_OVER = 1, /* the handshake that a task waits for */
  RILLE_TLS_ASKS      /* which certificate: rille_tls_ask */
};

/* Its connections speak TLS: from the first byte, or when they start it. asks: the script has on_certificate. Takes a reference. */
void rille_service_set_tls(rille_service *service, rille_tls *t, int from_first, int asks);
/* borrowed: that of its service, NULL: none */
rille_tls *rille_conn_service_tls(const rille_conn *c);

/* What it has received and not handed out goes to TLS. name: client: of the server, "" for none; origin: where it is, for the sessions that
 * are kept, "": none is. RILLE_PARK: wait for RILLE_TLS_OVER, then ask rille_conn_tls_result. RILLE_ERR_BUSY: output waits, a task reads, or it speaks HTTP; RILLE_ERR_EXISTS: it has TLS;
 * RILLE_ERR_NOT_SUPPORTED: no socket; RILLE_ERR_CLOSED; RILLE_ERR_TOO_LARGE; RILLE_ERR_NO_MEMORY. */
int rille_conn_starttls(rille_conn *c, rille_tls *t, const char *name, const char *origin, double timeout_ms);
/* 0: it is open, or plain; RILLE_PARK: the handshake goes on, whose end will be told; or why it failed */
int rille_conn_tls_result(rille_conn *c);
/* borrowed until the next call for the connection: why, for people */
const char *rille_conn_tls_failure(const rille_conn *c);

typedef struct rille_tls_info {
  char version[16];
  char cipher[64];
  char alpn[256];
  char sni[256];
  int resumed, ktls_send, ktls_receive;
  int has_peer; /* the rest: of the peer's certificate */
  char subject[512];
  char issuer[512];
  char names[2048]; /* one a line */
  char fingerprint[65];
  double not_after; /* seconds since 1970 */
} rille_tls_info;

/* 1, and out is filled; 0: it has none, or the handshake is not over */
int rille_conn_tls_info(const rille_conn *c, rille_tls_info *out);

typedef struct rille_tls_question {
  double ticket;
  uint32_t service;
  char name[256]; /* that the client asks for, "": none */
  char peer[64];
} rille_tls_question;

/* 1, and out is filled; 0: nobody waits there any more */
int rille_tls_ask(rille_loop *loop, uint32_t slot, rille_tls_question *out);
/* The certificate for this name of those there are ("": the default), or that of `other`; refuse: none. A ticket whose time is over is
 * ignored. */
void rille_tls_answer(rille_loop *loop, uint32_t slot, double ticket, const char *name, rille_tls *other, int refuse);

#endif
