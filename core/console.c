/*
 * console: code on its way from the control socket into a Lua state and what it gave back. The client and the mail, later the state, hold
 * a reference each, so that either may go first. The loop fills in the answer and gives it away by `is_done`.
 *
 * Code for all states of a loop comes as one request, too. The loop makes a part of it for each of them, and its answer is theirs.
 */
#include "control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char GONE[] = "the Lua state has ended";
static const char ALL[] = "*"; /* no state has such a label */

struct rille_console {
  _Atomic uint32_t refs;
  _Atomic bool is_done;

  /* loop thread */
  rille_console *next;  /* in one of the state's lists */
  rille_state *running; /* the state whose code it is now; NULL: it is not taken */
  rille_console *whole; /* a reference; what this is a part of, NULL: it is asked for itself */
  uint32_t left;        /* parts that have not answered */

  /* immutable after init */
  char state[64]; /* its label, with or without the generation; "": the first; "*": all */
  double timeout_ms;
  size_t size;
  char *code; /* owned */

  /* the loop until is_done, then the control thread */
  bool is_good;
  char label[64];
  rille_text text; /* of a whole: the answers of its parts, as JSON */
};

static bool is_whole(const rille_console *c) { return strcmp(c->state, ALL) == 0; }

void rille_console_release(rille_console *c) {
  if (atomic_fetch_sub(&c->refs, 1) != 1) return;
  rille_text_free(&c->text);
  free(c->code);
  free(c);
}

/* ---- the control thread ---------------------------------------------------------------------------------------- */

rille_console *rille_console_new(const char *state, double timeout_ms, const char *code, size_t size, int *err) {
  rille_console *c = calloc(1, sizeof *c);
  char *copy = c ? malloc(size + 1) : NULL;
  if (!copy) {
    free(c);
    *err = RILLE_ERR_NO_MEMORY;
    return NULL;
  }
  memcpy(copy, code, size);
  copy[size] = 0;
  atomic_store(&c->refs, 1);
  snprintf(c->state, sizeof c->state, "%s", state);
  c->timeout_ms = timeout_ms;
  c->size = size;
  c->code = copy;
  return c;
}

bool rille_console_is_done(const rille_console *c) { return atomic_load(&c->is_done); }

static void write_answer(rille_text *t, const char *label, bool is_good, const char *text, size_t size) {
  rille_json_open(t, NULL, '{');
  rille_json_bool(t, "ok", is_good);
  rille_json_string(t, "script", label);
  rille_json_bytes(t, "text", text, size);
  rille_json_close(t, '}');
}

void rille_console_write(const rille_console *c, rille_text *t) {
  const char *text = c->text.bytes ? c->text.bytes : "";
  if (c->text.failed) t->failed = true;
  if (is_whole(c)) rille_text_add(t, text, c->text.size);
  else write_answer(t, c->label, c->is_good, text, c->text.size);
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

static void leave(rille_console *c) {
  rille_console **at = &c->running->taken_consoles;
  while (*at != c) at = &(*at)->next;
  *at = c->next;
  c->running = NULL;
}

/* Nothing more comes: the reference of the mail ends. */
static void finish(rille_console *c) {
  atomic_store(&c->is_done, true);
  rille_console_release(c);
  rille_control_wake();
}

/* One less to wait for; the deliverer holds one, too. */
static void finish_part(rille_console *whole) {
  if (--whole->left > 0) return;
  rille_json_close(&whole->text, ']');
  rille_json_close(&whole->text, '}');
  finish(whole);
}

void rille_console_answer(rille_console *c, int ok, const char *text, size_t size) {
  if (c->running) leave(c);
  if (c->whole) {
    write_answer(&c->whole->text, c->label, ok, text, size);
    finish_part(c->whole);
    rille_console_release(c);
    return;
  }
  c->is_good = ok;
  rille_text_add(&c->text, text, size);
  finish(c);
}

static bool is_meant(const rille_console *c, const rille_state *state) {
  size_t size = strlen(c->state);
  if (size == 0 || strcmp(c->state, state->label) == 0) return true;
  return strncmp(c->state, state->label, size) == 0 && state->label[size] == '@';
}

static void refuse(rille_console *c, const rille_loop *loop) {
  rille_text t = {0};
  rille_text_printf(&t, "there is no Lua state '%s' on loop %u; there are", c->state, loop->id);
  const char *between = "";
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (!loop->states[i]) continue;
    rille_text_printf(&t, "%s %s", between, loop->states[i]->label);
    between = ",";
  }
  rille_console_answer(c, 0, t.bytes ? t.bytes : "", t.size);
  rille_text_free(&t);
}

static void hand_to(rille_state *state, rille_console *c) {
  memcpy(c->label, state->label, sizeof c->label);
  bool is_up = state->lua && !state->is_broken; /* else it waits for its replacement, for how long nobody knows */
  if (!is_up || !rille_state_emit(state, RILLE_EVENT_CONSOLE, 0, 0)) {
    rille_console_answer(c, 0, GONE, sizeof GONE - 1);
    return;
  }
  if (state->last_console) state->last_console->next = c;
  else state->first_console = c;
  state->last_console = c;
}

static void open_whole(rille_console *c) {
  rille_json_open(&c->text, NULL, '{');
  rille_json_open(&c->text, "states", '[');
  c->left = 1;
}

static void hand_to_all(rille_loop *loop, rille_console *c) {
  open_whole(c);
  for (uint32_t i = 0; i < loop->state_count; i++) {
    int err;
    if (!loop->states[i]) continue;
    rille_console *part = rille_console_new("", c->timeout_ms, c->code, c->size, &err);
    if (part) {
      part->whole = c;
      c->left++;
      hand_to(loop->states[i], part);
    } else {
      const char *why = rille_err_text(err);
      write_answer(&c->text, loop->states[i]->label, false, why, strlen(why));
    }
  }
  finish_part(c);
}

static void deliver(rille_loop *loop, const rille_message *m) {
  rille_console *c = m->what;
  if (is_whole(c)) {
    hand_to_all(loop, c);
    return;
  }
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (loop->states[i] && is_meant(c, loop->states[i])) {
      hand_to(loop->states[i], c);
      return;
    }
  }
  refuse(c, loop);
}

static void drop(const rille_message *m) {
  rille_console *c = m->what;
  if (is_whole(c)) {
    open_whole(c);
    finish_part(c);
  } else {
    rille_console_answer(c, 0, "the loop has ended", 18);
  }
}

int rille_console_send(rille_console *c, rille_loop *loop) {
  rille_message m = {.deliver = deliver, .drop = drop, .what = c};
  atomic_fetch_add(&c->refs, 1);
  int err = rille_mailbox_send(&loop->mailbox, &m);
  if (err) atomic_fetch_sub(&c->refs, 1); /* not the last */
  return err;
}

rille_console *rille_console_take(rille_state *state) {
  rille_console *c = state->first_console;
  if (!c) return NULL;
  state->first_console = c->next;
  if (!c->next) state->last_console = NULL;
  c->running = state;
  c->next = state->taken_consoles;
  state->taken_consoles = c;
  return c;
}

const char *rille_console_code(const rille_console *c, double *size) {
  *size = (double)c->size;
  return c->code;
}

double rille_console_timeout(const rille_console *c) { return c->timeout_ms / 1e3; }

/* What has not begun, and what was parked when its Lua state was closed. */
void rille_console_forget(rille_state *state) {
  rille_console *c;
  while (rille_console_take(state)) {
  }
  while ((c = state->taken_consoles)) {
    state->taken_consoles = c->next;
    c->running = NULL;
    rille_console_answer(c, 0, GONE, sizeof GONE - 1);
  }
}
