/*
 * dns_hosts: see dns_hosts.h. The file is read again when it has changed, which is looked at every few seconds, when a name is asked for.
 */
#include "dns_hosts.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUCKETS_FIRST = 64, BUCKETS_MAX = 1 << 16 };

typedef struct rille_host {
  struct rille_host *next;
  uint8_t family;
  uint8_t ip[16];
  char name[]; /* in lower case */
} rille_host;

static uint32_t hash_of(const char *name) {
  uint32_t hash = 2166136261u;
  for (; *name; name++) hash = (hash ^ (uint8_t)*name) * 16777619u;
  return hash ^ hash >> 15;
}

static void forget(rille_hosts *h) {
  for (uint32_t i = 0; i < h->bucket_count; i++) {
    while (h->buckets[i]) {
      rille_host *host = h->buckets[i];
      h->buckets[i] = host->next;
      free(host);
    }
  }
  free(h->buckets);
  h->buckets = NULL;
  h->bucket_count = 0;
}

bool rille_hosts_init(rille_hosts *h, const char *path) {
  *h = (rille_hosts){.path = strdup(path)};
  return h->path != NULL;
}

void rille_hosts_end(rille_hosts *h) {
  forget(h);
  free(h->path);
}

/* ---- the file -------------------------------------------------------------------------------------------------- */

static void add(rille_hosts *h, int family, const uint8_t *ip, const char *name, size_t size) {
  rille_host *host = malloc(sizeof *host + size + 1);
  if (!host) return;
  host->family = (uint8_t)family;
  memcpy(host->ip, ip, 16);
  for (size_t i = 0; i < size; i++) host->name[i] = (char)tolower((unsigned char)name[i]);
  host->name[size] = '\0';
  rille_host **at = &h->buckets[hash_of(host->name) & (h->bucket_count - 1)];
  while (*at) at = &(*at)->next; /* in the order of the file */
  host->next = NULL;
  *at = host;
}

/* "ADDRESS name name ... # comment" */
static void read_line(rille_hosts *h, char *line) {
  static const char *const blank = " \t\r";
  uint8_t ip[16] = {0};
  line[strcspn(line, "#")] = '\0';
  char *word = line + strspn(line, blank);
  size_t size = strcspn(word, blank);
  char *rest = word + size + (word[size] ? 1 : 0);
  word[size] = '\0';
  int family = strchr(word, ':') ? AF_INET6 : AF_INET;
  if (inet_pton(family, word, ip) != 1) return;
  for (;;) {
    rest += strspn(rest, blank);
    size = strcspn(rest, blank);
    if (size == 0) return;
    add(h, family, ip, rest, size);
    rest += size;
  }
}

static void parse(rille_hosts *h, char *text, size_t size) {
  uint32_t wanted = BUCKETS_FIRST;
  while (wanted < BUCKETS_MAX && (size_t)wanted * 32 < size) wanted *= 2;
  h->buckets = calloc(wanted, sizeof(rille_host *));
  if (!h->buckets) return;
  h->bucket_count = wanted;
  for (char *line = text; line < text + size;) {
    char *end = memchr(line, '\n', (size_t)(text + size - line));
    if (!end) end = text + size;
    *end = '\0';
    read_line(h, line);
    line = end + 1;
  }
}

static void load(rille_hosts *h, size_t size) {
  forget(h);
  if (size > RILLE_HOSTS_SIZE_MAX) size = RILLE_HOSTS_SIZE_MAX;
  int fd = open(h->path, O_RDONLY | O_CLOEXEC);
  char *text = fd < 0 ? NULL : malloc(size + 1);
  ssize_t n = text ? read(fd, text, size) : -1;
  if (n > 0) parse(h, text, (size_t)n);
  free(text);
  if (fd >= 0) close(fd);
}

static void refresh(rille_hosts *h, uint64_t now_ms) {
  struct stat info;
  if (now_ms < h->look_at_ms || !h->path[0]) return;
  h->look_at_ms = now_ms + RILLE_HOSTS_LOOK_MS;
  if (stat(h->path, &info) != 0 || !S_ISREG(info.st_mode)) {
    forget(h);
    h->size = -1;
    return;
  }
  if (info.st_size == h->size && info.st_mtim.tv_sec == h->changed.tv_sec && info.st_mtim.tv_nsec == h->changed.tv_nsec)
    return;
  h->size = info.st_size;
  h->changed = info.st_mtim;
  load(h, (size_t)info.st_size);
}

/* ---- names ----------------------------------------------------------------------------------------------------- */

static bool is_localhost(const char *name) {
  size_t size = strlen(name), own = strlen("localhost");
  return size >= own && strcmp(name + size - own, "localhost") == 0 && (size == own || name[size - own - 1] == '.');
}

static rille_answer *loopback(int family) {
  static const uint8_t four[4] = {127, 0, 0, 1};
  rille_answer *a = rille_answer_new();
  const void *ip = family == AF_INET ? (const void *)four : (const void *)&in6addr_loopback;
  if (a && rille_answer_add_address(a, family, ip, 0)) return a;
  rille_answer_drop(a);
  return NULL;
}

bool rille_hosts_find(rille_hosts *h, const char *name, int family, uint64_t now_ms, rille_answer **out) {
  *out = NULL;
  if (is_localhost(name)) { /* RFC 6761, 6.3 */
    *out = loopback(family);
    return true;
  }
  refresh(h, now_ms);
  if (h->bucket_count == 0) return false;
  bool is_known = false;
  for (const rille_host *one = h->buckets[hash_of(name) & (h->bucket_count - 1)]; one; one = one->next) {
    if (strcmp(one->name, name) != 0) continue;
    is_known = true;
    if (one->family != family || (*out && (*out)->count >= RILLE_DNS_RECORDS_MAX)) continue;
    if (!*out) *out = rille_answer_new();
    if (*out) (void)rille_answer_add_address(*out, family, one->ip, 0);
  }
  return is_known;
}
