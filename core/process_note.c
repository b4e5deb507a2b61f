/*
 * process_note: see process_note.h.
 */
#include "process_note.h"

#include "log.h"
#include "loop.h"

#include <stdio.h>
#include <unistd.h>

/* immutable after rille_process_begin */
static rille_processes *processes; /* borrowed from the mapping; NULL: no prefork */
static rille_page *page;
static uint32_t process_number;
static uint32_t process_count = 1;
static int parent_wake_fd = -1;
static pid_t parent_pid;

void rille_process_begin(rille_processes *all, uint32_t number, uint32_t count, int wake_fd, pid_t parent) {
  processes = all;
  page = &all->pages[number - 1];
  process_number = number;
  process_count = count;
  parent_wake_fd = wake_fd;
  parent_pid = parent;
  rille_log_set_process(number);
}

uint32_t rille_process_number(void) { return process_number; }

uint32_t rille_process_count(void) { return process_count; }

bool rille_process_is_child(void) { return page != NULL; }

enum rille_stop rille_process_stop_wanted(void) {
  if (!processes) return RILLE_STOP_NOT;
  if (getppid() != parent_pid) return RILLE_STOP_DRAIN;
  return (enum rille_stop)atomic_load(&processes->stop);
}

rille_place *rille_process_place(uint32_t loop_id) {
  return page && loop_id >= 1 && loop_id <= RILLE_LOOP_MAX ? &page->places[loop_id - 1] : NULL;
}

void rille_process_label(uint32_t index, const char *label) {
  if (page && index < RILLE_PAGE_LABELS) snprintf(page->labels[index], RILLE_PAGE_LABEL, "%s", label);
}

/* ---- news for the parent --------------------------------------------------------------------------------------- */

static void wake_parent(void) {
  uint64_t one = 1;
  if (write(parent_wake_fd, &one, sizeof one) < 0) return; /* EAGAIN: it is awake already */
}

static void reach(enum rille_stage stage) {
  if (!page) return;
  atomic_store(&page->stage, (uint32_t)stage);
  wake_parent();
}

void rille_process_built(void) { reach(RILLE_STAGE_BUILT); }

void rille_process_ready(void) {
  rille_process_beat(rille_now_ns());
  reach(RILLE_STAGE_READY);
}

void rille_process_beat(uint64_t now_ns) {
  if (page) atomic_store(&page->beat_ns, now_ns);
}

void rille_process_ask_stop(enum rille_stop how) {
  if (!page) return;
  uint32_t before = atomic_load(&page->wants_stop);
  do {
    if (before >= (uint32_t)how) return;
  } while (!atomic_compare_exchange_weak(&page->wants_stop, &before, (uint32_t)how));
  uint32_t none = RILLE_STOP_NOT; /* from now on it is wanted, even if the parent looks a moment later */
  atomic_compare_exchange_strong(&processes->stop, &none, RILLE_STOP_DRAIN);
  wake_parent();
}
