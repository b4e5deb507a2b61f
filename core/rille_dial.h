/*
 * rille_dial.h: the part of rille.h for connections that scripts open and names they look up; same rules, included at its end. Loop thread
 * only.
 */
#ifndef RILLE_RILLE_DIAL_H
#define RILLE_RILLE_DIAL_H

#include "rille.h"

/* How names are looked up. Equal options on a loop share one resolver: its cache and its questions. Text is borrowed for the call. */
typedef struct rille_resolver_options {
  const char *servers;     /* "127.0.0.1:53,[::1]:53"; "": those of resolv.conf */
  const char *search;      /* domains, separated by spaces; "": those of resolv.conf; ".": none */
  const char *hosts;       /* a file as /etc/hosts; "": none */
  const char *resolv_conf; /* "": /etc/resolv.conf */
  double timeout_ms;       /* for the first try of a server; the next ones get more */
  double negative_ms;      /* the longest that a negative answer is kept */
  uint32_t tries;
  uint32_t cache; /* answers; 0: none */
} rille_resolver_options;

/* as DNS numbers them */
enum rille_dns_type {
  RILLE_DNS_BOTH = 0, /* A and AAAA */
  RILLE_DNS_A = 1,
  RILLE_DNS_NS = 2,
  RILLE_DNS_CNAME = 5,
  RILLE_DNS_PTR = 12,
  RILLE_DNS_MX = 15,
  RILLE_DNS_TXT = 16,
  RILLE_DNS_AAAA = 28,
  RILLE_DNS_SRV = 33
};

typedef struct rille_dns_record {
  const char *text; /* an address, a name or a text; borrowed until rille_dial_cancel */
  double size;
  double ttl; /* seconds */
  int priority, weight, port;
} rille_dns_record;

typedef struct rille_resolver_stats {
  double queries;   /* sent to servers, each try apart */
  double questions; /* asked */
  double hits;      /* answered from the cache */
  double entries;   /* of the cache */
} rille_resolver_stats;

typedef struct rille_dial_options {
  rille_resolver_options resolver;
  const char *bind;  /* "tcp://127.0.0.1:0": the address it comes from; "": the kernel's choice */
  double timeout_ms; /* for all of it, names included; 0: none */
  uint32_t max;      /* under way on this loop, of everybody */
  int nodelay;       /* 0 or 1 */
  int keepalive_s;   /* idle before the first probe, 0: off */
} rille_dial_options;

/* Both begin something that ends with one DIAL event that has the token, unless it is over at once: ask with _take or _records then. Their id, or
 * an error with a sentence in message. What is not wanted any more: rille_dial_cancel. */
double rille_dial_start(rille_state *state, const char *url, const rille_dial_options *options, uint32_t token,
                        char *message, size_t size);
double rille_resolve_start(rille_state *state, const char *name, size_t name_size, int type,
                           const rille_resolver_options *options, uint32_t token, char *message, size_t size);
/* The connection, without on_request; it is over then. NULL with *err: RILLE_PARK while it is under way, else why not, with a sentence. */
rille_conn *rille_dial_take(rille_service *service, double id, int *err, char *message, size_t size);
/* 0 with how many records there are, RILLE_PARK, or an error */
int rille_resolve_count(rille_loop *loop, double id, double *count);
/* number i from 0; 0, or an error */
int rille_resolve_record(rille_loop *loop, double id, int i, rille_dns_record *out);
/* It is over, whatever it was; nothing is left half open. Harmless for one that is over. */
void rille_dial_cancel(rille_loop *loop, double id);
/* 0, or RILLE_ERR_NOT_FOUND: there is none with these options yet */
int rille_resolver_stats_read(rille_loop *loop, const rille_resolver_options *options, rille_resolver_stats *out);
/* how many are under way */
uint32_t rille_dial_count(const rille_loop *loop);

#endif
