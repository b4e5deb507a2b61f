/*
 * report: see report.h.
 */
#include "report.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { NAME_LENGTH = 63 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static rille_server_report servers[RILLE_REPORT_SERVERS_MAX]; /* under it; by number, from 1 */

/* NULL: it is not counted */
static rille_server_report *report_of(uint32_t server) {
  return server >= 1 && server <= RILLE_REPORT_SERVERS_MAX ? &servers[server - 1] : NULL;
}

/* The first generation of a server is that of a new run. */
static void forget(rille_server_report *r, const char *label) {
  double generations = r->generations;
  const char *at = strrchr(label, '@');
  memset(r, 0, sizeof *r);
  r->generations = generations;
  snprintf(r->name, sizeof r->name, "%.*s", at ? (int)(at - label) : (int)strlen(label), label);
}

void rille_report_begin(uint32_t server, uint32_t number, const char *label) {
  rille_server_report *r = report_of(server);
  if (!r) return;
  pthread_mutex_lock(&mutex);
  if (number == 1) forget(r, label);
  r->generations++;
  pthread_mutex_unlock(&mutex);
}

void rille_report_end(uint32_t server) {
  rille_server_report *r = report_of(server);
  if (!r) return;
  pthread_mutex_lock(&mutex);
  r->generations--;
  pthread_mutex_unlock(&mutex);
}

void rille_reload_report(uint32_t server, int result, const char *label, const char *message, double seconds,
                         double at) {
  rille_server_report *r = report_of(server);
  if (!r) return;
  pthread_mutex_lock(&mutex);
  r->done += result == RILLE_RELOAD_DONE;
  r->failed += result != RILLE_RELOAD_DONE;
  r->rolled_back += result == RILLE_RELOAD_ROLLED_BACK;
  r->is_ok = result == RILLE_RELOAD_DONE;
  r->seconds = seconds;
  r->at = at;
  snprintf(r->label, sizeof r->label, "%s", label);
  snprintf(r->message, sizeof r->message, "%s", message);
  pthread_mutex_unlock(&mutex);
}

static bool is_there(int i) { return servers[i].name[0] && servers[i].generations > 0; }

/* Under the mutex; as config/names.lua has it. */
static void name_of(int i, char *to, size_t size) {
  int count = 0;
  for (int k = 0; k < RILLE_REPORT_SERVERS_MAX; k++) {
    count += is_there(k) && strcmp(servers[k].name, servers[i].name) == 0;
  }
  if (count > 1) snprintf(to, size, "%.*s#%d", NAME_LENGTH, servers[i].name, i + 1);
  else snprintf(to, size, "%.*s", NAME_LENGTH, servers[i].name);
}

void rille_reports_each(void (*visit)(void *to, const char *name, const rille_server_report *report), void *to) {
  char name[sizeof servers->name + 8];
  pthread_mutex_lock(&mutex);
  for (int i = 0; i < RILLE_REPORT_SERVERS_MAX; i++) {
    if (!is_there(i)) continue;
    name_of(i, name, sizeof name);
    visit(to, name, &servers[i]);
  }
  pthread_mutex_unlock(&mutex);
}
