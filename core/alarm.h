/*
 * alarm: a timer of the wheel that connects and look-ups of a loop share, with what to call. Loop thread.
 */
#ifndef RILLE_ALARM_H
#define RILLE_ALARM_H

#include "timer.h"

typedef struct rille_alarm {
  rille_timer timer; /* first: a timer that fired is its alarm */
  void (*fire)(struct rille_alarm *alarm);
} rille_alarm;

#endif
