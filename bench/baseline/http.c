/* The yardstick for HTTP/1.1: the least code that answers requests with epoll. One thread, level-triggered, one read
 * for each ready socket, one write for all the answers to that read. Rille is measured against it.
 *
 * usage: http PORT [hello|json]      listens on 127.0.0.1:PORT until a signal ends it
 *
 * A request is whatever ends in an empty line: nothing in it is looked at, and none has a body. Every request gets the
 * same prepared answer, with the Date of this second: 13 bytes of text, or 1 KiB of JSON that nobody serialises. */
#include "serve.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  READ_SIZE = 16384,
  HEAD_MAX = 8192, /* who sends more without an empty line is closed */
  ANSWER_MAX = 1280,
  END_SIZE = 4 /* of the empty line, so also of the shortest request */
};

struct partial {
  char *data; /* owned; the start of a head whose end is not there yet; NULL when nothing waits */
  size_t size;
};

static struct partial partials[SERVE_FD_MAX]; /* by descriptor */
static char input[HEAD_MAX + READ_SIZE];
/* holds the answers to a read full of empty lines; pages that no load needs are never touched */
static char output[sizeof(input) / END_SIZE * ANSWER_MAX];
static char answer[ANSWER_MAX];
static size_t answer_size;
static time_t answer_second = -1;
static const char *content_type = "text/plain; charset=utf-8", *body = "Hello, World!";

/* Of the shape and the size of what bench/json_answer.lua sends: lua-cjson escapes slashes. */
static const char *make_json(void) {
  static char text[ANSWER_MAX];
  size_t at = (size_t)sprintf(text, "{\"path\":\"\\/items\",\"method\":\"GET\",\"count\":10,\"items\":[");
  for (int i = 1; i <= 10; i++)
    at += (size_t)sprintf(text + at,
                          "%s{\"id\":%d,\"href\":\"\\/items\\/%d\",\"name\":\"An item of medium length\","
                          "\"price\":19.95,\"is_new\":true}",
                          i > 1 ? "," : "", 1000 + i, 1000 + i);
  sprintf(text + at, "]}");
  return text;
}

static void renew_date(void) {
  time_t now = time(NULL);
  if (now == answer_second) return;
  struct tm tm;
  char date[64];
  strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
  answer_second = now;
  answer_size = (size_t)snprintf(answer, sizeof(answer),
                                 "HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n%s",
                                 date, content_type, strlen(body), body);
}

static void forget(int fd) {
  free(partials[fd].data);
  partials[fd] = (struct partial){0};
}

static void keep(int fd, const char *data, size_t size) {
  struct partial *partial = &partials[fd];
  partial->data = malloc(size);
  if (partial->data == NULL) serve_die("malloc");
  memcpy(partial->data, data, size);
  partial->size = size;
}

static void on_readable(int fd) {
  size_t kept = partials[fd].size;
  if (kept > 0) memcpy(input, partials[fd].data, kept);
  size_t got = serve_read(fd, input + kept, READ_SIZE);
  if (got == 0) return;
  if (kept > 0) forget(fd);

  const char *at = input, *end = input + kept + got, *found;
  size_t filled = 0;
  renew_date();
  while ((found = memmem(at, (size_t)(end - at), "\r\n\r\n", END_SIZE)) != NULL) {
    memcpy(output + filled, answer, answer_size);
    filled += answer_size;
    at = found + END_SIZE;
  }
  if (end - at > HEAD_MAX) {
    serve_close(fd);
    return;
  }
  if (at < end) keep(fd, at, (size_t)(end - at));
  if (filled > 0) serve_write(fd, output, filled);
}

int main(int argc, char **argv) {
  static const struct serve_protocol http = {.on_readable = on_readable, .on_close = forget};
  const char *kind = argc == 3 ? argv[2] : "hello";
  int is_json = strcmp(kind, "json") == 0;
  int is_good = argc >= 2 && argc <= 3 && (is_json || strcmp(kind, "hello") == 0);
  if (is_json) {
    content_type = "application/json";
    body = make_json();
  }
  serve_run(is_good ? argv[1] : NULL, "http PORT [hello|json]", &http);
}
