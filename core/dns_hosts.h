/*
 * dns_hosts: the addresses that a file such as /etc/hosts has for names. Loop thread; the resolver that made it owns it.
 */
#ifndef RILLE_DNS_HOSTS_H
#define RILLE_DNS_HOSTS_H

#include "rille.h"

#include <stdbool.h>
#include <time.h>

#include "dns_answer.h"

enum {
  RILLE_HOSTS_LOOK_MS = 5000,    /* how often the file is looked at */
  RILLE_HOSTS_SIZE_MAX = 4 << 20 /* bytes of it that are read */
};

struct rille_host;

typedef struct rille_hosts {
  char *path; /* owned */
  uint64_t look_at_ms;
  struct timespec changed;
  long long size;
  struct rille_host **buckets;
  uint32_t bucket_count;
} rille_hosts;

/* false: no memory. path is copied; "": there is no file, and only localhost has addresses */
bool rille_hosts_init(rille_hosts *h, const char *path);
void rille_hosts_end(rille_hosts *h);
/* Whether the file knows the name (in lower case). *out: its addresses of a family (owned), NULL when it has none of that. */
bool rille_hosts_find(rille_hosts *h, const char *name, int family, uint64_t now_ms, rille_answer **out);

#endif
