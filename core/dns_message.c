/*
 * dns_message: see dns_message.h.
 */
#include "dns_message.h"

#include <string.h>
#include <sys/random.h>

enum {
  FIXED = 10, /* of a record, behind its name */
  LABEL_MAX = 63,
  OPCODE = 0x7800,
  INTERNET = 1,
  SOA = 6,
  OPT = 41,
  META_FIRST = 128, /* types from here to 255 are about messages and zones */
  IXFR = 251,
  AXFR = 252,
  ANY = 255,
  UDP_MIN = 512 /* bytes that everybody takes */
};

typedef struct message {
  const uint8_t *bytes;
  size_t size;
} message;

typedef struct record {
  uint16_t type, class_;
  uint32_t ttl;
  size_t at;     /* its name */
  size_t ttl_at; /* its fixed part has the TTL behind type and class */
  size_t data, next;
} record;

/* ---- names ----------------------------------------------------------------------------------------------------- */

/* Where the name at an offset ends; 0: it is none. A pointer leads to what stands before the part that it ends, so no walk is a circle. */
static size_t name_end(const message *m, size_t at) {
  size_t end = 0, first = at, stop = m->size, total = 0;
  for (;;) {
    if (at >= stop) return 0;
    size_t n = m->bytes[at];
    if (n >= 0xc0) {
      if (at + 1 >= stop) return 0;
      size_t to = (n & 0x3f) << 8 | m->bytes[at + 1];
      if (!end) end = at + 2;
      if (to >= first || to < DNS_HEADER) return 0;
      stop = first;
      first = at = to;
      continue;
    }
    total += n + 1;
    if (n > LABEL_MAX || total > RILLE_DNS_WIRE_MAX) return 0;
    at += n + 1;
    if (n == 0) return end ? end : at;
  }
}

static uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? c | 0x20 : c; }

/* The name of the question in lower case, which no pointer can be part of: its size, 0 when it is none. */
static size_t read_name(const message *m, uint8_t *to) {
  size_t at = DNS_HEADER, used = 0;
  for (;;) {
    if (at >= m->size) return 0;
    size_t n = m->bytes[at];
    if (n > LABEL_MAX || used + n + 1 > RILLE_DNS_WIRE_MAX || at + n >= m->size) return 0;
    to[used++] = (uint8_t)n;
    at++;
    for (size_t i = 0; i < n; i++) to[used++] = lower(m->bytes[at + i]);
    at += n;
    if (n == 0) return used;
  }
}

static bool read_record(const message *m, size_t at, record *r) {
  size_t end = name_end(m, at);
  if (!end || end + FIXED > m->size) return false;
  const uint8_t *p = m->bytes + end;
  r->at = at;
  r->type = dns_u16(p);
  r->class_ = dns_u16(p + 2);
  r->ttl_at = end + 4;
  r->ttl = dns_u32(p + 4);
  r->data = end + FIXED;
  r->next = r->data + dns_u16(p + 8);
  return r->next <= m->size;
}

/* ---- questions ------------------------------------------------------------------------------------------------- */

static bool is_root(const message *m, const record *r) { return m->bytes[r->at] == 0; }

/* What stands behind the question. */
static int read_additional(const message *m, size_t at, rille_dns_query *q) {
  int version = 0;
  for (uint32_t i = dns_u16(m->bytes + 10); i > 0; i--) {
    record r;
    if (!read_record(m, at, &r)) return RILLE_DNS_FORMERR;
    at = r.next;
    if (r.type != OPT) continue;
    if (q->udp_size || !is_root(m, &r)) return RILLE_DNS_FORMERR; /* RFC 6891, 6.1.1 */
    q->udp_size = r.class_ < UDP_MIN ? UDP_MIN : r.class_;
    version = (int)(r.ttl >> 16 & 0xff);
    q->dnssec_ok = r.ttl >> 15 & 1;
  }
  if (at != m->size) return RILLE_DNS_FORMERR;
  return version ? RILLE_DNS_BADVERS : 0;
}

/* Whether it is for somebody like us. */
static int judge(const rille_dns_query *q) {
  if (q->type == 0 || q->type == OPT) return RILLE_DNS_FORMERR;
  if (q->class_ != INTERNET || q->type == AXFR || q->type == IXFR) return RILLE_DNS_REFUSED;
  if (q->type >= META_FIRST && q->type < ANY) return RILLE_DNS_NOTIMP;
  return q->flags & DNS_RD ? 0 : RILLE_DNS_REFUSED;
}

int rille_dns_query_read(const uint8_t *bytes, double size, rille_dns_query *q) {
  message m = {.bytes = bytes, .size = (size_t)size};
  q->type = q->class_ = q->udp_size = q->name_size = q->key_size = 0;
  q->dnssec_ok = q->is_stream = 0;
  if (!(size >= DNS_HEADER) || size > RILLE_DNS_MESSAGE_MAX) return -1;
  q->id = dns_u16(bytes);
  q->flags = dns_u16(bytes + 2);
  if (q->flags & DNS_QR) return -1;
  if (q->flags & OPCODE) return RILLE_DNS_NOTIMP;
  if (dns_u16(bytes + 4) != 1 || dns_u32(bytes + 6) != 0) return RILLE_DNS_FORMERR;
  size_t name = read_name(&m, q->key), at = DNS_HEADER + name;
  if (!name || at + 4 > m.size) return RILLE_DNS_FORMERR;
  memcpy(q->key + name, bytes + at, 4);
  q->type = dns_u16(bytes + at);
  q->class_ = dns_u16(bytes + at + 2);
  q->name_size = (uint16_t)name;
  int rcode = read_additional(&m, at + 4, q);
  if (!rcode) rcode = judge(q);
  q->key[name + 4] = (uint8_t)(q->dnssec_ok | (q->flags & DNS_CD));
  q->key_size = (uint16_t)(name + 5);
  return rcode;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

uint16_t dns_flags_of(const rille_dns_query *q, uint32_t rcode) {
  return (uint16_t)(DNS_QR | DNS_RA | (q->flags & (OPCODE | DNS_RD | DNS_CD)) | (rcode & 15));
}

static uint8_t *put_opt(uint8_t *p, uint32_t ttl) {
  p[0] = 0;
  dns_put_u16(p + 1, OPT);
  dns_put_u16(p + 3, RILLE_DNS_UDP_MAX);
  dns_put_u32(p + 5, ttl);
  dns_put_u16(p + 9, 0);
  return p + DNS_OPT;
}

uint8_t *dns_put_opt(uint8_t *p, const rille_dns_query *q, uint32_t rcode) {
  return put_opt(p, rcode >> 4 << 24 | (uint32_t)q->dnssec_ok << 15);
}

static uint8_t *put_header(uint8_t *p, uint32_t id, uint32_t flags, uint32_t questions, uint32_t additionals) {
  dns_put_u16(p, id);
  dns_put_u16(p + 2, flags);
  dns_put_u16(p + 4, questions);
  dns_put_u32(p + 6, 0);
  dns_put_u16(p + 10, additionals);
  return p + DNS_HEADER;
}

int rille_dns_error(const rille_dns_query *q, const uint8_t *bytes, int rcode, uint8_t *to) {
  bool has_question = q->name_size > 0, has_edns = q->udp_size > 0;
  if (!has_edns && rcode > 15) rcode = RILLE_DNS_SERVFAIL;
  uint8_t *p = put_header(to, q->id, dns_flags_of(q, (uint32_t)rcode), has_question, has_edns);
  if (has_question) {
    memcpy(p, bytes + DNS_HEADER, q->name_size + 4u);
    p += q->name_size + 4;
  }
  if (has_edns) p = dns_put_opt(p, q, (uint32_t)rcode);
  return (int)(p - to);
}

int rille_dns_query_write(const rille_dns_query *q, double id, int has_edns, uint8_t *to) {
  uint8_t *p = put_header(to, (uint32_t)id, DNS_RD | DNS_AD | (q->flags & DNS_CD), 1, has_edns != 0);
  memcpy(p, q->key, q->name_size + 4u);
  p += q->name_size + 4;
  if (has_edns) p = put_opt(p, (uint32_t)q->dnssec_ok << 15);
  return (int)(p - to);
}

int rille_dns_random(void) {
  uint16_t id;
  return getrandom(&id, sizeof id, 0) == sizeof id ? id : RILLE_ERR_SYSTEM;
}

/* ---- answers --------------------------------------------------------------------------------------------------- */

/* The same question, in whatever letters. */
static bool has_question(const rille_dns_query *q, const message *m) {
  size_t size = q->name_size + 4u;
  if (m->size < DNS_HEADER + size || dns_u16(m->bytes + 4) != 1) return false;
  for (size_t i = 0; i < q->name_size; i++) {
    if (lower(m->bytes[DNS_HEADER + i]) != q->key[i]) return false;
  }
  return memcmp(m->bytes + DNS_HEADER + q->name_size, q->key + q->name_size, 4) == 0;
}

/* Of a SOA: serial and four times stand behind two names, the minimum is the last (RFC 2308, 4). 0: that cannot be read. */
static uint32_t minimum_of(const message *m, const record *r) {
  message data = {.bytes = m->bytes, .size = r->next};
  size_t at = name_end(&data, r->data);
  if (at) at = name_end(&data, at);
  return at && at + 20 == r->next ? dns_u32(m->bytes + at + 16) : 0;
}

static uint32_t clamp_ttl(const message *m, const record *r, const dns_clamp *clamp, bool is_negative) {
  uint32_t ttl = r->ttl >> 31 ? 0 : r->ttl; /* RFC 2181, 8 */
  uint32_t max = clamp->max;
  if (is_negative) {
    if (r->type == SOA) {
      uint32_t minimum = minimum_of(m, r);
      if (minimum < ttl) ttl = minimum;
    }
    if (clamp->negative_max < max) max = clamp->negative_max;
  }
  if (ttl < clamp->min) ttl = clamp->min;
  return ttl < max ? ttl : max;
}

/* The records of all sections up to that of EDNS, which ends what is kept: it was between the server and us. What is additional behind it is
 * left out. */
static bool walk(const rille_dns_query *q, const message *m, dns_answer *a, bool *has_data, bool *has_soa) {
  uint32_t first_authority = a->answers, first_additional = first_authority + a->authorities;
  uint32_t total = first_additional + a->additionals;
  size_t at = DNS_HEADER + q->name_size + 4u;
  a->additional_at = (uint32_t)at;
  a->record_count = 0;
  for (uint32_t i = 0; i < total; i++) {
    record r;
    if (i == first_additional) a->additional_at = (uint32_t)at;
    if (!read_record(m, at, &r)) return false;
    if (r.type == OPT) {
      if (i < first_additional || !is_root(m, &r)) return false;
      a->rcode |= (uint16_t)(r.ttl >> 24 << 4);
      a->additionals = (uint16_t)(i - first_additional);
      break;
    }
    if (i < first_authority && (r.type == q->type || q->type == ANY)) *has_data = true;
    if (i >= first_authority && i < first_additional && r.type == SOA) *has_soa = true;
    at = r.next;
    a->record_count++;
  }
  if (total == first_additional || a->record_count <= first_additional) a->additional_at = (uint32_t)at;
  a->size = (uint32_t)at;
  return true;
}

/* What both passes over an answer have to know. */
static bool is_negative(const dns_answer *a, bool has_data) { return a->rcode == RILLE_DNS_NXDOMAIN || !has_data; }

static uint32_t ttl_of(const rille_dns_query *q, const message *m, const dns_answer *a, const dns_clamp *clamp,
                       bool negative) {
  uint32_t ttl = clamp->max;
  size_t at = DNS_HEADER + q->name_size + 4u;
  for (uint32_t i = 0; i < a->record_count; i++) {
    record r;
    if (!read_record(m, at, &r)) return 0;
    uint32_t one = clamp_ttl(m, &r, clamp, negative);
    if (one < ttl) ttl = one;
    at = r.next;
  }
  return ttl;
}

int dns_answer_read(const rille_dns_query *q, const uint8_t *bytes, size_t size, const dns_clamp *clamp,
                    dns_answer *a) {
  message m = {.bytes = bytes, .size = size};
  if (size < DNS_HEADER || size > RILLE_DNS_MESSAGE_MAX) return RILLE_ERR_INVALID;
  a->flags = dns_u16(bytes + 2);
  if (!(a->flags & DNS_QR) || a->flags & OPCODE) return RILLE_ERR_INVALID;
  if (!has_question(q, &m)) return RILLE_ERR_INVALID;
  a->answers = dns_u16(bytes + 6);
  a->authorities = dns_u16(bytes + 8);
  a->additionals = dns_u16(bytes + 10);
  a->rcode = a->flags & 15;
  a->ttl = 0;
  bool has_data = false, has_soa = false;
  if (!walk(q, &m, a, &has_data, &has_soa)) return RILLE_ERR_SERVER_FAILURE;
  bool is_kept = a->rcode == RILLE_DNS_NOERROR || a->rcode == RILLE_DNS_NXDOMAIN;
  bool negative = is_negative(a, has_data);
  if (!is_kept || a->flags & DNS_TC || (negative && !has_soa)) return RILLE_OK; /* RFC 2308, 5: without a SOA not */
  a->ttl = ttl_of(q, &m, a, clamp, negative);
  return RILLE_OK;
}

void dns_answer_note(const rille_dns_query *q, const dns_answer *a, const dns_clamp *clamp, uint8_t *bytes,
                     uint16_t *ttl_at) {
  message m = {.bytes = bytes, .size = a->size};
  size_t first = DNS_HEADER + q->name_size + 4u, at = first;
  bool has_data = false;
  record r;
  for (uint32_t i = 0; i < a->answers && read_record(&m, at, &r); i++, at = r.next) {
    if (r.type == q->type || q->type == ANY) has_data = true;
  }
  bool negative = is_negative(a, has_data);
  at = first;
  for (uint32_t i = 0; i < a->record_count && read_record(&m, at, &r); i++, at = r.next) {
    ttl_at[i] = (uint16_t)r.ttl_at;
    dns_put_u32(bytes + r.ttl_at, clamp_ttl(&m, &r, clamp, negative));
  }
}

/* A server that cannot read the question need not repeat it (RFC 6891, 7: one that knows no EDNS). */
static bool is_refusal(const uint8_t *bytes) {
  uint32_t flags = dns_u16(bytes + 2), rcode = flags & 15;
  return flags & DNS_QR && !(flags & OPCODE) && dns_u16(bytes + 4) == 0 &&
         (rcode == RILLE_DNS_FORMERR || rcode == RILLE_DNS_NOTIMP);
}

int rille_dns_answer_check(const rille_dns_query *q, double id, const uint8_t *bytes, double size) {
  static const dns_clamp none = {.max = UINT32_MAX};
  dns_answer a;
  if (!(size >= DNS_HEADER) || size > RILLE_DNS_MESSAGE_MAX || dns_u16(bytes) != (uint16_t)id) return RILLE_ERR_INVALID;
  if (is_refusal(bytes)) return (int)(dns_u16(bytes + 2) & 15);
  int err = dns_answer_read(q, bytes, (size_t)size, &none, &a);
  if (err == RILLE_ERR_SERVER_FAILURE && a.flags & DNS_TC)
    return RILLE_DNS_TRUNCATED; /* cut in the middle of a record */
  return err ? err : a.rcode | (a.flags & DNS_TC ? RILLE_DNS_TRUNCATED : 0);
}
