/*
 * Fuzzer of core/http_reply: what must hold of every answer, and that it does not depend on how the bytes are cut. `make fuzz` runs
 * it, `make test` replays its corpus.
 */
#include "../c/http_reply_drive.h"
#include "holds.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_reply_fields(const rille_http_reply *reply, const uint8_t *bytes) {
  uint32_t behind = reply->reason.at + reply->reason.size;
  for (uint32_t i = 0; i < reply->field_count; i++) {
    const rille_http_field *f = &reply->fields[i];
    const uint8_t *name = bytes + f->name.at, *value = bytes + f->value.at;
    HOLDS(f->name.at > behind && rille_http_is_token(name, f->name.size));
    HOLDS(name[f->name.size] == ':' && f->value.at > f->name.at + f->name.size);
    HOLDS(f->value.at + f->value.size + 4 <= reply->size && rille_http_is_value(value, f->value.size));
    HOLDS(f->value.size == 0 || (*value > ' ' && value[f->value.size - 1] > ' '));
    HOLDS(rille_http_fields_find(reply->fields, reply->field_count, bytes, name, f->name.size, i) == (int)i);
    behind = f->value.at + f->value.size;
  }
}

static void check_reply_head(const rille_http_reply *reply, const uint8_t *bytes, const rille_http_limits *limits) {
  HOLDS(reply->size <= limits->head && memcmp(bytes + reply->size - 4, "\r\n\r\n", 4) == 0);
  HOLDS(reply->field_count <= limits->headers && reply->minor <= 1);
  HOLDS(reply->status >= 100 && reply->status <= 999);
  HOLDS(reply->reason.at + reply->reason.size + 4 <= reply->size);
  HOLDS(rille_http_is_value(bytes + reply->reason.at, reply->reason.size));
  HOLDS(!reply->is_chunked || (reply->minor == 1 && !reply->has_length));
  HOLDS(reply->has_length || reply->content_length == 0);
  HOLDS(reply->content_length <= INT64_MAX);
  check_reply_fields(reply, bytes);
}

static void check_reply_cuts(const drive_reply *whole, const uint8_t *bytes, size_t size,
                             const rille_http_limits *limits) {
  static drive_reply cut;
  uint64_t digest = drive_digest(UINT64_C(0xcbf29ce484222325), bytes, size);
  drive_reply_by(&cut, bytes, size, limits, (const size_t[]){(size_t)(digest % size), SIZE_MAX}, 2);
  HOLDS(drive_reply_same(whole, &cut));
  drive_reply_by(&cut, bytes, size, limits, (const size_t[]){(size_t)(digest >> 32) % 16 + 1}, 1);
  HOLDS(drive_reply_same(whole, &cut));
}

static void check_reply(const uint8_t *bytes, size_t size, const rille_http_limits *limits) {
  static drive_reply whole;
  int status = drive_reply_whole(&whole, bytes, size, limits);
  HOLDS(status <= (int)size && status >= -RILLE_REPLY_TOO_MANY_FIELDS && status != RILLE_HTTP_MORE_FIELDS);
  HOLDS(rille_http_reply_decode(&whole.reply, bytes, size, limits) == status); /* and once more */
  if (status < 0) HOLDS(*rille_http_reply_flaw_text(-status) != 0);
  if (status > 0) {
    HOLDS((uint32_t)status == whole.reply.size);
    check_reply_head(&whole.reply, bytes, limits);
  }
  if (size > 0) check_reply_cuts(&whole, bytes, size, limits);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  if (size > 1 << 16) return 0;
  check_reply(bytes, size, &(rille_http_limits){.head = 16384, .headers = 100});
  check_reply(bytes, size, &(rille_http_limits){.head = 200, .headers = 4});
  return 0;
}
