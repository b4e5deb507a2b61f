/*
 * conn_move: a live connection goes over to another loop of the team, with its socket, its unread input, its unsent output and what its
 * script keeps of it, through the mailbox. Here a husk without a socket stays until the handler that asked for it has returned;
 * there it begins as one that has just been accepted and prepared. See rille_conn.h.
 */
#include "conn_tls.h"

#include "listener.h"
#include "log.h"
#include "loop.h"
#include "proxied.h"
#include "shaper.h"
#include "team.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CTX_MAX = 16 << 20 };

/* What a connection keeps on its way. */
enum {
  KEPT = RILLE_CONN_SOCKET | RILLE_CONN_EOF | RILLE_CONN_PARTED | RILLE_CONN_PAUSED | RILLE_CONN_SHUT |
         RILLE_CONN_SHUT_DONE | RILLE_CONN_SHARED | RILLE_CONN_TRACE | RILLE_CONN_SHAPED | RILLE_CONN_SERVED
};

/* Owned by the message, then by the state there, which has of it what Lua needs. */
struct rille_move {
  struct rille_move *next;
  rille_listener *to; /* borrowed; listeners of a team live as long as it does */
  double id;          /* until now */
  int fd;
  uint32_t flags;
  rille_peer peer;
  rille_linkbuffer *in, *out;
  const rille_timeouts *timeouts; /* NULL: the service's */
  rille_rare *rare;               /* owned */
  struct rille_bound *names;
  uint32_t high_water, low_water, read_size;
  uint32_t opened_ago, read_ago, written_ago; /* ms */
  size_t size;
  char ctx[];
};

/* ---- going ----------------------------------------------------------------------------------------------------- */

/* The address of the configuration by which it came: only those are there on every loop, as long as the loops are. NULL: by another. */
static rille_group *group_of(const rille_conn *c) {
  rille_group *group = c->listener ? c->listener->group : NULL;
  return group && group->id ? group : NULL;
}

static int check(const rille_conn *c, int tasks) {
  enum { OVER = RILLE_CONN_CLOSING | RILLE_CONN_FINISHED | RILLE_CONN_BROKEN };
  if (c->fd < 0 || c->error || c->flags & OVER) return RILLE_ERR_CLOSED;
  if (c->loop->is_stopping) return RILLE_ERR_SHUTDOWN;
  if (!group_of(c)) return RILLE_ERR_NOT_SUPPORTED;
  if ((c->rare->tls && c->rare->tls->is_shaking) || c->is_http || rille_conn_is_inside(c) || c->tasks != tasks ||
      c->flags & (RILLE_CONN_READER | RILLE_CONN_WRITER))
    return RILLE_ERR_BUSY;
  /* in on_prepare: on_connect is still to run */
  bool is_prepared = c->flags & RILLE_CONN_REGISTERED || !(c->service->hooks & RILLE_HOOK_PREPARE);
  if (c->flags & RILLE_CONN_OPENING && (tasks == 0 || !is_prepared)) return RILLE_ERR_BUSY;
  return RILLE_OK;
}

static struct rille_move *pack(rille_conn *c, rille_listener *to, const char *ctx, size_t size) {
  struct rille_move *move = malloc(sizeof *move + size);
  if (!move) return NULL;
  uint32_t now = c->loop->now_ms;
  *move = (struct rille_move){
      .to = to,
      .id = rille_conn_id(c),
      .fd = c->fd,
      .flags = c->flags & KEPT,
      .peer = c->peer,
      .in = c->in,
      .out = c->out,
      .timeouts = c->timeouts == &c->service->timeouts ? NULL : c->timeouts,
      .rare = c->rare,
      .names = rille_binding_pack(c),
      .high_water = c->high_water,
      .low_water = c->low_water,
      .read_size = c->read_size,
      .opened_ago = now - c->opened_ms,
      .read_ago = now - c->read_ms,
      .written_ago = now - c->written_ms,
      .size = size,
  };
  if (size > 0) memcpy(move->ctx, ctx, size);
  return move;
}

/* It has become another's; what is left looks like a connection that its script has closed. */
static void leave_husk(rille_conn *c) {
  c->fd = -1;
  c->in = c->out = NULL;
  c->timeouts = &c->service->timeouts;
  c->rare = &rille_rare_none;
  /* the count of its source address goes along */
  rille_group_left(c->listener->group, c->loop);
  c->listener->connections--;
  c->listener = NULL;
  c->flags &= ~(uint32_t)(RILLE_CONN_REGISTERED | RILLE_CONN_BLOCKED | RILLE_CONN_SHAPED | RILLE_CONN_FULL);
  if (c->tasks == 0) c->flags &= ~(uint32_t)RILLE_CONN_BUSY; /* the event of an on_request that has not begun */
  c->flags |= RILLE_CONN_CLOSING | RILLE_CONN_PARTED;
  rille_topic_leave(c);
  rille_timer_stop(&c->loop->wheel, &c->timer);
  rille_conn_mark_dirty(c);
}

static void deliver(rille_loop *loop, const rille_message *m);
static void drop(const rille_message *m);

static int send_to(rille_conn *c, rille_loop *loop, struct rille_move *move) {
  rille_group *group = c->listener->group;
  rille_message m = {.deliver = deliver, .drop = drop, .what = move};
  /* Before it is the other's: who closes a descriptor of which there are others does not take it out of this epoll. */
  if (c->flags & RILLE_CONN_REGISTERED) rille_poller_remove(&c->loop->poller, c->fd);
  rille_group_came(group, loop);
  int err = rille_mailbox_send(&loop->mailbox, &m);
  if (!err) {
    c->loop->moved_out++;
    leave_husk(c);
    return RILLE_OK;
  }
  rille_group_left(group, loop);
  rille_binding_arrive(c, move->names);
  free(move);
  c->flags &= ~(uint32_t)RILLE_CONN_REGISTERED;
  int back = rille_conn_attach(c);
  if (back < 0) rille_conn_fail(c, back);
  rille_conn_mark_dirty(c);
  return err;
}

int rille_conn_move(rille_conn *c, uint32_t loop_id, int tasks, const char *ctx, size_t size) {
  int err = check(c, tasks);
  if (err) return err;
  rille_loop *loop = c->loop->team ? rille_team_loop(c->loop->team, loop_id) : NULL;
  const rille_group *group = group_of(c);
  if (!loop || !group || loop_id > group->loop_count) return RILLE_ERR_NOT_FOUND;
  if (loop == c->loop) return RILLE_OK;
  if (size > CTX_MAX) return RILLE_ERR_TOO_LARGE;
  rille_listener *to = group->members[loop_id - 1];
  if (!to) return RILLE_ERR_NOT_FOUND; /* a server of one loop alone */
  rille_conn_release_input(c);
  if (c->out) rille_linkbuffer_flush(c->out);
  if (c->rare->shaper) rille_shaper_reset(c->rare->shaper);
  struct rille_move *move = pack(c, to, ctx, size);
  return move ? send_to(c, loop, move) : RILLE_ERR_NO_MEMORY;
}

/* ---- coming ---------------------------------------------------------------------------------------------------- */

static void discard(struct rille_move *move) {
  close(move->fd);
  if (move->in) rille_linkbuffer_free(move->in);
  if (move->out) rille_linkbuffer_free(move->out);
  free((void *)(uintptr_t)move->timeouts);
  rille_binding_discard(move->names);
  rille_listener_uncount(move->to, move->rare->proxied ? &move->rare->proxied->counted : &move->peer);
  rille_rare_free(move->rare);
  free(move);
}

static void drop(const rille_message *m) { discard(m->what); }

static rille_conn *unpack(rille_loop *loop, const struct rille_move *move) {
  rille_conn *c = rille_conn_new(loop, move->to->service, move->fd, true);
  if (!c) return NULL;
  c->flags = move->flags | RILLE_CONN_USED | RILLE_CONN_OPENING;
  c->peer = move->peer;
  c->listener = move->to;
  c->listener->connections++;
  loop->moved_in++;
  c->in = move->in;
  c->out = move->out;
  if (move->timeouts) c->timeouts = move->timeouts;
  c->rare = move->rare;
  if (c->rare->tls) {
    c->rare->tls->conn = c;
    c->rare->tls->read_turn = (uint32_t)loop->turn - 1;
    if (c->rare->tls->has_more) rille_conn_mark_dirty(c);
  }
  c->high_water = move->high_water;
  c->low_water = move->low_water;
  c->read_size = move->read_size;
  c->opened_ms = loop->now_ms - move->opened_ago;
  c->read_ms = loop->now_ms - move->read_ago;
  c->written_ms = loop->now_ms - move->written_ago;
  return c;
}

static void deliver(rille_loop *loop, const rille_message *m) {
  struct rille_move *move = m->what;
  if (!move->to->service->state->is_serving) { /* it failed, and is not replaced yet */
    discard(move);
    return;
  }
  rille_conn *c = unpack(loop, move);
  if (!c) {
    RILLE_LOG(RILLE_LOG_WARN, "no memory for conn %.0f, which comes from another loop: closed", move->id);
    discard(move);
    return;
  }
  rille_state *state = c->state;
  if (!rille_state_emit(state, RILLE_EVENT_MOVE, c->slot, 0)) {
    rille_binding_discard(move->names);
    free(move);
    rille_conn_free(c);
    return;
  }
  move->next = NULL;
  if (state->last_move) state->last_move->next = move;
  else state->first_move = move;
  state->last_move = move;
  int err = rille_conn_attach(c);
  if (err < 0) rille_conn_fail(c, err);
  rille_binding_arrive(c, move->names);
  move->names = NULL;
  rille_conn_mark_dirty(c);
}

const char *rille_conn_take_moved(rille_state *state, double *size, double *id) {
  free(state->taken_move);
  struct rille_move *move = state->taken_move = state->first_move;
  if (!move) return NULL;
  state->first_move = move->next;
  if (!move->next) state->last_move = NULL;
  *size = (double)move->size;
  *id = move->id;
  return move->ctx;
}

void rille_conn_forget_moved(rille_state *state) {
  double size, id;
  while (rille_conn_take_moved(state, &size, &id)) {
  }
}
