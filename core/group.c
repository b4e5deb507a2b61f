/*
 * group: see group.h.
 */
#include "group.h"

#include "control.h"
#include "listener.h"
#include "team.h"

#include <stdlib.h>
#include <string.h>

/* ---- membership ------------------------------------------------------------------------------------------------ */

static bool is_wanted(const rille_group *group, uint32_t id, const char *key, uint32_t loop_id) {
  if (id) return group->id == id && (group->open > 0 || group->refs == 0); /* one that was closed stays so */
  return group->key && group->open > 0 && !group->members[loop_id - 1] && strcmp(group->key, key) == 0;
}

rille_group *rille_group_find(rille_team *team, uint32_t id, const char *key, uint32_t loop_id, int *err) {
  rille_group **at = &team->groups;
  for (; *at; at = &(*at)->next) { /* the oldest is first */
    if (is_wanted(*at, id, key, loop_id)) return *at;
  }
  *err = team->group_count < RILLE_GROUPS_MAX ? RILLE_ERR_NO_MEMORY : RILLE_ERR_FULL;
  rille_group *group = *err == RILLE_ERR_FULL ? NULL : calloc(1, sizeof *group);
  if (!group) return NULL;
  if (!id && !(group->key = strdup(key))) {
    free(group);
    return NULL;
  }
  *err = RILLE_OK;
  group->team = team;
  group->id = id;
  group->fd = -1;
  group->loop_count = team->count;
  group->seed = id * 2654435761u + 1;
  *at = group;
  team->group_count++;
  return group;
}

/* It is out of the team already. */
static void free_group(rille_group *group) {
  rille_sources_release(group->sources);
  free(group->key);
  free(group);
}

static void take_out(rille_group *group) {
  rille_group **at = &group->team->groups;
  while (*at != group) at = &(*at)->next;
  *at = group->next;
  group->team->group_count--;
}

void rille_group_add(rille_group *group, rille_listener *l) {
  group->members[l->loop->id - 1] = l;
  group->open++;
  group->refs++;
}

void rille_group_give_up(rille_group *group) {
  if (group->refs > 0) return;
  take_out(group);
  free_group(group);
}

bool rille_group_leave(rille_group *group, rille_listener *l) {
  if (!group->id) group->members[l->loop->id - 1] = NULL;
  if (--group->open > 0) return false;
  if (group->id) group->team->group_count--; /* nobody shares the address any more */
  return true;
}

void rille_group_release(rille_group *group) {
  rille_team *team = group->team;
  pthread_mutex_lock(&team->lock);
  bool is_over = --group->refs == 0 && !group->id;
  if (is_over) take_out(group);
  pthread_mutex_unlock(&team->lock);
  if (is_over) free_group(group);
}

void rille_group_free_all(rille_team *team) {
  while (team->groups) {
    rille_group *group = team->groups;
    team->groups = group->next;
    free_group(group);
  }
}

/* ---- load ------------------------------------------------------------------------------------------------------ */

void rille_group_came(rille_group *group, const rille_loop *loop) {
  atomic_fetch_add_explicit(&group->loads[loop->id - 1], 1, memory_order_relaxed);
}

void rille_group_left(rille_group *group, const rille_loop *loop) {
  atomic_fetch_sub_explicit(&group->loads[loop->id - 1], 1, memory_order_relaxed);
}

uint32_t rille_group_load_of(const rille_group *group, uint32_t i) {
  return atomic_load_explicit(&group->loads[i], memory_order_relaxed);
}

uint32_t rille_group_load(const rille_group *group) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < group->loop_count; i++) sum += rille_group_load_of(group, i);
  return sum;
}
