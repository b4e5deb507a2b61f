/*
 * Fuzzer of messages of DNS: an input is looked at as a query, and as what a server answered to the question in it. Whatever comes out has
 * the id of the query, fits, and can be read again. `make fuzz` runs it, `make test` replays its corpus and what random changes make of it.
 */
#include "../../core/dns_message.h"
#include "holds.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static uint8_t answer[RILLE_DNS_MESSAGE_MAX];

/* A copy of exactly so many bytes, so that a sanitizer sees one that is read too far. */
static uint8_t *exact(const uint8_t *bytes, size_t size) {
  uint8_t *copy = malloc(size ? size : 1);
  HOLDS(copy);
  memcpy(copy, bytes, size);
  return copy;
}

static void check_written(const rille_dns_query *q, const uint8_t *query, int used, bool is_stream) {
  HOLDS(used >= DNS_HEADER && used <= RILLE_DNS_MESSAGE_MAX && memcmp(answer, query, 2) == 0 && answer[2] & 0x80);
  HOLDS(is_stream || used <= (q->udp_size ? RILLE_DNS_UDP_MAX : 512));
  HOLDS(is_stream || !q->udp_size || used <= q->udp_size);
  if (!q->key_size) return;
  uint8_t *copy = exact(answer, (size_t)used);
  int rcode = rille_dns_answer_check(q, q->id, copy, used);
  HOLDS(rcode !=
        RILLE_ERR_INVALID); /* a hostile name may run through a TTL that has become another, and is none then */
  HOLDS(memcmp(copy + DNS_HEADER, query + DNS_HEADER, q->name_size) == 0); /* its letters */
  free(copy);
}

static void as_query(rille_dns_cache *cache, const uint8_t *bytes, size_t size) {
  rille_dns_query q;
  uint8_t *copy = exact(bytes, size);
  int used = rille_dns_cache_serve(cache, copy, (double)size, 0, 1, &q, answer);
  if (used > 0) check_written(&q, copy, used, false);
  else HOLDS(used < 0 || q.key_size > 0);
  if (q.key_size) {
    uint8_t forwarded[RILLE_DNS_QUERY_MAX];
    rille_dns_query again;
    int written = rille_dns_query_write(&q, 7, q.dnssec_ok || size & 1, forwarded);
    HOLDS(written > 0 && written <= RILLE_DNS_QUERY_MAX);
    int rcode = rille_dns_query_read(forwarded, written, &again);
    HOLDS(rcode >= 0 && again.key_size == q.key_size && memcmp(again.key, q.key, q.key_size) == 0);
  }
  free(copy);
}

/* The query that has the question a message begins with; its size, 0 if there is none. */
static size_t asks(const uint8_t *bytes, size_t size, bool has_edns, uint8_t *query) {
  rille_dns_query q;
  uint8_t head[DNS_HEADER + RILLE_DNS_WIRE_MAX + 4];
  size_t most = size < sizeof head ? size : sizeof head;
  if (size < DNS_HEADER) return 0;
  memcpy(head, bytes, most);
  for (size_t end = DNS_HEADER + 5; end <= most; end++) { /* which size is it? */
    memset(head + 2, 0, DNS_HEADER - 2);
    head[2] = DNS_RD >> 8;
    head[5] = 1;
    if (rille_dns_query_read(head, (double)end, &q) != 0) continue;
    memcpy(query, head, end);
    if (!has_edns) return end;
    q.udp_size = RILLE_DNS_UDP_MAX;
    query[11] = 1;
    return (size_t)(dns_put_opt(query + end, &q, 0) - query);
  }
  return 0;
}

static void as_answer(rille_dns_cache *cache, const uint8_t *bytes, size_t size, bool has_edns, bool is_stream) {
  uint8_t query[RILLE_DNS_QUERY_MAX];
  rille_dns_query q;
  size_t query_size = asks(bytes, size, has_edns, query);
  if (!query_size) return;
  HOLDS(rille_dns_cache_serve(cache, query, (double)query_size, is_stream, 1, &q, answer) == 0);
  uint8_t *copy = exact(bytes, size);
  int rcode = rille_dns_answer_check(&q, dns_u16(copy), copy, (double)size);
  HOLDS(rcode >= 0 || rcode == RILLE_ERR_INVALID || rcode == RILLE_ERR_SERVER_FAILURE);
  int used = rille_dns_reply(cache, &q, query, copy, (double)size, answer);
  check_written(&q, query, used, is_stream);
  int stored = rille_dns_cache_store(cache, &q, copy, (double)size, 1);
  HOLDS(stored >= 0 || stored == RILLE_ERR_SERVER_FAILURE);
  bool is_refused = rcode == RILLE_DNS_FORMERR || rcode == RILLE_DNS_NOTIMP; /* which may come without the question */
  if (stored < 0) HOLDS(rcode < 0 || rcode >= RILLE_DNS_TRUNCATED || is_refused);
  if (stored != 0) HOLDS(rille_dns_cache_fail(cache, &q, 5, 1) == 0);
  for (double now = 1; now < 400; now += 133) { /* at once, then aged, then stale or gone */
    used = rille_dns_cache_serve(cache, query, (double)query_size, is_stream, now, &q, answer);
    HOLDS(used >= 0);
    if (used > 0) check_written(&q, query, used, is_stream);
    if (stored == 0 && now > 1) HOLDS(rille_dns_cache_fail(cache, &q, 5, now) == 0);
  }
  free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  const rille_dns_options options = {.bytes_max = 1 << 20, .ttl_max = 200, .negative_max = 100, .stale = 300};
  if (size < 1) return 0;
  for (int turn = 0; turn < 2; turn++) {
    rille_dns_cache *cache = rille_dns_cache_new(&options);
    HOLDS(cache);
    as_query(cache, bytes, size);
    as_answer(cache, bytes, size, turn == 0, size % 2 == (size_t)turn);
    rille_dns_cache_free(cache);
  }
  return 0;
}
