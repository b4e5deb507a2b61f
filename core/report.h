/*
 * report: what became of each server's reloads, and how many of its generations are alive, for the status and the metrics. Generations say
 * so themselves, the state that deploys tells the rest. Any thread; one mutex.
 */
#ifndef RILLE_REPORT_H
#define RILLE_REPORT_H

#include "rille.h"

#include <stdbool.h>

enum { RILLE_REPORT_SERVERS_MAX = 128, RILLE_REPORT_TEXT_MAX = 2048 };

typedef struct rille_server_report {
  char name[64];                    /* "": there is no such server */
  double generations;               /* alive */
  double done, failed, rolled_back; /* reloads; what was rolled back has failed as well */
  /* of the last reload; label "": there was none */
  bool is_ok;
  char label[64];
  char message[RILLE_REPORT_TEXT_MAX];
  double seconds, at;
} rille_server_report;

/* A generation of that server begins or ends; those of number 0 are not counted. */
void rille_report_begin(uint32_t server, uint32_t number, const char *label);
void rille_report_end(uint32_t server);
/* visit for each server, in their order; name is nobody else's: "echo", or "echo#2" of the second server where two are called so */
void rille_reports_each(void (*visit)(void *to, const char *name, const rille_server_report *report), void *to);

#endif
