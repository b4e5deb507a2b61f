/*
 * pump: see pump.h.
 *
 * What a way takes from its source goes on at once; bytes stay in the pipe only while the other socket takes none, and then no more are
 * read. So a pump holds at most one pipe, or COPIED_MAX bytes of output, each way.
 */
#include "pump.h"

#include "codec.h"
#include "conn_tls.h"
#include "loop.h"
#include "shaper.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum {
  RUN_MAX = 4 << 20,      /* bytes of one way before others have their turn */
  DRAW_MAX = 1 << 20,     /* of one call; what fits into the pipe depends on how the kernel holds it */
  DRAW_SMALL = 16 << 10,  /* less than that was all there is */
  COPIED_MAX = 256 << 10, /* bytes of output that were copied and wait */
  COPY_PIECE = 64 << 10
};

static const rille_duct no_pipe = {.read = -1, .write = -1};

bool rille_conn_sends_plain(const rille_conn *c) {
  return c->flags & RILLE_CONN_SOCKET && !(c->flags & (RILLE_CONN_SHAPED | RILLE_CONN_TRACE)) &&
         (!c->rare->tls || rille_conn_tls_is_kernels(c));
}

static bool is_spliced(const rille_way *way) {
  return !way->copies && !way->from->rare->tls && rille_conn_sends_plain(way->from) && rille_conn_sends_plain(way->to);
}

bool rille_way_wants(const rille_way *way) {
  if (way->is_read || way->err || way->piped > 0 || way->from->flags & (RILLE_CONN_EOF | RILLE_CONN_PAUSED))
    return false;
  if (way->to->flags & RILLE_CONN_BLOCKED || !rille_conn_takes_output(way->to)) return false;
  return rille_conn_output_len(way->to) <= (is_spliced(way) ? 0 : COPIED_MAX);
}

bool rille_way_is_held(const rille_way *way) {
  return !rille_way_wants(way) || (way->from->flags & RILLE_CONN_SHAPED && rille_shaper_holds_input(way->from));
}

/* ---- bytes ----------------------------------------------------------------------------------------------------- */

static void took(rille_way *way, size_t size) {
  rille_loop *loop = way->from->loop;
  way->left -= size;
  if (way->left == 0) way->is_read = true;
  way->from->read_ms = way->pump->moved_ms = loop->now_ms;
  loop->bytes_in += (double)size;
}

/* From the pipe to the socket. False: it takes no more now. */
static bool pour(rille_way *way) {
  rille_conn *to = way->to;
  if (to->flags & RILLE_CONN_BLOCKED || to->fd < 0 || to->flags & RILLE_CONN_BROKEN) return false;
  ssize_t sent;
  do sent = splice(way->pipe.read, NULL, to->fd, NULL, way->piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno != EAGAIN) {
    rille_conn_break_output(to);
    rille_conn_mark_dirty(to);
    return false;
  }
  if (sent < 0) sent = 0;
  way->piped -= (size_t)sent;
  way->moved += (double)sent;
  to->loop->bytes_out += (double)sent;
  to->written_ms = way->pump->moved_ms = to->loop->now_ms;
  if (way->piped == 0) return true;
  rille_conn_note_blocked(to);
  rille_conn_mark_dirty(to); /* its interest */
  return false;
}

static size_t share(const rille_way *way, size_t most) { return way->left < most ? (size_t)way->left : most; }

/* The areas have room for at least `size` bytes: make it exactly so much. */
static void cut(struct iovec areas[2], int *count, size_t size) {
  if (areas[0].iov_len >= size) *count = 1;
  if (*count == 1) areas[0].iov_len = areas[0].iov_len < size ? areas[0].iov_len : size;
  else if (areas[1].iov_len > size - areas[0].iov_len) areas[1].iov_len = size - areas[0].iov_len;
}

/* From the descriptor, or out of TLS, to the output of the other: how many bytes, 0: none now, or no more. */
static size_t copy(rille_way *way) {
  rille_conn *from = way->from;
  size_t most = share(way, COPY_PIECE);
  if (from->flags & RILLE_CONN_SHAPED) {
    size_t room = rille_shaper_room(from);
    if (room < most) most = room;
  }
  if (most == 0) return 0;
  int err;
  struct iovec areas[2] = {0};
  rille_linkbuffer *out = rille_conn_output(way->to, &err);
  int count = out ? rille_linkbuffer_reserve(out, most, most, areas) : err;
  if (count < 0) {
    way->err = count;
    return 0;
  }
  cut(areas, &count, most);
  ssize_t got;
  do got = from->rare->tls ? rille_conn_tls_read(from, areas, count) : readv(from->fd, areas, count);
  while (got < 0 && errno == EINTR);
  int error_number = got < 0 ? errno : 0;
  rille_linkbuffer_commit(out, got > 0 ? (size_t)got : 0);
  if (got <= 0) {
    if (error_number != EAGAIN) rille_conn_end_input(from, error_number);
    return 0;
  }
  if (from->flags & RILLE_CONN_TRACE) rille_conn_log_bytes(from, "received", areas, count, (size_t)got);
  if (from->flags & RILLE_CONN_SHAPED) rille_shaper_took(from, (size_t)got);
  took(way, (size_t)got);
  way->moved += (double)got;
  return (size_t)got;
}

/* From the socket to the pipe; as copy. */
static size_t draw(rille_way *way) {
  rille_conn *from = way->from;
  if (way->pipe.read < 0 && !rille_pipes_take(&from->loop->pipes, &way->pipe)) return copy(way);
  ssize_t got;
  do got = splice(from->fd, NULL, way->pipe.write, NULL, share(way, DRAW_MAX), SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  while (got < 0 && errno == EINTR);
  if (got > 0) {
    way->piped += (size_t)got;
    took(way, (size_t)got);
    return (size_t)got;
  }
  if (got < 0 && errno == EINVAL) { /* a kind of socket that cannot */
    way->copies = true;
    return copy(way);
  }
  if (got == 0 || errno != EAGAIN) rille_conn_end_input(from, got < 0 ? errno : 0);
  return 0;
}

/* What is in the pipe, to the output: the pipe is needed no more, and the bytes are the connection's to send. */
static void spill(rille_way *way) {
  rille_conn *to = way->to;
  while (way->piped > 0 && to->fd >= 0 && !(to->flags & (RILLE_CONN_BROKEN | RILLE_CONN_SHUT_DONE))) {
    struct iovec areas[2] = {0};
    if (!to->out) to->out = rille_loop_buffer_take(to->loop);
    int count = to->out ? rille_linkbuffer_reserve(to->out, way->piped, way->piped, areas) : RILLE_ERR_NO_MEMORY;
    if (count > 0) cut(areas, &count, way->piped);
    ssize_t got = count > 0 ? readv(way->pipe.read, areas, count) : -1;
    if (count > 0) rille_linkbuffer_commit(to->out, got > 0 ? (size_t)got : 0);
    if (got <= 0) { /* no memory: nothing may follow what is missing */
      rille_conn_abort(to);
      return;
    }
    way->piped -= (size_t)got;
    way->moved += (double)got;
  }
}

/* What was read before the pump began goes first. */
static int move_input(rille_way *way) {
  rille_conn *from = way->from;
  size_t size = share(way, rille_conn_input_len(from));
  if (size == 0) return RILLE_OK;
  int err;
  rille_linkbuffer *out = rille_conn_output(way->to, &err);
  rille_linkbuffer *taken = out ? rille_linkbuffer_take(from->in, (double)size, &err) : NULL;
  if (!taken) return err;
  err = rille_linkbuffer_write_buffer(out, taken);
  rille_linkbuffer_free(taken);
  if (err) return err;
  from->flags |= RILLE_CONN_CONSUMED;
  if (from->decoder) rille_decoder_reset(from->decoder);
  way->left -= size;
  way->is_read = way->left == 0;
  way->moved += (double)size;
  return RILLE_OK;
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

static void leave_conn(rille_conn *c) {
  if (c->tasks > 0) c->tasks--;
  rille_conn_mark_dirty(c);
}

static void end_way(rille_way *way) {
  rille_conn *from = way->from, *to = way->to;
  if (!from) return;
  spill(way);
  rille_pipes_give(&from->loop->pipes, &way->pipe, way->piped == 0);
  way->from = way->to = NULL;
  from->rare->part->drain = NULL;
  to->rare->part->feed = NULL;
  leave_conn(from);
  leave_conn(to);
  if (from == way->pump->owner) return; /* its task is still to be told */
  if (from->flags & RILLE_CONN_FINISHED) from->flags &= ~(uint32_t)(RILLE_CONN_READER | RILLE_CONN_WOKEN);
  else rille_conn_unwant(from, 1);
}

static void end(rille_pump *pump, int err) {
  if (pump->is_over) return;
  pump->is_over = true;
  pump->err = err;
  end_way(&pump->ways[0]);
  end_way(&pump->ways[1]);
}

static void tell(rille_pump *pump, int err) {
  if (pump->is_over) return;
  end(pump, err);
  rille_state_emit(pump->owner->state, RILLE_EVENT_READ, pump->owner->slot, 0);
}

static int closed_or(int err) { return err ? err : RILLE_ERR_CLOSED; }

/* Whether it failed, read all, or is done. */
static void look(rille_way *way) {
  rille_conn *from = way->from, *to = way->to;
  if (!from || way->is_done) return;
  bool is_lost = to->fd < 0 || to->flags & RILLE_CONN_BROKEN;
  if (!way->err && (is_lost || !(way->is_shut || rille_conn_takes_output(to))))
    way->err = closed_or(rille_conn_ended(to));
  if (!way->err && !way->is_read) {
    if (from->fd < 0 || from->error || from->flags & RILLE_CONN_CLOSING) way->err = closed_or(rille_conn_ended(from));
    else if (from->flags & RILLE_CONN_EOF) way->is_read = true;
  }
  if (!way->err && way->is_read && way->piped == 0) {
    if (way->left > 0 && way->pump->has_back && !way->is_shut) {
      way->is_shut = true;
      (void)rille_conn_shutdown(to); /* what is no socket is open as long as it is there */
    }
    way->is_done = rille_conn_output_len(to) == 0;
    if (way->is_done && way->left > 0 && way->pump->bytes >= 0 && way == &way->pump->ways[0]) {
      way->err = RILLE_ERR_CLOSED; /* there were fewer */
    }
  }
  if (way->err) way->is_done = true;
}

/* Of a socket that was reset one call says so, and the next one that it is closed. */
static int result_of(const rille_way *there, const rille_way *back) {
  bool is_told = there->err && (there->err != RILLE_ERR_CLOSED || !back->err);
  return is_told ? there->err : back->err;
}

static void check(rille_pump *pump) {
  if (pump->is_over) return;
  rille_way *there = &pump->ways[0], *back = &pump->ways[1];
  look(there);
  look(back);
  bool is_over = there->is_done && (back->is_done || !pump->has_back || (pump->bytes >= 0 && !there->err));
  if (is_over) {
    tell(pump, result_of(there, back));
    return;
  }
  for (int i = 0; i < 2; i++) {
    rille_way *way = &pump->ways[i];
    if (!way->from || rille_way_wants(way) == way->is_wanted) continue;
    way->is_wanted = !way->is_wanted;
    rille_conn_mark_dirty(way->from);
  }
}

void rille_pump_check(const rille_conn *c) {
  if (c->rare->part->drain) check(c->rare->part->drain->pump);
  if (c->rare->part->feed) check(c->rare->part->feed->pump);
}

void rille_way_run(rille_way *way) {
  size_t size = 0, got = DRAW_MAX;
  for (;;) { /* it never ends with bytes in the pipe that could go on */
    if (way->piped > 0 && !pour(way)) break;
    if (size >= RUN_MAX || got < DRAW_SMALL || !rille_way_wants(way)) break;
    got = is_spliced(way) ? draw(way) : copy(way);
    if (got == 0) break;
    size += got;
  }
  if (way->piped == 0) rille_pipes_give(&way->from->loop->pipes, &way->pipe, true);
  check(way->pump);
}

void rille_pump_expire(rille_pump *pump) {
  pump->is_idle = true;
  tell(pump, RILLE_OK);
}

void rille_pump_forget(rille_conn *c) {
  rille_part *part = c->rare->part;
  if (!part) return;
  if (part->drain) tell(part->drain->pump, RILLE_ERR_CLOSED);
  if (part->feed) tell(part->feed->pump, RILLE_ERR_CLOSED);
  free(part->own);
  free(part);
  c->rare->part = NULL;
}

/* ---- what Lua calls -------------------------------------------------------------------------------------------- */

static rille_part *part_of(rille_conn *c) {
  rille_rare *rare = rille_conn_rare(c);
  if (rare && !rare->part) rare->part = calloc(1, sizeof *rare->part);
  return rare ? rare->part : NULL;
}

static bool is_shaking(const rille_conn *c) { return c->rare->tls && c->rare->tls->is_shaking; }

/* The end of it was passed on, most often by a pump before: the other way may go on alone. */
static bool is_past(const rille_conn *from, const rille_conn *to) {
  return from->flags & RILLE_CONN_EOF && rille_conn_input_len(from) == 0 && to->flags & RILLE_CONN_SHUT &&
         to->fd >= 0 && !(to->flags & (RILLE_CONN_CLOSING | RILLE_CONN_BROKEN));
}

static int check_way(const rille_conn *from, const rille_conn *to, const rille_way *drain, const rille_way *feed,
                     bool may_be_past) {
  if (from->is_http || to->is_http || from->flags & RILLE_CONN_READER || drain || feed) return RILLE_ERR_BUSY;
  if (is_shaking(from) || is_shaking(to)) return RILLE_ERR_BUSY;
  bool is_open = rille_conn_takes_output(to) || (may_be_past && is_past(from, to));
  if (from->fd < 0 || from->error || from->flags & RILLE_CONN_CLOSING || !is_open) {
    return closed_or(rille_conn_ended(from) ? rille_conn_ended(from) : rille_conn_ended(to));
  }
  return RILLE_OK;
}

static int begin_way(rille_way *way, rille_pump *pump, rille_conn *from, rille_conn *to, uint64_t left) {
  *way = (rille_way){.pump = pump, .from = from, .to = to, .pipe = no_pipe, .left = left, .is_wanted = true};
  way->is_shut = is_past(from, to);
  way->is_read = left == 0 || way->is_shut;
  from->rare->part->drain = way;
  to->rare->part->feed = way;
  from->flags |= RILLE_CONN_READER | RILLE_CONN_WOKEN; /* nobody else reads it, and no time-out of reads runs */
  from->tasks++;
  to->tasks++;
  rille_conn_mark_dirty(from);
  rille_conn_mark_dirty(to);
  return move_input(way);
}

int rille_pump_start(rille_conn *from, rille_conn *to, const rille_pump_options *options) {
  if (from == to || (options->bytes >= 0 && floor(options->bytes) != options->bytes)) return RILLE_ERR_INVALID;
  rille_part *mine = part_of(from), *its = part_of(to);
  if (!mine || !its) return RILLE_ERR_NO_MEMORY;
  int err = mine->own ? RILLE_ERR_BUSY : check_way(from, to, mine->drain, its->feed, options->both);
  if (!err && options->both) err = check_way(to, from, its->drain, mine->feed, true);
  if (err) return err;
  rille_pump *pump = calloc(1, sizeof *pump);
  if (!pump) return RILLE_ERR_NO_MEMORY;
  *pump =
      (rille_pump){.owner = from, .bytes = options->bytes, .has_back = options->both, .moved_ms = from->loop->now_ms};
  pump->idle_ms = options->idle_ms > INT32_MAX ? INT32_MAX : (uint32_t)ceil(options->idle_ms);
  mine->own = pump;
  err = begin_way(&pump->ways[0], pump, from, to, options->bytes >= 0 ? (uint64_t)options->bytes : UINT64_MAX);
  if (!err && options->both) err = begin_way(&pump->ways[1], pump, to, from, UINT64_MAX);
  if (err) tell(pump, err);
  rille_conn_arm(from);
  return RILLE_PARK;
}

static void show(const rille_pump *pump, rille_pump_result *out) {
  *out = (rille_pump_result){.there = pump->ways[0].moved,
                             .back = pump->ways[1].moved,
                             .is_over = pump->is_over,
                             .is_idle = pump->is_idle,
                             .err = pump->err};
}

int rille_pump_look(const rille_conn *from, rille_pump_result *out) {
  if (!from->rare->part || !from->rare->part->own) return RILLE_ERR_NOT_FOUND;
  show(from->rare->part->own, out);
  return RILLE_OK;
}

int rille_pump_take(rille_conn *from, rille_pump_result *out) {
  if (!from->rare->part || !from->rare->part->own) return RILLE_ERR_NOT_FOUND;
  rille_pump *pump = from->rare->part->own;
  end(pump, RILLE_ERR_CANCELLED);
  show(pump, out);
  from->rare->part->own = NULL;
  free(pump);
  rille_conn_unwant(from, 1);
  return RILLE_OK;
}
