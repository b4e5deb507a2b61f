/*
 * http_decode_tool [--cuts]: decodes requests from standard input and prints one line for each, for spec/http_decode_spec.lua
 * to compare with its model.
 *
 * A request: six numbers of 32 bits in the machine's order (size, limits of head, target and fields, of a body's extensions
 * and trailers, seed of the cuts), then the bytes. With --cuts it is decoded in two parts, cut at every place, byte by byte and in
 * random pieces as well; where that gives another answer, the line says so. A line: the status, if it is none of a whole head;
 * else
 *
 *   size number method target path query a host minor length flags fields [body: status consumed data digest]
 *
 * path is decoded, or "!400"; `a` is the value of the query's parameter of that name; flags are letters: chunked, keep-alive,
 * expect, upgrade, plain, no path. "-" is for what is not there. Bytes that are not visible, and "%", are "%XX".
 */
#include "http_drive.h"
#include "http_target.h"

#include <inttypes.h>
#include <stdio.h>

enum { INPUT_MAX = 1 << 17 };

typedef struct request {
  uint32_t size;
  rille_http_limits limits;
  uint32_t extra_max;
  uint32_t seed;
} request;

static uint8_t input[INPUT_MAX], decoded[INPUT_MAX];
static drive_head head, head_cut;
static drive_chunk body, body_cut;

/* ---- printing ---------------------------------------------------------------------------------------------------- */

static void print_bytes(const uint8_t *bytes, size_t size) {
  for (size_t i = 0; i < size; i++) {
    if (bytes[i] > 0x20 && bytes[i] < 0x7f && bytes[i] != '%') putchar(bytes[i]);
    else printf("%%%02X", bytes[i]);
  }
}

static void print_word(rille_http_span span) {
  putchar(' ');
  print_bytes(input + span.at, span.size);
}

static void print_decoded(int64_t length) {
  if (length == -1) printf(" -");
  else if (length < 0) printf(" !%d", (int)-length);
  else putchar(' '), print_bytes(decoded, (size_t)length);
}

static void print_path(const rille_http_head *h) {
  if (h->path.size == 0 || input[h->path.at] != '/') print_word(h->path);
  else print_decoded(rille_http_path(input + h->path.at, h->path.size, decoded));
}

static void print_query(const rille_http_head *h) {
  if (!h->has_query) {
    printf(" - -");
    return;
  }
  print_word(h->query);
  print_decoded(rille_http_query(input + h->query.at, h->query.size, (const uint8_t *)"a", 1, decoded));
}

static void print_head(const rille_http_head *h) {
  printf("%d %d", head.status, h->method);
  print_word(h->method_name);
  print_word(h->target);
  print_path(h);
  print_query(h);
  print_word(h->host);
  printf(" %d ", h->minor);
  if (h->has_length) printf("%" PRIu64 " ", h->content_length);
  else printf("- ");
  printf("%s%s%s%s%s%s", h->is_chunked ? "c" : "", h->keep_alive ? "k" : "", h->wants_continue ? "e" : "",
         h->wants_upgrade ? "u" : "", h->path_is_plain ? "p" : "", h->path_is_absent ? "n" : "");
  for (uint32_t i = 0; i < h->field_count; i++) {
    print_word(head.fields[i].name);
    putchar(':');
    print_bytes(input + head.fields[i].value.at, head.fields[i].value.size);
  }
}

static void print_body(void) {
  printf(" [%d", (int)body.status);
  if (body.status >= 0) printf(" %zu", body.consumed);
  printf(" %zu %016" PRIx64 "]", body.data_size, body.digest);
}

/* ---- cutting ----------------------------------------------------------------------------------------------------- */

static uint32_t next_random(uint32_t *state) { /* xorshift32; state is not 0 */
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

/* Head or body, which begins behind it, in steps: the same as at once? */
static void check(const request *r, bool is_body, const size_t *steps, size_t count) {
  size_t at = is_body ? head.head.size : 0;
  bool is_same;
  if (is_body) {
    drive_chunk_by(&body_cut, input + at, r->size - at, r->extra_max, steps, count);
    is_same = drive_chunk_same(&body, &body_cut);
  } else {
    drive_head_by(&head_cut, input, r->size, &r->limits, steps, count);
    is_same = drive_head_same(&head, &head_cut);
  }
  if (!is_same) printf("DIFFERS (%s cut at %zu, ...) ", is_body ? "body" : "head", steps[0]);
}

static void check_cuts(const request *r, bool is_body) {
  size_t size = is_body ? r->size - head.head.size : r->size;
  for (size_t cut = 0; cut < size; cut++) check(r, is_body, (const size_t[]){cut, SIZE_MAX}, 2);
  check(r, is_body, (const size_t[]){1}, 1);
  size_t random[16];
  uint32_t state = r->seed | 1;
  for (size_t i = 0; i < 16; i++) random[i] = 1 + next_random(&state) % 32;
  check(r, is_body, random, 16);
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

static void decode(const request *r, bool with_cuts) {
  drive_head_whole(&head, input, r->size, &r->limits);
  if (with_cuts) check_cuts(r, false);
  if (head.status <= 0) {
    printf("%d\n", head.status);
    return;
  }
  print_head(&head.head);
  if (head.head.is_chunked) {
    size_t at = head.head.size;
    drive_chunk_whole(&body, input + at, r->size - at, r->extra_max);
    print_body();
    if (with_cuts) check_cuts(r, true);
  }
  putchar('\n');
}

int main(int argc, char **argv) {
  bool with_cuts = argc > 1 && strcmp(argv[1], "--cuts") == 0;
  request r;
  while (fread(&r, sizeof r, 1, stdin) == 1) {
    if (r.size > INPUT_MAX || fread(input, 1, r.size, stdin) != r.size) {
      fprintf(stderr, "http_decode_tool: a request of %u bytes is too large or not all there\n", r.size);
      return 1;
    }
    decode(&r, with_cuts);
  }
  return 0;
}
