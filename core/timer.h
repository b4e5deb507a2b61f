/*
 * timer: a hierarchical timing wheel of 1 ms ticks; start and stop are O(1), time may jump by any distance.
 *
 * A wheel belongs to one loop thread and only that thread calls these functions. Timers are embedded in what they time
 * (a connection, a parked task); the wheel links them and frees nothing. A timer has no callback: whoever advances the
 * wheel passes one function, which finds the container from the pointer.
 *
 * The eleven levels of 64 slots cover all of 64 bits, so no expiry is too far away and nothing is ever clamped.
 */
#ifndef RILLE_TIMER_H
#define RILLE_TIMER_H

#include <stdint.h>

enum {
  RILLE_WHEEL_BITS = 6, /* of the expiry, for each level */
  RILLE_WHEEL_SLOTS = 1 << RILLE_WHEEL_BITS,
  RILLE_WHEEL_LEVELS = (64 + RILLE_WHEEL_BITS - 1) / RILLE_WHEEL_BITS
};

typedef struct rille_timer_link {
  struct rille_timer_link *next;
  struct rille_timer_link *prev;
} rille_timer_link;

/* All zero is a timer that does not run. It must not move in memory while it runs. */
typedef struct rille_timer {
  rille_timer_link link;
  uint64_t expiry_ms;
} rille_timer;

_Static_assert(sizeof(rille_timer) == 24, "it is embedded in every connection");

/* About 11 KiB; must not move in memory once initialised. */
typedef struct rille_wheel {
  uint64_t now_ms; /* every tick up to this one has fired */
  uint64_t count;
  /* bit s of occupied[l] is set when slot s of level l holds a timer; the last row is for the two lists behind the
   * slots */
  uint64_t occupied[RILLE_WHEEL_LEVELS + 1];
  rille_timer_link lists[RILLE_WHEEL_LEVELS * RILLE_WHEEL_SLOTS + 2];
  int is_advancing;
} rille_wheel;

typedef void (*rille_timer_fire)(rille_timer *timer, void *arg);

void rille_wheel_init(rille_wheel *wheel, uint64_t now_ms);

/* Fires at the first advance to expiry_ms or later. A timer that runs already is moved. With an expiry that is not
 * in the wheel's future it fires at the next advance, never inside the one that may be going on: a timer that
 * restarts itself cannot hold the loop. */
void rille_timer_start(rille_wheel *wheel, rille_timer *timer, uint64_t expiry_ms);
/* harmless when the timer does not run */
void rille_timer_stop(rille_wheel *wheel, rille_timer *timer);

static inline int rille_timer_is_running(const rille_timer *timer) { return timer->link.next != 0; }

/*
 * Fire what expired up to now_ms: first what was overdue when it was started, then by expiry, always in the order of
 * the start. A now_ms before the wheel's counts as the wheel's. The timer does not run any more when fire is called
 * with it, and its memory is not touched after that; fire may start, stop or free any timer, itself included, but not
 * advance the wheel. A timer started by fire for a later tick up to now_ms fires in the same call.
 */
void rille_wheel_advance(rille_wheel *wheel, uint64_t now_ms, rille_timer_fire fire, void *arg);

/* When to advance next, in ms: never later than the earliest expiry, and exact when both are in one aligned block
 * of 64 ticks; 0 when a timer is overdue already; UINT64_MAX without timers. An advance to a bound that was not
 * exact sharpens it: a timer costs at most one such wake-up for each level it comes down, three when it is minutes
 * away. */
uint64_t rille_wheel_next(const rille_wheel *wheel);

static inline uint64_t rille_wheel_count(const rille_wheel *wheel) { return wheel->count; }

#endif
