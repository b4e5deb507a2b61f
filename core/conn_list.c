/*
 * conn_list: the connections of a loop, for `rille conns`. The control thread asks by mail and holds a reference, the mail has the other;
 * the loop fills the list in one go and lets it go.
 */
#include "control.h"
#include "http.h"

#include <stdlib.h>

typedef struct item {
  double id;
  rille_peer peer;
  const char *state; /* static */
  bool is_http;
  char label[64];
  uint32_t age_ms, idle_ms;
  double in, out;
} item;

/* The connections of one Lua state. */
typedef struct share {
  char label[64];
  uint32_t generation;
  double count;
  double age_ms; /* of all together */
  uint32_t youngest_ms, oldest_ms;
} share;

struct rille_conn_list {
  _Atomic uint32_t refs;
  _Atomic bool is_done; /* by it the loop gives the rest away */
  uint32_t loop_id;
  uint32_t limit;
  uint32_t count;
  double total;
  item *items;   /* owned */
  share *shares; /* owned; by the index of the state, NULL: items were asked for */
};

void rille_conn_list_release(rille_conn_list *list) {
  if (atomic_fetch_sub(&list->refs, 1) != 1) return;
  free(list->items);
  free(list->shares);
  free(list);
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

static const char *state_of(const rille_conn *c) {
  if (c->flags & (RILLE_CONN_CLOSING | RILLE_CONN_FINISHED)) return "closing";
  if (c->flags & RILLE_CONN_OPENING) return "opening";
  if (c->flags & RILLE_CONN_READER) return "reading";
  if (c->flags & RILLE_CONN_WRITER) return "writing";
  if (c->tasks > 0 || c->flags & RILLE_CONN_BUSY) return "busy";
  return "idle";
}

static void fill(const rille_conn *c, uint32_t now_ms, item *to) {
  uint32_t read_ms = now_ms - c->read_ms, written_ms = now_ms - c->written_ms;
  *to = (item){.id = rille_conn_id(c),
               .peer = c->peer,
               .state = state_of(c),
               .is_http = c->is_http,
               .age_ms = now_ms - c->opened_ms,
               .idle_ms = read_ms < written_ms ? read_ms : written_ms,
               .in = (double)rille_conn_input_len(c),
               .out = (double)rille_conn_output_len(c)};
  for (size_t i = 0; i < sizeof to->label; i++) to->label[i] = c->state->label[i];
}

static void add(const rille_conn *c, uint32_t now_ms, share *to) {
  uint32_t age_ms = now_ms - c->opened_ms;
  if (to->count == 0) {
    for (size_t i = 0; i < sizeof to->label; i++) to->label[i] = c->state->label[i];
    to->generation = c->state->generation->number;
    to->youngest_ms = to->oldest_ms = age_ms;
  }
  to->count++;
  to->age_ms += age_ms;
  if (age_ms < to->youngest_ms) to->youngest_ms = age_ms;
  if (age_ms > to->oldest_ms) to->oldest_ms = age_ms;
}

static void tally(rille_loop *loop, rille_conn_list *list) {
  list->shares = calloc(RILLE_LOOP_STATES_MAX, sizeof *list->shares);
  for (uint32_t slot = 0; list->shares && slot < loop->slab_count * RILLE_CONN_SLAB; slot++) {
    const rille_conn *c = rille_conn_at(loop, slot);
    if (c) add(c, loop->now_ms, &list->shares[c->state->index]);
  }
}

static void collect(rille_loop *loop, rille_conn_list *list) {
  uint32_t room = loop->conn_count < list->limit ? loop->conn_count : list->limit;
  list->items = room > 0 ? malloc(sizeof *list->items * room) : NULL;
  for (uint32_t slot = 0; list->items && slot < loop->slab_count * RILLE_CONN_SLAB && list->count < room; slot++) {
    const rille_conn *c = rille_conn_at(loop, slot);
    if (c) fill(c, loop->now_ms, &list->items[list->count++]);
  }
}

static void deliver(rille_loop *loop, const rille_message *m) {
  rille_conn_list *list = m->what;
  list->total = loop->conn_count;
  if (list->limit > 0) collect(loop, list);
  else tally(loop, list);
  atomic_store(&list->is_done, true);
  rille_conn_list_release(list);
  rille_control_wake();
}

static void drop(const rille_message *m) { rille_conn_list_release(m->what); }

/* ---- the control thread ---------------------------------------------------------------------------------------- */

rille_conn_list *rille_conn_list_ask(rille_loop *loop, uint32_t limit) {
  rille_conn_list *list = calloc(1, sizeof *list);
  if (!list) return NULL;
  atomic_store(&list->refs, 2);
  list->loop_id = loop->id;
  list->limit = limit;
  rille_message m = {.deliver = deliver, .drop = drop, .what = list};
  if (rille_mailbox_send(&loop->mailbox, &m) == RILLE_OK) return list;
  free(list);
  return NULL;
}

bool rille_conn_list_is_done(const rille_conn_list *list) { return atomic_load(&list->is_done); }

uint32_t rille_conn_list_write(const rille_conn_list *list, rille_text *t, uint32_t limit, double *total) {
  uint32_t count = list->count < limit ? list->count : limit;
  *total = list->total;
  for (uint32_t i = 0; i < count; i++) {
    const item *one = &list->items[i];
    char peer[RILLE_PEER_TEXT_MAX];
    rille_peer_format(&one->peer, peer, sizeof peer);
    rille_json_open(t, NULL, '{');
    rille_json_count(t, "id", one->id);
    rille_json_count(t, "loop", list->loop_id);
    rille_json_string(t, "script", one->label);
    rille_json_string(t, "peer", peer);
    rille_json_string(t, "protocol", one->is_http ? "http" : "stream");
    rille_json_string(t, "state", one->state);
    rille_json_number(t, "age", one->age_ms / 1e3);
    rille_json_number(t, "idle", one->idle_ms / 1e3);
    rille_json_count(t, "in", one->in);
    rille_json_count(t, "out", one->out);
    rille_json_close(t, '}');
  }
  return count;
}

void rille_conn_list_write_generations(const rille_conn_list *list, rille_text *t, double *total) {
  *total = list->total;
  for (uint32_t i = 0; list->shares && i < RILLE_LOOP_STATES_MAX; i++) {
    const share *one = &list->shares[i];
    if (one->count == 0) continue;
    rille_json_open(t, NULL, '{');
    rille_json_count(t, "loop", list->loop_id);
    rille_json_string(t, "script", one->label);
    rille_json_count(t, "generation", one->generation);
    rille_json_count(t, "connections", one->count);
    rille_json_number(t, "youngest", one->youngest_ms / 1e3);
    rille_json_number(t, "mean_age", one->age_ms / one->count / 1e3);
    rille_json_number(t, "oldest", one->oldest_ms / 1e3);
    rille_json_close(t, '}');
  }
}
