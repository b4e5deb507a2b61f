/*
 * control_socket: the clients of the control thread. A client sends one request, a line, gets one answer and is done; docs/control.md
 * describes them. Nobody is waited for: descriptors do not block, what loops have to say is looked for at each wake-up, and each step
 * of a client has its time.
 *
 * Clients come by the control socket, where they have to be of the same user or root, or from inside by rille_control_ask.
 */
#include "control.h"
#include "log.h"
#include "note.h"
#include "process_note.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
  WORDS_MAX = 8,
  CONNS_DEFAULT = 1000,
  CONNS_MAX = 10000,
  ANSWER_MS = 1000, /* for loops to answer; of those that do not, and of stalled ones, the last snapshot is shown */
  REQUEST_MS = 5000,
  WRITE_MS = 5000,
  CONSOLE_MS = 10000,
  CONSOLE_MAX_MS = 3600000,
  DEAF_MS = 100,         /* without accepting when descriptors have run out */
  CONSOLE_GRACE_MS = 500 /* for the loop itself to say that the time is over */
};

enum phase { FREE, READING, WAITING, WRITING };
enum command { STATUS, METRICS, CONNS, CONSOLE };

typedef struct client {
  enum phase phase;
  enum command command;
  int fd;
  rille_text in, out;
  size_t sent;
  uint64_t until_ns;
  uint32_t question;       /* of STATUS and METRICS */
  uint32_t limit;          /* of CONNS; 0: how many each generation has */
  rille_console *console;  /* a reference */
  rille_conn_list **lists; /* owned, references; by loop, NULL: it was not asked */
  uint32_t list_count;
} client;

/* control thread */
static client clients[RILLE_CONTROL_CLIENTS_MAX];
static client *polled[RILLE_CONTROL_POLLS_MAX]; /* by their place in the list for poll; not the first */
static uint32_t last_question;
static uint64_t deaf_until_ns; /* 0: it accepts */

/* ---- clients --------------------------------------------------------------------------------------------------- */

static void drop_lists(client *c) {
  for (uint32_t i = 0; i < c->list_count; i++) {
    if (c->lists[i]) rille_conn_list_release(c->lists[i]);
  }
  free(c->lists);
  c->lists = NULL;
  c->list_count = 0;
}

static void drop_client(client *c) {
  close(c->fd);
  rille_text_free(&c->in);
  rille_text_free(&c->out);
  if (c->console) rille_console_release(c->console);
  drop_lists(c);
  *c = (client){.phase = FREE};
}

static uint64_t in_ms(uint64_t ms) { return rille_now_ns() + ms * 1000000; }

static bool add_client(int fd) {
  for (int i = 0; i < RILLE_CONTROL_CLIENTS_MAX; i++) {
    if (clients[i].phase != FREE) continue;
    clients[i] = (client){.phase = READING, .fd = fd, .until_ns = in_ms(REQUEST_MS)};
    return true;
  }
  close(fd);
  return false;
}

static void write_some(client *c) {
  while (c->sent < c->out.size) {
    ssize_t n = send(c->fd, c->out.bytes + c->sent, c->out.size - c->sent, MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) break;
    c->sent += (size_t)n;
    c->until_ns = in_ms(WRITE_MS);
  }
  drop_client(c);
}

static void answer(client *c) {
  if (c->command != METRICS || c->out.failed) rille_text_add(&c->out, "\n", 1);
  if (c->out.failed) {
    drop_client(c);
    return;
  }
  c->phase = WRITING;
  c->until_ns = in_ms(WRITE_MS);
  write_some(c);
}

__attribute__((format(printf, 2, 3))) static void refuse(client *c, const char *format, ...) {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  rille_json_open(&c->out, NULL, '{');
  rille_json_string(&c->out, "error", message);
  rille_json_close(&c->out, '}');
  c->command = STATUS;
  answer(c);
}

/* ---- views ----------------------------------------------------------------------------------------------------- */

typedef struct gathering {
  rille_loop_view views[RILLE_LOOP_MAX];
  uint32_t count;
  uint32_t question;
  uint32_t missing;
} gathering;

static void view(rille_watched *w, void *to) {
  gathering *g = to;
  rille_loop_view *v = &g->views[g->count++];
  uint64_t now = rille_now_ns();
  uint64_t since = atomic_load_explicit(&w->loop->busy_since, memory_order_relaxed);
  *v = (rille_loop_view){.loop = w->loop};
  v->has_answered = (int32_t)(atomic_load(&w->loop->published.answers) - g->question) >= 0;
  v->snapshot = rille_snapshot_read(w->loop);
  v->is_stalled = rille_stall_is(w->loop, now) || (!v->has_answered && since != 0);
  if (v->is_stalled && now > since) v->busy_seconds = (double)(now - since) / 1e9;
  g->missing += !v->has_answered;
}

static void by_id(gathering *g) {
  for (uint32_t i = 1; i < g->count; i++) {
    for (uint32_t k = i; k > 0 && g->views[k].loop->id < g->views[k - 1].loop->id; k--) {
      rille_loop_view other = g->views[k];
      g->views[k] = g->views[k - 1];
      g->views[k - 1] = other;
    }
  }
}

static void count_missing(rille_watched *w, void *to) {
  gathering *g = to;
  bool has_answered = (int32_t)(atomic_load(&w->loop->published.answers) - g->question) >= 0;
  g->missing += !has_answered && !rille_stall_is(w->loop, rille_now_ns());
}

static void ask_for_snapshot(rille_watched *w, void *to) {
  (void)to;
  rille_snapshot_ask(w->loop, last_question); /* one whose mailbox is full is shown as it was */
}

/* ---- commands -------------------------------------------------------------------------------------------------- */

static void begin_survey(client *c, enum command command) {
  c->command = command;
  c->question = ++last_question;
  c->phase = WAITING;
  c->until_ns = in_ms(ANSWER_MS);
  rille_control_each(ask_for_snapshot, NULL);
}

typedef struct asking {
  client *c;
  uint32_t loop_id; /* 0: all */
  bool is_found;
  int err;
} asking;

static void ask_for_conns(rille_watched *w, void *to) {
  asking *a = to;
  a->c->lists[a->c->list_count++] = rille_conn_list_ask(w->loop, a->c->limit);
}

static void begin_conns(client *c, const char *word) {
  char *end = NULL;
  bool is_grouped = word && strcmp(word, "by=generation") == 0;
  unsigned long limit = word ? strtoul(word, &end, 10) : CONNS_DEFAULT;
  if (word && !is_grouped && (*end || limit < 1 || limit > CONNS_MAX)) {
    refuse(c, "conns: expected a number from 1 to %d, or by=generation", CONNS_MAX);
    return;
  }
  c->lists = calloc(RILLE_LOOP_MAX, sizeof(rille_conn_list *));
  if (!c->lists) {
    refuse(c, "no memory");
    return;
  }
  c->command = CONNS;
  c->limit = is_grouped ? 0 : (uint32_t)limit;
  c->phase = WAITING;
  c->until_ns = in_ms(ANSWER_MS);
  asking a = {.c = c};
  rille_control_each(ask_for_conns, &a);
}

static void send_console(rille_watched *w, void *to) {
  asking *a = to;
  if (w->loop->id != a->loop_id || a->is_found) return;
  a->is_found = true;
  a->err = rille_console_send(a->c->console, w->loop);
}

/* eval loop=1 timeout=10000 size=12 state=NAME, and behind the line the code */
static void begin_console(client *c, char **words, int count, const char *code, size_t there) {
  unsigned long loop_id = 1, timeout = CONSOLE_MS, size = 0;
  const char *state = "";
  for (int i = 1; i < count; i++) {
    if (strncmp(words[i], "loop=", 5) == 0) loop_id = strtoul(words[i] + 5, NULL, 10);
    else if (strncmp(words[i], "timeout=", 8) == 0) timeout = strtoul(words[i] + 8, NULL, 10);
    else if (strncmp(words[i], "size=", 5) == 0) size = strtoul(words[i] + 5, NULL, 10);
    else if (strncmp(words[i], "state=", 6) == 0) state = words[i] + 6;
  }
  if (size != there || timeout < 1 || timeout > CONSOLE_MAX_MS) {
    refuse(c, "eval: expected loop=N timeout=MS size=BYTES [state=NAME], and so many bytes of code on the next lines");
    return;
  }
  int err = RILLE_OK;
  c->console = rille_console_new(state, (double)timeout, code, size, &err);
  asking a = {.c = c, .loop_id = (uint32_t)loop_id, .err = err};
  if (c->console && loop_id == RILLE_LOOP_PRIVATE) {
    a.err = rille_note_console(c->console);
    a.is_found = true;
  }
  if (c->console) rille_control_each(send_console, &a);
  if (!c->console || a.err) refuse(c, "eval: %s", rille_err_text(a.err));
  else if (!a.is_found) refuse(c, "there is no loop %lu", loop_id);
  else {
    c->command = CONSOLE;
    c->phase = WAITING;
    c->until_ns = in_ms(timeout + CONSOLE_GRACE_MS);
  }
}

/* Whoever stops it stops all: the parent, where there are several processes. */
static void write_server(rille_text *t) {
  rille_json_count(t, "server", rille_process_is_child() ? getppid() : getpid());
}

static void say_hello(client *c) {
  rille_usage p;
  rille_usage_read(&p);
  rille_json_open(&c->out, NULL, '{');
  rille_json_count(&c->out, "pid", getpid());
  write_server(&c->out);
  rille_json_string(&c->out, "version", rille_version());
  rille_json_string(&c->out, "conf", p.conf);
  rille_json_close(&c->out, '}');
  answer(c);
}

static void begin_stop(client *c, bool now) {
  rille_json_open(&c->out, NULL, '{');
  rille_json_bool(&c->out, "stopping", true);
  rille_json_count(&c->out, "pid", getpid());
  write_server(&c->out);
  rille_json_close(&c->out, '}');
  rille_control_stop_loops(now);
  answer(c);
}

/* ---- requests -------------------------------------------------------------------------------------------------- */

static void run(client *c, char *line, const char *rest, size_t rest_size) {
  char *words[WORDS_MAX] = {0}, *next = NULL;
  int count = 0;
  for (char *word = strtok_r(line, " \r", &next); word && count < WORDS_MAX; word = strtok_r(NULL, " \r", &next)) {
    words[count++] = word;
  }
  const char *name = count > 0 ? words[0] : "";
  if (strcmp(name, "eval") == 0) begin_console(c, words, count, rest, rest_size);
  else if (strcmp(name, "status") == 0 && count == 1) begin_survey(c, STATUS);
  else if (strcmp(name, "metrics") == 0 && count == 1) begin_survey(c, METRICS);
  else if (strcmp(name, "conns") == 0 && count <= 2) begin_conns(c, words[1]);
  else if (strcmp(name, "hello") == 0 && count == 1) say_hello(c);
  else if (strcmp(name, "stop") == 0 && count == 1) begin_stop(c, false);
  else if (strcmp(name, "stop") == 0 && count == 2 && strcmp(words[1], "now") == 0) begin_stop(c, true);
  else refuse(c, "unknown request; there are hello, status, metrics, conns [N | by=generation], eval, stop [now]");
}

/* How many bytes follow the line: what eval says. */
static size_t announced(const char *line) {
  const char *at = strncmp(line, "eval ", 5) == 0 ? strstr(line, " size=") : NULL;
  return at ? strtoul(at + 6, NULL, 10) : 0;
}

static void parse(client *c, bool is_over) {
  const char *end = memchr(c->in.bytes, '\n', c->in.size);
  size_t line_size = end ? (size_t)(end - c->in.bytes) : c->in.size;
  if (line_size >= RILLE_CONTROL_LINE_MAX) {
    refuse(c, "the line is longer than %d bytes", RILLE_CONTROL_LINE_MAX - 1);
    return;
  }
  if (!end && !is_over) return;
  char line[RILLE_CONTROL_LINE_MAX];
  memcpy(line, c->in.bytes, line_size);
  line[line_size] = 0;
  size_t wanted = announced(line), there = end ? c->in.size - line_size - 1 : 0;
  if (wanted > RILLE_CONTROL_REQUEST_MAX) refuse(c, "the code is longer than %d bytes", RILLE_CONTROL_REQUEST_MAX);
  else if (there >= wanted || is_over) run(c, line, end ? end + 1 : "", there < wanted ? there : wanted);
}

static void read_some(client *c) {
  char bytes[4096];
  ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0 || (n == 0 && c->in.size == 0)) {
    drop_client(c);
    return;
  }
  rille_text_add(&c->in, bytes, (size_t)n);
  if (c->in.failed) drop_client(c);
  else parse(c, n == 0);
}

/* ---- what was waited for --------------------------------------------------------------------------------------- */

static void finish_survey(client *c, bool is_late) {
  static gathering g; /* the control thread's alone */
  g = (gathering){.question = c->question};
  rille_control_each(count_missing, &g);
  if (g.missing > 0 && !is_late) return;
  int health = rille_control_health();
  rille_watched *loops = rille_control_lock(); /* one that ends waits until it is written of */
  for (int i = 0; i < RILLE_LOOP_MAX; i++) {
    if (loops[i].loop) view(&loops[i], &g);
  }
  by_id(&g);
  if (c->command == METRICS) rille_exposition_write(&c->out, g.views, g.count, health);
  else rille_status_write(&c->out, g.views, g.count, health);
  rille_control_unlock();
  answer(c);
}

static void finish_conns(client *c, bool is_late) {
  uint32_t missing = 0, left = c->limit;
  double total = 0;
  for (uint32_t i = 0; i < c->list_count; i++) {
    missing += !c->lists[i] || !rille_conn_list_is_done(c->lists[i]);
  }
  if (missing > 0 && !is_late) return;
  rille_json_open(&c->out, NULL, '{');
  rille_json_open(&c->out, c->limit > 0 ? "connections" : "generations", '[');
  for (uint32_t i = 0; i < c->list_count; i++) {
    double count = 0;
    if (!c->lists[i] || !rille_conn_list_is_done(c->lists[i])) continue;
    if (c->limit > 0) left -= rille_conn_list_write(c->lists[i], &c->out, left, &count);
    else rille_conn_list_write_generations(c->lists[i], &c->out, &count);
    total += count;
  }
  rille_json_close(&c->out, ']');
  rille_json_count(&c->out, "total", total);
  rille_json_count(&c->out, "silent_loops", missing);
  rille_json_close(&c->out, '}');
  answer(c);
}

static void finish_console(client *c, bool is_late) {
  if (!rille_console_is_done(c->console)) {
    if (is_late) refuse(c, "the loop did not answer in time: it is busy, or the code does not end");
    return;
  }
  rille_console_write(c->console, &c->out);
  answer(c);
}

static void look_after(client *c, short events, uint64_t now_ns) {
  bool is_late = now_ns >= c->until_ns;
  if (c->phase == READING && events) read_some(c);
  else if (c->phase == WRITING && events) write_some(c);
  else if (c->phase == WAITING ? events & (POLLHUP | POLLERR) : is_late) drop_client(c);
  if (c->phase != WAITING) return;
  is_late = now_ns >= c->until_ns; /* which may have just begun to wait */
  if (c->command == CONNS) finish_conns(c, is_late);
  else if (c->command == CONSOLE) finish_console(c, is_late);
  else finish_survey(c, is_late);
}

/* ---- the control thread ---------------------------------------------------------------------------------------- */

static bool is_friend(int fd) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == 0 || peer.uid == geteuid();
}

static void accept_some(int fd) {
  for (int i = 0; i < RILLE_CONTROL_CLIENTS_MAX; i++) {
    int one = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (one < 0) {
      if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) deaf_until_ns = in_ms(DEAF_MS);
      return;
    }
    if (is_friend(one)) {
      if (!add_client(one)) return;
    } else {
      RILLE_LOG(RILLE_LOG_WARN, "control socket: a client of another user was refused");
      close(one);
    }
  }
}

static bool has_room(void) {
  for (int i = 0; i < RILLE_CONTROL_CLIENTS_MAX; i++) {
    if (clients[i].phase == FREE) return true;
  }
  return false;
}

static void sooner(uint64_t at_ns, uint64_t now_ns, int *timeout_ms) {
  uint64_t left_ms = at_ns > now_ns ? (at_ns - now_ns) / 1000000 + 1 : 0;
  if (*timeout_ms < 0 || left_ms < (uint64_t)*timeout_ms) *timeout_ms = (int)left_ms;
}

uint32_t rille_control_socket_polls(struct pollfd *polls, uint64_t now_ns, int *timeout_ms) {
  rille_control_door_admit(add_client);
  uint32_t count = 1; /* no more than needed: poll refuses a list longer than the process may have descriptors */
  if (deaf_until_ns <= now_ns) deaf_until_ns = 0;
  polls[0] = (struct pollfd){.fd = has_room() && !deaf_until_ns ? rille_control_door_fd() : -1, .events = POLLIN};
  if (deaf_until_ns) sooner(deaf_until_ns, now_ns, timeout_ms);
  for (int i = 0; i < RILLE_CONTROL_CLIENTS_MAX; i++) {
    const client *c = &clients[i];
    short events = c->phase == READING ? POLLIN : c->phase == WRITING ? POLLOUT : 0;
    if (c->phase == FREE) continue;
    polled[count] = &clients[i];
    polls[count++] = (struct pollfd){.fd = c->fd, .events = events};
    sooner(c->until_ns, now_ns, timeout_ms);
  }
  return count;
}

void rille_control_socket_serve(const struct pollfd *polls, uint32_t count) {
  uint64_t now = rille_now_ns();
  for (uint32_t i = 1; i < count; i++) look_after(polled[i], polls[i].revents, now);
  if (polls[0].revents) accept_some(polls[0].fd);
}

void rille_control_socket_close(void) {
  rille_control_door_admit(add_client);
  for (int i = 0; i < RILLE_CONTROL_CLIENTS_MAX; i++) {
    if (clients[i].phase == WRITING) write_some(&clients[i]); /* such as the answer to stop */
    if (clients[i].phase != FREE) drop_client(&clients[i]);
  }
  rille_control_door_close();
}
