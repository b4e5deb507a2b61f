/*
 * group: see group.h.
 */
#include "group.h"

#include "control.h"
#include "listener.h"
#include "team.h"

#include <string.h>
#include <unistd.h>

void rille_group_came(rille_group *group, const rille_loop *loop) {
  atomic_fetch_add_explicit(&group->loads[loop->id - 1], 1, memory_order_relaxed);
}

void rille_group_left(rille_group *group, const rille_loop *loop) {
  atomic_fetch_sub_explicit(&group->loads[loop->id - 1], 1, memory_order_relaxed);
}

static uint32_t load_of(const rille_group *group, uint32_t i) {
  return atomic_load_explicit(&group->loads[i], memory_order_relaxed);
}

uint32_t rille_group_load_of(const rille_group *group, const rille_loop *loop) { return load_of(group, loop->id - 1); }

uint32_t rille_group_load(const rille_group *group) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < group->count; i++) sum += load_of(group, i);
  return sum;
}

/* ---- whose turn it is ------------------------------------------------------------------------------------------- */

static uint32_t least(const rille_group *group, uint32_t from) {
  uint32_t best = from % group->count;
  for (uint32_t i = 1; i < group->count; i++) {
    uint32_t other = (from + i) % group->count; /* equals take turns */
    if (load_of(group, other) < load_of(group, best)) best = other;
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

rille_listener *rille_group_pick(rille_group *group, rille_listener *l, const rille_peer *peer) {
  uint32_t first = group->next++;
  bool has_source = peer->family == AF_INET || peer->family == AF_INET6;
  if (group->balance == RILLE_BALANCE_RANDOM) first = random_of(group);
  else if (group->balance == RILLE_BALANCE_LEAST_CONNECTIONS) first = least(group, first);
  else if (group->balance == RILLE_BALANCE_SOURCE_HASH && has_source) first = hash_of(peer);
  for (uint32_t i = 0; i < group->count; i++) {
    rille_listener *member = group->members[(first + i) % group->count];
    if (member == l || !rille_stall_is(member->loop, l->loop->now_ns)) return member;
  }
  return l;
}

/* ---- over to another loop --------------------------------------------------------------------------------------- */

_Static_assert(sizeof(rille_peer) <= sizeof((rille_message){0}).words, "a peer goes with the descriptor");

static void deliver(rille_loop *loop, const rille_message *m) {
  (void)loop;
  rille_peer peer;
  memcpy(&peer, m->words, sizeof peer);
  rille_listener_receive(m->what, (int)m->number, &peer);
}

static void drop(const rille_message *m) { close((int)m->number); }

bool rille_group_hand(rille_group *group, rille_listener *to, int fd, const rille_peer *peer) {
  rille_message m = {.deliver = deliver, .drop = drop, .what = to, .number = (uint64_t)fd};
  memcpy(m.words, peer, sizeof *peer);
  rille_group_came(group, to->loop);
  if (rille_mailbox_send(&to->loop->mailbox, &m) == RILLE_OK) return true;
  rille_group_left(group, to->loop);
  return false;
}
