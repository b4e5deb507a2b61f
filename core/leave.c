/*
 * leave: a server that the configuration has no more goes from a loop that goes on, as it would at a stop; see reload.h. Loop thread.
 */
#include "listener.h"
#include "reload.h"
#include "udp.h"

void rille_leave_begin(rille_state *state) {
  for (rille_listener *l = state->loop->listeners; l; l = l->next) {
    if (l->service->state != state || l->is_closed) continue;
    l->is_held = false;
    l->is_resting = false;
    l->is_dropped = true;
    rille_listener_drain(l);
  }
}

/* What it has still to answer or to send. */
static uint32_t count_datagrams(const rille_state *state) {
  const rille_udp_side *side = state->loop->udp;
  uint32_t count = 0;
  for (uint32_t i = 0; side && i < side->socket_count; i++) {
    const rille_udp *u = side->sockets[i];
    if (!u || u->is_closed || u->state != state) continue;
    count += u->out_count;
    if (u->listener) count += u->in_flight;
  }
  return count;
}

bool rille_leave_is_expected(const rille_state *state) {
  for (const rille_listener *l = state->loop->listeners; l; l = l->next) {
    bool is_balanced = l->group && l->group->id && l->group->accept == RILLE_ACCEPT_BALANCED;
    if (!is_balanced || l->service->state != state) continue;
    if (l->is_closed && atomic_load(&l->group->is_accepting)) return true;
  }
  return false;
}

uint32_t rille_leave_sweep(rille_state *state) {
  rille_loop *loop = state->loop;
  /* looked at first: what one that accepts no more has sent is mail by now */
  uint32_t left = rille_leave_is_expected(state) || rille_mailbox_has_mail(&loop->mailbox);
  for (uint32_t slot = 0; slot < loop->slab_count * RILLE_CONN_SLAB; slot++) {
    rille_conn *c = rille_conn_at(loop, slot);
    if (c && c->state == state && rille_conn_stop(c, false)) left++;
  }
  return left + count_datagrams(state);
}
