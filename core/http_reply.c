/*
 * http_reply: see http_reply.h. Lines are decoded one by one, as in http_head.c.
 */
#include "http_reply.h"

#include "http_line.h"

#define IS(a, size, literal) rille_http_is((a), (size), (literal), sizeof(literal) - 1)

const char *rille_http_reply_flaw_text(int flaw) {
  static const char *const texts[] = {
      [0] = "",
      [RILLE_REPLY_BAD_LINE] = "its first line is no status line",
      [RILLE_REPLY_BAD_VERSION] = "its version is neither HTTP/1.1 nor HTTP/1.0",
      [RILLE_REPLY_BAD_FIELD] = "a line of its head is no field",
      [RILLE_REPLY_FOLDED] = "a line of its head begins with white space (a folded field)",
      [RILLE_REPLY_BLANK_NAME] = "white space stands before the colon of a field",
      [RILLE_REPLY_BAD_LENGTH] = "Content-Length is no number",
      [RILLE_REPLY_TWO_LENGTHS] = "it has more than one Content-Length",
      [RILLE_REPLY_LENGTH_AND_CODING] = "it has both Content-Length and Transfer-Encoding",
      [RILLE_REPLY_BAD_CODING] = "its transfer coding is not chunked alone",
      [RILLE_REPLY_OLD_CODING] = "Transfer-Encoding in an answer of HTTP/1.0",
      [RILLE_REPLY_HEAD_TOO_LARGE] = "its head is larger than allowed",
      [RILLE_REPLY_TOO_MANY_FIELDS] = "it has more fields than allowed",
      [RILLE_REPLY_BAD_CHUNK] = "the chunks of its body are malformed",
      [RILLE_REPLY_TRAILER_TOO_LARGE] = "chunk extensions and trailers are larger than allowed",
  };
  return flaw >= 0 && flaw <= RILLE_REPLY_LAST ? texts[flaw] : "";
}

/* ---- the status line -------------------------------------------------------------------------------------------- */

/* "HTTP/d.d ddd", byte by byte: the first wrong one decides. Behind it, PARTIAL, or a flaw. */
static int decode_status(rille_http_reply *reply, const uint8_t *bytes, size_t size) {
  static const char form[] = "HTTP/d.d ddd";
  for (size_t i = 0; i < sizeof form - 1; i++) {
    if (i == size) return RILLE_HTTP_PARTIAL;
    uint8_t c = bytes[i];
    if (form[i] == 'd' ? c < '0' || c > '9' : c != (uint8_t)form[i]) return -RILLE_REPLY_BAD_LINE;
    if (i == 7 && (bytes[5] != '1' || c > '1')) return -RILLE_REPLY_BAD_VERSION;
  }
  reply->minor = (uint8_t)(bytes[7] - '0');
  reply->status = (uint16_t)((bytes[9] - '0') * 100 + (bytes[10] - '0') * 10 + (bytes[11] - '0'));
  return reply->status < 100 ? -RILLE_REPLY_BAD_LINE : (int)sizeof form - 1;
}

static int decode_line(rille_http_reply *reply, const uint8_t *bytes, size_t size) {
  int behind = decode_status(reply, bytes, size);
  if (behind <= 0) return behind;
  size_t at = (size_t)behind;
  if (at == size) return RILLE_HTTP_PARTIAL;
  if (bytes[at] != ' ' && bytes[at] != '\r') return -RILLE_REPLY_BAD_LINE;
  if (bytes[at] == ' ') at++;
  size_t end = rille_http_value_end(bytes, at, size);
  if (end == size) return RILLE_HTTP_PARTIAL;
  if (bytes[end] != '\r') return -RILLE_REPLY_BAD_LINE;
  if (end + 1 == size) return RILLE_HTTP_PARTIAL;
  if (bytes[end + 1] != '\n') return -RILLE_REPLY_BAD_LINE;
  reply->reason = (rille_http_span){(uint32_t)at, (uint32_t)(end - at)};
  reply->at = (uint32_t)end + 2;
  reply->phase = 1;
  return (int)reply->at;
}

/* ---- fields ---------------------------------------------------------------------------------------------------- */

static void note_options(rille_http_reply *reply, const uint8_t *value, size_t size) {
  for (size_t i = 0; i < size;) {
    const uint8_t *comma = memchr(value + i, ',', size - i);
    size_t end = comma ? (size_t)(comma - value) : size, from = i, to = end;
    while (from < to && rille_http_is_blank(value[from])) from++;
    while (to > from && rille_http_is_blank(value[to - 1])) to--;
    if (IS(value + from, to - from, "close")) reply->has_close = true;
    else if (IS(value + from, to - from, "keep-alive")) reply->has_keep_alive = true;
    i = end + 1;
  }
}

/* Two servers in a row, or two clients, must not find two ends of one body: what could be read in two ways is refused. */
static int note_length(rille_http_reply *reply, const uint8_t *value, size_t size) {
  if (reply->has_length) return -RILLE_REPLY_TWO_LENGTHS;
  if (reply->is_chunked) return -RILLE_REPLY_LENGTH_AND_CODING;
  reply->has_length = rille_http_is_length(value, size, &reply->content_length);
  return reply->has_length ? 0 : -RILLE_REPLY_BAD_LENGTH;
}

static int note_coding(rille_http_reply *reply, const uint8_t *value, size_t size) {
  if (reply->minor == 0) return -RILLE_REPLY_OLD_CODING;
  if (reply->has_length) return -RILLE_REPLY_LENGTH_AND_CODING;
  if (reply->is_chunked || !IS(value, size, "chunked")) return -RILLE_REPLY_BAD_CODING;
  reply->is_chunked = true;
  return 0;
}

static int note(rille_http_reply *reply, const uint8_t *bytes, const rille_http_field *field) {
  const uint8_t *name = bytes + field->name.at, *value = bytes + field->value.at;
  size_t size = field->value.size;
  switch (field->name.size) {
  case 10:
    if (IS(name, 10, "connection")) note_options(reply, value, size);
    return 0;
  case 14: return IS(name, 14, "content-length") ? note_length(reply, value, size) : 0;
  case 17: return IS(name, 17, "transfer-encoding") ? note_coding(reply, value, size) : 0;
  default: return 0;
  }
}

/* What makes the line at `at` no field. */
static int flaw_of(const uint8_t *bytes, size_t at, size_t size) {
  if (rille_http_is_blank(bytes[at])) return -RILLE_REPLY_FOLDED;
  size_t i = rille_http_run_end(bytes, at, size, RILLE_HTTP_TOKEN);
  return i > at && i < size && rille_http_is_blank(bytes[i]) ? -RILLE_REPLY_BLANK_NAME : -RILLE_REPLY_BAD_FIELD;
}

/* The end of the head. An answer that has no body, but says where one would end, may have been made by one that sends it nonetheless. */
static int finish(rille_http_reply *reply, size_t at) {
  bool is_empty = reply->status < 200 || reply->status == 204;
  bool is_odd = is_empty && (reply->is_chunked || reply->content_length > 0);
  reply->size = (uint32_t)at + 2;
  reply->keep_alive = !is_odd && !reply->has_close && (reply->minor == 1 || reply->has_keep_alive);
  return (int)reply->size;
}

static int decode_fields(rille_http_reply *reply, const uint8_t *bytes, size_t size, const rille_http_limits *limits) {
  for (;;) {
    size_t at = reply->at;
    if (at < size && bytes[at] == '\r') {
      if (at + 1 == size) return RILLE_HTTP_PARTIAL;
      return bytes[at + 1] == '\n' ? finish(reply, at) : -RILLE_REPLY_BAD_FIELD;
    }
    rille_http_field line;
    int next = rille_http_line_field(bytes, at, size, &line);
    if (next < 0) return flaw_of(bytes, at, size);
    if (next == RILLE_HTTP_PARTIAL) return next;
    if (reply->field_count == limits->headers) return -RILLE_REPLY_TOO_MANY_FIELDS;
    if (reply->field_count == reply->field_room) return RILLE_HTTP_MORE_FIELDS;
    int flaw = note(reply, bytes, &line);
    if (flaw) return flaw;
    reply->fields[reply->field_count++] = line;
    reply->at = (uint32_t)next;
  }
}

/* ---- the face -------------------------------------------------------------------------------------------------- */

void rille_http_reply_init(rille_http_reply *reply, rille_http_field *fields, uint32_t field_room) {
  *reply = (rille_http_reply){.fields = fields, .field_room = field_room};
}

int rille_http_reply_decode(rille_http_reply *reply, const uint8_t *bytes, size_t size,
                            const rille_http_limits *limits) {
  size_t seen = size < limits->head ? size : limits->head;
  if (seen < reply->at) return RILLE_HTTP_PARTIAL;
  int result = RILLE_HTTP_MORE_FIELDS;
  if (reply->phase == 0) result = decode_line(reply, bytes, seen);
  if (result > 0) result = decode_fields(reply, bytes, seen, limits);
  return result == RILLE_HTTP_PARTIAL && size >= limits->head ? -RILLE_REPLY_HEAD_TOO_LARGE : result;
}
