/*
 * dns_message: messages of DNS as bytes (RFC 1035, RFC 6891). Whatever is read here may be hostile: every step stays inside the message, and
 * every walk is bounded by its size. Plain functions, for any thread.
 */
#ifndef RILLE_DNS_MESSAGE_H
#define RILLE_DNS_MESSAGE_H

#include "rille.h"

#include <stdbool.h>

enum {
  DNS_HEADER = 12,
  DNS_OPT = 11, /* bytes of the record of EDNS, without options */
  DNS_QR = 0x8000,
  DNS_TC = 0x0200,
  DNS_RD = 0x0100,
  DNS_RA = 0x0080,
  DNS_AD = 0x0020,
  DNS_CD = 0x0010
};

/* How long records may be kept. */
typedef struct dns_clamp {
  uint32_t min, max, negative_max; /* seconds */
} dns_clamp;

/* A server's answer, without EDNS and what stands behind that. */
typedef struct dns_answer {
  uint32_t size;
  uint32_t additional_at;
  uint32_t record_count; /* whose TTLs age */
  uint16_t answers, authorities, additionals;
  uint16_t flags;
  uint16_t rcode; /* with the bits of EDNS */
  uint32_t ttl;   /* seconds it is good for; 0: it is not to be kept */
} dns_answer;

static inline uint16_t dns_u16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static inline uint32_t dns_u32(const uint8_t *p) { return (uint32_t)dns_u16(p) << 16 | dns_u16(p + 2); }

static inline void dns_put_u16(uint8_t *p, uint32_t v) {
  p[0] = (uint8_t)(v >> 8);
  p[1] = (uint8_t)v;
}

static inline void dns_put_u32(uint8_t *p, uint32_t v) {
  dns_put_u16(p, v >> 16);
  dns_put_u16(p + 2, v);
}

/* The record of EDNS of an answer to q; its end. */
uint8_t *dns_put_opt(uint8_t *p, const rille_dns_query *q, uint32_t rcode);
/* Flags of an answer to q. */
uint16_t dns_flags_of(const rille_dns_query *q, uint32_t rcode);

/* The answer to q that a message is: 0, RILLE_ERR_INVALID or RILLE_ERR_SERVER_FAILURE, see rille_dns_answer_check. */
int dns_answer_read(const rille_dns_query *q, const uint8_t *bytes, size_t size, const dns_clamp *clamp,
                    dns_answer *out);
/* Of an answer that was read: where its TTLs are, record_count offsets, and the TTLs themselves as they are to be kept. */
void dns_answer_note(const rille_dns_query *q, const dns_answer *a, const dns_clamp *clamp, uint8_t *bytes,
                     uint16_t *ttl_at);

#endif
