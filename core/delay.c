/*
 * delay: see delay.h.
 */
#include "delay.h"

#include "loop.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { TEXT_MAX = 128, LOOKS_MAX = 8, LOOK_NS = 100000 };

static _Atomic bool is_wanted;

void rille_loops_time_work(int is_on) { atomic_store_explicit(&is_wanted, is_on != 0, memory_order_relaxed); }

/* "ns on a processor, ns waiting for one, how often": of the thread that opened the file. */
static uint64_t read_waited_ns(int fd) {
  char text[TEXT_MAX], *end;
  ssize_t size = pread(fd, text, sizeof text - 1, 0);
  if (size <= 0) return 0;
  text[size] = '\0';
  (void)strtoull(text, &end, 10);
  return strtoull(end, NULL, 10);
}

void rille_delay_tend(rille_delay *d) {
  bool wanted = atomic_load_explicit(&is_wanted, memory_order_relaxed);
  if (wanted == d->is_on) return;
  d->began_ns = d->longest_ns = 0;
  if (!wanted) {
    rille_delay_end(d);
    return;
  }
  d->fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  d->is_on = d->fd >= 0;
}

void rille_delay_end(rille_delay *d) {
  if (d->is_on) close(d->fd);
  d->is_on = false;
}

/* Both at one time: a wait for a processor between the two would count for one of them alone. */
static void look(const rille_delay *d, uint64_t *now_ns, uint64_t *waited_ns) {
  for (int i = 0; i < LOOKS_MAX; i++) {
    *now_ns = rille_now_ns();
    *waited_ns = read_waited_ns(d->fd);
    if (rille_now_ns() - *now_ns < LOOK_NS) return;
  }
}

void rille_delay_begin_turn(rille_delay *d) {
  if (d->is_on) look(d, &d->began_ns, &d->waited_ns);
}

void rille_delay_end_turn(rille_delay *d) {
  if (!d->is_on || !d->began_ns) return;
  uint64_t now_ns, waited_ns;
  look(d, &now_ns, &waited_ns);
  uint64_t lasted = now_ns - d->began_ns, waited = waited_ns - d->waited_ns;
  uint64_t worked = waited < lasted ? lasted - waited : 0;
  if (worked > d->longest_ns) d->longest_ns = worked;
}
