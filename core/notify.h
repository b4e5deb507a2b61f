/*
 * notify: tells the service manager that started the process how it is (sd_notify(3)): READY=1 when all loops accept, STOPPING=1 when
 * a stop begins, WATCHDOG=1 while all loops make turns, EXTEND_TIMEOUT_USEC while connections drain. A process of a prefork server tells
 * its parent instead, and the parent tells the manager.
 *
 * start belongs to the thread that starts the server; the rest may be called by any thread.
 */
#ifndef RILLE_NOTIFY_H
#define RILLE_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

/* Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID when they are there, and take them out of the environment. */
void rille_notify_start(void);
void rille_notify_ready(uint32_t processes, uint32_t loops);
void rille_notify_stopping(void);
/* To be called by one thread, at the latest after what it returned the last time, in ms; -1: no need. is_stalled: whether something
 * has been at a standstill for longer than so many ns; it is asked only when the answer matters. */
int rille_notify_tick(bool (*is_stalled)(uint64_t longer_ns));

#endif
