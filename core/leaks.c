/*
 * leaks: the level of the leak detector, lua/rille/leaks.lua, which Lua states take when they begin: one that replaces another goes on with
 * what was set while the server ran. Any thread.
 */
#include "rille.h"

#include <stdatomic.h>

static _Atomic int leak_level;
static _Atomic int leak_sample = 100;

void rille_leaks_set(int level, int sample) {
  atomic_store(&leak_level, level);
  atomic_store(&leak_sample, sample);
}

int rille_leaks_level(void) { return atomic_load(&leak_level); }

int rille_leaks_sample(void) { return atomic_load(&leak_sample); }
