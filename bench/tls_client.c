/* The load for TLS, over several connections at once (a closed loop). Either handshakes: connect, agree, part with close_notify, and again;
 * or bulk: one GET after the other over connections that stay. It trusts any certificate: what is measured is the server.
 *
 *   tls_client --port N [--kind full|resumed|bulk] [--version 1.2|1.3] [--path /] [--connections 64] [--seconds S] [--gate] */
#include "load.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS_MAX = 256, SAMPLES_MAX = 1 << 20 };

enum phase { SHAKING, PARTING, ASKING };

struct line {
  int fd;
  SSL *ssl;
  enum phase phase;
  uint64_t start_ns;
  size_t left; /* of the answer's body; SIZE_MAX: its head is not there */
  char head[1024];
  size_t head_size;
};

static struct line *lines;
static int epoll_fd;
static SSL_CTX *context;
static SSL_SESSION *session; /* that every connection resumes, or NULL */
static const char *kind = "full", *path = "/";
static char request[512];
static bool is_bulk, is_ending, is_resuming;
static float *samples_us;
static size_t count;
static double answer_bytes;

static int compare(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static _Noreturn void die(const char *what) {
  load_die("%s: %s", what, ERR_reason_error_string(ERR_peek_last_error()));
}

static void note(struct line *line) {
  uint64_t now = load_now_ns();
  if (count < SAMPLES_MAX) samples_us[count] = (float)(now - line->start_ns) / 1000;
  count++;
  line->start_ns = now;
}

/* ---- one connection -------------------------------------------------------------------------------------------- */

static void begin(struct line *line) {
  line->start_ns = load_now_ns();
  line->fd = load_connect(0x7f000001u);
  if (fcntl(line->fd, F_SETFL, O_NONBLOCK) != 0) load_die("fcntl: %s", strerror(errno));
  line->ssl = SSL_new(context);
  if (line->ssl == NULL || SSL_set_fd(line->ssl, line->fd) != 1) load_die("no memory");
  SSL_set_tlsext_host_name(line->ssl, "localhost");
  if (is_resuming) {
    SSL_SESSION *copy = SSL_SESSION_dup(session);
    SSL_set_session(line->ssl, copy);
    SSL_SESSION_free(copy);
  }
  SSL_set_connect_state(line->ssl);
  line->phase = SHAKING;
  struct epoll_event ev = {.events = EPOLLIN, .data = {.ptr = line}};
  if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, line->fd, &ev) != 0) load_die("epoll_ctl: %s", strerror(errno));
}

/* With RST, or the ports would be used up. */
static void end(struct line *line) {
  struct linger reset = {.l_onoff = 1, .l_linger = 0};
  SSL_free(line->ssl);
  setsockopt(line->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
  close(line->fd);
  line->ssl = NULL;
}

static void ask(struct line *line) {
  line->phase = ASKING;
  line->left = SIZE_MAX;
  line->head_size = 0;
  line->start_ns = load_now_ns();
  if (SSL_write(line->ssl, request, (int)strlen(request)) <= 0) die("write");
}

/* How much of these bytes is body. */
static size_t take_head(struct line *line, const char *bytes, size_t size) {
  size_t room = sizeof(line->head) - 1 - line->head_size, n = size < room ? size : room;
  memcpy(line->head + line->head_size, bytes, n);
  line->head[line->head_size + n] = '\0';
  const char *over = strstr(line->head, "\r\n\r\n"), *length = strcasestr(line->head, "\r\nContent-Length:");
  if (over == NULL) {
    line->head_size += n;
    if (line->head_size == sizeof(line->head) - 1) load_die("the head of an answer is too long");
    return 0;
  }
  if (strncmp(line->head, "HTTP/1.1 200", 12) != 0 || length == NULL) load_die("an odd answer: %.60s", line->head);
  line->left = strtoul(length + 17, NULL, 10);
  answer_bytes = (double)line->left;
  return size - ((size_t)(over + 4 - line->head) - line->head_size);
}

static void take(struct line *line, const char *bytes, size_t size) {
  if (line->left == SIZE_MAX) size = take_head(line, bytes, size);
  if (line->left == SIZE_MAX) return;
  if (size > line->left) load_die("more bytes came than the answer has");
  line->left -= size;
  if (line->left > 0) return;
  note(line);
  line->left = SIZE_MAX;
  if (is_ending) line->phase = PARTING;
  else ask(line);
}

/* Whether it is still there. */
static bool read_on(struct line *line) {
  static char bytes[65536];
  for (;;) {
    int got = SSL_read(line->ssl, bytes, sizeof(bytes));
    if (got > 0 && line->phase == ASKING) {
      take(line, bytes, (size_t)got);
      continue;
    }
    if (got > 0) load_die("bytes that nobody asked for");
    int why = SSL_get_error(line->ssl, got);
    if (why == SSL_ERROR_WANT_READ) return true;
    if (line->phase == ASKING || (why != SSL_ERROR_ZERO_RETURN && why != SSL_ERROR_SYSCALL && why != SSL_ERROR_SSL))
      die("read");
    ERR_clear_error();
    return false;
  }
}

/* Agree, if that is not done. False: it waits for the server. */
static bool shake(struct line *line) {
  if (line->phase != SHAKING) return true;
  int rc = SSL_do_handshake(line->ssl);
  if (rc != 1) {
    if (SSL_get_error(line->ssl, rc) != SSL_ERROR_WANT_READ) die("handshake");
    return false;
  }
  if (is_resuming && !SSL_session_reused(line->ssl)) load_die("the session was not resumed");
  if (is_bulk) {
    ask(line);
  } else {
    line->phase = PARTING;
    SSL_shutdown(line->ssl);
  }
  return true;
}

/* As far as it goes: the server may be as fast as this. */
static void go_on(struct line *line) {
  while (shake(line) && !read_on(line)) {
    note(line);
    end(line);
    if (is_ending) return;
    begin(line);
  }
}

/* ---- runs ------------------------------------------------------------------------------------------------------ */

static size_t live(void) {
  size_t n = 0;
  for (size_t i = 0; i < load_options.connections; i++)
    n += lines[i].ssl != NULL && (!is_bulk || lines[i].phase != PARTING);
  return n;
}

static void turn(void) {
  struct epoll_event events[EVENTS_MAX];
  int n = epoll_wait(epoll_fd, events, EVENTS_MAX, 5000);
  if (n == 0) load_die("nothing came for 5 seconds");
  for (int i = 0; i < n; i++) go_on(events[i].data.ptr);
}

static double run(double seconds) {
  uint64_t start = load_now_ns(), until = start + (uint64_t)(seconds * 1e9);
  count = 0;
  is_ending = false;
  for (size_t i = 0; i < load_options.connections; i++) {
    if (!is_bulk || lines[i].ssl == NULL) begin(&lines[i]);
    else ask(&lines[i]);
    go_on(&lines[i]);
  }
  while (load_now_ns() < until) turn();
  is_ending = true;
  while (live() > 0) turn();
  return (double)(load_now_ns() - start) / 1e9;
}

static void print_result(double seconds) {
  size_t n = count < SAMPLES_MAX ? count : SAMPLES_MAX;
  if (n == 0) load_die("nothing was done");
  qsort(samples_us, n, sizeof(*samples_us), compare);
  printf("{\"messages\":%zu,\"seconds\":%.6f,\"rate\":%.1f,\"answer_bytes\":%.0f,\"p50_us\":%.2f,\"p99_us\":%.2f,"
         "\"p999_us\":%.2f,\"max_us\":%.2f}\n",
         count, seconds, (double)count / seconds, answer_bytes, samples_us[n / 2], samples_us[n * 99 / 100],
         samples_us[n * 999 / 1000], samples_us[n - 1]);
  fflush(stdout);
}

static int keep_session(SSL *ssl, SSL_SESSION *one) {
  (void)ssl;
  if (session != NULL) return 0;
  session = SSL_SESSION_dup(one); /* the connection's own is spoiled when that breaks off */
  return 0;
}

/* One connection, which asks for something: the tickets come before the answer. */
static void get_session(void) {
  bool was_bulk = is_bulk;
  unsigned long connections = load_options.connections;
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context, keep_session);
  is_bulk = true;
  load_options.connections = 1;
  run(0);
  if (session == NULL) load_die("the server gave no session");
  SSL_CTX_sess_set_new_cb(context, NULL);
  end(&lines[0]);
  is_bulk = was_bulk;
  is_resuming = true;
  load_options.connections = connections;
}

int main(int argc, char **argv) {
  static const char usage[] =
      "tls_client --port N [--kind full|resumed|bulk] [--version 1.2|1.3] [--path /] " LOAD_USAGE;
  static const struct option own[] = {{"kind", required_argument, NULL, 'K'},
                                      {"version", required_argument, NULL, 'V'},
                                      {"path", required_argument, NULL, 'P'},
                                      {0}};
  int version = TLS1_3_VERSION;
  char line[16];
  for (int name; (name = load_next_option(argc, argv, own, usage)) != -1;) {
    if (name == 'K') kind = optarg;
    else if (name == 'P') path = optarg;
    else if (strcmp(optarg, "1.2") == 0) version = TLS1_2_VERSION;
    else if (strcmp(optarg, "1.3") != 0) load_die("no version %s", optarg);
  }
  is_bulk = strcmp(kind, "bulk") == 0;
  snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
  context = SSL_CTX_new(TLS_client_method());
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  lines = calloc(load_options.connections, sizeof(*lines));
  samples_us = calloc(SAMPLES_MAX, sizeof(*samples_us));
  if (context == NULL || epoll_fd < 0 || lines == NULL || samples_us == NULL) load_die("no memory");
  SSL_CTX_set_min_proto_version(context, version);
  SSL_CTX_set_max_proto_version(context, version);
  SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256");
  SSL_CTX_set_cipher_list(context, "ECDHE+AES128+AESGCM");
  SSL_CTX_set1_groups_list(context, "X25519:P-256");
  if (strcmp(kind, "resumed") == 0) get_session();
  if (load_options.warmup > 0) run(load_options.warmup);
  if (!load_options.is_gated) {
    print_result(run(load_options.seconds));
    return 0;
  }
  load_say_ready();
  while (fgets(line, sizeof(line), stdin) != NULL) print_result(run(load_options.seconds));
  return 0;
}
