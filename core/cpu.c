/*
 * cpu: see cpu.h.
 */
#include "cpu.h"

#include "group.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- pinned threads ---------------------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the next two */
static cpu_set_t everywhere;                             /* of the thread that builds, which is not pinned then */
static bool is_known;
static _Thread_local bool is_pinned;

/* What the calling thread would be allowed if it were not pinned. */
static bool usable_by(cpu_set_t *out) {
  if (!is_pinned) return sched_getaffinity(0, sizeof *out, out) == 0;
  pthread_mutex_lock(&lock);
  *out = everywhere;
  pthread_mutex_unlock(&lock);
  return true;
}

void rille_cpu_remember(void) {
  pthread_mutex_lock(&lock);
  is_known = sched_getaffinity(0, sizeof everywhere, &everywhere) == 0;
  pthread_mutex_unlock(&lock);
}

bool rille_cpu_pin(int cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET((size_t)cpu, &one);
  is_pinned = sched_setaffinity(0, sizeof one, &one) == 0;
  return is_pinned;
}

void rille_cpu_roam(void) {
  pthread_mutex_lock(&lock);
  if (is_known) (void)sched_setaffinity(0, sizeof everywhere, &everywhere);
  pthread_mutex_unlock(&lock);
  is_pinned = false;
}

void rille_cpu_give_way(void) {
  enum { NICE = 5 };
  id_t thread = (id_t)gettid(); /* nice is a thread's own on Linux, and no harm if it is refused */
  (void)setpriority(PRIO_PROCESS, thread, getpriority(PRIO_PROCESS, thread) + NICE);
}

/* ---- how many ---------------------------------------------------------------------------------------------------- */

/* The quota of a cgroup (v2) in processors, rounded up; 0: none is set. */
static int quota_cpus(void) {
  long long quota = 0, period = 0;
  FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
  if (!file) return 0;
  int read =
      fscanf(file, "%lld %lld", &quota, &period); /* NOLINT(cert-err34-c): "max" is no number, and none is meant */
  fclose(file);
  return read == 2 && quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int rille_cpu_count(void) {
  cpu_set_t usable;
  int count = usable_by(&usable) ? CPU_COUNT(&usable) : 1;
  int quota = quota_cpus();
  if (quota > 0 && quota < count) count = quota;
  return count < 1 ? 1 : count > RILLE_LOOP_MAX ? RILLE_LOOP_MAX : count;
}

int rille_cpu_list(int *cpus, int max) {
  cpu_set_t usable;
  int count = 0;
  if (!usable_by(&usable)) return 0;
  for (int cpu = 0; cpu < CPU_SETSIZE && count < max; cpu++) {
    if (CPU_ISSET((size_t)cpu, &usable)) cpus[count++] = cpu;
  }
  return count;
}
