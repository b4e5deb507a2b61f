/*
 * note: see note.h.
 */
#include "note.h"

#include "control.h"
#include "log.h"
#include "loop.h"
#include "reload.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Who sends notes only reads who attends: loops do not wait for each other. */
static pthread_rwlock_t attending_lock = PTHREAD_RWLOCK_INITIALIZER;
static rille_state *attending; /* with the lock; NULL: nobody deploys */
static atomic_bool is_asked;   /* a request came while nobody attended yet */

static pthread_mutex_t settled_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t settled = PTHREAD_COND_INITIALIZER;
static bool is_settled; /* with the mutex */

/* the thread of that state alone */
static rille_note *first, *last;

void rille_note_free(rille_note *note) {
  if (note->state) rille_state_discard(note->state);
  free(note);
}

rille_note *rille_reload_take(rille_state *state) {
  rille_note *note = state == attending ? first : NULL;
  if (!note) return NULL;
  first = note->next_;
  if (!first) last = NULL;
  return note;
}

void rille_reload_attend(rille_state *state) {
  pthread_rwlock_wrlock(&attending_lock);
  attending = state;
  bool is_late = atomic_exchange(&is_asked, false);
  pthread_rwlock_unlock(&attending_lock);
  if (is_late) rille_note_send(RILLE_NOTE_REQUEST, NULL, NULL, NULL, 0, NULL, 0);
}

void rille_note_expect(void) { atomic_store(&is_asked, false); }

void rille_reload_settle(void) {
  pthread_mutex_lock(&settled_mutex);
  is_settled = true;
  pthread_cond_broadcast(&settled);
  pthread_mutex_unlock(&settled_mutex);
}

void rille_reload_await(double ms) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  long ns = until.tv_nsec + (long)fmod(ms, 1000) * 1000000;
  until.tv_sec += (time_t)(ms / 1000) + ns / 1000000000;
  until.tv_nsec = ns % 1000000000;
  pthread_mutex_lock(&settled_mutex);
  while (!is_settled && pthread_cond_timedwait(&settled, &settled_mutex, &until) == 0) continue;
  pthread_mutex_unlock(&settled_mutex);
}

void rille_reload_leave(void) {
  pthread_rwlock_wrlock(&attending_lock);
  attending = NULL;
  pthread_rwlock_unlock(&attending_lock);
  pthread_mutex_lock(&settled_mutex);
  is_settled = false;
  pthread_mutex_unlock(&settled_mutex);
  while (first) {
    rille_note *note = first;
    first = note->next_;
    rille_note_free(note);
  }
  last = NULL;
}

static void deliver(rille_loop *loop, const rille_message *m) {
  rille_note *note = m->what;
  if (!attending || attending->loop != loop) {
    rille_note_free(note);
    return;
  }
  if (last) last->next_ = note;
  else first = note;
  last = note;
  rille_state_emit(attending, RILLE_EVENT_RELOAD, 0, 0);
}

static void drop(const rille_message *m) { rille_note_free(m->what); }

int rille_note_send(int kind, const rille_loop *loop, const rille_generation *g, rille_state *state,
                    uint32_t connections, const char *text, size_t size) {
  rille_note *note = malloc(sizeof *note + size);
  if (!note) {
    RILLE_LOG(RILLE_LOG_ERROR, "no memory for a note about %s: lost", g ? g->label : "a request");
    if (state) rille_state_discard(state);
    return RILLE_ERR_NO_MEMORY;
  }
  *note =
      (rille_note){.kind = kind, .loop = loop ? loop->id : 0, .connections = connections, .state = state, .size = size};
  if (g) {
    note->server = g->server;
    note->number = g->number;
  }
  if (size > 0) memcpy(note->text, text, size);
  rille_message m = {.deliver = deliver, .drop = drop, .what = note};
  pthread_rwlock_rdlock(&attending_lock);
  int err = attending ? rille_mailbox_send(&attending->loop->mailbox, &m) : RILLE_ERR_NOT_FOUND;
  if (!attending && kind == RILLE_NOTE_REQUEST) atomic_store(&is_asked, true);
  pthread_rwlock_unlock(&attending_lock);
  if (err == RILLE_ERR_FULL) RILLE_LOG(RILLE_LOG_ERROR, "too many notes: one is lost");
  if (err) rille_note_free(note);
  return err;
}

int rille_note_console(struct rille_console *console) {
  pthread_rwlock_rdlock(&attending_lock);
  int err = attending ? rille_console_send(console, attending->loop) : RILLE_ERR_NOT_FOUND;
  pthread_rwlock_unlock(&attending_lock);
  return err;
}
