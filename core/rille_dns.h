/*
 * rille_dns.h: the part of rille.h that servers and forwarders of DNS need: questions, and a cache of answers; same rules, included at its
 * end. Plain functions over bytes; a cache belongs to one thread. (What rille.dial and rille.resolve ask is in rille_dial.h.)
 */
#ifndef RILLE_RILLE_DNS_H
#define RILLE_RILLE_DNS_H

#include "rille.h"

typedef struct rille_dns_cache rille_dns_cache;

enum rille_dns_rcode {
  RILLE_DNS_NOERROR = 0,
  RILLE_DNS_FORMERR = 1,
  RILLE_DNS_SERVFAIL = 2,
  RILLE_DNS_NXDOMAIN = 3,
  RILLE_DNS_NOTIMP = 4,
  RILLE_DNS_REFUSED = 5,
  RILLE_DNS_BADVERS = 16
};

enum {
  RILLE_DNS_WIRE_MAX = 255,  /* bytes of a name on the wire */
  RILLE_DNS_KEY_MAX = 260,   /* a name, type, class, flags */
  RILLE_DNS_QUERY_MAX = 282, /* bytes of a message with one question, no records but that of EDNS */
  RILLE_DNS_UDP_MAX = 1232,  /* bytes of a datagram that go through nearly every network in one piece */
  RILLE_DNS_MESSAGE_MAX = 65535
};

/* What a message asks. */
typedef struct rille_dns_query {
  uint16_t id, flags;    /* of its header, host byte order */
  uint16_t type, class_; /* of its question */
  uint16_t udp_size;     /* bytes that its sender takes; 0: it has no EDNS */
  uint16_t name_size;    /* as on the wire; 0: no question was read */
  uint16_t key_size;     /* 0: no question was read */
  uint8_t dnssec_ok;     /* of EDNS */
  uint8_t is_stream;     /* it came over TCP: set by who asks, not here */
  /* the name with lower-case letters, type, class, DO and CD: equal keys have equal answers */
  uint8_t key[RILLE_DNS_KEY_MAX];
} rille_dns_query;

typedef struct rille_dns_options {
  double bytes_max;                      /* of all answers, with what it takes to find them */
  double ttl_min, ttl_max, negative_max; /* seconds */
  double stale;                          /* seconds that an answer is kept beyond its time; 0: none */
} rille_dns_options;

typedef struct rille_dns_stats {
  double entries, bytes; /* now */
  double hits;           /* answered from the cache, of which ... */
  double stale;          /* ... with an answer beyond its time */
  double misses;
  double errors;  /* answered with FORMERR, NOTIMP, REFUSED, BADVERS */
  double ignored; /* no query: nobody is answered */
  double evicted;
} rille_dns_stats;

/* ---- messages -------------------------------------------------------------------------------------------------- */

/* 0: a question that may be asked; > 0: the enum rille_dns_rcode to answer with; < 0: nothing that is answered, such as an answer. */
int rille_dns_query_read(const uint8_t *bytes, double size, rille_dns_query *out);
/* An answer without records to the message that was read; its size, RILLE_DNS_QUERY_MAX at most. */
int rille_dns_error(const rille_dns_query *q, const uint8_t *bytes, int rcode, uint8_t *to);
/* The same question for another server, with EDNS or without; its size, RILLE_DNS_QUERY_MAX at most. */
int rille_dns_query_write(const rille_dns_query *q, double id, int has_edns, uint8_t *to);
/* 16 bits nobody can guess; < 0: the kernel has none */
int rille_dns_random(void);

/* What rille_dns_answer_check says beside an rcode. */
enum { RILLE_DNS_TRUNCATED = 1 << 16 };
/* Whether a message is the answer with this id to the question: its rcode, with RILLE_DNS_TRUNCATED; RILLE_ERR_INVALID: it is none, and its
 * sender may be anybody; RILLE_ERR_SERVER_FAILURE: it is, and cannot be read. */
int rille_dns_answer_check(const rille_dns_query *q, double id, const uint8_t *bytes, double size);

/* ---- the cache ------------------------------------------------------------------------------------------------- */

rille_dns_cache *rille_dns_cache_new(const rille_dns_options *options); /* owned; NULL: no memory */
void rille_dns_cache_free(rille_dns_cache *c);
/* A message that came, of size bytes: *q is what it asks. > 0: the size of the answer in `to` (RILLE_DNS_MESSAGE_MAX bytes), found in the
 * cache or an error; 0: the cache has none; < 0: there is nothing to answer. */
int rille_dns_cache_serve(rille_dns_cache *c, const uint8_t *bytes, double size, int is_stream, double now,
                          rille_dns_query *q, uint8_t *to);
/* A server's answer to the question, checked: 0, it is in the cache; 1, it is not to be kept, and neither is one before;
 * RILLE_ERR_SERVER_FAILURE: it cannot be read; RILLE_ERR_NO_MEMORY. */
int rille_dns_cache_store(rille_dns_cache *c, const rille_dns_query *q, const uint8_t *message, double size,
                          double now);
/* No server has answered. An answer beyond its time is good for 30 seconds, if there is one; else SERVFAIL is, for so many. */
int rille_dns_cache_fail(rille_dns_cache *c, const rille_dns_query *q, double seconds, double now);
/* What rille_dns_cache_serve writes, of a server's answer that is not in the cache; always > 0. */
int rille_dns_reply(const rille_dns_cache *c, const rille_dns_query *q, const uint8_t *bytes, const uint8_t *message,
                    double size, uint8_t *to);
void rille_dns_cache_clear(rille_dns_cache *c);
void rille_dns_cache_stats(const rille_dns_cache *c, rille_dns_stats *out);

#endif
