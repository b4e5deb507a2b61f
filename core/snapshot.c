/*
 * snapshot: see snapshot.h.
 */
#include "snapshot.h"

#include "control.h"
#include "listener.h"
#include "loop.h"

#include <stdio.h>
#include <string.h>

_Static_assert((int)RILLE_SNAPSHOT_STATES_MAX == (int)RILLE_LOOP_STATES_MAX, "each state has its place");

void rille_publisher_init(rille_publisher *p) {
  p->back = 0;
  p->front = 1;
  atomic_store(&p->latest, 2);
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

static const char *phase_of(const rille_state *state) {
  if (!state->lua) return "down";
  if (state->change.is_retiring) return "retiring";
  if (state->change.after) return "superseded";
  return state->is_serving ? "serving" : "incoming";
}

static void copy_state(const rille_state *state, rille_state_snapshot *to) {
  memcpy(to->label, state->label, sizeof to->label);
  to->generation = state->generation->number;
  to->phase = phase_of(state);
  to->chunks = rille_chunks_id(state->generation->chunks);
  to->connections = state->conn_count;
  to->lua_bytes = rille_state_heap(state);
  to->errors = state->errors;
  to->failures = state->failures;
}

static void copy_datagrams(const rille_listener *l, rille_listener_snapshot *to) {
  to->is_udp = l->udp != NULL;
  if (!l->udp) return;
  rille_udp_stats s;
  rille_udp_stats_read(l->udp, &s);
  to->datagrams = s.received;
  to->datagrams_dropped = s.too_large + s.dropped + s.refused + s.overflow;
}

static void copy_listener(const rille_listener *l, rille_listener_snapshot *to) {
  char address[RILLE_ADDRESS_TEXT_MAX];
  rille_listener_address(l, address, sizeof address);
  snprintf(to->address, sizeof to->address, "%s%.*s", l->service->http ? "http" : "", (int)sizeof to->address - 8,
           l->service->http && strncmp(address, "tcp:", 4) == 0 ? address + 3 : address);
  memcpy(to->label, l->service->state->label, sizeof to->label);
  to->accepted = l->accepted;
  to->refused_by_list = l->admission.refused_by_list;
  to->refused_by_address = l->admission.refused_by_address;
  to->shed = l->shed;
  copy_datagrams(l, to);
  to->connections = l->group ? (double)rille_group_load_of(l->group, l->loop->id - 1) : -1;
}

void rille_snapshot_publish(rille_loop *loop) {
  rille_publisher *p = &loop->published;
  rille_snapshot *s = &p->copies[p->back];
  loop->published_ns = loop->now_ns;
  rille_histogram_turn(&loop->turns, loop->now_ns);
  s->taken_ns = loop->now_ns;
  rille_loop_stats_read(loop, &s->stats);
  s->turn_p50 = (double)rille_histogram_quantile(&loop->turns, 0.5) / 1e9;
  s->turn_p99 = (double)rille_histogram_quantile(&loop->turns, 0.99) / 1e9;
  s->turn_seconds = (double)loop->turns_ns / 1e9;
  s->state_count = loop->state_count;
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (loop->states[i]) copy_state(loop->states[i], &s->states[i]);
    else s->states[i].label[0] = 0;
  }
  s->listener_count = s->more_listeners = 0;
  for (const rille_listener *l = loop->listeners; l; l = l->next) {
    if (l->is_closed) continue;
    if (s->listener_count < RILLE_SNAPSHOT_LISTENERS_MAX) copy_listener(l, &s->listeners[s->listener_count++]);
    else s->more_listeners++;
  }
  uint32_t before = atomic_exchange_explicit(&p->latest, p->back | RILLE_SNAPSHOT_NEW, memory_order_acq_rel);
  p->back = before & ~(uint32_t)RILLE_SNAPSHOT_NEW;
}

static void deliver(rille_loop *loop, const rille_message *m) {
  rille_snapshot_publish(loop);
  atomic_store(&loop->published.answers, (uint32_t)m->number);
  rille_control_wake();
}

/* ---- the control thread ---------------------------------------------------------------------------------------- */

bool rille_snapshot_ask(rille_loop *loop, uint32_t question) {
  rille_message m = {.deliver = deliver, .number = question};
  return rille_mailbox_send(&loop->mailbox, &m) == RILLE_OK;
}

const rille_snapshot *rille_snapshot_read(rille_loop *loop) {
  rille_publisher *p = &loop->published;
  if (atomic_load_explicit(&p->latest, memory_order_relaxed) & RILLE_SNAPSHOT_NEW) {
    uint32_t before = atomic_exchange_explicit(&p->latest, p->front, memory_order_acq_rel);
    p->front = before & ~(uint32_t)RILLE_SNAPSHOT_NEW;
  }
  return &p->copies[p->front];
}
