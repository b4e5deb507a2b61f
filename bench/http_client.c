/* The load for HTTP/1.1: each connection sends `depth` requests in one piece and sends the next when all the answers
 * are back. See load.h for what it shares with the load for echo.
 *
 * Of every answer it checks the status, the Content-Length, that the body has this length, and that all bodies are
 * equally long; with --body each byte of it, with --json only that it begins and ends as an object does. */
#include "load.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HEAD_MAX = 4096, DEPTH_MAX = 1024, PATH_MAX_SIZE = 256 };

struct reader {
  size_t head_size; /* of a head whose end is not there yet */
  size_t body_at;   /* bytes of the body that came */
  bool is_in_body;
  char head[HEAD_MAX];
};

static struct load_protocol http = {.depth = 1};
static const char *path = "/", *body; /* body may be NULL */
static bool is_json;
static char *round_data;
static size_t round_size;
static struct reader *readers; /* one for each connection */
static size_t body_size;       /* of every answer, once known */
static bool is_body_size_known;
/* A server's heads are the same byte for byte until the second of their Date is over. */
static char last_head[HEAD_MAX];
static size_t last_head_size;

static void make_round(void) {
  char request[512 + PATH_MAX_SIZE];
  size_t size = (size_t)snprintf(request, sizeof(request),
                                 "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%lu\r\nUser-Agent: rille-bench/1.0\r\n"
                                 "Accept: text/html,application/json;q=0.9,*/*;q=0.8\r\n"
                                 "Accept-Encoding: gzip, deflate\r\n\r\n",
                                 path, load_options.port);
  round_size = size * http.depth;
  round_data = malloc(round_size);
  readers = calloc(load_options.connections, sizeof(*readers));
  if (round_data == NULL || readers == NULL) load_die("no memory for %lu connections", load_options.connections);
  for (size_t i = 0; i < http.depth; i++) memcpy(round_data + i * size, request, size);
}

static void start(struct load_peer *peer) {
  peer->data = (const unsigned char *)round_data;
  peer->size = round_size;
}

/* An answer's head */

static void check_length(const char *value, size_t size) {
  size_t length = 0, at = 0;
  while (at < size && (value[at] == ' ' || value[at] == '\t')) at++;
  if (at == size) load_die("Content-Length without a number");
  for (; at < size && value[at] >= '0' && value[at] <= '9'; at++) {
    length = length * 10 + (size_t)(value[at] - '0');
    if (length > 1 << 30) load_die("a body above 1 GiB");
  }
  while (at < size && (value[at] == ' ' || value[at] == '\t')) at++;
  if (at != size) load_die("Content-Length is not a number: %.*s", (int)size, value);
  if (is_body_size_known && length != body_size)
    load_die("a body of %zu bytes where %zu were expected", length, body_size);
  body_size = length;
  is_body_size_known = true;
}

static bool is_field(const char *line, size_t size, const char *name) {
  size_t name_size = strlen(name);
  return size > name_size && line[name_size] == ':' && strncasecmp(line, name, name_size) == 0;
}

/* size: with the empty line. */
static void check_head(const char *head, size_t size) {
  static const char good[] = "HTTP/1.1 200 ", length[] = "Content-Length";
  const char *end = head + size - 2, *line = head;
  unsigned int lengths = 0;
  if (size < sizeof(good) - 1 || memcmp(head, good, sizeof(good) - 1) != 0)
    load_die("not an answer with status 200: %.*s", (int)(size < 60 ? size : 60), head);
  while (line < end) {
    const char *next = memmem(line, (size_t)(end - line), "\r\n", 2);
    size_t line_size = (size_t)(next - line);
    if (is_field(line, line_size, length)) {
      lengths++;
      check_length(line + sizeof(length), line_size - sizeof(length));
    } else if (is_field(line, line_size, "Transfer-Encoding")) {
      load_die("an answer in chunks: only Content-Length is understood");
    } else if (is_field(line, line_size, "Connection") && memmem(line, line_size, "close", 5) != NULL) {
      load_die("the server wants to close the connection");
    }
    line = next + 2;
  }
  if (lengths != 1) load_die("an answer with %u Content-Length", lengths);
  memcpy(last_head, head, size);
  last_head_size = size;
}

/* Bytes of data that belong to the head; it may go on after them. */
static size_t take_head(struct reader *reader, const char *data, size_t size) {
  if (reader->head_size == 0 && last_head_size > 0 && size >= last_head_size &&
      memcmp(data, last_head, last_head_size) == 0) {
    reader->is_in_body = true;
    return last_head_size;
  }
  size_t kept = reader->head_size, room = HEAD_MAX - kept, part = size < room ? size : room;
  memcpy(reader->head + kept, data, part);
  const char *end = memmem(reader->head, kept + part, "\r\n\r\n", 4);
  if (end == NULL) {
    if (part == room) load_die("a head above %d bytes", HEAD_MAX);
    reader->head_size += part;
    return part;
  }
  size_t head_size = (size_t)(end - reader->head) + 4;
  check_head(reader->head, head_size);
  reader->head_size = 0;
  reader->is_in_body = true;
  return head_size - kept;
}

/* And its body */

static size_t take_body(struct reader *reader, const char *data, size_t size) {
  size_t left = body_size - reader->body_at, part = size < left ? size : left;
  if (body != NULL && memcmp(body + reader->body_at, data, part) != 0) load_die("the body is not: %s", body);
  if (is_json && part > 0 && reader->body_at == 0 && data[0] != '{') load_die("a body that is no JSON object");
  if (is_json && part > 0 && part == left && data[part - 1] != '}') load_die("a body that is not a whole JSON object");
  reader->body_at += part;
  return part;
}

static unsigned long take(struct load_peer *peer, const unsigned char *bytes, size_t size) {
  struct reader *reader = &readers[peer->index];
  const char *data = (const char *)bytes, *end = data + size;
  unsigned long answers = 0;
  while (data < end) {
    if (!reader->is_in_body) data += take_head(reader, data, (size_t)(end - data));
    if (!reader->is_in_body) break;
    data += take_body(reader, data, (size_t)(end - data));
    if (reader->body_at < body_size) break;
    reader->is_in_body = false;
    reader->body_at = 0;
    answers++;
  }
  if (peer->answers + answers == http.depth && (reader->head_size > 0 || reader->is_in_body))
    load_die("the server sent more than it was asked for");
  return answers;
}

int main(int argc, char **argv) {
  static const char usage[] = "http_client --port N [--path /] [--depth 1] [--body TEXT | --json]\n"
                              "                   " LOAD_USAGE;
  static const struct option own[] = {
      {"path", required_argument, NULL, 'U'},
      {"depth", required_argument, NULL, 'D'},
      {"body", required_argument, NULL, 'B'},
      {"json", no_argument, NULL, 'J'},
      {0},
  };
  int name;
  while ((name = load_next_option(argc, argv, own, usage)) != -1) {
    switch (name) {
    case 'U': path = optarg; break;
    case 'D': http.depth = load_number(optarg, 1, DEPTH_MAX); break;
    case 'B': body = optarg; break;
    case 'J': is_json = true; break;
    default: break;
    }
  }
  if (strlen(path) > PATH_MAX_SIZE) load_die("a path above %d bytes", PATH_MAX_SIZE);
  if (body != NULL) {
    body_size = strlen(body);
    is_body_size_known = true;
  }
  make_round();
  http.start = start;
  http.take = take;
  load_run(&http);
  return 0;
}
