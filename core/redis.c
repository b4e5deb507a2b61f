/*
 * redis: what a proxy of the Redis protocol does for each command: find its end, its name and its keys, and from these the shard it goes to.
 * A route is written by one Lua state before it is used and only read then. Neither side's bytes are copied here, and what lies in several
 * pieces is looked at where it lies; see codec.h on views.
 */
#include "codec.h"

#include <stdlib.h>
#include <string.h>

enum {
  TABLE_SIZE = 2 * RILLE_REDIS_COMMANDS_MAX, /* a power of two */
  WORDS_MAX = 1 << 20,                       /* of a command */
  DIGITS_MAX = 10,
  LINE_END = 2,
  RUN_MAX = 1024, /* commands */
  HEAD = 2        /* words that most commands are routed by: the name, the first key */
};

typedef struct command {
  char name[RILLE_REDIS_NAME_MAX + 1];
  uint32_t size; /* 0: the place is free */
  rille_redis_keys keys;
} command;

struct rille_redis_route {
  command commands[TABLE_SIZE]; /* open addressing */
  uint32_t count;
  uint16_t shards[RILLE_REDIS_SLOTS];
};

/* A word of a command: its bytes are from .. from + size of the view. */
typedef struct word {
  size_t from, size;
} word;

/* One command in a view, which begins at `at`. */
typedef struct scanned {
  size_t at;
  size_t words; /* the first of `count` words; 0: not known */
  size_t count, done;
  word head[HEAD]; /* the first of them */
  size_t next;     /* behind the words that are done: in the end of all */
} scanned;

/* ---- routes ---------------------------------------------------------------------------------------------------- */

rille_redis_route *rille_redis_route_new(void) { return calloc(1, sizeof(rille_redis_route)); }

void rille_redis_route_free(rille_redis_route *route) { free(route); }

static uint32_t hash_name(const char *name, size_t size) {
  uint32_t hash = 2166136261U;
  for (size_t i = 0; i < size; i++) hash = (hash ^ (uint8_t)name[i]) * 16777619U;
  return hash ^ hash >> 15;
}

/* Its place, or the free one where it would be. */
static size_t place_of(const rille_redis_route *route, const char *name, size_t size) {
  size_t place = hash_name(name, size) % TABLE_SIZE;
  while (route->commands[place].size > 0 &&
         (route->commands[place].size != size || memcmp(route->commands[place].name, name, size) != 0)) {
    place = (place + 1) % TABLE_SIZE;
  }
  return place;
}

int rille_redis_route_add(rille_redis_route *route, const char *name, size_t size, const rille_redis_keys *keys) {
  if (size == 0 || size > RILLE_REDIS_NAME_MAX || keys->first < 1 || keys->numkeys < 0 || keys->step < 1) {
    return RILLE_ERR_INVALID;
  }
  if (route->count == RILLE_REDIS_COMMANDS_MAX) return RILLE_ERR_FULL;
  command *c = &route->commands[place_of(route, name, size)];
  if (c->size > 0) return RILLE_ERR_EXISTS;
  memcpy(c->name, name, size);
  c->size = (uint32_t)size;
  c->keys = *keys;
  route->count++;
  return RILLE_OK;
}

int rille_redis_route_assign(rille_redis_route *route, int from, int to, int shard) {
  if (from < 0 || to >= RILLE_REDIS_SLOTS || shard < 0 || shard >= RILLE_REDIS_SHARDS_MAX) return RILLE_ERR_INVALID;
  for (int slot = from; slot <= to; slot++) route->shards[slot] = (uint16_t)shard;
  return RILLE_OK;
}

/* ---- slots ----------------------------------------------------------------------------------------------------- */

static unsigned crc_of(const uint8_t *bytes, size_t size, double before) {
  return (unsigned)rille_crc16(RILLE_CRC16_XMODEM, bytes, (double)size, before);
}

int rille_redis_slot(const char *key, size_t size) {
  const char *open = memchr(key, '{', size);
  if (open) {
    const char *close = memchr(open + 1, '}', size - (size_t)(open + 1 - key));
    if (close && close > open + 1) {
      key = open + 1;
      size = (size_t)(close - key);
    }
  }
  return (int)(crc_of((const uint8_t *)key, size, -1) % RILLE_REDIS_SLOTS);
}

static int slot_of(rille_view *v, word key) {
  size_t end = key.from + key.size;
  if (key.size > 0) rille_view_byte(v, key.from); /* finds its piece */
  if (key.size > 0 && end <= v->to) return rille_redis_slot((const char *)v->piece + (key.from - v->from), key.size);
  size_t open = rille_view_seek(v, '{', key.from, end);
  size_t close = open < end ? rille_view_seek(v, '}', open + 1, end) : end;
  if (close < end && close > open + 1) {
    key.from = open + 1;
    end = close;
  }
  double crc = -1;
  for (size_t i = key.from; i < end; i++) {
    uint8_t byte = rille_view_byte(v, i);
    crc = crc_of(&byte, 1, crc);
  }
  return crc < 0 ? 0 : (int)crc % RILLE_REDIS_SLOTS;
}

/* ---- words ----------------------------------------------------------------------------------------------------- */

/* The number of a line that begins with `mark` at *at, which goes behind it. 1, 0: it is not all there, or an error. */
static int scan_count(rille_view *v, uint8_t mark, size_t *at, size_t max, size_t *n) {
  size_t i = *at;
  if (i >= v->size) return 0;
  if (rille_view_byte(v, i++) != mark) return RILLE_ERR_INVALID;
  size_t digits = 0, value = 0;
  for (; i < v->size; i++, digits++) {
    uint8_t byte = rille_view_byte(v, i);
    if (byte == '\r') break;
    if (byte < '0' || byte > '9' || digits == DIGITS_MAX) return RILLE_ERR_INVALID;
    value = value * 10 + (size_t)(byte - '0');
  }
  if (i + 1 >= v->size) return 0;
  if (digits == 0 || rille_view_byte(v, i + 1) != '\n') return RILLE_ERR_INVALID;
  if (value > max) return RILLE_ERR_TOO_LARGE;
  *at = i + LINE_END;
  *n = value;
  return 1;
}

/* The word at *at, which goes behind it. need: bytes of the view that it takes, if they are not there. */
static int scan_word(rille_view *v, size_t max, size_t *at, word *w, size_t *need) {
  size_t from = *at;
  int found = scan_count(v, '$', &from, max, &w->size);
  if (found <= 0) return found;
  size_t end = from + w->size;
  if (end + LINE_END > v->size) {
    *need = end + LINE_END;
    return 0;
  }
  if (rille_view_byte(v, end) != '\r' || rille_view_byte(v, end + 1) != '\n') return RILLE_ERR_INVALID;
  w->from = from;
  *at = end + LINE_END;
  return 1;
}

/* The command at c->at, from c->next on when its first line is known. need: as above, else what is there and a byte more. */
static int scan_within(rille_view *v, size_t max, scanned *c, size_t *need) {
  *need = v->size + 1;
  int found = 1;
  if (c->words == 0) {
    size_t at = c->at;
    if (at >= v->size) return 0;
    if (rille_view_byte(v, at) != '*') return RILLE_ERR_NOT_SUPPORTED;
    found = scan_count(v, '*', &at, WORDS_MAX, &c->count);
    if (found > 0 && c->count == 0) return RILLE_ERR_INVALID;
    if (found > 0) c->words = c->next = at;
  }
  while (found > 0 && c->done < c->count) {
    word w;
    found = scan_word(v, max, &c->next, &w, need);
    if (found > 0 && c->done < HEAD) c->head[c->done] = w;
    if (found > 0) c->done++;
  }
  size_t size = (found > 0 ? c->next : *need) - c->at;
  return found >= 0 && size > max ? RILLE_ERR_TOO_LARGE : found;
}

/* The same; what is wrong beyond max bytes does not matter, so that it is the same however the bytes come. */
static int scan_command(rille_view *v, size_t max, scanned *c, size_t *need) {
  size_t size = v->size;
  if (size - c->at > max) v->size = c->at + max;
  int found = scan_within(v, max, c, need);
  v->size = size;
  return found;
}

/* ---- shards ---------------------------------------------------------------------------------------------------- */

static const command *find_command(const rille_redis_route *route, rille_view *v, word w) {
  char name[RILLE_REDIS_NAME_MAX];
  if (w.size == 0 || w.size > sizeof name) return NULL;
  for (size_t i = 0; i < w.size; i++) {
    uint8_t byte = rille_view_byte(v, w.from + i);
    name[i] = (char)(byte >= 'a' && byte <= 'z' ? byte - ('a' - 'A') : byte);
  }
  const command *c = &route->commands[place_of(route, name, w.size)];
  return c->size > 0 ? c : NULL;
}

/* Which words are keys: one if it is `first`, or from .. to by step. False: the command does not have them. */
typedef struct key_range {
  int64_t first, from, to, step;
} key_range;

static int64_t number_in(rille_view *v, word w) {
  int64_t value = 0;
  if (w.size == 0 || w.size > DIGITS_MAX) return -1;
  for (size_t i = 0; i < w.size; i++) {
    uint8_t byte = rille_view_byte(v, w.from + i);
    if (byte < '0' || byte > '9') return -1;
    value = value * 10 + (byte - '0');
  }
  return value;
}

/* The shard of the command's keys; -1: it has none, too few, or they are of several. The words were found well formed. */
static int shard_of(const rille_redis_route *route, rille_view *v, const scanned *c, const rille_redis_keys *k) {
  int64_t count = (int64_t)c->count;
  key_range keys = {
      .first = k->first, .from = k->first, .to = k->last < 0 ? count + k->last : k->last, .step = k->step};
  if (k->numkeys > 0) keys.from = keys.to = count; /* until their number is known */
  if (k->first >= count || keys.to >= count + (k->numkeys > 0)) return -1;
  int shard = -1;
  size_t at = c->words, need = 0;
  for (int64_t i = 0; i < count; i++) {
    word w;
    if (i > keys.to && i > keys.first) break;
    if (scan_word(v, v->size, &at, &w, &need) <= 0) return -1;
    if (i > 0 && i == k->numkeys) {
      int64_t n = number_in(v, w);
      if (n < 0 || n > count - i - 1) return -1;
      keys.from = i + 1;
      keys.to = i + n;
      continue;
    }
    bool is_key = (i == keys.first && (k->numkeys == 0 || i < k->numkeys)) ||
                  (i >= keys.from && i <= keys.to && (i - keys.from) % keys.step == 0);
    if (!is_key) continue;
    int mine = route->shards[slot_of(v, w)];
    if (shard >= 0 && mine != shard) return -1;
    shard = mine;
  }
  return shard;
}

/* RILLE_REDIS_RUN + shard, or RILLE_REDIS_OTHER. */
static int target_of(const rille_redis_route *route, rille_view *v, const scanned *c) {
  const command *known = find_command(route, v, c->head[0]);
  if (!known) return RILLE_REDIS_OTHER;
  const rille_redis_keys *k = &known->keys;
  if (k->first == 1 && k->last == 1 && k->numkeys == 0) {
    return c->count > 1 ? RILLE_REDIS_RUN + route->shards[slot_of(v, c->head[1])] : RILLE_REDIS_OTHER;
  }
  int shard = shard_of(route, v, c, k);
  return shard < 0 ? RILLE_REDIS_OTHER : RILLE_REDIS_RUN + shard;
}

/* ---- taking ---------------------------------------------------------------------------------------------------- */

static int take_bytes(rille_linkbuffer *b, size_t size, int result, rille_slice *out) {
  int err = rille_linkbuffer_next(b, (double)size, out);
  return err ? err : result;
}

/* What is known of a first command that is not all there, so that nothing of it is looked at again. */
static void keep(rille_redis_wait *wait, const scanned *c, size_t need) {
  *wait = (rille_redis_wait){.need = (double)need,
                             .words = (double)c->words,
                             .count = (double)c->count,
                             .done = (double)c->done,
                             .next = (double)c->next};
}

static scanned resume(const rille_redis_wait *wait, rille_view *v) {
  scanned c = {.words = (size_t)wait->words,
               .count = (size_t)wait->count,
               .done = (size_t)wait->done,
               .next = (size_t)wait->next};
  size_t at = c.words, need = 0;
  for (size_t i = 0; i < c.done && i < HEAD; i++) scan_word(v, v->size, &at, &c.head[i], &need);
  return c;
}

int rille_redis_take_commands(const rille_redis_route *route, rille_redis_wait *wait, rille_linkbuffer *b, double max,
                              rille_slice *out) {
  rille_view v = {.buffer = b, .size = rille_linkbuffer_readable(b)};
  if (v.size == 0 || (double)v.size < wait->need) return 0;
  size_t need = 0;
  scanned c = resume(wait, &v);
  int found = scan_command(&v, (size_t)max, &c, &need);
  keep(wait, &c, need);
  if (found <= 0) return found;
  *wait = (rille_redis_wait){0};
  int run = target_of(route, &v, &c), count = 1;
  size_t end = c.next;
  if (run == RILLE_REDIS_OTHER) return take_bytes(b, end, run, out);
  const uint8_t *bytes;
  size_t piece = rille_linkbuffer_piece(b, 0, &bytes);
  for (; count < RUN_MAX; count++) {
    c = (scanned){.at = end};
    if (scan_command(&v, (size_t)max, &c, &need) <= 0) break; /* what is whole goes first */
    if (c.next > piece || target_of(route, &v, &c) != run) break;
    end = c.next;
  }
  return take_bytes(b, end, (count - 1) * RILLE_REDIS_RUN + run, out);
}

int rille_redis_take_values(rille_decoder *decoder, rille_linkbuffer *b, int most, rille_slice *out) {
  const rille_codec *codec = decoder->codec;
  if (codec->kind != RILLE_CODEC_RESP) return RILLE_ERR_INVALID;
  int found = rille_decoder_look(decoder, b);
  if (found <= 0) return found;
  const uint8_t *bytes;
  size_t readable = rille_linkbuffer_readable(b), piece = rille_linkbuffer_piece(b, 0, &bytes);
  size_t size = decoder->frame.size;
  if (piece > readable) piece = readable;
  int count = 1;
  uint32_t left[RILLE_CODEC_DEPTH_MAX];
  for (; count < most && size < piece; count++) {
    rille_view v = {.buffer = b, .base = size, .size = piece - size};
    rille_scan scan = {.left = left};
    rille_frame frame = {0};
    if (rille_resp_scan(codec, &v, &scan, &frame) <= 0) break; /* looked at again when it is the first */
    size += frame.size;
  }
  int taken = take_bytes(b, size, count, out);
  if (taken > 0) rille_decoder_advance(decoder, size);
  return taken;
}
