/*
 * udp_session: what a server keeps of one peer that sends it datagrams. A session begins with the first of them and ends by close(), by its
 * idle time, or with its socket. Datagrams wait in its queue for a parked receive, else for on_request, one at a time.
 *
 * An idle session is this struct alone. It stands in a hash table of its socket by its peer until it is closed, so a peer that speaks on
 * gets a new one; the state is told of the end once, when no handler of it runs, and frees it. Loop thread only.
 */
#include "udp_session.h"

#include "conn.h"
#include "log.h"
#include "loop.h"
#include "reload.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS_FIRST = 64, EPOCH_MASK = 0xffffff, LOOPS = 512 };

/* ---- the table --------------------------------------------------------------------------------------------------- */

static uint32_t hash_of(const rille_dgram *d) {
  const rille_udp_end *from = &d->from;
  const uint8_t *bytes = (const uint8_t *)&from->name;
  size_t size = from->name_size;
  uint32_t hash = 2166136261u;
  if (d->face.peer_.family_ != AF_UNIX) {
    const rille_udp_peer *peer = &d->face.peer_;
    bytes = peer->ip_;
    size = sizeof peer->ip_;
    hash = (hash ^ peer->port_) * 16777619u ^ peer->scope_;
  }
  for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * 16777619u;
  return hash ^ hash >> 15;
}

static bool is_of(const rille_session *s, const rille_dgram *d) {
  const rille_udp_peer *a = &s->peer, *b = &d->face.peer_;
  if (a->family_ != b->family_) return false;
  if (s->unix_end) {
    return s->unix_end->name_size == d->from.name_size &&
           memcmp(&s->unix_end->name, &d->from.name, d->from.name_size) == 0;
  }
  return a->port_ == b->port_ && a->scope_ == b->scope_ && memcmp(a->ip_, b->ip_, sizeof a->ip_) == 0;
}

static bool grow(rille_udp *u) {
  uint32_t count = u->bucket_count ? u->bucket_count * 2 : BUCKETS_FIRST;
  rille_session **buckets = calloc(count, sizeof(rille_session *));
  if (!buckets) return u->bucket_count > 0; /* longer chains, then */
  for (uint32_t i = 0; i < u->bucket_count; i++) {
    for (rille_session *s = u->buckets[i]; s;) {
      rille_session *next = s->next_in_bucket;
      s->next_in_bucket = buckets[s->hash & (count - 1)];
      buckets[s->hash & (count - 1)] = s;
      s = next;
    }
  }
  free(u->buckets);
  u->buckets = buckets;
  u->bucket_count = count;
  return true;
}

static rille_session *find(const rille_udp *u, const rille_dgram *d, uint32_t hash) {
  if (u->bucket_count == 0) return NULL;
  rille_session *s = u->buckets[hash & (u->bucket_count - 1)];
  while (s && !(s->hash == hash && is_of(s, d))) s = s->next_in_bucket;
  return s;
}

static void leave_table(rille_session *s) {
  rille_udp *u = s->udp;
  rille_session **at = &u->buckets[s->hash & (u->bucket_count - 1)];
  while (*at != s) at = &(*at)->next_in_bucket;
  *at = s->next_in_bucket;
  u->live_sessions--;
}

/* ---- slots ------------------------------------------------------------------------------------------------------- */

static rille_session *slot_at(const rille_udp_side *side, uint32_t slot) {
  return &side->session_slabs[slot / RILLE_SESSION_SLAB][slot % RILLE_SESSION_SLAB];
}

rille_session *rille_session_of(const rille_state *state, uint32_t slot) {
  const rille_udp_side *side = state->loop->udp;
  if (!side || slot >= side->session_slab_count * RILLE_SESSION_SLAB) return NULL;
  rille_session *s = slot_at(side, slot);
  return s->flags & RILLE_SESSION_USED && s->state == state ? s : NULL;
}

static bool add_slab(rille_udp_side *side) {
  if (side->session_slab_count == RILLE_SESSION_SLABS_MAX) return false;
  rille_session *slab = calloc(RILLE_SESSION_SLAB, sizeof *slab);
  if (!slab) return false;
  uint32_t first = side->session_slab_count * RILLE_SESSION_SLAB;
  side->session_slabs[side->session_slab_count++] = slab;
  for (uint32_t i = 0; i < RILLE_SESSION_SLAB; i++) {
    slab[i].epoch = 1;
    slab[i].slot = i + 1 < RILLE_SESSION_SLAB ? first + i + 1 : UINT32_MAX;
  }
  side->free_session = first;
  return true;
}

void rille_sessions_free(rille_udp_side *side) {
  for (uint32_t slot = 0; slot < side->session_slab_count * RILLE_SESSION_SLAB; slot++) {
    free(slot_at(side, slot)->unix_end);
    rille_luggage_drop(&slot_at(side, slot)->luggage);
  }
  for (uint32_t i = 0; i < side->session_slab_count; i++) free(side->session_slabs[i]);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

void rille_session_arm(rille_session *s) {
  const rille_loop *loop = s->udp->loop;
  uint32_t now = loop->now_ms;
  int32_t left = INT32_MAX;
  if (s->idle_ms) left = (int32_t)(s->active_ms + s->idle_ms - now);
  if (s->lifetime_ms && (int32_t)(s->opened_ms + s->lifetime_ms - now) < left) {
    left = (int32_t)(s->opened_ms + s->lifetime_ms - now);
  }
  if (left == INT32_MAX) return;
  uint64_t expiry = loop->clock_ms + (uint64_t)(left > 0 ? left : 0);
  if (rille_timer_is_running(&s->timer) && s->timer.expiry_ms <= expiry) return;
  rille_timer_start(&loop->udp->wheel, &s->timer, expiry);
}

/* Datagrams do not touch the timer: when it fires and there were some, it is set anew. */
void rille_session_fired(rille_timer *timer, void *arg) {
  rille_session *s = (rille_session *)(void *)((char *)timer - offsetof(rille_session, timer));
  const rille_loop *loop = arg;
  if (s->flags & RILLE_SESSION_ENDED) return;
  /* a handler that waits for something else than datagrams is not idle */
  if (s->tasks > 0 && !(s->flags & RILLE_SESSION_READER)) s->active_ms = loop->now_ms;
  bool is_idle = s->idle_ms && (int32_t)(s->active_ms + s->idle_ms - loop->now_ms) <= 0;
  bool is_old = s->lifetime_ms && (int32_t)(s->opened_ms + s->lifetime_ms - loop->now_ms) <= 0;
  if (is_idle || is_old) rille_session_close(s, RILLE_ERR_TIMEOUT);
  else rille_session_arm(s);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

void rille_session_emit(rille_session *s, int what) { rille_state_emit(s->state, RILLE_EVENT_SESSION, s->slot, what); }

static void wake_reader(rille_session *s) {
  if (!(s->flags & RILLE_SESSION_READER) || s->flags & RILLE_SESSION_WOKEN) return;
  s->flags |= RILLE_SESSION_WOKEN;
  rille_session_emit(s, RILLE_SESSION_READ);
}

void rille_session_kick(rille_session *s) {
  if (!s->first || s->flags & (RILLE_SESSION_OPENING | RILLE_SESSION_BUSY | RILLE_SESSION_ENDED)) return;
  s->flags |= RILLE_SESSION_BUSY;
  rille_session_emit(s, RILLE_SESSION_REQUEST);
}

/* When the last handler of one that has ended returned, the state is told. */
static void settle(rille_session *s) {
  if (!(s->flags & RILLE_SESSION_ENDED) || s->tasks > 0 || s->flags & (RILLE_SESSION_BUSY | RILLE_SESSION_FINISHED))
    return;
  s->flags |= RILLE_SESSION_FINISHED;
  if (!(s->flags & RILLE_SESSION_KNOWN) && !(s->service->hooks & RILLE_HOOK_CLOSE)) rille_session_free(s);
  else rille_session_emit(s, RILLE_SESSION_CLOSE);
}

static void clear(rille_dgram **d) {
  if (*d) rille_udp_free_dgram(*d);
  *d = NULL;
}

static bool is_full(const rille_udp *u) {
  uint32_t count = u->group ? rille_group_load(u->group) : u->live_sessions;
  return count >= u->options.session_max;
}

static rille_session *make(rille_udp *u, const rille_dgram *d, uint32_t hash) {
  rille_udp_side *side = u->loop->udp;
  if (u->live_sessions >= u->bucket_count && !grow(u)) return NULL;
  if (side->free_session == UINT32_MAX && !add_slab(side)) return NULL;
  rille_udp_end *unix_end = NULL;
  if (d->face.peer_.family_ == AF_UNIX) {
    unix_end = malloc(sizeof *unix_end);
    if (!unix_end) return NULL;
    *unix_end = d->from;
  }
  uint32_t slot = side->free_session;
  rille_session *s = slot_at(side, slot);
  side->free_session = s->slot;
  uint32_t now = u->loop->now_ms;
  *s = (rille_session){
      .udp = u,
      .state = u->state,
      .service = u->service,
      .slot = slot,
      .epoch = s->epoch,
      .flags = RILLE_SESSION_USED | (u->service->hooks & RILLE_HOOK_CONNECT ? RILLE_SESSION_OPENING : 0),
      .peer = d->face.peer_,
      .hash = hash,
      .unix_end = unix_end,
      .active_ms = now,
      .opened_ms = now,
      .idle_ms = u->options.session_idle_ms,
  };
  rille_session **bucket = &u->buckets[hash & (u->bucket_count - 1)];
  s->next_in_bucket = *bucket;
  *bucket = s;
  u->live_sessions++;
  u->session_count++;
  u->state->sessions++;
  u->loop->accepted++;
  if (u->group) rille_group_came(u->group, u->loop);
  if (s->flags & RILLE_SESSION_OPENING) {
    s->tasks = 1; /* on_connect */
    rille_session_emit(s, RILLE_SESSION_OPEN);
  }
  rille_session_arm(s);
  return s;
}

static void count_drop(rille_udp *u, rille_dgram *d, double *counter) {
  (*counter)++;
  u->loop->datagrams_dropped++;
  rille_udp_free_dgram(d);
}

void rille_session_arrived(rille_udp *u, rille_dgram *d) {
  uint32_t hash = hash_of(d);
  rille_session *s = find(u, d, hash);
  if (!s && (is_full(u) || u->loop->is_ending)) {
    if (!u->loop->is_ending)
      RILLE_LOG(RILLE_LOG_WARN, "session.max (%u) reached: new peers are dropped", u->options.session_max);
    count_drop(u, d, &u->stats.refused);
    return;
  }
  /* with too many in all, one for each is still taken */
  uint32_t most = u->in_flight > u->options.max_datagrams ? 1 : u->options.session_queue;
  bool has_room = !s || s->queued < most;
  if (has_room && !s) s = make(u, d, hash);
  if (!has_room || !s) {
    count_drop(u, d, &u->stats.dropped);
    return;
  }
  d->next = NULL;
  if (s->first) s->last->next = d;
  else s->first = d;
  s->last = d;
  s->queued++;
  s->active_ms = u->loop->now_ms;
  if (s->flags & RILLE_SESSION_READER) wake_reader(s);
  else rille_session_kick(s);
}

static rille_dgram *pop(rille_session *s) {
  rille_dgram *d = s->first;
  s->first = d->next;
  d->next = NULL;
  s->queued--;
  s->udp->loop->messages++;
  return d;
}

void rille_session_close(rille_session *s, int err) {
  if (s->flags & RILLE_SESSION_ENDED) return;
  rille_udp *u = s->udp;
  s->flags |= RILLE_SESSION_ENDED;
  /* a handler that the end of the loop has cancelled raised, which is no error of its own */
  s->has_failed = err == RILLE_ERR_ERROR;
  s->reason = (int16_t)(err == RILLE_ERR_ERROR && u->loop->is_ending ? RILLE_ERR_SHUTDOWN : err);
  leave_table(s);
  if (u->group) rille_group_left(u->group, u->loop);
  rille_timer_stop(&u->loop->udp->wheel, &s->timer);
  while (s->first) {
    rille_dgram *d = s->first;
    s->first = d->next;
    rille_udp_free_dgram(d);
  }
  s->queued = 0;
  wake_reader(s);
  settle(s);
}

void rille_session_free(rille_session *s) {
  rille_udp *u = s->udp;
  rille_udp_side *side = u->loop->udp;
  if (!(s->flags & RILLE_SESSION_ENDED)) return; /* it was not told of the end */
  clear(&s->served);
  clear(&s->received);
  free(s->unix_end);
  s->unix_end = NULL;
  rille_luggage_drop(&s->luggage);
  s->flags = 0;
  s->epoch = s->epoch == EPOCH_MASK ? 1 : s->epoch + 1;
  uint32_t slot = s->slot;
  s->slot = side->free_session;
  side->free_session = slot;
  u->session_count--;
  s->state->sessions--;
}

void rille_sessions_each(rille_udp_side *side, void (*visit)(rille_session *s, void *arg), void *arg) {
  for (uint32_t slot = 0; slot < side->session_slab_count * RILLE_SESSION_SLAB; slot++) {
    rille_session *s = slot_at(side, slot);
    if (s->flags & RILLE_SESSION_USED) visit(s, arg);
  }
}

struct ending {
  const rille_udp *udp;
  int err;
};

static void end_of_socket(rille_session *s, void *arg) {
  const struct ending *ending = arg;
  if (s->udp == ending->udp) rille_session_close(s, ending->err);
}

void rille_sessions_end(rille_udp *u, int err) {
  struct ending ending = {.udp = u, .err = err};
  if (u->live_sessions > 0) rille_sessions_each(u->loop->udp, end_of_socket, &ending);
}

struct stopping {
  uint32_t left;
  bool force;
};

static void forget(rille_session *s, void *arg) {
  if (s->state != arg) return;
  rille_session_close(s, RILLE_ERR_CLOSED);
  rille_session_free(s);
}

void rille_sessions_forget(rille_state *state) {
  if (state->sessions > 0) rille_sessions_each(state->loop->udp, forget, state);
}

bool rille_session_is_quiet(const rille_session *s) {
  if (s->first || s->flags & RILLE_SESSION_WOKEN) return false;
  if (s->flags & RILLE_SESSION_READER) return true; /* its handler only waits for another one */
  return s->tasks == 0 && !(s->flags & (RILLE_SESSION_BUSY | RILLE_SESSION_OPENING));
}

static void stop(rille_session *s, void *arg) {
  struct stopping *stopping = arg;
  if (stopping->force || rille_session_is_quiet(s)) rille_session_close(s, RILLE_ERR_SHUTDOWN);
  if (s->flags & RILLE_SESSION_USED) stopping->left++;
}

uint32_t rille_sessions_stop(rille_loop *loop, bool force) {
  struct stopping stopping = {.force = force};
  rille_sessions_each(loop->udp, stop, &stopping);
  return stopping.left;
}

/* ---- what Lua calls ---------------------------------------------------------------------------------------------- */

/* Apart from those of connections, which have loop numbers from 1 to 256 there. */
double rille_session_id(const rille_session *s) {
  return (double)((uint64_t)(s->udp->loop->id + LOOPS / 2) % LOOPS << 44 | (uint64_t)s->epoch << 20 | s->slot);
}

uint32_t rille_session_service(const rille_session *s) { return s->service->id; }

void rille_session_know(rille_session *s) { s->flags |= RILLE_SESSION_KNOWN; }

void rille_session_opened(rille_session *s) {
  s->flags &= ~(uint32_t)RILLE_SESSION_OPENING;
  s->tasks--;
  s->active_ms = s->udp->loop->now_ms;
  clear(&s->received);
  rille_session_kick(s);
  settle(s);
}

const rille_datagram *rille_session_begin(rille_session *s) {
  if (!(s->flags & RILLE_SESSION_BUSY) || s->served) return NULL; /* a stale event */
  if (s->flags & RILLE_SESSION_ENDED || !s->first) {              /* closed since, or a receive took it */
    s->flags &= ~(uint32_t)RILLE_SESSION_BUSY;
    settle(s);
    return NULL;
  }
  s->began_ns = rille_state_is_observed(s->state) ? rille_reload_message(s->state) : 0;
  if (rille_session_went(s)) return NULL;
  s->tasks++;
  s->served = pop(s);
  return &s->served->face;
}

int rille_session_done(rille_session *s) {
  clear(&s->served);
  clear(&s->received);
  s->tasks--;
  s->active_ms = s->udp->loop->now_ms;
  if (rille_state_is_observed(s->state)) rille_reload_message_done(s->state, s->began_ns, s->has_failed);
  if (s->first && !(s->flags & (RILLE_SESSION_READER | RILLE_SESSION_ENDED))) return !rille_session_went(s);
  s->flags &= ~(uint32_t)RILLE_SESSION_BUSY;
  settle(s);
  return 0;
}

const rille_datagram *rille_session_receive(rille_session *s, int *err) {
  *err = RILLE_OK;
  if (s->flags & RILLE_SESSION_READER) *err = RILLE_ERR_BUSY;
  else if (s->flags & RILLE_SESSION_ENDED) *err = RILLE_ERR_CLOSED;
  if (*err) return NULL;
  if (!s->first) {
    s->flags |= RILLE_SESSION_READER;
    *err = RILLE_PARK;
    return NULL;
  }
  clear(&s->received);
  s->received = pop(s);
  return &s->received->face;
}

void rille_session_unwant(rille_session *s, int for_good) {
  s->flags &= ~(uint32_t)(RILLE_SESSION_READER | RILLE_SESSION_WOKEN);
  if (for_good) rille_session_kick(s);
}

int rille_session_send(rille_session *s, const char *bytes, double size, rille_block *block) {
  rille_udp_end end;
  if (s->flags & RILLE_SESSION_ENDED) return RILLE_ERR_CLOSED;
  s->active_ms = s->udp->loop->now_ms;
  if (s->unix_end) {
    if (s->unix_end->name_size <= sizeof(sa_family_t)) return RILLE_ERR_NOT_SUPPORTED;
    return rille_udp_put(s->udp, s->unix_end, bytes, size, block);
  }
  int err = rille_udp_end_of(s->udp, &s->peer, &end);
  return err ? err : rille_udp_put(s->udp, &end, bytes, size, block);
}

int rille_session_reason(const rille_session *s) { return s->reason; }

int rille_session_is_active(const rille_session *s) { return !(s->flags & RILLE_SESSION_ENDED); }

void rille_session_set(rille_session *s, int setting, double ms) {
  uint32_t span = ms < 3.6e9 ? (uint32_t)ms : (uint32_t)3.6e9;
  if (setting == RILLE_SESSION_IDLE) {
    s->idle_ms = span;
    s->has_own_idle = true;
  } else {
    s->lifetime_ms = span;
  }
  if (!(s->flags & RILLE_SESSION_ENDED)) rille_session_arm(s);
}

size_t rille_session_peer(const rille_session *s, char *to, size_t size) {
  if (!s->unix_end) return rille_udp_peer_format(&s->peer, to, size);
  rille_address address = {.kind = RILLE_ADDRESS_UNIXGRAM, .family = AF_UNIX, .length = s->unix_end->name_size};
  memcpy(&address.storage, &s->unix_end->name, sizeof s->unix_end->name);
  return rille_address_format(&address, to, size);
}
