/*
 * dns_answer: see dns_answer.h. Names are read by c-ares, which knows compression and its loops; the rest of a message (RFC 1035, 4.1) here,
 * because c-ares leaves out the TTLs of most types.
 */
#include "dns_answer.h"

#include <ares.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

enum { HEADER = 12, FIXED = 10 /* of a record, behind its name */, TTL_MAX = 7 * 24 * 3600 };

/* ---- answers --------------------------------------------------------------------------------------------------- */

rille_answer *rille_answer_new(void) {
  rille_answer *a = calloc(1, sizeof *a);
  if (!a) return NULL;
  a->refs = 1;
  a->ttl = TTL_MAX;
  return a;
}

rille_answer *rille_answer_keep(rille_answer *a) {
  a->refs++;
  return a;
}

void rille_answer_drop(rille_answer *a) {
  if (!a || --a->refs > 0) return;
  free(a->items);
  free(a->pool);
  free(a);
}

static bool make_room(rille_answer *a, size_t text) {
  if (a->count == a->room) {
    uint32_t room = a->room ? a->room * 2 : 4;
    rille_dns_item *items = realloc(a->items, room * sizeof *items);
    if (!items) return false;
    a->items = items;
    a->room = room;
  }
  size_t needed = a->pool_size + text + 1;
  if (needed <= a->pool_room) return true;
  size_t room = needed * 2 < 128 ? 128 : needed * 2;
  char *pool = realloc(a->pool, room);
  if (!pool) return false;
  a->pool = pool;
  a->pool_room = (uint32_t)room;
  return true;
}

bool rille_answer_add(rille_answer *a, const rille_dns_item *item, const char *text, size_t size) {
  if (!make_room(a, size)) return false;
  rille_dns_item *to = &a->items[a->count++];
  *to = *item;
  to->offset = a->pool_size;
  to->size = (uint32_t)size;
  if (size > 0) memcpy(a->pool + a->pool_size, text, size);
  a->pool[a->pool_size + size] = '\0';
  a->pool_size += (uint32_t)size + 1;
  if (item->ttl < a->ttl) a->ttl = item->ttl;
  return true;
}

bool rille_answer_add_address(rille_answer *a, int family, const void *ip, uint32_t ttl) {
  char text[INET6_ADDRSTRLEN];
  rille_dns_item item = {.ttl = ttl, .family = (uint8_t)family};
  memcpy(item.ip, ip, family == AF_INET ? 4 : 16);
  if (!inet_ntop(family, ip, text, sizeof text)) return false;
  return rille_answer_add(a, &item, text, strlen(text));
}

/* ---- messages -------------------------------------------------------------------------------------------------- */

typedef struct message {
  const uint8_t *bytes;
  size_t size;
} message;

typedef struct record {
  char *owner; /* of c-ares */
  uint16_t type, class;
  uint32_t ttl;
  size_t data, data_size;
  size_t next;
} record;

static uint16_t u16(const message *m, size_t at) { return (uint16_t)(m->bytes[at] << 8 | m->bytes[at + 1]); }

static uint32_t u32(const message *m, size_t at) { return (uint32_t)u16(m, at) << 16 | u16(m, at + 2); }

/* The name at an offset, to be freed with ares_free_string, and where it ends; NULL: it is none. */
static char *name_at(const message *m, size_t at, size_t *end) {
  char *name = NULL;
  long used = 0;
  if (at >= m->size) return NULL;
  if (ares_expand_name(m->bytes + at, m->bytes, (int)m->size, &name, &used) != ARES_SUCCESS) return NULL;
  *end = at + (size_t)used;
  return name;
}

static bool record_at(const message *m, size_t at, record *r) {
  r->owner = name_at(m, at, &r->next);
  if (!r->owner) return false;
  size_t fixed = r->next;
  if (fixed + FIXED <= m->size) {
    r->type = u16(m, fixed);
    r->class = u16(m, fixed + 2);
    r->ttl = u32(m, fixed + 4);
    r->data_size = u16(m, fixed + 8);
    r->data = fixed + FIXED;
    r->next = r->data + r->data_size;
    if (r->ttl > TTL_MAX) r->ttl = r->ttl >> 31 ? 0 : TTL_MAX; /* RFC 2181, 8 */
    if (r->next <= m->size) return true;
  }
  ares_free_string(r->owner);
  return false;
}

/* Where the answers begin; 0: the message is none. */
static size_t behind_questions(const message *m) {
  if (m->size < HEADER) return 0;
  size_t at = HEADER;
  for (int i = u16(m, 4); i > 0; i--) {
    char *name = name_at(m, at, &at);
    if (!name) return 0;
    ares_free_string(name);
    at += 4;
    if (at > m->size) return 0;
  }
  return at;
}

static int find_cname(const message *m, size_t at, const char *name, char **out, uint32_t *ttl) {
  enum { CNAME = 5 };
  for (int i = u16(m, 6); i > 0; i--) {
    record r;
    if (!record_at(m, at, &r)) return RILLE_ERR_SERVER_FAILURE;
    bool is_it = r.type == CNAME && strcasecmp(r.owner, name) == 0;
    ares_free_string(r.owner);
    if (is_it) {
      size_t end;
      *out = name_at(m, r.data, &end);
      if (r.ttl < *ttl) *ttl = r.ttl;
      return *out ? RILLE_OK : RILLE_ERR_SERVER_FAILURE;
    }
    at = r.next;
  }
  return RILLE_ERR_NOT_FOUND;
}

/* ---- records --------------------------------------------------------------------------------------------------- */

static int add_name(rille_answer *a, const message *m, rille_dns_item *item, size_t at) {
  size_t end;
  char *name = name_at(m, at, &end);
  if (!name) return RILLE_ERR_SERVER_FAILURE;
  bool ok = rille_answer_add(a, item, name, strlen(name));
  ares_free_string(name);
  return ok ? RILLE_OK : RILLE_ERR_NO_MEMORY;
}

/* The strings of a TXT record are one text (RFC 7208, 3.3). */
static int add_text(rille_answer *a, const message *m, rille_dns_item *item, const record *r) {
  char *text = malloc(r->data_size + 1);
  if (!text) return RILLE_ERR_NO_MEMORY;
  size_t size = 0, at = r->data;
  while (at < r->next) {
    size_t part = m->bytes[at++];
    if (part > r->next - at) break;
    memcpy(text + size, m->bytes + at, part);
    size += part;
    at += part;
  }
  int err = at == r->next ? RILLE_OK : RILLE_ERR_SERVER_FAILURE;
  if (!err && !rille_answer_add(a, item, text, size)) err = RILLE_ERR_NO_MEMORY;
  free(text);
  return err;
}

static int add_record(rille_answer *a, const message *m, const record *r) {
  rille_dns_item item = {.ttl = r->ttl};
  switch (r->type) {
  case RILLE_DNS_A:
  case RILLE_DNS_AAAA: {
    int family = r->type == RILLE_DNS_A ? AF_INET : AF_INET6;
    if (r->data_size != (family == AF_INET ? 4 : 16)) return RILLE_ERR_SERVER_FAILURE;
    return rille_answer_add_address(a, family, m->bytes + r->data, r->ttl) ? RILLE_OK : RILLE_ERR_NO_MEMORY;
  }
  case RILLE_DNS_SRV:
    if (r->data_size < 7) return RILLE_ERR_SERVER_FAILURE;
    item.priority = u16(m, r->data);
    item.weight = u16(m, r->data + 2);
    item.port = u16(m, r->data + 4);
    return add_name(a, m, &item, r->data + 6);
  case RILLE_DNS_MX:
    if (r->data_size < 3) return RILLE_ERR_SERVER_FAILURE;
    item.priority = u16(m, r->data);
    return add_name(a, m, &item, r->data + 2);
  case RILLE_DNS_TXT: return add_text(a, m, &item, r);
  default: return add_name(a, m, &item, r->data);
  }
}

static int collect(rille_answer *a, const message *m, size_t at, const char *name, int type) {
  enum { INTERNET = 1 };
  for (int i = u16(m, 6); i > 0 && a->count < RILLE_DNS_RECORDS_MAX; i--) {
    record r;
    if (!record_at(m, at, &r)) return RILLE_ERR_SERVER_FAILURE;
    bool is_it = r.type == type && r.class == INTERNET && strcasecmp(r.owner, name) == 0;
    ares_free_string(r.owner);
    int err = is_it ? add_record(a, m, &r) : RILLE_OK;
    if (err) return err;
    at = r.next;
  }
  return a->count > 0 ? RILLE_OK : RILLE_ERR_NOT_FOUND;
}

/* From alias to alias, while the name has none of the records itself. */
static int follow(rille_answer *a, const message *m, size_t at, const char *name, int type) {
  char *owned = NULL;
  int err = RILLE_ERR_SERVER_FAILURE;
  for (int hops = 0; hops <= RILLE_DNS_HOPS_MAX; hops++) {
    err = collect(a, m, at, owned ? owned : name, type);
    if (err != RILLE_ERR_NOT_FOUND) break;
    char *next = NULL;
    err = find_cname(m, at, owned ? owned : name, &next, &a->ttl);
    if (err) break;
    if (owned) ares_free_string(owned);
    owned = next;
    err = RILLE_ERR_SERVER_FAILURE; /* unless this leads somewhere */
  }
  if (owned) ares_free_string(owned);
  return err;
}

rille_answer *rille_answer_read(const uint8_t *bytes, size_t size, const char *name, int type, int *err,
                                uint32_t *ttl) {
  message m = {.bytes = bytes, .size = size};
  *ttl = 0;
  size_t at = behind_questions(&m);
  *err = at ? RILLE_OK : RILLE_ERR_SERVER_FAILURE;
  rille_answer *a = at ? rille_answer_new() : NULL;
  if (at && !a) *err = RILLE_ERR_NO_MEMORY;
  if (!a) return NULL;
  *err = follow(a, &m, at, name, type);
  if (*err == RILLE_OK) return a;
  if (*err == RILLE_ERR_NOT_FOUND) *ttl = rille_answer_negative_ttl(bytes, size);
  rille_answer_drop(a);
  return NULL;
}

/* The serial and four times stand behind the two names of a SOA; the minimum is the last. */
static uint32_t minimum_of(const message *m, const record *r) {
  size_t at = r->data;
  for (int i = 0; i < 2; i++) {
    char *name = name_at(m, at, &at);
    if (!name) return 0;
    ares_free_string(name);
  }
  if (at + 20 > r->next) return 0;
  uint32_t minimum = u32(m, at + 16);
  return minimum < r->ttl ? minimum : r->ttl;
}

uint32_t rille_answer_negative_ttl(const uint8_t *bytes, size_t size) {
  enum { SOA = 6 };
  message m = {.bytes = bytes, .size = size};
  size_t at = behind_questions(&m);
  if (!at) return 0;
  for (int i = u16(&m, 6) + u16(&m, 8); i > 0; i--) {
    record r;
    if (!record_at(&m, at, &r)) return 0;
    ares_free_string(r.owner);
    if (r.type == SOA) return minimum_of(&m, &r);
    at = r.next;
  }
  return 0;
}
