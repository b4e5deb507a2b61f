/*
 * cidr: see cidr.h. Networks nest or are apart, so after sorting those within others can go, and at most one that is left begins at or
 * before an address and ends behind it: a binary search.
 */
#include "cidr.h"

#include "socket.h"

#include <arpa/inet.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 64 };

/* Of either family, as two words; IPv4 uses the second. */
typedef struct number {
  uint64_t high, low;
} number;

typedef struct range {
  number first, last;
} range;

typedef struct ranges {
  range *items; /* owned */
  size_t count, capacity;
} ranges;

struct rille_cidr {
  /* any thread, atomic */
  _Atomic uint32_t refs;

  /* immutable after seal */
  ranges v4, v6;
};

/* ---- life ------------------------------------------------------------------------------------------------------ */

rille_cidr *rille_cidr_new(void) {
  rille_cidr *list = calloc(1, sizeof *list);
  if (list) atomic_store(&list->refs, 1);
  return list;
}

void rille_cidr_retain(rille_cidr *list) {
  if (list) atomic_fetch_add(&list->refs, 1);
}

void rille_cidr_release(rille_cidr *list) {
  if (!list || atomic_fetch_sub(&list->refs, 1) != 1) return;
  free(list->v4.items);
  free(list->v6.items);
  free(list);
}

/* ---- addresses ------------------------------------------------------------------------------------------------- */

static int compare(number a, number b) {
  if (a.high != b.high) return a.high < b.high ? -1 : 1;
  return a.low < b.low ? -1 : a.low > b.low;
}

static uint64_t word_of(const uint8_t *bytes, int count) {
  uint64_t word = 0;
  for (int i = 0; i < count; i++) word = word << 8 | bytes[i];
  return word;
}

static bool is_mapped(const uint8_t ip[16]) {
  static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
  return memcmp(ip, prefix, sizeof prefix) == 0;
}

static number number_of(int family, const uint8_t *ip) {
  if (family == AF_INET) return (number){.low = word_of(ip, 4)};
  return (number){.high = word_of(ip, 8), .low = word_of(ip + 8, 8)};
}

/* The family of an address of text, 0 for none. */
static int parse_ip(const char *text, uint8_t ip[16]) {
  if (inet_pton(AF_INET, text, ip) == 1) return AF_INET;
  if (inet_pton(AF_INET6, text, ip) != 1) return 0;
  if (!is_mapped(ip)) return AF_INET6;
  memmove(ip, ip + 12, 4);
  return AF_INET;
}

/* ---- filling --------------------------------------------------------------------------------------------------- */

/* "0" to "128" without signs, spaces and zeros in front; -1 */
static int parse_bits(const char *text) {
  size_t size = strlen(text);
  if (size < 1 || size > 3 || (size > 1 && text[0] == '0')) return -1;
  int bits = 0;
  for (size_t i = 0; i < size; i++) {
    if (text[i] < '0' || text[i] > '9') return -1;
    bits = bits * 10 + (text[i] - '0');
  }
  return bits;
}

static uint64_t low_bits(int count) { return count >= 64 ? UINT64_MAX : ((uint64_t)1 << count) - 1; }

/* The bits behind a prefix. */
static number host_mask(int family, int bits) {
  if (family == AF_INET) return (number){.low = low_bits(32 - bits)};
  int host = 128 - bits;
  return (number){.high = host > 64 ? low_bits(host - 64) : 0, .low = low_bits(host)};
}

static bool push(ranges *to, range r) {
  if (to->count == to->capacity) {
    size_t capacity = to->capacity ? to->capacity * 2 : 8;
    range *items = realloc(to->items, capacity * sizeof *items);
    if (!items) return false;
    to->items = items;
    to->capacity = capacity;
  }
  to->items[to->count++] = r;
  return true;
}

/* Somebody who writes 10.0.0.1/8 means either the address or the network, and only he knows which. */
static int say_loose(const char *text, int family, const uint8_t *ip, int bits, char *message, size_t size) {
  uint8_t base[16] = {0};
  char name[INET6_ADDRSTRLEN];
  memcpy(base, ip, family == AF_INET ? 4 : 16);
  for (int i = bits; i < (family == AF_INET ? 32 : 128); i++) base[i / 8] &= (uint8_t) ~(0x80u >> i % 8);
  inet_ntop(family, base, name, sizeof name);
  return rille_socket_say(message, size, RILLE_ERR_BAD_ADDRESS, "\"%s\" has bits behind its prefix; expected \"%s/%d\"",
                          text, name, bits);
}

static int say_bad(const char *text, char *message, size_t size) {
  return rille_socket_say(
      message, size, RILLE_ERR_BAD_ADDRESS,
      "\"%s\" is no network; expected one such as \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\"", text);
}

int rille_cidr_add(rille_cidr *list, const char *text, size_t size, char *message, size_t message_size) {
  char copy[TEXT_MAX], whole[TEXT_MAX];
  uint8_t ip[16] = {0};
  size_t kept = size < TEXT_MAX - 1 ? size : TEXT_MAX - 1;
  for (size_t i = 0; i < kept; i++) whole[i] = (char)(text[i] >= ' ' && text[i] < 127 ? text[i] : '?');
  whole[kept] = 0;
  if (kept < size) return say_bad(whole, message, message_size);
  memcpy(copy, whole, kept + 1);
  char *slash = strchr(copy, '/');
  if (slash) *slash = 0;
  int family = parse_ip(copy, ip);
  if (!family) return say_bad(whole, message, message_size);
  bool was_mapped = family == AF_INET && strchr(copy, ':');
  int bits = slash ? parse_bits(slash + 1) : family == AF_INET ? 32 : 128;
  if (slash && was_mapped) bits -= 96; /* shorter prefixes hold more than what is mapped: not a network of anything */
  if (bits < 0 || bits > (family == AF_INET ? 32 : 128)) return say_bad(whole, message, message_size);
  number first = number_of(family, ip), mask = host_mask(family, bits);
  if (first.high & mask.high || first.low & mask.low) {
    return say_loose(whole, family, ip, bits, message, message_size);
  }
  range r = {.first = first, .last = {.high = first.high | mask.high, .low = first.low | mask.low}};
  if (push(family == AF_INET ? &list->v4 : &list->v6, r)) return RILLE_OK;
  return rille_socket_say(message, message_size, RILLE_ERR_NO_MEMORY, "no memory");
}

/* The larger one of two that begin alike comes first. */
static int by_first(const void *a, const void *b) {
  const range *left = a, *right = b;
  int order = compare(left->first, right->first);
  return order ? order : compare(right->last, left->last);
}

static void sort(ranges *list) {
  size_t kept = 0;
  if (list->count == 0) return;
  qsort(list->items, list->count, sizeof *list->items, by_first);
  for (size_t i = 1; i < list->count; i++) {
    if (compare(list->items[i].last, list->items[kept].last) > 0) list->items[++kept] = list->items[i];
  }
  list->count = kept + 1;
}

void rille_cidr_seal(rille_cidr *list) {
  sort(&list->v4);
  sort(&list->v6);
}

/* ---- asking ---------------------------------------------------------------------------------------------------- */

static bool has(const ranges *list, number n) {
  size_t from = 0, to = list->count;
  while (from < to) {
    size_t middle = from + (to - from) / 2;
    if (compare(list->items[middle].first, n) <= 0) from = middle + 1;
    else to = middle;
  }
  return from > 0 && compare(n, list->items[from - 1].last) <= 0;
}

bool rille_cidr_has(const rille_cidr *list, const rille_peer *peer) {
  if (peer->family != AF_INET && peer->family != AF_INET6) return false;
  return has(peer->family == AF_INET ? &list->v4 : &list->v6, number_of(peer->family, peer->ip));
}

/* 10.0.0.1, 10.0.0.1:5000, ::1, [::1], [::1]:5000 */
int rille_cidr_contains(const rille_cidr *list, const char *text, size_t size) {
  char copy[TEXT_MAX];
  rille_peer peer = {0};
  if (size >= sizeof copy || memchr(text, 0, size)) return RILLE_ERR_BAD_ADDRESS;
  memcpy(copy, text, size);
  copy[size] = 0;
  char *from = copy, *colon = strchr(copy, ':');
  if (copy[0] == '[') {
    char *end = strchr(copy, ']');
    if (!end || (end[1] != 0 && end[1] != ':')) return RILLE_ERR_BAD_ADDRESS;
    *end = 0;
    from = copy + 1;
  } else if (colon && !strchr(colon + 1, ':')) {
    *colon = 0;
  }
  int family = parse_ip(from, peer.ip);
  if (!family) return RILLE_ERR_BAD_ADDRESS;
  peer.family = (uint8_t)family;
  return rille_cidr_has(list, &peer);
}
