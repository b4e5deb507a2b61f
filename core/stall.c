/*
 * stall: a loop whose turn does not end serves nobody. The control thread looks a few times a second since when each loop is busy, and
 * what it said last that it was doing, and logs who holds it; the loop itself does nothing for it but a few plain stores.
 */
#include "control.h"
#include "log.h"

#include <stdio.h>
#include <string.h>

enum { TICK_MS = 250, TICK_MIN_MS = 10, TICK_STALLED_MS = 20 };

_Atomic uint64_t rille_stall_ns = 1000000000;

void rille_control_set_stall(double ms) {
  atomic_store(&rille_stall_ns, ms > 0 ? (uint64_t)(ms * 1e6) : 0);
  rille_control_wake();
}

bool rille_stall_is(const rille_loop *loop, uint64_t now_ns) {
  uint64_t limit = atomic_load_explicit(&rille_stall_ns, memory_order_relaxed);
  uint64_t since = atomic_load_explicit(&loop->busy_since, memory_order_relaxed);
  return limit != 0 && since != 0 && now_ns > since && now_ns - since > limit;
}

/* ---- who holds it ---------------------------------------------------------------------------------------------- */

/* The other end of a descriptor. By now it may be another's: then the loop goes on, and nothing is said of it. */
static void format_peer(int fd, char *to, size_t size) {
  struct sockaddr_storage storage;
  socklen_t length = sizeof storage;
  rille_peer peer;
  to[0] = 0;
  if (fd < 0 || getpeername(fd, (struct sockaddr *)&storage, &length) != 0) return;
  rille_peer_from_sockaddr(&peer, (struct sockaddr *)&storage, length);
  rille_peer_format(&peer, to, size);
}

static void find_holder(rille_watched *w) {
  const rille_place *place = w->loop->place;
  uint32_t state = __atomic_load_n(&place->state, __ATOMIC_RELAXED);
  uint64_t conn = __atomic_load_n(&place->conn, __ATOMIC_RELAXED);
  int fd = __atomic_load_n(&place->fd, __ATOMIC_RELAXED);
  const rille_snapshot *s = rille_snapshot_read(w->loop);
  w->stall_context = (rille_log_context){.loop = w->loop->id};
  if (state == 0 || state > s->state_count) {
    snprintf(w->stall_text, sizeof w->stall_text, "work outside of scripts");
    return;
  }
  memcpy(w->stall_label, s->states[state - 1].label, sizeof w->stall_label);
  w->stall_context.label = w->stall_label;
  if (conn == 0) {
    snprintf(w->stall_text, sizeof w->stall_text, "%s", w->stall_label);
    return;
  }
  char peer[RILLE_PEER_TEXT_MAX];
  format_peer(fd, peer, sizeof peer);
  double id = (double)((uint64_t)w->loop->id << 44 | conn);
  w->stall_context.conn = id;
  snprintf(w->stall_text, sizeof w->stall_text, "%s, conn %.0f%s%s", w->stall_label, id, peer[0] ? " of " : "", peer);
}

/* ---- looking --------------------------------------------------------------------------------------------------- */

typedef struct glance {
  uint64_t now_ns;
  bool has_stall;
} glance;

static void look(rille_watched *w, void *to) {
  glance *g = to;
  uint64_t since = atomic_load_explicit(&w->loop->busy_since, memory_order_relaxed);
  if (w->stall_since_ns && since != w->stall_since_ns) {
    RILLE_LOG_FOR(RILLE_LOG_WARN, &w->stall_context, "loop %u goes on: %s held it for %.2f s", w->loop->id,
                  w->stall_text, (double)(g->now_ns - w->stall_since_ns) / 1e9);
    w->stall_since_ns = 0;
  }
  if (w->stall_since_ns == 0 && rille_stall_is(w->loop, g->now_ns)) {
    find_holder(w);
    if (atomic_load_explicit(&w->loop->busy_since, memory_order_relaxed) != since) return; /* it came back meanwhile */
    w->stall_since_ns = since;
    atomic_fetch_add_explicit(&w->loop->stalls, 1, memory_order_relaxed);
    RILLE_LOG_FOR(RILLE_LOG_WARN, &w->stall_context, "loop %u is stalled: %s holds it for %.2f s so far", w->loop->id,
                  w->stall_text, (double)(g->now_ns - since) / 1e9);
  }
  g->has_stall |= w->stall_since_ns != 0;
}

int rille_stall_check(void) {
  uint64_t limit_ms = atomic_load(&rille_stall_ns) / 1000000;
  glance g = {.now_ns = rille_now_ns()};
  rille_control_each(look, &g);
  if (g.has_stall) return TICK_STALLED_MS;
  if (atomic_load(&rille_stall_ns) == 0) return -1;
  return limit_ms / 4 > TICK_MS ? TICK_MS : limit_ms / 4 < TICK_MIN_MS ? TICK_MIN_MS : (int)(limit_ms / 4);
}
