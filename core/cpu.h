/*
 * cpu: the processors this process may use, and the threads that stay on one of them. rille.h and rille_accept.h declare what Lua shares.
 */
#ifndef RILLE_CPU_H
#define RILLE_CPU_H

#include <stdbool.h>

enum { RILLE_CPU_ANY = -1 };

/* A thread that is not pinned, before others are: what the process may use. */
void rille_cpu_remember(void);
/* The calling thread stays on that processor from now on. False: it cannot. */
bool rille_cpu_pin(int cpu);
/* The calling thread, pinned or started by one that is, may use every processor again that the process may. */
void rille_cpu_roam(void);
/* The loops' threads come before the calling one from now on. */
void rille_cpu_give_way(void);

#endif
