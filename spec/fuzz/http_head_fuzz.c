/*
 * Fuzzer of core/http_head and core/http_target: what must hold of every answer, and that it does not depend on how the bytes
 * are cut. `make fuzz` runs it, `make test` replays its corpus.
 */
#include "../c/http_drive.h"
#include "http_target.h"
#include "holds.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static bool is_status(int status) {
  static const int known[] = {0, -400, -414, -417, -431, -501, -505};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (known[i] == status) return true;
  }
  return status >= 16;
}

static bool is_inside(rille_http_span span, rille_http_span outer) {
  return span.size == 0 || (span.at >= outer.at && span.at + span.size <= outer.at + outer.size);
}

static void check_fields(const rille_http_head *head, const uint8_t *bytes) {
  const rille_http_span all = {0, head->size};
  uint32_t behind = head->target.at + head->target.size;
  for (uint32_t i = 0; i < head->field_count; i++) {
    const rille_http_field *f = &head->fields[i];
    const uint8_t *name = bytes + f->name.at, *value = bytes + f->value.at;
    HOLDS(is_inside(f->name, all) && f->name.at > behind && rille_http_is_token(name, f->name.size));
    HOLDS(name[f->name.size] == ':' && f->value.at > f->name.at + f->name.size);
    HOLDS(f->value.at + f->value.size + 4 <= head->size && rille_http_is_value(value, f->value.size));
    HOLDS(f->value.size == 0 || (*value > ' ' && value[f->value.size - 1] > ' '));
    HOLDS(f->key == rille_http_key(name, f->name.size));
    int first = rille_http_head_find(head, bytes, name, f->name.size, 0);
    HOLDS(first >= 0 && first <= (int)i && rille_http_head_find(head, bytes, name, f->name.size, i) == (int)i);
    behind = f->value.at + f->value.size;
  }
}

/* What a path means: no trace of what has to be resolved, and plain paths mean themselves. */
static void check_path(const rille_http_head *head, const uint8_t *bytes) {
  static fence inputs, results;
  uint32_t size = head->path.size;
  if (size == 0 || bytes[head->path.at] != '/') return;
  const uint8_t *path = fence_put(&inputs, bytes + head->path.at, size);
  uint8_t *to = fence_room(&results, size);
  int64_t length = rille_http_path(path, size, to);
  if (head->path_is_plain) HOLDS(length == size && memcmp(to, path, size) == 0);
  if (length == -400) return;
  HOLDS(length >= 1 && length <= size && to[0] == '/');
  for (int64_t i = 0; i < length; i++) {
    HOLDS(to[i] >= 0x20 && to[i] != 0x7f);
    if (to[i] != '/') continue;
    HOLDS(i + 1 >= length || to[i + 1] != '/');
    int64_t dots = i + 1;
    while (dots < length && to[dots] == '.') dots++;
    HOLDS(dots == i + 1 || dots > i + 3 || (dots < length && to[dots] != '/'));
  }
}

static void check_query(const rille_http_head *head, const uint8_t *bytes) {
  static fence inputs, results;
  uint32_t size = head->query.size;
  const uint8_t *query = fence_put(&inputs, bytes + head->query.at, size);
  uint8_t *to = fence_room(&results, size);
  size_t name_size = 0;
  while (name_size < size && query[name_size] != '=' && query[name_size] != '&' && query[name_size] != '%' &&
         query[name_size] != '+')
    name_size++;
  int64_t length = rille_http_query(query, size, query, name_size, to);
  HOLDS(length >= -1 && length <= (int64_t)size);
  if (name_size > 0 && (name_size == size || query[name_size] == '=' || query[name_size] == '&')) HOLDS(length >= 0);
  HOLDS(rille_http_unescape(query, size, to) <= size);
}

static void check_head(const rille_http_head *head, const uint8_t *bytes, const rille_http_limits *limits) {
  HOLDS(head->size <= limits->head && memcmp(bytes + head->size - 4, "\r\n\r\n", 4) == 0);
  HOLDS(head->field_count <= limits->headers && head->target.size <= limits->target && head->target.size > 0);
  HOLDS(head->method_name.size > 0 && head->method_name.size <= RILLE_HTTP_METHOD_SIZE_MAX);
  HOLDS(head->target.at == head->method_name.at + head->method_name.size + 1);
  HOLDS(is_inside(head->path, head->target) && is_inside(head->query, head->target));
  HOLDS(is_inside(head->host, (rille_http_span){0, head->size}) && head->minor <= 1);
  HOLDS(head->host.size == 0 || rille_http_is_host(bytes + head->host.at, head->host.size));
  HOLDS(!head->is_chunked || (head->minor == 1 && !head->has_length && head->content_length == 0));
  HOLDS(head->content_length <= INT64_MAX && (head->minor == 0 || head->has_host));
  check_fields(head, bytes);
  check_path(head, bytes);
  check_query(head, bytes);
}

static void check_request_cuts(const drive_head *whole, const uint8_t *bytes, size_t size,
                               const rille_http_limits *limits) {
  static drive_head cut;
  uint64_t digest = drive_digest(UINT64_C(0xcbf29ce484222325), bytes, size);
  drive_head_by(&cut, bytes, size, limits, (const size_t[]){(size_t)(digest % size), SIZE_MAX}, 2);
  HOLDS(drive_head_same(whole, &cut));
  drive_head_by(&cut, bytes, size, limits, (const size_t[]){(size_t)(digest >> 32) % 16 + 1}, 1);
  HOLDS(drive_head_same(whole, &cut));
}

static void check_request(const uint8_t *bytes, size_t size, const rille_http_limits *limits) {
  static drive_head whole;
  int status = drive_head_whole(&whole, bytes, size, limits);
  HOLDS(is_status(status) && status <= (int)size);
  HOLDS(rille_http_head_decode(&whole.head, bytes, size, limits) == status); /* and once more */
  if (status > 0) {
    HOLDS((uint32_t)status == whole.head.size);
    check_head(&whole.head, bytes, limits);
  }
  if (size > 0) check_request_cuts(&whole, bytes, size, limits);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  if (size > 1 << 16) return 0;
  check_request(bytes, size, &(rille_http_limits){.head = 16384, .target = 8192, .headers = 100});
  check_request(bytes, size, &(rille_http_limits){.head = 200, .target = 40, .headers = 4});
  return 0;
}
