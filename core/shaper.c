/*
 * shaper: see shaper.h.
 *
 * A bucket holds a quarter of a second's bytes, and bytes go in pieces of at least a fiftieth of a second's, so that a
 * connection at its limit costs at most fifty wake-ups a second each way, whatever the rate.
 */
#include "shaper.h"

#include "http.h"
#include "loop.h"

#include <math.h>
#include <stdlib.h>

enum { BURST_PARTS = 4, PIECE_PARTS = 50, AREAS_MAX = 64, SENDS_A_TURN = 4 };

static double at_least_one(double bytes) { return bytes < 1 ? 1 : bytes; }

static double piece_of(const rille_bucket *b) { return at_least_one(b->rate / PIECE_PARTS); }

static void fill(rille_bucket *b, uint64_t now_ns) {
  double burst = at_least_one(b->rate / BURST_PARTS);
  double tokens = b->tokens + (double)(now_ns - b->filled_ns) / 1e9 * b->rate;
  b->tokens = tokens < burst ? tokens : burst;
  b->filled_ns = now_ns;
}

static void wait_for(rille_conn *c, rille_bucket *b, double tokens) {
  if (b->is_empty) return;
  b->is_empty = true;
  b->since_ms = c->loop->now_ms;
  b->until_ms = c->loop->now_ms + (uint32_t)ceil((tokens - b->tokens) * 1000 / b->rate);
  rille_conn_mark_dirty(c); /* its interest changes */
  rille_conn_arm(c);
}

/* ---- rates ----------------------------------------------------------------------------------------------------- */

static void set_rate(rille_bucket *b, double rate, uint64_t now_ns) {
  bool is_new = b->rate == 0;
  if (!is_new) fill(b, now_ns); /* what the old rate gave */
  b->rate = rate;
  double burst = at_least_one(rate / BURST_PARTS);
  if (is_new || b->tokens > burst) b->tokens = burst;
  b->filled_ns = now_ns;
  b->is_empty = false; /* looked at anew */
}

int rille_shaper_set(rille_conn *c, int setting, double rate) {
  if (rate > 0 && rate < 1) return RILLE_ERR_INVALID; /* a wait would be too long for the clock */
  if (!c->rare->shaper) {
    if (rate == 0) return RILLE_OK;
    rille_rare *rare = rille_conn_rare(c);
    if (rare) rare->shaper = calloc(1, sizeof *rare->shaper);
    if (!rare || !rare->shaper) return RILLE_ERR_NO_MEMORY;
    c->flags |= RILLE_CONN_SHAPED;
  }
  rille_shaper *shaper = c->rare->shaper;
  set_rate(setting == RILLE_SET_READ_RATE ? &shaper->in : &shaper->out, rate, c->loop->now_ns);
  rille_conn_mark_dirty(c);
  if (shaper->in.rate > 0 || shaper->out.rate > 0) return RILLE_OK;
  free(shaper);
  c->rare->shaper = NULL;
  c->flags &= ~(uint32_t)RILLE_CONN_SHAPED;
  return RILLE_OK;
}

void rille_shaper_reset(rille_shaper *shaper) { shaper->in.is_empty = shaper->out.is_empty = false; }

bool rille_shaper_holds_input(const rille_conn *c) { return c->rare->shaper->in.is_empty; }

bool rille_shaper_holds_output(const rille_conn *c) { return c->rare->shaper->out.is_empty; }

/* ---- reading --------------------------------------------------------------------------------------------------- */

size_t rille_shaper_room(rille_conn *c) {
  rille_bucket *b = &c->rare->shaper->in;
  if (b->rate == 0) return SIZE_MAX;
  if (b->is_empty) return 0;
  fill(b, c->loop->now_ns);
  if (b->tokens >= piece_of(b)) return (size_t)b->tokens;
  wait_for(c, b, piece_of(b));
  return 0;
}

void rille_shaper_took(rille_conn *c, size_t size) {
  rille_bucket *b = &c->rare->shaper->in;
  if (b->rate == 0) return;
  b->tokens -= (double)size;
  if (b->tokens < piece_of(b) && size > 0) wait_for(c, b, piece_of(b));
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

/* The first `most` bytes of the areas: how many areas that is; their bytes in *size. */
static int cut(struct iovec *areas, int count, size_t most, size_t *size) {
  *size = 0;
  for (int i = 0; i < count; i++) {
    if (areas[i].iov_len >= most - *size) {
      areas[i].iov_len = most - *size;
      *size = most;
      return i + 1;
    }
    *size += areas[i].iov_len;
  }
  return count;
}

/* Bytes of the output that may be sent now; 0: none, and it waits. */
static size_t room_to_send(rille_conn *c, size_t length) {
  rille_bucket *b = &c->rare->shaper->out;
  if (b->rate == 0) return length;
  if (b->is_empty) return 0;
  fill(b, c->loop->now_ns);
  double piece = piece_of(b) < (double)length ? piece_of(b) : (double)length;
  if (b->tokens < piece) {
    wait_for(c, b, piece);
    return 0;
  }
  return b->tokens < (double)length ? (size_t)b->tokens : length;
}

int rille_shaper_send(rille_conn *c) {
  struct iovec areas[AREAS_MAX];
  size_t length = rille_conn_output_len(c);
  for (int i = 0; i < SENDS_A_TURN && length > 0 && !(c->flags & RILLE_CONN_BLOCKED); i++) {
    size_t size, room = room_to_send(c, length);
    if (room == 0) break;
    int count = cut(areas, rille_linkbuffer_areas(c->out, areas, AREAS_MAX), room, &size);
    ssize_t sent = rille_conn_send_once(c, areas, count, size);
    if (sent < 0) return (int)sent;
    if (c->rare->shaper->out.rate > 0) c->rare->shaper->out.tokens -= (double)sent;
    length = rille_conn_output_len(c);
  }
  if (length == 0) rille_conn_give_output(c);
  else if (!(c->flags & RILLE_CONN_BLOCKED) && !c->rare->shaper->out.is_empty) rille_conn_mark_dirty(c);
  rille_conn_wake_writers(c);
  return RILLE_OK;
}

/* ---- waiting --------------------------------------------------------------------------------------------------- */

/* The peer could not be heard since `since`: what is measured from a moment before is measured from as much later. */
static void give_back(uint32_t *moment, uint32_t since, uint32_t now) {
  *moment += now - ((int32_t)(*moment - since) > 0 ? *moment : since);
}

static bool is_over(rille_bucket *b, uint32_t now) {
  if (!b->is_empty || (int32_t)(now - b->until_ms) < 0) return false;
  b->is_empty = false;
  return true;
}

void rille_shaper_fire(rille_conn *c) {
  uint32_t now = c->loop->now_ms;
  rille_shaper *shaper = c->rare->shaper;
  if (is_over(&shaper->in, now)) {
    if (c->flags & RILLE_CONN_READER) give_back(&c->parked_ms, shaper->in.since_ms, now);
    if (c->http) give_back(&c->http->since_ms, shaper->in.since_ms, now);
    rille_conn_mark_dirty(c);
  }
  if (is_over(&shaper->out, now)) rille_conn_mark_dirty(c);
}
