/*
 * status_process: what the status says of the process as a whole. Control thread; rille_control_describe is for the thread that starts it.
 */
#include "control.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char conf[4096];      /* under it */
static char conf_read[4096]; /* control thread */
static _Atomic uint64_t begun_ns;

void rille_control_describe(const char *file) {
  pthread_mutex_lock(&mutex);
  snprintf(conf, sizeof conf, "%s", file);
  pthread_mutex_unlock(&mutex);
  atomic_store(&begun_ns, rille_now_ns());
}

static double resident_bytes(void) {
  unsigned long long pages = 0;
  FILE *file = fopen("/proc/self/statm", "re");
  if (!file) return 0;
  int found = fscanf(file, "%*u %llu", &pages); /* NOLINT(cert-err34-c): the kernel writes it */
  fclose(file);
  return found == 1 ? (double)pages * (double)sysconf(_SC_PAGESIZE) : 0;
}

static double descriptors(void) {
  double count = -3; /* ".", "..", and the one that looks */
  DIR *folder = opendir("/proc/self/fd");
  if (!folder) return 0;
  while (readdir(folder)) count++; /* NOLINT(concurrency-mt-unsafe): nobody else has this DIR */
  closedir(folder);
  return count;
}

void rille_usage_read(rille_usage *out) {
  pthread_mutex_lock(&mutex);
  memcpy(conf_read, conf, sizeof conf_read);
  pthread_mutex_unlock(&mutex);
  *out = (rille_usage){.uptime = (double)(rille_now_ns() - atomic_load(&begun_ns)) / 1e9,
                       .rss_bytes = resident_bytes(),
                       .descriptors = descriptors(),
                       .conf = conf_read};
}
