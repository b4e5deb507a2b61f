/* See load.h. */
#include "load.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  READ_MAX = 262144,
  EVENTS_MAX = 256,
  ANSWER_MAX_MS = 10000,
  HIST_SUB = 32, /* buckets an octave: 3 % wide */
  HIST_COUNT = 60 * HIST_SUB
};

struct result {
  uint64_t messages, bytes, start_ns, end_ns, max_ns; /* bytes: of the answers */
  uint64_t hist[HIST_COUNT];
};

struct load_options load_options = {.connections = 64, .seconds = 1};
static const struct load_protocol *protocol;
static struct load_peer *peers;
static unsigned char input[READ_MAX];
static int epoll_fd;

_Noreturn void load_die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "%s: ", program_invocation_short_name);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  exit(1);
}

uint64_t load_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int load_ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Log-linear histogram: exact below 32 ns, then 32 buckets for each power of two. */

static size_t hist_bucket(uint64_t ns) {
  int shift = ns < HIST_SUB ? 0 : 58 - __builtin_clzll(ns);
  size_t bucket = (size_t)shift * HIST_SUB + (size_t)(ns >> shift);
  return bucket < HIST_COUNT ? bucket : HIST_COUNT - 1;
}

static double hist_middle_us(size_t bucket) {
  size_t shift = bucket < 2 * HIST_SUB ? 0 : bucket / HIST_SUB - 1;
  uint64_t low = (uint64_t)(bucket - shift * HIST_SUB) << shift;
  return ((double)low + (double)((UINT64_C(1) << shift) - 1) / 2) / 1000;
}

static double hist_quantile_us(const struct result *result, double quantile) {
  double wanted = quantile * (double)result->messages;
  uint64_t seen = 0;
  for (size_t i = 0; i < HIST_COUNT; i++) {
    seen += result->hist[i];
    if (seen > 0 && (double)seen >= wanted) {
      double middle = hist_middle_us(i), max = (double)result->max_ns / 1000;
      return middle < max ? middle : max;
    }
  }
  return 0;
}

/* Connections */

int load_connect(uint32_t source) {
  int one = 1;
  struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(source)}};
  struct sockaddr_in to = {.sin_family = AF_INET,
                           .sin_port = htons((in_port_t)load_options.port),
                           .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  int fd = socket(AF_INET, (load_options.is_datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
  if (fd < 0) load_die("socket: %s", strerror(errno));
  /* the port is chosen by connect, which may reuse one that another destination has */
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  if (bind(fd, (struct sockaddr *)&from, sizeof(from)) != 0) load_die("bind: %s", strerror(errno));
  if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0)
    load_die("connect to 127.0.0.1:%lu: %s", load_options.port, strerror(errno));
  return fd;
}

static void watch(int op, struct load_peer *peer, unsigned int events) {
  struct epoll_event ev = {.events = events, .data = {.ptr = peer}};
  if (epoll_ctl(epoll_fd, op, peer->fd, &ev) != 0) load_die("epoll_ctl: %s", strerror(errno));
}

static void connect_peer(struct load_peer *peer, uint32_t source) {
  peer->fd = load_connect(source);
  if (fcntl(peer->fd, F_SETFL, O_NONBLOCK) != 0) load_die("fcntl: %s", strerror(errno));
  watch(EPOLL_CTL_ADD, peer, EPOLLIN);
}

/* In turn from many addresses: ports that were used rest for a minute. */
static void reconnect(struct load_peer *peer) {
  enum { SOURCES = 200 };
  static uint32_t source;
  close(peer->fd);
  peer->is_blocked = false;
  source = source % SOURCES + 1;
  connect_peer(peer, INADDR_LOOPBACK + source);
}

static void connect_peers(void) {
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  peers = calloc(load_options.connections, sizeof(*peers));
  if (epoll_fd < 0 || peers == NULL) load_die("no memory for %lu connections", load_options.connections);
  for (size_t i = 0; i < load_options.connections; i++) {
    struct load_peer *peer = &peers[i];
    peer->index = i;
    connect_peer(peer, INADDR_LOOPBACK);
  }
}

/* One round */

static void send_more(struct load_peer *peer) {
  ssize_t put = send(peer->fd, peer->data + peer->sent, peer->size - peer->sent, MSG_NOSIGNAL);
  if (put < 0 && errno != EAGAIN) load_die("send: %s", strerror(errno));
  if (put > 0) peer->sent += (size_t)put;
  bool is_blocked = peer->sent < peer->size;
  if (is_blocked != peer->is_blocked) {
    peer->is_blocked = is_blocked;
    watch(EPOLL_CTL_MOD, peer, is_blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
  }
}

static void start_round(struct load_peer *peer, uint64_t now) {
  protocol->start(peer);
  peer->sent = 0;
  peer->got = 0;
  peer->answers = 0;
  peer->start_ns = now;
  if (protocol->reconnects) reconnect(peer);
  send_more(peer);
}

/* Reads once; true when the round is complete at *now. */
static bool receive(struct load_peer *peer, struct result *result, uint64_t *now) {
  ssize_t got = recv(peer->fd, input, sizeof(input), 0);
  if (got < 0 && errno == EAGAIN) return false;
  if (got < 0) load_die("recv: %s", strerror(errno));
  if (got == 0) load_die("the server closed a connection in the middle of a run");
  if (peer->answers == protocol->depth) load_die("the server sent more than it was asked for");
  unsigned long answers = protocol->take(peer, input, (size_t)got);
  peer->got += (size_t)got;
  result->bytes += (size_t)got;
  if (answers == 0) return false;
  *now = load_now_ns();
  uint64_t ns = *now - peer->start_ns;
  peer->answers += answers;
  if (peer->answers > protocol->depth) load_die("the server sent more answers than it was asked for");
  result->messages += answers;
  result->hist[hist_bucket(ns)] += answers;
  if (ns > result->max_ns) result->max_ns = ns;
  return peer->answers == protocol->depth;
}

/* Runs for `seconds`, or until `messages` (when not 0), in whole rounds, have been sent. */
static void run(double seconds, uint64_t messages, struct result *result) {
  memset(result, 0, sizeof(*result));
  uint64_t now = load_now_ns();
  uint64_t stop_ns = messages > 0 ? UINT64_MAX : now + (uint64_t)(seconds * 1e9);
  uint64_t rounds = messages > 0 ? (messages + protocol->depth - 1) / protocol->depth : UINT64_MAX;
  size_t active = 0;

  result->start_ns = now;
  for (; active < load_options.connections && rounds > 0; active++, rounds--)
    start_round(&peers[active], load_now_ns());
  while (active > 0) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(epoll_fd, events, EVENTS_MAX, ANSWER_MAX_MS);
    if (count < 0 && errno != EINTR) load_die("epoll_wait: %s", strerror(errno));
    if (count == 0) load_die("no answer for %d ms", ANSWER_MAX_MS);
    for (int i = 0; i < count; i++) {
      struct load_peer *peer = events[i].data.ptr;
      if (peer->is_blocked) send_more(peer);
      if (!receive(peer, result, &now)) continue;
      if (now < stop_ns && rounds > 0) {
        rounds--;
        start_round(peer, now);
      } else {
        active--;
      }
    }
  }
  result->end_ns = now;
}

static void print_result(const struct result *result) {
  double seconds = (double)(result->end_ns - result->start_ns) / 1e9, messages = (double)result->messages;
  printf("{\"messages\":%llu,\"seconds\":%.6f,\"rate\":%.1f,\"connections\":%lu,\"depth\":%lu,\"answer_bytes\":%.1f,"
         "\"p50_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f,\"max_us\":%.2f}\n",
         (unsigned long long)result->messages, seconds, messages / seconds, load_options.connections, protocol->depth,
         (double)result->bytes / messages, hist_quantile_us(result, 0.5), hist_quantile_us(result, 0.99),
         hist_quantile_us(result, 0.999), (double)result->max_ns / 1000);
  fflush(stdout);
}

void load_say_ready(void) {
  puts("ready");
  fflush(stdout);
}

void load_run(const struct load_protocol *wanted) {
  static struct result result;
  char line[16];

  protocol = wanted;
  connect_peers();
  if (load_options.warmup > 0) run(load_options.warmup, 0, &result);
  if (!load_options.is_gated) {
    run(load_options.seconds, load_options.messages, &result);
    print_result(&result);
    return;
  }
  load_say_ready();
  while (fgets(line, sizeof(line), stdin) != NULL) {
    run(load_options.seconds, load_options.messages, &result);
    print_result(&result);
  }
}

/* Options */

unsigned long load_number(const char *text, unsigned long min, unsigned long max) {
  char *end;
  errno = 0;
  unsigned long value = strtoul(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || value < min || value > max)
    load_die("%s is not a number from %lu to %lu", text, min, max);
  return value;
}

static double duration(const char *text) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= 0 && value <= 3600))
    load_die("%s is not a time from 0 to 3600 seconds", text);
  return value;
}

static _Noreturn void show(const char *usage) {
  fprintf(stderr, "usage: %s\n", usage);
  exit(2);
}

int load_next_option(int argc, char **argv, const struct option *own, const char *usage) {
  static const struct option shared[] = {
      {"port", required_argument, NULL, 'p'},    {"connections", required_argument, NULL, 'c'},
      {"seconds", required_argument, NULL, 't'}, {"messages", required_argument, NULL, 'm'},
      {"warmup", required_argument, NULL, 'w'},  {"gate", no_argument, NULL, 'g'},
  };
  enum { SHARED = sizeof(shared) / sizeof(shared[0]), OWN_MAX = 8 };
  static struct option all[SHARED + OWN_MAX + 1]; /* ends with a zero */
  memcpy(all, shared, sizeof(shared));
  for (size_t i = 0; i < OWN_MAX && own[i].name != NULL; i++) all[SHARED + i] = own[i];
  int name;
  while ((name = getopt_long(argc, argv, "", all, NULL)) != -1) {
    switch (name) {
    case 'p': load_options.port = load_number(optarg, 1, 65535); break;
    case 'c': load_options.connections = load_number(optarg, 1, 19000); break;
    case 't': load_options.seconds = duration(optarg); break;
    case 'm': load_options.messages = load_number(optarg, 1, 1000000000); break;
    case 'w': load_options.warmup = duration(optarg); break;
    case 'g': load_options.is_gated = true; break;
    case '?': show(usage);
    default: return name;
    }
  }
  if (load_options.port == 0 || optind != argc) show(usage);
  return -1;
}
