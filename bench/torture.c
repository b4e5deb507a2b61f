/* Torture: starts `bin/rille run bench/torture.lua` and treats it as badly as TCP allows from many threads: storms of short
 * connections, half-closes, resets, readers that stall, writers that trickle. What the handler promises (see there) is
 * checked byte by byte; at the end the server must have closed each connection once and hold nothing.
 *
 *   torture [seconds [seed [threads]]]     a failure prints the seed */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PERIOD = 251, PIECE = 1 << 16, THREADS_MAX = 256, STALL_MS = 20000 };

static unsigned seed = 1;
static uint16_t port;
static double ends;
static atomic_uint failures, connections;
static uint8_t pattern[PIECE + PERIOD];

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void __attribute__((format(printf, 1, 2))) fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  if (atomic_fetch_add(&failures, 1) < 20) {
    char text[512];
    vsnprintf(text, sizeof text, format, arguments);
    fprintf(stderr, "torture: seed %u: %s\n", seed, text);
  }
  va_end(arguments);
}

static uint32_t roll(uint64_t *state, uint32_t below) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(*state >> 33) % below;
}

static int open_connection(uint64_t *state) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  if (roll(state, 3) == 0) {
    int size = 4096;
    setsockopt(fd, SOL_SOCKET, roll(state, 2) ? SO_RCVBUF : SO_SNDBUF, &size, sizeof size);
  }
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) {
    atomic_fetch_add(&connections, 1);
    return fd;
  }
  close(fd);
  return -1;
}

static void reset(int fd) {
  struct linger now_ = {.l_onoff = 1};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now_, sizeof now_);
}

/* Send n bytes of the pattern (from byte 0 on) and, with it, whatever comes back is checked and counted; half-close when all is
 * sent. The bytes that came until the server's end, or -1. */
static int64_t exchange(int fd, uint64_t *state, char mode, size_t n, bool half_closes) {
  size_t sent = 0;
  int64_t got = 0;
  bool sending = true;
  uint8_t buffer[PIECE];
  for (;;) {
    if (sending && sent == n) {
      if (half_closes) shutdown(fd, SHUT_WR);
      sending = false;
    }
    struct pollfd p = {.fd = fd, .events = (short)(POLLIN | (sending ? POLLOUT : 0))};
    int ready = poll(&p, 1, STALL_MS);
    if (ready == 0) {
      fail("mode %c: nothing for %d s: sent %zu of %zu, got %lld", mode, STALL_MS / 1000, sent, n, (long long)got);
      return -1;
    }
    if (p.revents & POLLOUT && sending) {
      size_t size = 1 + roll(state, roll(state, 3) ? PIECE : 10);
      if (size > n - sent) size = n - sent;
      ssize_t k = send(fd, pattern + sent % PERIOD, size, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (k > 0) sent += (size_t)k;
      else if (errno != EAGAIN) {
        fail("mode %c: send: %s at %zu of %zu", mode, strerror(errno), sent, n);
        return -1;
      }
      if (roll(state, 50) == 0) usleep(roll(state, 2000));
    }
    if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
      ssize_t k = recv(fd, buffer, 1 + roll(state, PIECE), MSG_DONTWAIT);
      if (k == 0) return got;
      if (k < 0 && errno == EAGAIN) continue;
      if (k < 0) {
        fail("mode %c: receive: %s, sent %zu of %zu, got %lld", mode, strerror(errno), sent, n, (long long)got);
        return -1;
      }
      if (mode != 'S' && memcmp(buffer, pattern + got % PERIOD, (size_t)k) != 0) {
        fail("mode %c: wrong bytes at %lld", mode, (long long)got);
        return -1;
      }
      got += k;
      if (mode == 'S' && got == 3 && half_closes) return got;
      if (roll(state, 50) == 0) usleep(roll(state, 2000));
    }
  }
}

static size_t size_of(uint64_t *state) { return roll(state, 1u << (4 + roll(state, 16))); }

static void promise(int fd, uint64_t *state, char mode) {
  size_t n = size_of(state);
  char head[32];
  int length = snprintf(head, sizeof head, "%c%zu\n", mode, n);
  if (send(fd, head, (size_t)length, MSG_NOSIGNAL) != length) {
    fail("mode %c: cannot send the first line: %s", mode, strerror(errno));
    return;
  }
  if (mode == 'C') {
    for (size_t sent = 0; sent < n;) {
      size_t size = 1 + roll(state, PIECE);
      ssize_t k = send(fd, pattern + sent % PERIOD, size < n - sent ? size : n - sent, MSG_NOSIGNAL);
      if (k < 0) {
        fail("mode C: send: %s at %zu of %zu", strerror(errno), sent, n);
        return;
      }
      sent += (size_t)k;
      if (roll(state, 50) == 0) usleep(roll(state, 1000));
    }
  } else if (mode == 'R') {
    /* what the server does not read must not cost a byte of what it sends */
    if (send(fd, pattern, 1 + roll(state, PIECE), MSG_NOSIGNAL) < 0) fail("mode R: send: %s", strerror(errno));
    int64_t got = exchange(fd, state, mode, 0, roll(state, 2));
    if (got >= 0 && (size_t)got != n) fail("mode R: %lld bytes of %zu", (long long)got, n);
  } else if (mode == 'S') {
    if (n == 0) return;
    int64_t got = exchange(fd, state, mode, n, true);
    if (got >= 0 && got != 3) fail("mode S: %lld bytes for OK", (long long)got);
  } else {
    int64_t got = exchange(fd, state, mode, n, true);
    if (got >= 0 && (size_t)got != n) fail("mode E: %lld bytes of %zu", (long long)got, n);
  }
}

static void chaos(int fd, uint64_t *state) {
  uint8_t buffer[PIECE];
  if (roll(state, 10) == 0) return; /* not even a first line ... */
  if (send(fd, "X1\n", 3, MSG_NOSIGNAL) != 3) return;
  for (uint32_t left = roll(state, 12); left > 0; left--) {
    switch (roll(state, 7)) {
    case 0:
    case 1:
    case 2: {
      size_t size = 1 + roll(state, 1u << roll(state, 17));
      for (size_t i = 0; i < size; i++) buffer[i] = "xab\r\n"[roll(state, 5)];
      (void)!send(fd, buffer, size, MSG_NOSIGNAL | MSG_DONTWAIT);
      break;
    }
    case 3:
    case 4: (void)!recv(fd, buffer, sizeof buffer, MSG_DONTWAIT); break;
    case 5: usleep(roll(state, 3000)); break;
    default:
      if (roll(state, 3) == 0) shutdown(fd, roll(state, 3) ? SHUT_WR : SHUT_RDWR);
    }
  }
  if (roll(state, 3) == 0) reset(fd);
}

static void *client(void *arg) {
  uint64_t state = (uint64_t)seed * 1000003u + (uint64_t)(uintptr_t)arg * 7919u;
  static const char modes[] = "SCERXXXX";
  while (now() < ends && atomic_load(&failures) < 20) {
    char mode = modes[roll(&state, sizeof modes - 1)];
    int fd = open_connection(&state);
    if (fd < 0) {
      usleep(1000);
      continue;
    }
    if (mode == 'X') chaos(fd, &state);
    else promise(fd, &state, mode);
    close(fd);
  }
  return NULL;
}

/* ---- the server ---- */

static char *read_log(int fd) {
  off_t size = lseek(fd, 0, SEEK_END);
  char *text = calloc(1, (size_t)size + 1);
  if (text && pread(fd, text, (size_t)size, 0) < 0) text[0] = '\0';
  return text;
}

static pid_t start_server(int log) {
  char option[32];
  snprintf(option, sizeof option, "seed=%u", seed);
  pid_t pid = fork();
  if (pid == 0) {
    dup2(log, 1);
    dup2(log, 2);
    execl("bin/rille", "bin/rille", "run", "bench/torture.lua", "--listen", "tcp://127.0.0.1:0", "--", option,
          (char *)NULL);
    _exit(127);
  }
  for (double until = now() + 20; pid > 0 && now() < until; usleep(10000)) {
    char *text = read_log(log), *at = text ? strstr(text, "tcp://127.0.0.1:") : NULL;
    if (at) port = (uint16_t)atoi(at + strlen("tcp://127.0.0.1:"));
    free(text);
    if (port || waitpid(pid, NULL, WNOHANG) == pid) break;
  }
  return pid;
}

static void judge(int log, int status) {
  char *text = read_log(log), *save = NULL;
  unsigned accepted = 0, opened = 0, closed = 0, left = 0, failed = 0, turns = 0;
  bool has_summary = false, is_clean = false;
  for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
    char *at = strstr(line, "torture: accepted");
    if (at) {
      has_summary = sscanf(at, "torture: accepted %u opened %u closed %u connections %u failures %u turns %u",
                           &accepted, &opened, &closed, &left, &failed, &turns) == 6;
    }
    if (strstr(line, "stopped: 0 blocks, 0 retained slices, 0 leaked slices, 0 buffers left")) is_clean = true;
    else if (strstr(line, "stopped: ")) fail("%s", line);
    if ((strstr(line, "level=error") && !strstr(line, "chaos")) || strstr(line, "Sanitizer") ||
        strstr(line, "runtime error")) {
      fail("%s", line);
    }
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail("the server ended with status %#x", status);
  if (!has_summary) fail("the server wrote no summary");
  else if (accepted != closed || left || failed) {
    fail("accepted %u, closed %u, %u connections left, %u failures of the dispatcher", accepted, closed, left, failed);
  }
  if (has_summary && turns > 100) fail("%u turns in 0.2 s without work", turns);
  if (!is_clean) fail("blocks, slices or buffers are left");
  printf("torture: seed %u: %u connections, %u served; %s\n", seed, atomic_load(&connections), accepted,
         atomic_load(&failures) ? "FAILED" : "nothing left, no byte lost");
  free(text);
}

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 10;
  seed = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : (unsigned)time(NULL);
  int threads = argc > 3 ? atoi(argv[3]) : 32;
  if (threads < 1 || threads > THREADS_MAX) threads = 32;
  for (size_t i = 0; i < sizeof pattern; i++) pattern[i] = (uint8_t)(i % PERIOD);
  char path[] = "/tmp/rille-torture-XXXXXX";
  int log = mkstemp(path);
  pid_t server = log < 0 ? -1 : start_server(log);
  if (server <= 0 || !port) {
    char *text = log < 0 ? NULL : read_log(log);
    fprintf(stderr, "torture: the server does not start\n%s", text ? text : "");
    return 1;
  }
  ends = now() + seconds;
  pthread_t ids[THREADS_MAX];
  for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, client, (void *)(uintptr_t)(i + 1));
  for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
  usleep(1500000); /* every time-out of an X connection is over then */
  kill(server, SIGTERM);
  int status = 0;
  pid_t ended = 0;
  for (double until = now() + 40; now() < until && (ended = waitpid(server, &status, WNOHANG)) == 0;) usleep(10000);
  if (ended == 0) {
    fail("the server does not stop");
    kill(server, SIGKILL);
    waitpid(server, &status, 0);
  }
  judge(log, status);
  if (atomic_load(&failures)) fprintf(stderr, "torture: the server's log is %s\n", path);
  else unlink(path);
  return atomic_load(&failures) ? 1 : 0;
}
