/*
 * balance: see balance.h.
 */
#include "balance.h"

#include "control.h"
#include "listener.h"
#include "log.h"
#include "team.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- whose turn it is ------------------------------------------------------------------------------------------- */

static uint32_t least(const rille_group *group, uint32_t from) {
  uint32_t best = from % group->loop_count;
  for (uint32_t i = 1; i < group->loop_count; i++) {
    uint32_t other = (from + i) % group->loop_count; /* equals take turns */
    if (rille_group_load_of(group, other) < rille_group_load_of(group, best)) best = other;
  }
  return best;
}

static uint32_t random_of(rille_group *group) {
  uint32_t x = group->seed;
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return group->seed = x;
}

/* FNV-1a of the address, without the port. */
static uint32_t hash_of(const rille_peer *peer) {
  uint32_t hash = 2166136261u;
  size_t size = peer->family == AF_INET ? 4 : sizeof peer->ip;
  for (size_t i = 0; i < size; i++) hash = (hash ^ peer->ip[i]) * 16777619u;
  return hash ^ hash >> 16;
}

rille_listener *rille_balance_pick(rille_group *group, rille_listener *l, const rille_peer *peer) {
  uint32_t first = group->turn++;
  static const rille_peer nobody = {.family = AF_UNIX};
  bool has_source = peer->family && memcmp(peer->ip, nobody.ip, sizeof peer->ip) != 0;
  if (group->balance == RILLE_BALANCE_RANDOM) first = random_of(group);
  else if (group->balance == RILLE_BALANCE_LEAST_CONNECTIONS) first = least(group, first);
  else if (group->balance == RILLE_BALANCE_SOURCE_HASH && has_source) first = hash_of(peer);
  for (uint32_t i = 0; i < group->loop_count; i++) {
    rille_listener *member = group->members[(first + i) % group->loop_count];
    if (!member) continue; /* its loop has not come to it yet */
    bool is_there = !atomic_load(&member->is_away) && !rille_stall_is(member->loop, l->loop->now_ns);
    if (member == l || is_there) return member;
  }
  return l;
}

rille_listener *rille_balance_home(const rille_group *group, const rille_peer *peer) {
  return group->members[hash_of(peer) % group->loop_count];
}

/* ---- over to another loop --------------------------------------------------------------------------------------- */

_Static_assert(sizeof(rille_peer) <= sizeof((rille_message){0}).words, "a peer goes with the descriptor");

static void deliver(rille_loop *loop, const rille_message *m) {
  (void)loop;
  rille_peer peer;
  memcpy(&peer, m->words, sizeof peer);
  rille_listener_receive(m->what, (int)m->number, &peer);
}

/* The loop is over: its listener is still there, and takes the connection off the counts. */
static void drop(const rille_message *m) {
  rille_peer peer;
  memcpy(&peer, m->words, sizeof peer);
  rille_listener_lose(m->what, &peer);
  close((int)m->number);
}

/* False: that has no room. */
static bool hand(rille_listener *l, rille_listener *to, int fd, const rille_peer *peer) {
  rille_message m = {.deliver = deliver, .drop = drop, .what = to, .number = (uint64_t)fd};
  if (!to || to == l) return false;
  memcpy(m.words, peer, sizeof *peer);
  rille_group_came(l->group, to->loop);
  if (rille_mailbox_send(&to->loop->mailbox, &m) == RILLE_OK) return true;
  rille_group_left(l->group, to->loop);
  return false;
}

/* ---- the script decides ----------------------------------------------------------------------------------------- */

_Static_assert(sizeof((rille_balance_question){0}.peer) == RILLE_PEER_TEXT_MAX, "every peer fits");
_Static_assert(sizeof((rille_balance_question){0}.loads) == RILLE_LOOP_MAX * sizeof(double), "and every loop");

/* False: there is no room, or no memory to ask. */
static bool ask(rille_listener *l, int fd, const rille_peer *peer) {
  rille_undecided_list *list = &l->loop->undecided;
  if (list->count == RILLE_UNDECIDED_MAX) return false;
  if (!list->items) list->items = calloc(RILLE_UNDECIDED_MAX, sizeof *list->items);
  if (!list->items || !rille_state_emit(l->service->state, RILLE_EVENT_BALANCE, list->count, 0)) return false;
  list->items[list->count++] = (rille_undecided){.l = l, .fd = fd, .peer = *peer};
  rille_group_came(l->group, l->loop); /* for max_connections, until it is placed */
  return true;
}

bool rille_balance_hand_on(rille_listener *l, int fd, const rille_peer *peer) {
  if (!l->group || l->group->accept != RILLE_ACCEPT_BALANCED || l->loop->is_stopping) return false;
  if (l->group->balance == RILLE_BALANCE_SCRIPT && l->group->loop_count > 1 && ask(l, fd, peer)) return true;
  return hand(l, rille_balance_pick(l->group, l, peer), fd, peer);
}

/* To a loop, 1 ..; 0: the next in turn. While the loop stops, the others may be over: then it stays. */
static void place(rille_undecided *one, uint32_t loop_id) {
  rille_listener *l = one->l;
  one->l = NULL;
  rille_group_left(l->group, l->loop);
  rille_listener *to = loop_id ? l->group->members[loop_id - 1] : rille_balance_pick(l->group, l, &one->peer);
  if (!l->loop->is_stopping && hand(l, to, one->fd, &one->peer)) return;
  rille_group_came(l->group, l->loop);
  rille_listener_receive(l, one->fd, &one->peer);
}

int rille_balance_ask(rille_loop *loop, uint32_t slot, rille_balance_question *out) {
  const rille_undecided_list *list = &loop->undecided;
  if (slot >= list->count || !list->items[slot].l) return 0;
  const rille_undecided *one = &list->items[slot];
  const rille_group *group = one->l->group;
  out->ticket = list->first + slot;
  out->service = one->l->service->id;
  out->count = group->loop_count;
  rille_peer_format(&one->peer, out->peer, sizeof out->peer);
  for (uint32_t i = 0; i < group->loop_count; i++) out->loads[i] = rille_group_load_of(group, i);
  return 1;
}

int rille_balance_answer(rille_loop *loop, uint32_t slot, double ticket, double loop_id) {
  rille_undecided_list *list = &loop->undecided;
  if (slot >= list->count || !list->items[slot].l || ticket != list->first + slot) return RILLE_OK;
  rille_undecided *one = &list->items[slot];
  bool is_loop = loop_id >= 0 && loop_id <= one->l->group->loop_count && loop_id == (uint32_t)loop_id;
  place(one, is_loop ? (uint32_t)loop_id : 0);
  return is_loop ? RILLE_OK : RILLE_ERR_NOT_FOUND;
}

void rille_balance_settle(rille_loop *loop) {
  rille_undecided_list *list = &loop->undecided;
  if (list->count == 0) return;
  for (uint32_t i = 0; i < list->count; i++) {
    if (!list->items[i].l) continue;
    RILLE_LOG(RILLE_LOG_WARN,
              "on_balance has not answered at once; it must not park: the connection goes to the next loop");
    place(&list->items[i], 0);
  }
  list->first += list->count;
  list->count = 0;
}

void rille_balance_end(rille_loop *loop) { free(loop->undecided.items); }
