/*
 * timer: the timing wheel. One loop thread owns a wheel and is the only one to call.
 *
 * An expiry is read as eleven digits of base 64. A timer hangs at the level of the highest digit in which its expiry
 * differs from the wheel's time, in the slot of that digit's value. Three things follow, and everything below rests on
 * them:
 *   - the lowest level that is not empty holds the earliest timers, in its first occupied slot: one bit scan finds it;
 *   - a timer stays in its slot until time enters that slot, then all of it moves down at least one level;
 *   - timers of one expiry are always in one slot, in the order of their start, so ticks fire in that order.
 */
#include "timer.h"

#include <assert.h>
#include <stddef.h>

_Static_assert(offsetof(rille_timer, link) == 0, "a link is cast to its timer");

enum {
  DIGIT_MASK = RILLE_WHEEL_SLOTS - 1,
  LIST_OVERDUE = RILLE_WHEEL_LEVELS * RILLE_WHEEL_SLOTS, /* started with an expiry that had passed */
  LIST_FIRING,                                           /* taken from their slot, about to fire */
  LIST_COUNT
};

_Static_assert(LIST_COUNT == sizeof((rille_wheel){0}.lists) / sizeof(rille_timer_link), "one link for each list");

/* the index of a list in the wheel tells its bit: row index / 64, bit index % 64 */
static uint64_t list_bit(size_t index) { return UINT64_C(1) << (index & DIGIT_MASK); }

static void append(rille_wheel *wheel, size_t index, rille_timer *timer) {
  rille_timer_link *list = &wheel->lists[index];
  timer->link.next = list;
  timer->link.prev = list->prev;
  list->prev->next = &timer->link;
  list->prev = &timer->link;
  wheel->occupied[index >> RILLE_WHEEL_BITS] |= list_bit(index);
}

static void unlink_timer(rille_wheel *wheel, rille_timer *timer) {
  rille_timer_link *next = timer->link.next;
  rille_timer_link *prev = timer->link.prev;
  next->prev = prev;
  prev->next = next;
  timer->link.next = NULL;
  timer->link.prev = NULL;
  if (next == prev) {
    /* both neighbours were the head of the list: it is empty now, and its place in the array says which one it is */
    size_t index = (size_t)(next - wheel->lists);
    wheel->occupied[index >> RILLE_WHEEL_BITS] &= ~list_bit(index);
  }
}

static rille_timer *first_of(rille_wheel *wheel, size_t index) {
  rille_timer_link *list = &wheel->lists[index];
  return list->next == list ? NULL : (rille_timer *)list->next;
}

static unsigned level_of(uint64_t now_ms, uint64_t expiry_ms) {
  assert(expiry_ms > now_ms);
  return (63u - (unsigned)__builtin_clzll(now_ms ^ expiry_ms)) / RILLE_WHEEL_BITS;
}

static size_t slot_of(uint64_t now_ms, uint64_t expiry_ms) {
  unsigned level = level_of(now_ms, expiry_ms);
  return level * (size_t)RILLE_WHEEL_SLOTS + (size_t)((expiry_ms >> (level * RILLE_WHEEL_BITS)) & DIGIT_MASK);
}

void rille_wheel_init(rille_wheel *wheel, uint64_t now_ms) {
  wheel->now_ms = now_ms;
  wheel->count = 0;
  wheel->is_advancing = 0;
  for (size_t i = 0; i <= RILLE_WHEEL_LEVELS; i++) {
    wheel->occupied[i] = 0;
  }
  for (size_t i = 0; i < LIST_COUNT; i++) {
    wheel->lists[i].next = &wheel->lists[i];
    wheel->lists[i].prev = &wheel->lists[i];
  }
}

void rille_timer_start(rille_wheel *wheel, rille_timer *timer, uint64_t expiry_ms) {
  rille_timer_stop(wheel, timer);
  timer->expiry_ms = expiry_ms;
  append(wheel, expiry_ms > wheel->now_ms ? slot_of(wheel->now_ms, expiry_ms) : (size_t)LIST_OVERDUE, timer);
  wheel->count++;
}

void rille_timer_stop(rille_wheel *wheel, rille_timer *timer) {
  if (!rille_timer_is_running(timer)) {
    return;
  }
  unlink_timer(wheel, timer);
  wheel->count--;
}

/* The first occupied slot in time: its list index, and in *start_ms the first tick that belongs to it. -1 when all
 * slots are empty. */
static ptrdiff_t first_slot(const rille_wheel *wheel, uint64_t *start_ms) {
  for (unsigned level = 0; level < RILLE_WHEEL_LEVELS; level++) {
    if (wheel->occupied[level] == 0) {
      continue;
    }
    unsigned digit = (unsigned)__builtin_ctzll(wheel->occupied[level]);
    unsigned shift = level * RILLE_WHEEL_BITS;
    unsigned above = shift + RILLE_WHEEL_BITS;
    uint64_t prefix = above < 64 ? wheel->now_ms >> above << above : 0;
    *start_ms = prefix | (uint64_t)digit << shift;
    return (ptrdiff_t)(level * (size_t)RILLE_WHEEL_SLOTS + digit);
  }
  return -1;
}

/* Time has entered this slot: what expires on its very first tick fires, the rest goes to lower levels. */
static void open_slot(rille_wheel *wheel, size_t index) {
  rille_timer *timer;
  while ((timer = first_of(wheel, index)) != NULL) {
    unlink_timer(wheel, timer);
    append(wheel, timer->expiry_ms > wheel->now_ms ? slot_of(wheel->now_ms, timer->expiry_ms) : (size_t)LIST_FIRING,
           timer);
  }
}

/* The list is popped from its front for each call because fire may stop timers that are still in it. */
static void fire_all(rille_wheel *wheel, rille_timer_fire fire, void *arg) {
  rille_timer *timer;
  while ((timer = first_of(wheel, LIST_FIRING)) != NULL) {
    unlink_timer(wheel, timer);
    wheel->count--;
    fire(timer, arg);
  }
}

void rille_wheel_advance(rille_wheel *wheel, uint64_t now_ms, rille_timer_fire fire, void *arg) {
  assert(!wheel->is_advancing);
  wheel->is_advancing = 1;
  open_slot(wheel, LIST_OVERDUE);
  fire_all(wheel, fire, arg);
  uint64_t start_ms;
  ptrdiff_t index;
  while ((index = first_slot(wheel, &start_ms)) >= 0 && start_ms <= now_ms) {
    wheel->now_ms = start_ms;
    open_slot(wheel, (size_t)index);
    fire_all(wheel, fire, arg);
  }
  if (now_ms > wheel->now_ms) {
    wheel->now_ms = now_ms;
  }
  wheel->is_advancing = 0;
}

uint64_t rille_wheel_next(const rille_wheel *wheel) {
  if (wheel->occupied[RILLE_WHEEL_LEVELS] != 0) {
    return 0;
  }
  uint64_t start_ms;
  return first_slot(wheel, &start_ms) >= 0 ? start_ms : UINT64_MAX;
}
