/*
 * http_head: see http_head.h. Lines are decoded one by one; a line that is not complete is looked at again from its start
 * when more is there, which the limits keep cheap. Only the first limits->head bytes are ever looked at.
 */
#include "http_line.h"

#define IN_TOKEN   RILLE_HTTP_TOKEN
#define IN_TARGET  RILLE_HTTP_TARGET
#define IN_HOST    RILLE_HTTP_HOST
#define IN_SEGMENT 16 /* of a target what says nothing about the shape of a path */
#define IN_PATH    (IN_TARGET | IN_SEGMENT)
#define IN_ALL     (IN_TOKEN | IN_PATH | IN_HOST)

/* RFC 9110 section 5.6.2 (token), RFC 3986 section 3.2.2 (host). A target takes every visible ASCII character but "#": what a
 * fragment is to a server is not defined. */
const uint8_t rille_http_class[256] = {
    ['!'] = IN_ALL,
    ['"'] = IN_PATH,
    ['#'] = IN_TOKEN,
    ['$'] = IN_ALL,
    ['%'] = IN_TOKEN | IN_TARGET, /* in a host with two hex digits behind it: is_host */
    ['&'] = IN_ALL,
    ['\''] = IN_ALL,
    ['('] = IN_PATH | IN_HOST,
    [')'] = IN_PATH | IN_HOST,
    ['*'] = IN_ALL,
    ['+'] = IN_ALL,
    [','] = IN_PATH | IN_HOST,
    ['-'] = IN_ALL,
    ['.'] = IN_ALL,
    ['/'] = IN_TARGET,
    ['0' ... '9'] = IN_ALL | RILLE_HTTP_HEX,
    [':'] = IN_PATH,
    [';'] = IN_PATH | IN_HOST,
    ['<'] = IN_PATH,
    ['='] = IN_PATH | IN_HOST,
    ['>'] = IN_PATH,
    ['?'] = IN_TARGET,
    ['@'] = IN_PATH,
    ['A' ... 'F'] = IN_ALL | RILLE_HTTP_HEX,
    ['G' ... 'Z'] = IN_ALL,
    ['['] = IN_PATH,
    ['\\'] = IN_PATH,
    [']'] = IN_PATH,
    ['^'] = IN_TOKEN | IN_PATH,
    ['_'] = IN_ALL,
    ['`'] = IN_TOKEN | IN_PATH,
    ['a' ... 'f'] = IN_ALL | RILLE_HTTP_HEX,
    ['g' ... 'z'] = IN_ALL,
    ['{'] = IN_PATH,
    ['|'] = IN_TOKEN | IN_PATH,
    ['}'] = IN_PATH,
    ['~'] = IN_ALL,
};

/* ---- pieces ---------------------------------------------------------------------------------------------------- */

static inline uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? c | 0x20 : c; }

bool rille_http_is(const uint8_t *a, size_t size, const char *b, size_t b_size) {
  if (size != b_size) return false;
  for (size_t i = 0; i < size; i++) {
    int differ = a[i] ^ b[i];
    if (differ != 0 && (differ != 0x20 || b[i] < 'a' || b[i] > 'z')) return false;
  }
  return true;
}

#define IS(a, size, literal) rille_http_is((a), (size), (literal), sizeof(literal) - 1)

bool rille_http_is_token(const uint8_t *bytes, size_t size) {
  return size > 0 && rille_http_run_end(bytes, 0, size, IN_TOKEN) == size;
}

bool rille_http_is_value(const uint8_t *bytes, size_t size) { return rille_http_value_end(bytes, 0, size) == size; }

bool rille_http_is_length(const uint8_t *bytes, size_t size, uint64_t *value) {
  uint64_t n = 0;
  for (size_t i = 0; i < size; i++) {
    uint8_t digit = (uint8_t)(bytes[i] - '0');
    if (digit > 9 || n > ((uint64_t)INT64_MAX - digit) / 10) return false;
    n = n * 10 + digit;
  }
  *value = n;
  return size > 0;
}

/* "[" IPv6 address "]": how long, 0 when it is none. Only its characters are checked: nobody connects to it here. */
static size_t literal_size(const uint8_t *bytes, size_t size) {
  size_t i = 1;
  while (i < size && (rille_http_is_in(bytes[i], RILLE_HTTP_HEX) || bytes[i] == ':' || bytes[i] == '.')) i++;
  return i > 2 && i < size && bytes[i] == ']' ? i + 1 : 0;
}

/* reg-name of RFC 3986 section 3.2.2: how long. */
static size_t reg_name_size(const uint8_t *bytes, size_t size) {
  size_t i = 0;
  for (;;) {
    i = rille_http_run_end(bytes, i, size, IN_HOST);
    bool is_escape = size - i > 2 && bytes[i] == '%' && rille_http_is_in(bytes[i + 1], RILLE_HTTP_HEX) &&
                     rille_http_is_in(bytes[i + 2], RILLE_HTTP_HEX);
    if (!is_escape) return i;
    i += 3;
  }
}

bool rille_http_is_host(const uint8_t *bytes, size_t size) {
  size_t i = 0;
  if (size > 0 && bytes[0] == '[') {
    i = literal_size(bytes, size);
  } else {
    i = reg_name_size(bytes, size);
  }
  if (i == 0) return false;
  if (i == size) return true;
  uint64_t port = 0;
  if (bytes[i] != ':') return false;
  return i + 1 == size || (rille_http_is_length(bytes + i + 1, size - i - 1, &port) && port <= 65535);
}

/* ---- fields ---------------------------------------------------------------------------------------------------- */

uint32_t rille_http_key(const uint8_t *name, size_t size) { return size > 0 ? rille_http_key_of(name, size) : 0; }

int rille_http_fields_find(const rille_http_field *fields, uint32_t count, const uint8_t *bytes, const uint8_t *name,
                           size_t size, uint32_t from) {
  uint32_t key = rille_http_key(name, size);
  for (uint32_t i = from; i < count; i++) {
    const rille_http_field *field = &fields[i];
    if (field->key != key || field->name.size != size) continue;
    size_t same = 0;
    while (same < size && lower(bytes[field->name.at + same]) == lower(name[same])) same++;
    if (same == size) return (int)i;
  }
  return -1;
}

int rille_http_head_find(const rille_http_head *head, const uint8_t *bytes, const uint8_t *name, size_t size,
                         uint32_t from) {
  return rille_http_fields_find(head->fields, head->field_count, bytes, name, size, from);
}

static void note_options(rille_http_head *head, const uint8_t *value, size_t size) {
  for (size_t i = 0; i < size;) {
    const uint8_t *comma = memchr(value + i, ',', size - i);
    size_t end = comma ? (size_t)(comma - value) : size, from = i, to = end;
    while (from < to && rille_http_is_blank(value[from])) from++;
    while (to > from && rille_http_is_blank(value[to - 1])) to--;
    if (IS(value + from, to - from, "close")) head->has_close = true;
    else if (IS(value + from, to - from, "keep-alive")) head->has_keep_alive = true;
    else if (IS(value + from, to - from, "upgrade")) head->has_upgrade_option = true;
    i = end + 1;
  }
}

static int note_host(rille_http_head *head, const uint8_t *bytes, rille_http_span value) {
  if (head->has_host) return -400;
  head->has_host = true;
  if (value.size > 0 && !rille_http_is_host(bytes + value.at, value.size)) return -400;
  if (head->host.size == 0) head->host = value; /* that of an absolute target overrides it: RFC 9112 section 3.2.2 */
  return 0;
}

static int note_length(rille_http_head *head, const uint8_t *value, size_t size) {
  if (head->has_length || head->is_chunked) return -400;
  head->has_length = true;
  return rille_http_is_length(value, size, &head->content_length) ? 0 : -400;
}

/* RFC 9112 section 6.1: chunked alone is what this server decodes. */
static int note_coding(rille_http_head *head, const uint8_t *value, size_t size) {
  if (head->is_chunked || head->has_length || head->minor == 0 || size == 0) return -400;
  head->is_chunked = IS(value, size, "chunked");
  return head->is_chunked ? 0 : -501;
}

static int note_expectation(rille_http_head *head, const uint8_t *value, size_t size) {
  if (head->minor == 0) return 0; /* RFC 9110 section 10.1.1 */
  head->wants_continue = IS(value, size, "100-continue");
  return head->wants_continue ? 0 : -417;
}

/* What the server itself has to know: 0, or the status that refuses the request. */
static int note(rille_http_head *head, const uint8_t *bytes, const rille_http_field *field) {
  const uint8_t *name = bytes + field->name.at, *value = bytes + field->value.at;
  size_t size = field->value.size;
  switch (field->name.size) {
  case 4: return IS(name, 4, "host") ? note_host(head, bytes, field->value) : 0;
  case 6: return IS(name, 6, "expect") ? note_expectation(head, value, size) : 0;
  case 7: head->has_upgrade |= IS(name, 7, "upgrade"); return 0;
  case 10:
    if (IS(name, 10, "connection")) note_options(head, value, size);
    return 0;
  case 14: return IS(name, 14, "content-length") ? note_length(head, value, size) : 0;
  case 17: return IS(name, 17, "transfer-encoding") ? note_coding(head, value, size) : 0;
  default: return 0;
  }
}

/* The end of the head: what only all fields together tell. */
static int finish(rille_http_head *head) {
  if (head->minor == 1 && !head->has_host) return -400;
  head->keep_alive = !head->has_close && (head->minor == 1 || head->has_keep_alive);
  bool has_body = head->is_chunked || head->content_length > 0;
  head->wants_upgrade = head->has_upgrade && head->has_upgrade_option && head->minor == 1 && !has_body;
  return (int)head->size;
}

static int decode_fields(rille_http_head *head, const uint8_t *bytes, size_t size, const rille_http_limits *limits) {
  for (;;) {
    size_t at = head->at;
    if (at < size && bytes[at] == '\r') {
      if (at + 1 == size) return RILLE_HTTP_PARTIAL;
      if (bytes[at + 1] != '\n') return -400;
      head->size = (uint32_t)at + 2;
      return finish(head);
    }
    rille_http_field line;
    int next = rille_http_line_field(bytes, at, size, &line);
    if (next <= 0) return next;
    if (head->field_count == limits->headers) return -431;
    if (head->field_count == head->field_room) return RILLE_HTTP_MORE_FIELDS;
    rille_http_field *field = &head->fields[head->field_count];
    *field = line;
    int status = note(head, bytes, field);
    if (status) return status; /* and again with each further call, for the line stays the next one */
    head->field_count++;
    head->at = (uint32_t)next;
  }
}

/* ---- the request line ------------------------------------------------------------------------------------------ */

static uint8_t method_of(const uint8_t *name, size_t size) {
  static const struct {
    uint8_t size;
    uint8_t method;
    char name[8];
  } known[] = {
      {3, RILLE_HTTP_GET, "GET"},         {4, RILLE_HTTP_HEAD, "HEAD"},     {4, RILLE_HTTP_POST, "POST"},
      {3, RILLE_HTTP_PUT, "PUT"},         {6, RILLE_HTTP_DELETE, "DELETE"}, {7, RILLE_HTTP_CONNECT, "CONNECT"},
      {7, RILLE_HTTP_OPTIONS, "OPTIONS"}, {5, RILLE_HTTP_TRACE, "TRACE"},   {5, RILLE_HTTP_PATCH, "PATCH"},
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (known[i].size == size && memcmp(known[i].name, name, size) == 0) return known[i].method;
  }
  return RILLE_HTTP_OTHER;
}

/* Path and query of an origin-form at `at` (RFC 9112 section 3.2.1). */
static void split_origin(rille_http_head *head, const uint8_t *bytes, size_t at, size_t end) {
  size_t i = at;
  bool is_plain = true;
  while ((i = rille_http_run_end(bytes, i, end, IN_SEGMENT)) < end && bytes[i] != '?') {
    bool is_slash = bytes[i++] == '/';
    if (!is_slash || (i < end && (bytes[i] == '/' || bytes[i] == '.'))) is_plain = false;
  }
  head->path = (rille_http_span){(uint32_t)at, (uint32_t)(i - at)};
  head->path_is_plain = is_plain;
  head->path_is_absent = i == at;
  head->has_query = i < end;
  if (head->has_query) head->query = (rille_http_span){(uint32_t)i + 1, (uint32_t)(end - i - 1)};
}

/* The four forms of RFC 9112 section 3.2. */
static int split_target(rille_http_head *head, const uint8_t *bytes) {
  const uint8_t *target = bytes + head->target.at;
  size_t size = head->target.size, at = head->target.at;
  if (head->method == RILLE_HTTP_CONNECT) {
    bool has_port = memchr(target, ':', size) && target[size - 1] != ':' && target[size - 1] != ']';
    if (!has_port || !rille_http_is_host(target, size)) return -400;
    head->host = head->target;
    head->path_is_plain = true;
    return 0;
  }
  if (target[0] == '/') {
    split_origin(head, bytes, at, at + size);
    return 0;
  }
  if (size == 1 && target[0] == '*') {
    head->path = head->target;
    head->path_is_plain = true;
    return head->method == RILLE_HTTP_OPTIONS ? 0 : -400;
  }
  size_t scheme = size > 7 && IS(target, 7, "http://") ? 7 : size > 8 && IS(target, 8, "https://") ? 8 : 0;
  if (scheme == 0) return -400;
  size_t end = scheme;
  while (end < size && target[end] != '/' && target[end] != '?') end++;
  if (!rille_http_is_host(target + scheme, end - scheme)) return -400;
  head->host = (rille_http_span){(uint32_t)(at + scheme), (uint32_t)(end - scheme)};
  split_origin(head, bytes, at + end, at + size);
  return 0;
}

/* "HTTP/1.1" CR LF at i: where the next line begins, or PARTIAL, or a status. */
static int decode_version(rille_http_head *head, const uint8_t *bytes, size_t i, size_t size) {
  static const char form[] = "HTTP/d.d\r\n";
  if (size - i >= 10 && memcmp(bytes + i, "HTTP/1.1\r\n", 10) == 0) {
    head->minor = 1;
    return (int)i + 10;
  }
  for (size_t k = 0; k < 10; k++) {
    if (i + k == size) return RILLE_HTTP_PARTIAL;
    uint8_t c = bytes[i + k];
    if (form[k] == 'd' ? c < '0' || c > '9' : c != (uint8_t)form[k]) return -400;
  }
  if (bytes[i + 5] != '1' || bytes[i + 7] > '1') return -505;
  head->minor = (uint8_t)(bytes[i + 7] - '0');
  return (int)i + 10;
}

static int decode_line(rille_http_head *head, const uint8_t *bytes, size_t size, const rille_http_limits *limits) {
  while (head->at < size && bytes[head->at] == '\r') {
    if (head->at + 1 == size) return RILLE_HTTP_PARTIAL;
    if (bytes[head->at + 1] != '\n') return -400;
    head->at += 2;
  }
  size_t at = head->at, i = at;
  i = rille_http_run_end(bytes, i, size, IN_TOKEN);
  if (i - at > RILLE_HTTP_METHOD_SIZE_MAX) return -501;
  if (i == size) return RILLE_HTTP_PARTIAL;
  if (i == at || bytes[i] != ' ') return -400;
  head->method_name = (rille_http_span){(uint32_t)at, (uint32_t)(i - at)};

  at = ++i;
  i = rille_http_run_end(bytes, i, size, IN_TARGET);
  if (i - at > limits->target || i == limits->head) return -414;
  if (i == size) return RILLE_HTTP_PARTIAL;
  if (i == at || bytes[i] != ' ') return -400;
  head->target = (rille_http_span){(uint32_t)at, (uint32_t)(i - at)};

  int next = decode_version(head, bytes, i + 1, size);
  if (next <= 0) return next;
  head->method = method_of(bytes + head->method_name.at, head->method_name.size);
  int status = split_target(head, bytes);
  if (status) return status;
  head->at = (uint32_t)next;
  head->phase = 1;
  return next;
}

/* ---- the face -------------------------------------------------------------------------------------------------- */

void rille_http_head_init(rille_http_head *head, rille_http_field *fields, uint32_t field_room) {
  *head = (rille_http_head){.fields = fields, .field_room = field_room};
}

int rille_http_head_decode(rille_http_head *head, const uint8_t *bytes, size_t size, const rille_http_limits *limits) {
  size_t seen = size < limits->head ? size : limits->head;
  if (seen < head->at) return RILLE_HTTP_PARTIAL;
  int result = RILLE_HTTP_MORE_FIELDS;
  if (head->phase == 0) result = decode_line(head, bytes, seen, limits);
  if (result > 0) result = decode_fields(head, bytes, seen, limits);
  return result == RILLE_HTTP_PARTIAL && size >= limits->head ? -431 : result;
}
