/*
 * team: see team.h.
 */
#include "team.h"

#include "listener.h"

#include <stdlib.h>

/* ---- life ------------------------------------------------------------------------------------------------------ */

rille_team *rille_team_new(uint32_t count, int *err) {
  *err = count >= 1 && count <= RILLE_LOOP_MAX ? RILLE_OK : RILLE_ERR_INVALID;
  rille_team *team = *err ? NULL : calloc(1, sizeof *team);
  if (!team) {
    if (!*err) *err = RILLE_ERR_NO_MEMORY;
    return NULL;
  }
  pthread_mutex_init(&team->lock, NULL);
  atomic_store(&team->starting, count);
  for (uint32_t i = 0; i < count; i++) {
    rille_loop *loop = rille_loop_new(i + 1, err);
    if (!loop) {
      rille_team_free(team);
      return NULL;
    }
    loop->team = team;
    team->loops[team->count++] = loop;
  }
  return team;
}

rille_loop *rille_team_loop(rille_team *team, uint32_t id) {
  return id >= 1 && id <= team->count ? team->loops[id - 1] : NULL;
}

void rille_team_free(rille_team *team) {
  for (uint32_t i = 0; i < team->count; i++) rille_loop_free(team->loops[i]);
  rille_group_free_all(team);
  pthread_mutex_destroy(&team->lock);
  free(team);
}

/* ---- run ------------------------------------------------------------------------------------------------------- */

/* The first status that is not 0. */
int rille_team_run(rille_team *team) {
  int status = 0;
  uint32_t started = 0;
  while (started < team->count && !status) {
    status = rille_loop_thread_start(team->loops[started]);
    if (!status) started++;
  }
  if (status) rille_team_stop(team, 0);
  for (uint32_t i = 0; i < started; i++) {
    int one = rille_loop_thread_join(team->loops[i]);
    if (!status) status = one;
  }
  return status;
}

void rille_team_started(rille_team *team) {
  if (atomic_fetch_sub(&team->starting, 1) != 1) return;
  for (uint32_t i = 0; i < team->count; i++) rille_loop_ask(team->loops[i], RILLE_ASK_OPEN);
}

static void deliver_stop(rille_loop *loop, const rille_message *m) {
  rille_loop_stop(loop, (double)(int64_t)m->number);
}

void rille_team_stop(rille_team *team, double drain_ms) {
  rille_message m = {.deliver = deliver_stop, .number = (uint64_t)(int64_t)(drain_ms < 1e15 ? drain_ms : 1e15)};
  for (uint32_t i = 0; i < team->count; i++) {
    rille_loop *loop = team->loops[i];
    /* a mailbox that is full stays so no longer than the loop needs to look at it: then it stops as after a signal */
    if (rille_mailbox_send(&loop->mailbox, &m) != RILLE_OK) rille_loop_ask(loop, RILLE_ASK_STOP);
  }
}
