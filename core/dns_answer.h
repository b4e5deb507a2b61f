/*
 * dns_answer: what a DNS server answered, as records. Plain functions over bytes, for any thread; an answer has a count of references that one
 * thread keeps.
 */
#ifndef RILLE_DNS_ANSWER_H
#define RILLE_DNS_ANSWER_H

#include "rille.h"

#include <stdbool.h>

enum {
  RILLE_DNS_RECORDS_MAX = 256, /* of one answer; further ones are left out */
  RILLE_DNS_HOPS_MAX = 16      /* CNAMEs from a name to its records */
};

typedef struct rille_dns_item {
  uint32_t ttl; /* seconds */
  uint16_t priority, weight, port;
  uint8_t family;  /* of A and AAAA: AF_INET, AF_INET6 */
  uint8_t ip[16];  /* network byte order */
  uint32_t offset; /* of its text in the pool, NUL behind it */
  uint32_t size;
} rille_dns_item;

typedef struct rille_answer {
  uint32_t refs;
  uint32_t count;
  uint32_t ttl; /* the least of what led here */
  rille_dns_item *items;
  char *pool;
  uint32_t pool_size, pool_room, room;
} rille_answer;

/* owned, one reference, no records; NULL: no memory */
rille_answer *rille_answer_new(void);
rille_answer *rille_answer_keep(rille_answer *a);
void rille_answer_drop(rille_answer *a); /* NULL is fine */
/* false: no memory */
bool rille_answer_add(rille_answer *a, const rille_dns_item *item, const char *text, size_t size);
/* an address, with its text; family as in the item */
bool rille_answer_add_address(rille_answer *a, int family, const void *ip, uint32_t ttl);

/* The records of a type that a message holds for a name, through its CNAMEs. An answer with at least one record (owned), or NULL with *err:
 * RILLE_ERR_NOT_FOUND (there are none; *ttl is how long that holds, 0 when nothing says so), RILLE_ERR_SERVER_FAILURE (it cannot be read, or its
 * CNAMEs go in circles), RILLE_ERR_NO_MEMORY. */
rille_answer *rille_answer_read(const uint8_t *message, size_t size, const char *name, int type, int *err,
                                uint32_t *ttl);
/* Of a negative answer: how long it holds (RFC 2308: the lesser of the TTL of the SOA and its minimum), 0 when it does not say */
uint32_t rille_answer_negative_ttl(const uint8_t *message, size_t size);

#endif
