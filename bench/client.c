/* The load: one thread, one epoll, closed loop. Each connection sends one message of `size` bytes and sends the next
 * when the whole echo is back and compared. Nothing is under way when a run starts, and nothing when it ends, so
 * whatever the server used in between it used for exactly the messages that are reported.
 *
 * --gate   print "ready" when connected and warm, run at each line on stdin, print one JSON line for each run, and hold
 *          the connections until stdin closes: the caller reads the server's counters between the two.
 * --idle N open N connections that never send, print "ready", hold them until stdin closes. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  PATTERN_SPREAD = 4096, /* messages start at different bytes of one pattern, so a mixed-up echo shows */
  SIZE_LIMIT = 16 << 20,
  READ_MAX = 262144,
  EVENTS_MAX = 256,
  ANSWER_MAX_MS = 10000,
  SOURCES = 8,   /* loopback addresses the idle connections come from: ports are 28,000 for each */
  HIST_SUB = 32, /* buckets an octave: 3 % wide */
  HIST_COUNT = 60 * HIST_SUB
};

struct options {
  unsigned long port, connections, size, messages, idle;
  double seconds, warmup;
  bool gate;
};

struct peer {
  int fd;
  bool is_blocked; /* watched for EPOLLOUT too */
  uint32_t offset; /* of this message in the pattern */
  size_t sent, got;
  uint64_t start_ns;
};

struct result {
  uint64_t messages, start_ns, end_ns, max_ns;
  uint64_t hist[HIST_COUNT];
};

static struct options opt = {.connections = 64, .size = 64, .seconds = 1};
static struct peer *peers;
static unsigned char *pattern;
static unsigned char input[READ_MAX];
static int epoll_fd;

__attribute__((format(printf, 1, 2))) static _Noreturn void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("client: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
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

static int connect_from(uint32_t source) {
  int one = 1;
  struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(source)}};
  struct sockaddr_in to = {
      .sin_family = AF_INET, .sin_port = htons((in_port_t)opt.port), .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket: %s", strerror(errno));
  /* the port is chosen by connect, which may reuse one that another destination has */
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  if (bind(fd, (struct sockaddr *)&from, sizeof(from)) != 0) die("bind: %s", strerror(errno));
  if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0)
    die("connect to 127.0.0.1:%lu: %s", opt.port, strerror(errno));
  return fd;
}

static void watch(int op, struct peer *peer, unsigned int events) {
  struct epoll_event ev = {.events = events, .data = {.ptr = peer}};
  if (epoll_ctl(epoll_fd, op, peer->fd, &ev) != 0) die("epoll_ctl: %s", strerror(errno));
}

static void connect_peers(void) {
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  peers = calloc(opt.connections, sizeof(*peers));
  pattern = malloc(opt.size + PATTERN_SPREAD);
  if (epoll_fd < 0 || peers == NULL || pattern == NULL) die("no memory for %lu connections", opt.connections);
  uint32_t random = 2463534242u; /* xorshift: the same bytes in every run */
  for (size_t i = 0; i < opt.size + PATTERN_SPREAD; i++) {
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    pattern[i] = (unsigned char)(random >> 24);
  }
  for (size_t i = 0; i < opt.connections; i++) {
    struct peer *peer = &peers[i];
    peer->fd = connect_from(INADDR_LOOPBACK);
    peer->offset = (uint32_t)(i * 61 % PATTERN_SPREAD);
    if (fcntl(peer->fd, F_SETFL, O_NONBLOCK) != 0) die("fcntl: %s", strerror(errno));
    watch(EPOLL_CTL_ADD, peer, EPOLLIN);
  }
}

/* One message */

static void send_more(struct peer *peer) {
  ssize_t put = send(peer->fd, pattern + peer->offset + peer->sent, opt.size - peer->sent, MSG_NOSIGNAL);
  if (put < 0 && errno != EAGAIN) die("send: %s", strerror(errno));
  if (put > 0) peer->sent += (size_t)put;
  bool is_blocked = peer->sent < opt.size;
  if (is_blocked != peer->is_blocked) {
    peer->is_blocked = is_blocked;
    watch(EPOLL_CTL_MOD, peer, is_blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
  }
}

static void start_message(struct peer *peer, uint64_t now) {
  peer->offset = (peer->offset + 17) % PATTERN_SPREAD;
  peer->sent = 0;
  peer->got = 0;
  peer->start_ns = now;
  send_more(peer);
}

/* true when the whole echo is there */
static bool receive(struct peer *peer) {
  ssize_t got = recv(peer->fd, input, sizeof(input), 0);
  if (got < 0 && errno == EAGAIN) return false;
  if (got < 0) die("recv: %s", strerror(errno));
  if (got == 0) die("the server closed a connection in the middle of a run");
  if ((size_t)got > peer->sent - peer->got) die("the server sent more than it was sent");
  if (memcmp(input, pattern + peer->offset + peer->got, (size_t)got) != 0) die("the echo differs from what was sent");
  peer->got += (size_t)got;
  return peer->got == opt.size;
}

static void record(struct result *result, uint64_t ns) {
  result->messages++;
  result->hist[hist_bucket(ns)]++;
  if (ns > result->max_ns) result->max_ns = ns;
}

/* Runs for `seconds`, or until `messages` (when not 0) have been sent. */
static void run(double seconds, uint64_t messages, struct result *result) {
  memset(result, 0, sizeof(*result));
  uint64_t now = now_ns();
  uint64_t stop_ns = messages > 0 ? UINT64_MAX : now + (uint64_t)(seconds * 1e9);
  uint64_t left = messages > 0 ? messages : UINT64_MAX;
  size_t active = 0;

  result->start_ns = now;
  for (; active < opt.connections && left > 0; active++, left--) start_message(&peers[active], now_ns());
  while (active > 0) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(epoll_fd, events, EVENTS_MAX, ANSWER_MAX_MS);
    if (count < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
    if (count == 0) die("no answer for %d ms", ANSWER_MAX_MS);
    for (int i = 0; i < count; i++) {
      struct peer *peer = events[i].data.ptr;
      if (peer->is_blocked) send_more(peer);
      if (!receive(peer)) continue;
      now = now_ns();
      record(result, now - peer->start_ns);
      if (now < stop_ns && left > 0) {
        left--;
        start_message(peer, now);
      } else {
        active--;
      }
    }
  }
  result->end_ns = now;
}

static void print_result(const struct result *result) {
  double seconds = (double)(result->end_ns - result->start_ns) / 1e9;
  printf("{\"messages\":%llu,\"seconds\":%.6f,\"rate\":%.1f,\"size\":%lu,\"connections\":%lu,"
         "\"p50_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f,\"max_us\":%.2f}\n",
         (unsigned long long)result->messages, seconds, (double)result->messages / seconds, opt.size, opt.connections,
         hist_quantile_us(result, 0.5), hist_quantile_us(result, 0.99), hist_quantile_us(result, 0.999),
         (double)result->max_ns / 1000);
  fflush(stdout);
}

static void say_ready(void) {
  puts("ready");
  fflush(stdout);
}

static void run_load(void) {
  static struct result result;
  char line[16];

  connect_peers();
  if (opt.warmup > 0) run(opt.warmup, 0, &result);
  if (!opt.gate) {
    run(opt.seconds, opt.messages, &result);
    print_result(&result);
    return;
  }
  say_ready();
  while (fgets(line, sizeof(line), stdin) != NULL) {
    run(opt.seconds, opt.messages, &result);
    print_result(&result);
  }
}

static void hold_idle(void) {
  for (unsigned long i = 0; i < opt.idle; i++)
    connect_from((uint32_t)(INADDR_LOOPBACK + i % SOURCES)); /* closed by exit */
  say_ready();
  while (getchar() != EOF)
    ;
}

/* Options */

static _Noreturn void usage(void) {
  fputs("usage: client --port N [--connections 64] [--size BYTES] [--seconds S | --messages N]\n"
        "              [--warmup S] [--gate]\n"
        "       client --port N --idle N\n",
        stderr);
  exit(2);
}

static unsigned long number(const char *text, unsigned long min, unsigned long max) {
  char *end;
  errno = 0;
  unsigned long value = strtoul(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || value < min || value > max)
    die("%s is not a number from %lu to %lu", text, min, max);
  return value;
}

static double duration(const char *text) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= 0 && value <= 3600))
    die("%s is not a time from 0 to 3600 seconds", text);
  return value;
}

static void parse(int argc, char **argv) {
  static const struct option names[] = {
      {"port", required_argument, NULL, 'p'},
      {"connections", required_argument, NULL, 'c'},
      {"size", required_argument, NULL, 's'},
      {"seconds", required_argument, NULL, 't'},
      {"messages", required_argument, NULL, 'm'},
      {"warmup", required_argument, NULL, 'w'},
      {"gate", no_argument, NULL, 'g'},
      {"idle", required_argument, NULL, 'i'},
      {NULL, 0, NULL, 0},
  };
  int name;
  while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
    switch (name) {
    case 'p': opt.port = number(optarg, 1, 65535); break;
    case 'c': opt.connections = number(optarg, 1, 19000); break;
    case 's': opt.size = number(optarg, 1, SIZE_LIMIT); break;
    case 't': opt.seconds = duration(optarg); break;
    case 'm': opt.messages = number(optarg, 1, 1000000000); break;
    case 'w': opt.warmup = duration(optarg); break;
    case 'g': opt.gate = true; break;
    case 'i': opt.idle = number(optarg, 1, 100000); break;
    default: usage();
    }
  }
  if (opt.port == 0 || optind != argc) usage();
}

int main(int argc, char **argv) {
  parse(argc, argv);
  if (opt.idle > 0)
    hold_idle();
  else
    run_load();
  return 0;
}
