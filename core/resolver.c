/*
 * resolver: see resolver.h. First channels of c-ares, then questions and the cache; look-ups are in lookup.c.
 */
#include "resolver.h"

#include "dialer.h"
#include "loop.h"
#include "question.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Questions to the servers of one resolv.conf. Where that has changed, the channels before go on until theirs are answered. */
typedef struct rille_channel {
  ares_channel ares;
  struct rille_channel *former;
} rille_channel;

/* ---- sockets of a channel -------------------------------------------------------------------------------------- */

static ares_socket_t open_socket(int domain, int type, int protocol, void *arg) {
  (void)arg;
  return socket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
}

static int close_socket(ares_socket_t fd, void *arg) {
  (void)arg;
  return close(fd);
}

static int connect_socket(ares_socket_t fd, const struct sockaddr *address, ares_socklen_t size, void *arg) {
  (void)arg;
  return connect(fd, address, size);
}

static ares_ssize_t receive(ares_socket_t fd, void *to, size_t size, int flags, struct sockaddr *from,
                            ares_socklen_t *from_size, void *arg) {
  ssize_t n = recvfrom(fd, to, size, flags, from, from_size);
  if (n > 0) rille_question_note(arg, to, (size_t)n);
  return n;
}

/* That nobody is there may be said of the datagram before, to who sends the next one: c-ares would give up that alone. Sent once more, it is received
 * as an error of the socket, and both are. */
static ares_ssize_t send_all(ares_socket_t fd, const struct iovec *parts, int count, void *arg) {
  rille_resolver *r = arg;
  struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)parts, .msg_iovlen = (size_t)count};
  r->queries++;
  ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
  return n < 0 && errno == ECONNREFUSED ? sendmsg(fd, &message, MSG_NOSIGNAL) : n;
}

static const struct ares_socket_functions functions = {open_socket, close_socket, connect_socket, receive, send_all};

static void socket_changed(void *arg, ares_socket_t fd, int reads, int writes) {
  rille_resolver *r = arg;
  rille_poller *poller = &r->loop->poller;
  if (!reads && !writes) {
    rille_poller_remove(poller, fd);
    return;
  }
  uint32_t events = (reads ? (uint32_t)EPOLLIN : 0) | (writes ? (uint32_t)EPOLLOUT : 0);
  uint64_t data = rille_poller_data(RILLE_TAG_DNS, r->serial, (uint32_t)fd);
  /* one that cannot be watched is left to its time-out */
  if (rille_poller_change(poller, fd, events, data) < 0) (void)rille_poller_add(poller, fd, events, data);
}

/* ---- channels -------------------------------------------------------------------------------------------------- */

static void init_library(void) { (void)ares_library_init(ARES_LIB_INIT_ALL); }

static const char *conf_path(const rille_resolver *r) {
  return r->options.resolv_conf[0] ? r->options.resolv_conf : "/etc/resolv.conf";
}

static int split_words(char *text, char **words, int max) {
  int count = 0;
  char *save = NULL;
  for (char *word = strtok_r(text, " ", &save); word && count < max; word = strtok_r(NULL, " ", &save)) {
    words[count++] = word;
  }
  return count;
}

static int init_ares(rille_resolver *r, ares_channel *channel) {
  enum { DOMAINS_MAX = 32 };
  char *domains[DOMAINS_MAX];
  char *search = strdup(r->options.search);
  if (!search) return ARES_ENOMEM;
  struct ares_options o = {
      .timeout = (int)r->options.timeout_ms,
      .tries = (int)r->options.tries,
      .resolvconf_path = (char *)(uintptr_t)conf_path(r),
      .sock_state_cb = socket_changed,
      .sock_state_cb_data = r,
      .lookups = (char *)(uintptr_t) "b",
      .domains = domains,
      .flags = 0,
  };
  int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_RESOLVCONF | ARES_OPT_SOCK_STATE_CB | ARES_OPT_LOOKUPS |
             ARES_OPT_FLAGS;
#ifdef ARES_OPT_QUERY_CACHE
  o.qcache_max_ttl = 0; /* answers are kept here */
  mask |= ARES_OPT_QUERY_CACHE;
#endif
  if (search[0]) {
    o.ndomains = strcmp(search, ".") == 0 ? 0 : split_words(search, domains, DOMAINS_MAX);
    mask |= ARES_OPT_DOMAINS;
  }
  int status = ares_init_options(channel, &o, mask);
  free(search);
  if (status != ARES_SUCCESS) return status;
  ares_set_socket_functions(*channel, &functions, r);
  if (r->options.servers[0]) status = ares_set_servers_ports_csv(*channel, r->options.servers);
  if (status != ARES_SUCCESS) ares_destroy(*channel);
  return status;
}

/* Another channel, for all that is asked from here on; where that fails the one before stays. */
static int init_channel(rille_resolver *r) {
  rille_channel *c = calloc(1, sizeof *c);
  int status = c ? init_ares(r, &c->ares) : ARES_ENOMEM;
  if (status != ARES_SUCCESS) {
    free(c);
    return status;
  }
  c->former = r->channel;
  r->channel = c;
  if (r->has_known) ares_destroy_options(&r->known);
  int ignored = 0;
  r->has_known = ares_save_options(c->ares, &r->known, &ignored) == ARES_SUCCESS;
  return status;
}

static bool is_at_rest(const rille_channel *c) {
  struct timeval ignored;
  return !ares_timeout(c->ares, NULL, &ignored);
}

/* Former channels that wait for nothing any more go; not to be called by what c-ares calls. */
static void end_former(rille_resolver *r) {
  rille_channel **at = r->channel ? &r->channel->former : NULL;
  while (at && *at) {
    rille_channel *c = *at;
    if (!is_at_rest(c)) {
      at = &c->former;
      continue;
    }
    *at = c->former;
    ares_destroy(c->ares);
    free(c);
  }
}

static void end_channels(rille_resolver *r) {
  if (r->has_known) ares_destroy_options(&r->known);
  r->has_known = false;
  while (r->channel) {
    rille_channel *c = r->channel;
    r->channel = c->former;
    ares_destroy(c->ares); /* which ends every question */
    free(c);
  }
  rille_timer_stop(r->wheel, &r->alarm.timer);
}

/* The next time-out of a question. */
static void set_alarm(rille_resolver *r) {
  struct timeval first = {0}, *wait = NULL;
  for (const rille_channel *c = r->channel; c; c = c->former) {
    struct timeval one;
    if (ares_timeout(c->ares, wait, &one) != &one) continue;
    first = one;
    wait = &first;
  }
  if (!wait) {
    rille_timer_stop(r->wheel, &r->alarm.timer);
    return;
  }
  uint64_t ms = (uint64_t)first.tv_sec * 1000 + (uint64_t)first.tv_usec / 1000 + 1;
  rille_timer_start(r->wheel, &r->alarm.timer, rille_now_ns() / 1000000 + ms);
}

/* What is answered now may make the next name of a search list be asked for, from inside. */
static void process(rille_resolver *r, ares_socket_t readable, ares_socket_t writable) {
  for (rille_channel *c = r->channel; c; c = c->former) ares_process_fd(c->ares, readable, writable);
  end_former(r);
  set_alarm(r);
}

static void fire(rille_alarm *alarm) {
  rille_resolver *r = (rille_resolver *)(void *)((char *)alarm - offsetof(rille_resolver, alarm));
  process(r, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
}

/* A channel looks at its own sockets alone; one that was closed since is nobody's. */
void rille_resolver_ready(rille_loop *loop, uint32_t fd, uint32_t serial, uint32_t events) {
  rille_resolver *r = loop->dials ? loop->dials->resolvers : NULL;
  while (r && r->serial != serial) r = r->next;
  if (!r) return;
  bool is_over = events & (EPOLLERR | EPOLLHUP);
  ares_socket_t socket = (ares_socket_t)fd;
  process(r, events & EPOLLIN || is_over ? socket : ARES_SOCKET_BAD,
          events & EPOLLOUT || is_over ? socket : ARES_SOCKET_BAD);
}

/* Servers and domains may have changed; what is under way keeps its channel. */
static void refresh(rille_resolver *r) {
  struct stat info;
  uint64_t now = r->loop->clock_ms;
  if (now < r->look_at_ms) return;
  r->look_at_ms = now + RILLE_RESOLV_CONF_LOOK_MS;
  struct timespec changed = {0};
  if (stat(conf_path(r), &info) == 0) changed = info.st_mtim;
  bool is_same = changed.tv_sec == r->conf_changed.tv_sec && changed.tv_nsec == r->conf_changed.tv_nsec;
  if (is_same && r->channel) return;
  if (init_channel(r) == ARES_SUCCESS) r->conf_changed = changed;
}

int rille_resolver_send(rille_resolver *r, struct rille_question *q, const char *name, int type) {
  refresh(r);
  if (!r->channel) return RILLE_ERR_NO_MEMORY;
  enum { INTERNET = 1 };
  ares_query(r->channel->ares, name, INTERNET, type, rille_question_answered, q);
  set_alarm(r);
  return RILLE_OK;
}

/* ---- resolvers ------------------------------------------------------------------------------------------------- */

static bool is_same(const rille_resolver_options *a, const rille_resolver_options *b) {
  return a->timeout_ms == b->timeout_ms && a->negative_ms == b->negative_ms && a->tries == b->tries &&
         a->cache == b->cache && strcmp(a->servers, b->servers) == 0 && strcmp(a->search, b->search) == 0 &&
         strcmp(a->hosts, b->hosts) == 0 && strcmp(a->resolv_conf, b->resolv_conf) == 0;
}

static void free_one(rille_resolver *r) {
  end_channels(r);
  rille_questions_end(r);
  rille_hosts_end(&r->hosts);
  free((void *)(uintptr_t)r->options.servers);
  free((void *)(uintptr_t)r->options.search);
  free((void *)(uintptr_t)r->options.hosts);
  free((void *)(uintptr_t)r->options.resolv_conf);
  free(r->buckets);
  free(r);
}

static rille_resolver *make(rille_loop *loop, const rille_resolver_options *o, int *status) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, init_library);
  *status = ARES_ENOMEM;
  rille_resolver *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  r->loop = loop;
  r->wheel = &loop->dials->wheel;
  r->alarm.fire = fire;
  r->serial = ++loop->dials->last_serial & 0xffffff;
  r->options = *o;
  r->options.servers = strdup(o->servers);
  r->options.search = strdup(o->search);
  r->options.hosts = strdup(o->hosts);
  r->options.resolv_conf = strdup(o->resolv_conf);
  r->bucket_count = RILLE_RESOLVER_BUCKETS;
  r->buckets = calloc(r->bucket_count, sizeof(struct rille_question *));
  bool ok = rille_hosts_init(&r->hosts, o->hosts) && r->options.servers && r->options.search && r->options.hosts &&
            r->options.resolv_conf && r->buckets;
  if (ok) *status = init_channel(r);
  struct stat info;
  if (ok && stat(conf_path(r), &info) == 0) r->conf_changed = info.st_mtim;
  r->look_at_ms = loop->clock_ms + RILLE_RESOLV_CONF_LOOK_MS;
  if (ok && *status == ARES_SUCCESS) return r;
  free_one(r);
  return NULL;
}

rille_resolver *rille_resolver_find(const rille_loop *loop, const rille_resolver_options *options) {
  rille_resolver *r = loop->dials ? loop->dials->resolvers : NULL;
  while (r && !is_same(&r->options, options)) r = r->next;
  return r;
}

/* Room for another one: the last that has nothing under way. */
static bool evict(rille_dial_side *side) {
  rille_resolver **found = NULL;
  for (rille_resolver **at = &side->resolvers; *at; at = &(*at)->next) {
    if ((*at)->asking == 0 && (*at)->in_use == 0) found = at;
  }
  if (!found) return false;
  rille_resolver *r = *found;
  *found = r->next;
  side->resolver_count--;
  free_one(r);
  return true;
}

rille_resolver *rille_resolver_of(rille_loop *loop, const rille_resolver_options *options, int *err, char *message,
                                  size_t size) {
  rille_resolver *r = rille_resolver_find(loop, options);
  if (r) return r;
  rille_dial_side *side = loop->dials;
  if (side->resolver_count >= RILLE_RESOLVERS_MAX && !evict(side)) {
    *err = RILLE_ERR_FULL;
    snprintf(message, size, "%d resolvers with different options are at work", (int)RILLE_RESOLVERS_MAX);
    return NULL;
  }
  int status;
  r = make(loop, options, &status);
  if (!r) {
    *err = status == ARES_ENOMEM ? RILLE_ERR_NO_MEMORY : RILLE_ERR_INVALID;
    snprintf(message, size, "no resolver with the servers \"%s\": %s", options->servers, ares_strerror(status));
    return NULL;
  }
  r->next = side->resolvers;
  side->resolvers = r;
  side->resolver_count++;
  return r;
}

void rille_resolvers_end(rille_resolver *first) {
  while (first) {
    rille_resolver *r = first;
    first = r->next;
    free_one(r);
  }
}
