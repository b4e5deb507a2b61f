/*
 * Tests of core/timer: single behaviours first, then a million random operations against a model that is a plain array.
 */
#include "timer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct record {
  rille_timer *fired[4096];
  size_t count;
} record;

static void note(rille_timer *timer, void *arg) {
  record *r = arg;
  assert_false(rille_timer_is_running(timer));
  assert_true(r->count < sizeof r->fired / sizeof r->fired[0]);
  r->fired[r->count++] = timer;
}

static rille_wheel *new_wheel(uint64_t now_ms) {
  rille_wheel *wheel = malloc(sizeof *wheel);
  assert_non_null(wheel);
  rille_wheel_init(wheel, now_ms);
  return wheel;
}

static void fires_at_its_tick_and_not_before(void **state) {
  (void)state;
  static const uint64_t distances[] = {
      1, 2, 63, 64, 65, 4095, 4096, 4097, 262143, 262144, 75000, 1000000007, UINT64_C(1) << 40, UINT64_MAX - 12345};
  for (size_t i = 0; i < sizeof distances / sizeof distances[0]; i++) {
    rille_wheel *wheel = new_wheel(12345);
    rille_timer timer = {0};
    record r = {.count = 0};
    rille_timer_start(wheel, &timer, 12345 + distances[i]);
    assert_int_equal(rille_wheel_count(wheel), 1);
    rille_wheel_advance(wheel, 12345 + distances[i] - 1, note, &r);
    assert_int_equal(r.count, 0);
    assert_true(rille_timer_is_running(&timer));
    assert_true(rille_wheel_next(wheel) == 12345 + distances[i]);
    rille_wheel_advance(wheel, 12345 + distances[i], note, &r);
    assert_int_equal(r.count, 1);
    assert_int_equal(rille_wheel_count(wheel), 0);
    assert_true(rille_wheel_next(wheel) == UINT64_MAX);
    free(wheel);
  }
}

static void fires_one_tick_in_start_order(void **state) {
  (void)state;
  rille_wheel *wheel = new_wheel(0);
  rille_timer timers[100] = {0};
  record r = {.count = 0};
  /* started at different distances, so that they come from different levels */
  for (size_t i = 0; i < 100; i++) {
    rille_wheel_advance(wheel, i * 999, note, &r);
    rille_timer_start(wheel, &timers[i], 100000);
  }
  rille_timer_start(wheel, &timers[3], 100000); /* to the end */
  rille_wheel_advance(wheel, 200000, note, &r);
  assert_int_equal(r.count, 100);
  size_t at = 0;
  for (size_t i = 0; i < 100; i++) {
    if (i != 3) {
      assert_ptr_equal(r.fired[at++], &timers[i]);
    }
  }
  assert_ptr_equal(r.fired[99], &timers[3]);
  free(wheel);
}

static void an_overdue_timer_fires_at_the_next_advance(void **state) {
  (void)state;
  rille_wheel *wheel = new_wheel(1000);
  rille_timer now = {0}, past = {0}, soon = {0};
  record r = {.count = 0};
  rille_timer_start(wheel, &soon, 1001);
  rille_timer_start(wheel, &now, 1000);
  rille_timer_start(wheel, &past, 0);
  assert_int_equal(rille_wheel_next(wheel), 0);
  rille_wheel_advance(wheel, 5, note, &r); /* time never runs back */
  assert_int_equal(r.count, 2);
  assert_ptr_equal(r.fired[0], &now);
  assert_ptr_equal(r.fired[1], &past);
  assert_int_equal(rille_wheel_next(wheel), 1001);
  rille_timer_stop(wheel, &soon);
  rille_timer_stop(wheel, &soon);
  assert_int_equal(rille_wheel_count(wheel), 0);
  assert_true(rille_wheel_next(wheel) == UINT64_MAX);
  free(wheel);
}

typedef struct again {
  rille_wheel *wheel;
  uint64_t expiry_ms;
  uint64_t step_ms;
  unsigned fired;
} again;

static void restart(rille_timer *timer, void *arg) {
  again *a = arg;
  a->fired++;
  a->expiry_ms += a->step_ms;
  rille_timer_start(a->wheel, timer, a->expiry_ms);
}

static void a_timer_may_restart_itself(void **state) {
  (void)state;
  rille_wheel *wheel = new_wheel(0);
  rille_timer timer = {0};
  again a = {wheel, 10, 10, 0};
  rille_timer_start(wheel, &timer, 10);
  rille_wheel_advance(wheel, 105, restart, &a);
  assert_int_equal(a.fired, 10);
  assert_int_equal(timer.expiry_ms, 110);
  a.step_ms = 0; /* for the tick that fires: once an advance, else it would never come back */
  rille_wheel_advance(wheel, 500, restart, &a);
  assert_int_equal(a.fired, 11);
  rille_wheel_advance(wheel, 500, restart, &a);
  assert_int_equal(a.fired, 12);
  assert_int_equal(rille_wheel_next(wheel), 0);
  free(wheel);
}

/* Frees what fires and stops, then frees, one that was to fire in the same tick. */
typedef struct heap_timer {
  rille_timer timer;
  struct heap_timer *victim;
  rille_wheel *wheel;
  unsigned *fired;
} heap_timer;

static void free_two(rille_timer *timer, void *arg) {
  (void)arg;
  heap_timer *t = (heap_timer *)timer;
  ++*t->fired;
  rille_timer_stop(t->wheel, &t->victim->timer);
  free(t->victim);
  free(t);
}

static void fire_may_free_itself_and_others(void **state) {
  (void)state;
  rille_wheel *wheel = new_wheel(0);
  unsigned fired = 0;
  heap_timer *t[10];
  for (size_t i = 0; i < 10; i++) {
    t[i] = calloc(1, sizeof *t[i]);
    assert_non_null(t[i]);
    t[i]->wheel = wheel;
    t[i]->fired = &fired;
    rille_timer_start(wheel, &t[i]->timer, 5000);
  }
  for (size_t i = 0; i < 5; i++) {
    t[i]->victim = t[9 - i];
  }
  rille_wheel_advance(wheel, 5000, free_two, NULL);
  assert_int_equal(fired, 5);
  assert_int_equal(rille_wheel_count(wheel), 0);
  free(wheel);
}

static void a_jump_of_years_does_not_walk_the_ticks(void **state) {
  (void)state;
  rille_wheel *wheel = new_wheel(0);
  rille_timer near_one = {0}, far_one = {0};
  record r = {.count = 0};
  const uint64_t year_ms = UINT64_C(365) * 86400 * 1000;
  /* walking even one percent of these ticks would take minutes */
  for (uint64_t i = 0; i < 1000; i++) {
    rille_timer_start(wheel, &near_one, i * year_ms + 7);
    rille_timer_start(wheel, &far_one, i * year_ms + year_ms / 2);
    rille_wheel_advance(wheel, (i + 1) * year_ms, note, &r);
    assert_int_equal(r.count, 2 * (i + 1));
    assert_ptr_equal(r.fired[2 * i], &near_one);
  }
  free(wheel);
}

static void advancing_to_next_arrives_in_a_step_for_each_level(void **state) {
  (void)state;
  rille_wheel *wheel = new_wheel(1);
  rille_timer timer = {0};
  record r = {.count = 0};
  rille_timer_start(wheel, &timer, UINT64_MAX - 1);
  unsigned steps = 0;
  while (r.count == 0) {
    rille_wheel_advance(wheel, rille_wheel_next(wheel), note, &r);
    steps++;
  }
  assert_true(steps <= RILLE_WHEEL_LEVELS);
  free(wheel);
}

/* ---- the model ---- */

enum { TIMERS = 192 };

typedef struct model_timer {
  rille_timer timer; /* first: fire gets its address */
  int is_running;
  int is_overdue; /* was not in the future when it was started */
  uint64_t batch; /* the advance it was started before */
  uint64_t expiry_ms;
  uint64_t sequence;
} model_timer;

typedef struct model {
  rille_wheel *wheel;
  model_timer timers[TIMERS];
  uint64_t now_ms;
  uint64_t target_ms;
  uint64_t batch; /* advances begun */
  uint64_t sequence;
  uint64_t random;
  uint64_t operations;
  uint64_t fired;
  int is_advancing;
} model;

static uint64_t draw(model *m) {
  m->random ^= m->random << 13;
  m->random ^= m->random >> 7;
  m->random ^= m->random << 17;
  return m->random;
}

/* a number whose magnitude is as random as its value */
static uint64_t draw_distance(model *m, unsigned bits_max) {
  unsigned bits = (unsigned)(draw(m) % (bits_max + 1));
  return draw(m) & ((UINT64_C(1) << bits) - 1);
}

static void operate(model *m) {
  model_timer *t = &m->timers[draw(m) % TIMERS];
  m->operations++;
  if (draw(m) % 4 == 0) {
    rille_timer_stop(m->wheel, &t->timer);
    t->is_running = 0;
    return;
  }
  uint64_t kind = draw(m) % 16;
  uint64_t expiry = m->now_ms + draw_distance(m, 36);
  if (kind == 0) {
    expiry = m->now_ms - draw(m) % (m->now_ms + 1); /* past */
  } else if (kind == 1) {
    expiry = UINT64_MAX - draw(m) % 100;
  } else if (kind <= 5) {
    expiry = m->timers[draw(m) % TIMERS].expiry_ms; /* the same as another one */
  } else if (kind <= 9) {
    expiry = m->now_ms + draw(m) % 200;
  }
  rille_timer_start(m->wheel, &t->timer, expiry);
  t->is_running = 1;
  t->is_overdue = expiry <= m->now_ms;
  t->batch = m->batch;
  t->expiry_ms = expiry;
  t->sequence = m->sequence++;
}

/* What has to fire next in this advance: overdue ones in the order of their start, then by expiry and start. */
static model_timer *expected(model *m) {
  model_timer *best = NULL;
  for (size_t i = 0; i < TIMERS; i++) {
    model_timer *t = &m->timers[i];
    if (!t->is_running || (t->is_overdue && t->batch == m->batch) || (!t->is_overdue && t->expiry_ms > m->target_ms)) {
      continue;
    }
    if (best == NULL || t->is_overdue > best->is_overdue ||
        (t->is_overdue == best->is_overdue &&
         ((!t->is_overdue && t->expiry_ms < best->expiry_ms) ||
          ((t->is_overdue || t->expiry_ms == best->expiry_ms) && t->sequence < best->sequence)))) {
      best = t;
    }
  }
  return best;
}

static void check_fire(rille_timer *timer, void *arg) {
  model *m = arg;
  model_timer *t = (model_timer *)timer;
  assert_ptr_equal(t, expected(m));
  assert_true(t->expiry_ms <= m->target_ms);
  t->is_running = 0;
  m->fired++;
  if (t->expiry_ms > m->now_ms) {
    m->now_ms = t->expiry_ms;
  }
  for (uint64_t n = draw(m) % 4; n > 1; n--) {
    operate(m);
  }
}

static void check_bounds(model *m) {
  uint64_t earliest = UINT64_MAX;
  uint64_t count = 0;
  int has_overdue = 0;
  for (size_t i = 0; i < TIMERS; i++) {
    const model_timer *t = &m->timers[i];
    assert_int_equal(rille_timer_is_running(&t->timer), t->is_running);
    if (t->is_running) {
      count++;
      has_overdue |= t->is_overdue;
      earliest = t->expiry_ms < earliest ? t->expiry_ms : earliest;
    }
  }
  uint64_t next = rille_wheel_next(m->wheel);
  assert_int_equal(rille_wheel_count(m->wheel), count);
  if (count == 0) {
    assert_true(next == UINT64_MAX);
  } else if (has_overdue) {
    assert_true(next == 0);
  } else {
    assert_true(next <= earliest && next > m->now_ms);
    if ((earliest ^ m->now_ms) < RILLE_WHEEL_SLOTS) {
      assert_true(next == earliest);
    }
  }
}

static void agrees_with_a_model_over_a_million_operations(void **state) {
  (void)state;
  model *m = calloc(1, sizeof *m);
  assert_non_null(m);
  m->random = UINT64_C(0x9e3779b97f4a7c15);
  m->now_ms = 1700000000000;
  m->wheel = new_wheel(m->now_ms);
  while (m->operations < 1000000) {
    for (uint64_t n = draw(m) % 8; n > 0; n--) {
      operate(m);
    }
    check_bounds(m);
    uint64_t jump = draw(m) % 8;
    uint64_t next = rille_wheel_next(m->wheel);
    int is_near = next > m->now_ms && next - m->now_ms < UINT64_C(1) << 40; /* or time would overflow some day */
    m->target_ms = jump < 4              ? m->now_ms + draw_distance(m, 10)
                   : jump < 6 && is_near ? next
                                         : m->now_ms + draw_distance(m, 34);
    m->batch++;
    rille_wheel_advance(m->wheel, m->target_ms, check_fire, m);
    m->now_ms = m->target_ms > m->now_ms ? m->target_ms : m->now_ms;
    /* nothing that should have fired is left: what is, was started by fire for a tick that had passed */
    assert_null(expected(m));
  }
  check_bounds(m);
  assert_true(m->fired > 100000);
  free(m->wheel);
  free(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(fires_at_its_tick_and_not_before),
      cmocka_unit_test(fires_one_tick_in_start_order),
      cmocka_unit_test(an_overdue_timer_fires_at_the_next_advance),
      cmocka_unit_test(a_timer_may_restart_itself),
      cmocka_unit_test(fire_may_free_itself_and_others),
      cmocka_unit_test(a_jump_of_years_does_not_walk_the_ticks),
      cmocka_unit_test(advancing_to_next_arrives_in_a_step_for_each_level),
      cmocka_unit_test(agrees_with_a_model_over_a_million_operations),
  };
  return cmocka_run_group_tests_name("timer", tests, NULL, NULL);
}
