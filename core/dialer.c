/*
 * dialer: see dialer.h. Here are the slots of a loop, how a dial begins and ends, and what its look-ups bring; the tries are in dial_attempt.c.
 */
#include "dialer.h"

#include "conn.h"
#include "loop.h"
#include "socket.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { SLOTS_FIRST = 64, NONE = 0xffffffff, INDEX_BITS = 5, INDEX_MASK = (1 << INDEX_BITS) - 1 };

/* ---- slots ----------------------------------------------------------------------------------------------------- */

static rille_dial_side *side_of(rille_loop *loop) {
  if (loop->dials) return loop->dials;
  rille_dial_side *side = calloc(1, sizeof *side);
  if (!side) return NULL;
  side->free_slot = NONE;
  rille_wheel_init(&side->wheel, loop->clock_ms);
  loop->dials = side;
  return side;
}

static bool add_slots(rille_dial_side *side) {
  uint32_t count = side->slot_count ? side->slot_count * 2 : SLOTS_FIRST;
  if (count > RILLE_DIALS_MAX) return false;
  rille_dial_slot *slots = realloc(side->slots, count * sizeof *slots);
  if (!slots) return false;
  for (uint32_t i = side->slot_count; i < count; i++) {
    slots[i] = (rille_dial_slot){.epoch = 1, .next_free = i + 1 < count ? i + 1 : NONE};
  }
  side->free_slot = side->slot_count;
  side->slots = slots;
  side->slot_count = count;
  return true;
}

static rille_dial *make(rille_state *state, uint32_t token) {
  rille_dial_side *side = state->loop->dials;
  if (side->free_slot == NONE && !add_slots(side)) return NULL;
  rille_dial *d = calloc(1, sizeof *d);
  if (!d) return NULL;
  rille_dial_slot *slot = &side->slots[side->free_slot];
  d->slot = side->free_slot;
  d->epoch = slot->epoch;
  side->free_slot = slot->next_free;
  slot->dial = d;
  side->count++;
  d->loop = state->loop;
  d->state = state;
  d->token = token;
  d->fd = -1;
  d->is_starting = true;
  return d;
}

static double id_of(const rille_dial *d) { return (double)((uint64_t)d->epoch << 24 | d->slot); }

static rille_dial *at(const rille_loop *loop, uint32_t slot, uint32_t epoch) {
  const rille_dial_side *side = loop->dials;
  if (!side || slot >= side->slot_count) return NULL;
  rille_dial *d = side->slots[slot].dial;
  return d && d->epoch == epoch ? d : NULL;
}

static rille_dial *by_id(const rille_loop *loop, double id) {
  if (!(id >= 0 && id < 0x1p48)) return NULL;
  return at(loop, (uint32_t)((uint64_t)id & 0xffffff), (uint32_t)((uint64_t)id >> 24));
}

/* Nothing of it goes on. */
static void stop(rille_dial *d) {
  rille_dial_drop_attempts(d);
  rille_lookup_end(&d->four);
  rille_lookup_end(&d->six);
  rille_timer_stop(&d->loop->dials->wheel, &d->next.timer);
  rille_timer_stop(&d->loop->dials->wheel, &d->limit.timer);
}

static void destroy(rille_dial *d) {
  rille_dial_side *side = d->loop->dials;
  rille_dial_slot *slot = &side->slots[d->slot];
  stop(d);
  if (d->fd >= 0) close(d->fd);
  slot->dial = NULL;
  slot->epoch = slot->epoch == 0xffffff ? 1 : slot->epoch + 1;
  slot->next_free = side->free_slot;
  side->free_slot = d->slot;
  side->count--;
  free(d);
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

static void tell(const rille_dial *d) {
  if (!d->is_starting) rille_state_emit(d->state, RILLE_EVENT_DIAL, d->token, 0);
}

void rille_dial_finish(rille_dial *d, int fd, int err) {
  if (d->is_over) return;
  d->is_over = true;
  d->fd = fd;
  d->err = err;
  stop(d);
  tell(d);
}

static void limit_fired(rille_alarm *alarm) {
  rille_dial *d = (rille_dial *)(void *)((char *)alarm - offsetof(rille_dial, limit));
  rille_dial_finish(d, -1, RILLE_ERR_TIMEOUT);
}

/* ---- names ----------------------------------------------------------------------------------------------------- */

static void add_targets(rille_targets *t, const rille_lookup *l) {
  t->is_known = true;
  for (uint32_t i = 0; l->answer && i < l->answer->count && t->count < RILLE_DIAL_TARGETS_MAX; i++) {
    memcpy(t->list[t->count++].ip, l->answer->items[i].ip, 16);
  }
}

/* Why there is no address: what one of the look-ups could not say counts more than that the other found nothing. */
static int why_none(const rille_dial *d) {
  int err = d->six.err && d->six.err != RILLE_ERR_NOT_FOUND ? d->six.err : d->four.err;
  return err ? err : d->six.err;
}

/* IPv4 came first: IPv6 has a moment more. */
static bool waits_for_six(rille_dial *d) {
  const rille_targets *six = &d->targets[0], *four = &d->targets[1];
  if (six->is_known || four->count == 0 || d->attempt_count > 0) return false;
  if (!d->is_early) {
    d->is_early = true;
    rille_timer_start(&d->loop->dials->wheel, &d->next.timer, rille_now_ns() / 1000000 + RILLE_DIAL_RESOLUTION_MS);
  }
  return true;
}

static void looked_up(rille_dial *d) {
  const rille_targets *six = &d->targets[0], *four = &d->targets[1];
  bool is_known = six->is_known && four->is_known;
  if (is_known && six->count + four->count == 0) {
    rille_dial_finish(d, -1, why_none(d));
    return;
  }
  if (six->count + four->count == 0 || waits_for_six(d)) return;
  bool is_set = rille_timer_is_running(&d->next.timer) && !d->is_early; /* for the next attempt */
  if (d->is_early) rille_timer_stop(&d->loop->dials->wheel, &d->next.timer);
  d->is_early = false;
  if (rille_dial_in_flight(d) == 0) {
    rille_dial_go_on(d);
  } else if (!is_set) { /* more came while those there were are being tried */
    rille_timer_start(&d->loop->dials->wheel, &d->next.timer, rille_now_ns() / 1000000 + RILLE_DIAL_ATTEMPT_MS);
  }
}

static void records_are_there(rille_dial *d) {
  bool is_known = d->targets[0].is_known && d->targets[1].is_known;
  if (!is_known || d->is_over) return;
  d->is_over = true;
  d->err = d->six.answer || d->four.answer ? RILLE_OK : why_none(d);
  rille_timer_stop(&d->loop->dials->wheel, &d->limit.timer);
  tell(d);
}

static void came(rille_dial *d, int which, const rille_lookup *l) {
  add_targets(&d->targets[which], l);
  if (d->connects) looked_up(d);
  else records_are_there(d);
}

static void four_done(rille_lookup *l) { came((rille_dial *)(void *)((char *)l - offsetof(rille_dial, four)), 1, l); }

static void six_done(rille_lookup *l) { came((rille_dial *)(void *)((char *)l - offsetof(rille_dial, six)), 0, l); }

/* Both questions go out before any answer is looked at. */
static void look_up(rille_dial *d, rille_resolver *r, const char *name, int first, int second) {
  d->six.done = six_done;
  d->four.done = four_done;
  bool has_six = first && rille_lookup_start(r, &d->six, name, first);
  bool has_four = second && rille_lookup_start(r, &d->four, name, second);
  if (!first) d->targets[0].is_known = true;
  if (!second) d->targets[1].is_known = true;
  if (has_six) came(d, 0, &d->six);
  if (has_four && !d->is_over) came(d, 1, &d->four);
}

/* ---- starting -------------------------------------------------------------------------------------------------- */

static void set_limit(rille_dial *d, double ms) {
  d->next.fire = rille_dial_next_fired;
  d->limit.fire = limit_fired;
  if (ms > 0 && ms < 1e12)
    rille_timer_start(&d->loop->dials->wheel, &d->limit.timer, rille_now_ns() / 1000000 + 1 + (uint64_t)ms);
}

/* The parts of a URL that was found to be good but for its name, which has to be looked up. */
static void split(const char *url, rille_dial *d, char *host, size_t size) {
  const char *rest = strstr(url, "://");
  d->family = AF_UNSPEC;
  if (rest) {
    if (rest[-1] == '4') d->family = AF_INET;
    if (rest[-1] == '6') d->family = AF_INET6;
    rest += 3;
  } else {
    rest = url;
  }
  const char *colon = strrchr(rest, ':');
  snprintf(host, size, "%.*s", (int)(colon - rest), rest);
  d->port = (uint16_t)strtoul(colon + 1, NULL, 10);
}

static const char PORT_0[] = "port 0 stands for any free one: nothing can be dialed there";

static int start_named(rille_dial *d, const rille_dial_options *o, char *message, size_t size) {
  char host[RILLE_DNS_NAME_MAX + 1];
  split(d->url, d, host, sizeof host);
  if (d->port == 0) return rille_socket_say(message, size, RILLE_ERR_BAD_ADDRESS, "%s", PORT_0);
  int err = rille_dns_check(host, strlen(host), message, size);
  rille_resolver *r = err ? NULL : rille_resolver_of(d->loop, &o->resolver, &err, message, size);
  if (!r) return err == RILLE_ERR_INVALID ? RILLE_ERR_BAD_ADDRESS : err;
  d->is_named = true;
  look_up(d, r, host, d->family == AF_INET ? 0 : RILLE_DNS_AAAA, d->family == AF_INET6 ? 0 : RILLE_DNS_A);
  return RILLE_OK;
}

static int start_fixed(rille_dial *d, char *message, size_t size) {
  const rille_address *to = &d->fixed;
  const char *why = NULL;
  if (rille_address_is_datagram(to)) why = "an address of datagrams has no connection: use rille.udp";
  else if (to->family != AF_UNIX && rille_address_port(to) == 0) why = PORT_0;
  else if (rille_address_is_any(to)) why = "a host is missing: every address is one to listen on, not to connect to";
  if (why) return rille_socket_say(message, size, RILLE_ERR_BAD_ADDRESS, "%s", why);
  rille_dial_go_on(d);
  return RILLE_OK;
}

static int parse_bound(rille_dial *d, const char *bind, char *message, size_t size) {
  if (!bind[0]) return RILLE_OK;
  int err = rille_address_parse_numeric(bind, &d->bound, message, size);
  if (!err) return RILLE_OK;
  d->bound.family = 0;
  return err == RILLE_ERR_BUSY
             ? rille_socket_say(message, size, RILLE_ERR_BAD_ADDRESS, "bind takes an address of this host, not a name")
             : err;
}

double rille_dial_start(rille_state *state, const char *url, const rille_dial_options *o, uint32_t token, char *message,
                        size_t size) {
  rille_dial_side *side = side_of(state->loop);
  message[0] = '\0';
  if (side && side->count >= o->max)
    return rille_socket_say(message, size, RILLE_ERR_FULL, "%u connects are under way on this loop", side->count);
  rille_dial *d = side ? make(state, token) : NULL;
  if (!d) return rille_socket_say(message, size, RILLE_ERR_NO_MEMORY, "no memory for a connect");
  d->connects = true;
  d->nodelay = o->nodelay != 0;
  d->keepalive_s = o->keepalive_s;
  snprintf(d->url, sizeof d->url, "%s", url);
  int err = rille_address_parse_numeric(url, &d->fixed, message, size);
  bool is_name = err == RILLE_ERR_BUSY;
  if (is_name) err = RILLE_OK;
  if (!err) err = parse_bound(d, o->bind, message, size);
  if (!err) {
    set_limit(d, o->timeout_ms);
    err = is_name ? start_named(d, o, message, size) : start_fixed(d, message, size);
  }
  if (err) {
    destroy(d);
    return err;
  }
  d->is_starting = false;
  return id_of(d);
}

double rille_resolve_start(rille_state *state, const char *name, size_t name_size, int type,
                           const rille_resolver_options *o, uint32_t token, char *message, size_t size) {
  int err = rille_dns_check(name, name_size, message, size);
  if (err) return err;
  if (!side_of(state->loop)) return RILLE_ERR_NO_MEMORY;
  rille_resolver *r = rille_resolver_of(state->loop, o, &err, message, size);
  if (!r) return err;
  rille_dial *d = make(state, token);
  if (!d) return rille_socket_say(message, size, RILLE_ERR_NO_MEMORY, "no memory for a look-up");
  double id = id_of(d);
  set_limit(d, 0);
  bool has_four = type == RILLE_DNS_BOTH;
  look_up(d, r, name, has_four ? RILLE_DNS_AAAA : type, has_four ? RILLE_DNS_A : 0);
  d->is_starting = false;
  return id;
}

/* ---- what came of it ------------------------------------------------------------------------------------------- */

static void explain(const rille_dial *d, int err, char *message, size_t size) {
  snprintf(message, size, "cannot connect to %s: %s", d->url, rille_err_text(err));
}

/* A descriptor that is nobody else's, with a peer that is known even if it has gone again. */
static rille_conn *make_conn(rille_service *service, const rille_dial *d, int *err) {
  rille_conn *c = rille_conn_new(d->loop, service, d->fd, true);
  *err = c ? RILLE_OK : RILLE_ERR_NO_MEMORY;
  if (!c) return NULL;
  rille_peer_from_sockaddr(&c->peer, (const struct sockaddr *)&d->fixed.storage, d->fixed.length);
  *err = rille_conn_attach(c);
  if (*err >= 0) return c;
  c->fd = -1;
  rille_conn_free(c);
  return NULL;
}

rille_conn *rille_dial_take(rille_service *service, double id, int *err, char *message, size_t size) {
  rille_dial *d = by_id(service->state->loop, id);
  message[0] = '\0';
  *err = !d || !d->connects ? RILLE_ERR_NOT_FOUND : d->is_over ? d->err : RILLE_PARK;
  if (!d || *err == RILLE_PARK) return NULL;
  rille_conn *c = *err ? NULL : make_conn(service, d, err);
  if (c) d->fd = -1;
  else explain(d, *err, message, size);
  destroy(d);
  return c;
}

int rille_resolve_count(rille_loop *loop, double id, double *count) {
  const rille_dial *d = by_id(loop, id);
  if (!d || d->connects) return RILLE_ERR_NOT_FOUND;
  if (!d->is_over) return RILLE_PARK;
  if (d->err) return d->err;
  *count = (d->four.answer ? d->four.answer->count : 0) + (d->six.answer ? d->six.answer->count : 0);
  return RILLE_OK;
}

int rille_resolve_record(rille_loop *loop, double id, int i, rille_dns_record *out) {
  const rille_dial *d = by_id(loop, id);
  if (!d || d->connects || !d->is_over || i < 0) return RILLE_ERR_NOT_FOUND;
  uint32_t index = (uint32_t)i;
  const rille_answer *a = d->four.answer; /* IPv4 first: it is what every host can reach */
  if (!a || index >= a->count) {
    index -= a ? a->count : 0;
    a = d->six.answer;
  }
  if (!a || index >= a->count) return RILLE_ERR_NOT_FOUND;
  const rille_dns_item *item = &a->items[index];
  *out = (rille_dns_record){.text = a->pool + item->offset,
                            .size = item->size,
                            .ttl = a->ttl < item->ttl ? a->ttl : item->ttl,
                            .priority = item->priority,
                            .weight = item->weight,
                            .port = item->port};
  return RILLE_OK;
}

void rille_dial_cancel(rille_loop *loop, double id) {
  rille_dial *d = by_id(loop, id);
  if (d) destroy(d);
}

uint32_t rille_dial_count(const rille_loop *loop) { return loop->dials ? loop->dials->count : 0; }

int rille_resolver_stats_read(rille_loop *loop, const rille_resolver_options *options, rille_resolver_stats *out) {
  const rille_resolver *r = rille_resolver_find(loop, options);
  if (!r) return RILLE_ERR_NOT_FOUND;
  *out =
      (rille_resolver_stats){.queries = r->queries, .questions = r->questions, .hits = r->hits, .entries = r->cached};
  return RILLE_OK;
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

void rille_dial_ready(rille_loop *loop, uint32_t slot, uint32_t epoch) {
  rille_dial *d = at(loop, slot >> INDEX_BITS, epoch);
  if (d) rille_dial_attempt_ready(d, (int)(slot & INDEX_MASK));
}

static void fired(rille_timer *timer, void *arg) {
  (void)arg;
  rille_alarm *alarm = (rille_alarm *)(void *)timer;
  alarm->fire(alarm);
}

void rille_dial_timers(rille_loop *loop) {
  if (loop->dials) rille_wheel_advance(&loop->dials->wheel, loop->clock_ms, fired, loop);
}

uint64_t rille_dial_next(const rille_loop *loop) {
  return loop->dials ? rille_wheel_next(&loop->dials->wheel) : UINT64_MAX;
}

void rille_dial_evict(rille_loop *loop, const rille_state *state) {
  const rille_dial_side *side = loop->dials;
  for (uint32_t i = 0; side && i < side->slot_count; i++) {
    rille_dial *d = side->slots[i].dial;
    if (d && d->state == state) destroy(d);
  }
}

void rille_dial_end_loop(rille_loop *loop) {
  rille_dial_side *side = loop->dials;
  if (!side) return;
  for (uint32_t i = 0; i < side->slot_count; i++) {
    if (side->slots[i].dial) destroy(side->slots[i].dial);
  }
  rille_resolvers_end(side->resolvers);
  free(side->slots);
  free(side);
  loop->dials = NULL;
}
