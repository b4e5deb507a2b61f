/*
 * conn_io: what goes between a connection's socket and its LinkBuffers; see conn.h. Loop thread only.
 *
 * For a ready connection the order is write, read, end, so that bytes which came before a FIN or RST are handed on
 * before the end is. One read a turn: level-triggered epoll reports again what is left, after the others had theirs.
 */
#include "codec.h"
#include "conn_tls.h"
#include "http.h"
#include "loop.h"
#include "proxied.h"
#include "pump.h"
#include "shaper.h"
#include "topic.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
  READ_SIZE_MIN = 2048,
  READ_SIZE_MAX = 256 << 10,
  SPARSE_READS = 32, /* so many in a row and the read size is halved */
  AREAS_MAX = 64,
  SENDS_A_TURN = 4,
  OPS_BETWEEN_LOOKS = 16, /* at the clock */
  OPS_A_TURN = 1024
};

/* ---- system calls ----------------------------------------------------------------------------------------------

   libc's read and send are cancellation points: in a process with threads each pays two atomic exchanges for a feature
   that is not used here. These go straight to the kernel. */

static ssize_t read_some(int fd, void *to, size_t size) { return syscall(SYS_read, fd, to, size); }

static ssize_t send_some(int fd, const void *from, size_t size) {
  return syscall(SYS_sendto, fd, from, size, MSG_NOSIGNAL, NULL, 0);
}

/* ---- buffers come with bytes and go with them ------------------------------------------------------------------ */

size_t rille_conn_input_len(const rille_conn *c) { return c->in ? rille_linkbuffer_readable(c->in) : 0; }

size_t rille_conn_input_held(const rille_conn *c) { return c->in ? rille_linkbuffer_held(c->in) : 0; }

size_t rille_conn_output_len(const rille_conn *c) { return c->out ? rille_linkbuffer_total(c->out) : 0; }

void rille_conn_give_input(rille_conn *c) {
  if (c->in) rille_loop_buffer_give(c->loop, c->in);
  c->in = NULL;
  if (c->decoder) rille_decoder_reset(c->decoder);
}

void rille_conn_give_output(rille_conn *c) {
  if (c->out) rille_loop_buffer_give(c->loop, c->out);
  c->out = NULL;
}

rille_linkbuffer *rille_conn_input(rille_conn *c) {
  if (!c->in) c->in = rille_loop_buffer_take(c->loop);
  if (c->flags & RILLE_CONN_EOF) rille_conn_mark_dirty(c); /* the last byte may be taken: on_disconnect is next */
  return c->in;
}

bool rille_conn_takes_output(const rille_conn *c) {
  return c->fd >= 0 && !(c->flags & (RILLE_CONN_CLOSING | RILLE_CONN_SHUT | RILLE_CONN_BROKEN));
}

rille_linkbuffer *rille_conn_output(rille_conn *c, int *err) {
  if (!rille_conn_takes_output(c)) {
    *err = c->error == RILLE_ERR_RESET ? RILLE_ERR_RESET : RILLE_ERR_CLOSED;
    return NULL;
  }
  if (!c->out) {
    c->out = rille_loop_buffer_take(c->loop);
    if (!c->out) {
      *err = RILLE_ERR_NO_MEMORY;
      return NULL;
    }
  }
  rille_conn_mark_dirty(c);
  return c->out;
}

void rille_conn_mark_dirty(rille_conn *c) {
  if (c->flags & (RILLE_CONN_DIRTY | RILLE_CONN_DEAD)) return;
  c->flags |= RILLE_CONN_DIRTY;
  c->next_dirty = c->loop->dirty;
  c->loop->dirty = c;
}

size_t rille_conn_input_limit(const rille_conn *c) {
  return c->is_http ? rille_http_input_limit(c) : c->service->max_input;
}

/* ---- shares ---------------------------------------------------------------------------------------------------- */

/* The clock is looked at between the 2nd, 3rd, 4th and 8th and then at every 16th: seldom for quick handlers, soon for slow ones. */
static bool is_look_due(unsigned ops) {
  return ops < OPS_BETWEEN_LOOKS ? ops >= 2 && (ops <= 4 || ops == 8) : ops % OPS_BETWEEN_LOOKS == 0;
}

/* True when this connection had its share of the turn: so many messages or reads, or so much time since it began to be
 * served. */
bool rille_conn_over_budget(rille_conn *c) {
  rille_loop *loop = c->loop;
  if (c->turn != (uint32_t)loop->turn) {
    c->turn = (uint32_t)loop->turn;
    c->ops = 0;
  }
  c->ops++;
  if (!is_look_due(c->ops)) return false;
  if (c->ops >= OPS_A_TURN) return true;
  uint64_t now = rille_now_ns();
  if (c->ops == 2 || loop->budget_slot != c->slot) {
    loop->budget_slot = c->slot;
    loop->budget_started_ns = now;
    return false;
  }
  return now - loop->budget_started_ns > loop->budget_ns;
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) void adapt_read_size(rille_conn *c, size_t got, size_t room) {
  if (got == room && room >= c->read_size) {
    if (c->read_size < READ_SIZE_MAX) c->read_size *= 2;
    c->sparse = 0;
  } else if (got * 4 > c->read_size) {
    c->sparse = 0;
  } else if (++c->sparse >= SPARSE_READS) {
    if (c->read_size > READ_SIZE_MIN) c->read_size /= 2;
    c->sparse = 0;
  }
}

/* Input of a connection that only waits for its peer to end too. */
static void discard(rille_conn *c) {
  uint8_t nowhere[16 << 10];
  for (int i = 0; i < SENDS_A_TURN; i++) {
    ssize_t got = read(c->fd, nowhere, sizeof nowhere);
    if (got > 0) continue;
    if (got < 0 && errno == EINTR) continue;
    if (got == 0 || errno != EAGAIN) c->flags |= RILLE_CONN_EOF; /* how it went no longer matters */
    return;
  }
}

static void end_of_input(rille_conn *c, int err) {
  c->flags |= RILLE_CONN_EOF;
  if (err) c->error = (int16_t)err;
  else if (c->flags & RILLE_CONN_BROKEN) c->error = RILLE_ERR_RESET;
  rille_conn_mark_dirty(c);
}

/* Descriptors that are no sockets end in ways of their own. */
static int error_of_read(const rille_conn *c, int error_number) {
  if (c->flags & RILLE_CONN_SOCKET) return rille_err_from_errno(error_number);
  if (error_number == EIO) return RILLE_OK;           /* of a terminal: nobody has its other side any more */
  if (error_number == EBADF) return RILLE_ERR_CLOSED; /* an end of a pipe to be written, which nobody reads any more */
  return rille_err_from_errno(error_number);
}

void rille_conn_end_input(rille_conn *c, int error_number) {
  end_of_input(c, error_number ? error_of_read(c, error_number) : 0);
}

/* One read of at most so many bytes into room at the end of the input. True when there may be more to read this turn: the end, that
 * is. Inline, so that a `most` that is none costs nothing. */
static inline __attribute__((always_inline)) bool receive_once(rille_conn *c, bool end_is_near, size_t most) {
  if (!c->in) {
    c->in = rille_loop_buffer_take(c->loop);
    if (!c->in) {
      rille_conn_fail(c, RILLE_ERR_NO_MEMORY);
      return false;
    }
  }
  size_t length = rille_conn_input_len(c);
  size_t used = length + rille_conn_input_held(c);
  size_t limit = rille_conn_input_limit(c);
  if (used >= limit) {
    c->flags |= RILLE_CONN_FULL;
    rille_conn_input_changed(c);
    rille_conn_mark_dirty(c);
    return false;
  }
  if (most < limit - used) limit = used + most;
  size_t size = c->read_size;
  /* what it waits for, in one piece */
  if (c->flags & RILLE_CONN_READER && c->want > length + size) size = c->want - length;
  if (size > limit - used) size = limit - used;

  struct iovec areas[2];
  int count = rille_linkbuffer_reserve(c->in, size < READ_SIZE_MIN ? size : READ_SIZE_MIN, size, areas);
  if (count < 0) {
    rille_conn_fail(c, count);
    return false;
  }
  size_t room = areas[0].iov_len + (count > 1 ? areas[1].iov_len : 0);
  if (room > limit - used) { /* blocks are powers of two, the limit need not be */
    size_t surplus = room - (limit - used);
    if (count > 1 && surplus < areas[1].iov_len) {
      areas[1].iov_len -= surplus;
    } else {
      if (count > 1) surplus -= areas[1].iov_len;
      count = 1;
      areas[0].iov_len -= surplus;
    }
    room = limit - used;
  }

  ssize_t got;
  do {
    if (__builtin_expect(c->rare->tls != NULL, 0)) got = rille_conn_tls_read(c, areas, count);
    else got = count == 1 ? read_some(c->fd, areas[0].iov_base, areas[0].iov_len) : readv(c->fd, areas, count);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) {
    rille_linkbuffer_commit(c->in, 0);
    if (got == 0) rille_conn_end_input(c, 0);
    else if (errno != EAGAIN) rille_conn_end_input(c, errno);
    return false;
  }
  if (c->flags & RILLE_CONN_TRACE) rille_conn_log_bytes(c, "received", areas, count, (size_t)got);
  rille_linkbuffer_commit(c->in, (size_t)got);
  c->flags |= RILLE_CONN_ARRIVED;
  c->read_ms = c->loop->now_ms;
  c->loop->bytes_in += (double)got;
  adapt_read_size(c, (size_t)got, room);
  return end_is_near && (size_t)got < room;
}

static inline __attribute__((always_inline)) void hand_on(rille_conn *c, size_t before) {
  if (rille_conn_input_len(c) > before || c->flags & RILLE_CONN_READER) rille_conn_input_changed(c);
  if (c->in && !(c->flags & (RILLE_CONN_BUSY | RILLE_CONN_READER)) &&
      rille_conn_input_len(c) + rille_conn_input_held(c) == 0) {
    rille_conn_give_input(c); /* nothing came into it */
  }
}

/* What its rate allows. */
static __attribute__((noinline)) void receive_shaped(rille_conn *c) {
  size_t room = rille_shaper_room(c), before = rille_conn_input_len(c);
  if (room == 0) return;
  receive_once(c, false, room);
  rille_shaper_took(c, rille_conn_input_len(c) - before);
  hand_on(c, before);
}

static void receive(rille_conn *c, bool end_is_near, bool is_hung) {
  if (c->flags & (RILLE_CONN_LINGERING | RILLE_CONN_SHAPED)) {
    if (c->flags & RILLE_CONN_LINGERING) {
      discard(c);
      rille_conn_settle(c);
      return;
    }
    if (!is_hung) { /* else the rest is here already, and epoll would not be quiet about it */
      receive_shaped(c);
      return;
    }
  }
  size_t before = rille_conn_input_len(c);
  while (receive_once(c, end_is_near, SIZE_MAX)) {
  }
  hand_on(c, before);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

void rille_conn_wake_writers(rille_conn *c) {
  if (!(c->flags & RILLE_CONN_WRITER)) return;
  bool is_over = c->fd < 0 || c->flags & (RILLE_CONN_BROKEN | RILLE_CONN_FINISHED);
  if (!is_over && rille_conn_output_len(c) > c->drain_to) return;
  c->flags &= ~(uint32_t)RILLE_CONN_WRITER;
  rille_state_emit(c->state, RILLE_EVENT_WRITE, c->slot, 0);
}

/* The way out is gone. What the peer sent before may still be read, so the end comes from the reading side. */
void rille_conn_break_output(rille_conn *c) {
  if (c->flags & RILLE_CONN_CLOSING && !c->error) c->error = RILLE_ERR_RESET; /* what close() was to drain is lost */
  c->flags |= RILLE_CONN_BROKEN;
  c->flags &= ~(uint32_t)RILLE_CONN_BLOCKED;
  rille_topic_leave(c);
  rille_conn_give_output(c);
  rille_conn_wake_writers(c);
}

static ssize_t send_areas(const rille_conn *c, struct iovec *areas, int count) {
  if (!(c->flags & RILLE_CONN_SOCKET)) return writev(c->fd, areas, count);
  if (count == 1) return send_some(c->fd, areas[0].iov_base, areas[0].iov_len);
  struct msghdr message = {.msg_iov = areas, .msg_iovlen = (size_t)count};
  return sendmsg(c->fd, &message, MSG_NOSIGNAL);
}

void rille_conn_note_blocked(rille_conn *c) {
  c->flags |= RILLE_CONN_BLOCKED;
  c->written_ms = rille_loop_fresh_ms(c->loop); /* the write time-out runs from here */
  rille_conn_arm(c);
}

static inline __attribute__((always_inline)) ssize_t send_once(rille_conn *c, struct iovec *areas, int count,
                                                               size_t size) {
  ssize_t sent;
  do sent = __builtin_expect(c->rare->tls != NULL, 0) ? rille_conn_tls_write(c, size) : send_areas(c, areas, count);
  while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    if (errno != EAGAIN) {
      int err = rille_err_from_errno(errno);
      rille_conn_break_output(c);
      return err;
    }
    sent = 0;
  }
  if (c->flags & RILLE_CONN_TRACE && sent > 0) rille_conn_log_bytes(c, "sent", areas, count, (size_t)sent);
  rille_linkbuffer_drop(c->out, (size_t)sent);
  c->loop->bytes_out += (double)sent;
  c->written_ms = c->loop->now_ms;
  if ((size_t)sent < size) rille_conn_note_blocked(c);
  return sent;
}

ssize_t rille_conn_send_once(rille_conn *c, struct iovec *areas, int count, size_t size) {
  return send_once(c, areas, count, size);
}

/* Send what is written until the kernel takes no more. 0, or the error that broke the output. */
int rille_conn_send(rille_conn *c) {
  if (c->fd < 0 || !c->out) return RILLE_OK;
  rille_linkbuffer_flush(c->out);
  if (c->rare->tls && c->rare->tls->is_shaking) return RILLE_OK;
  struct iovec areas[AREAS_MAX];
  for (int i = 0; i < SENDS_A_TURN && !(c->flags & (RILLE_CONN_BLOCKED | RILLE_CONN_SHAPED)); i++) {
    int count = rille_linkbuffer_areas(c->out, areas, AREAS_MAX);
    if (count == 0) break;
    size_t size = 0;
    for (int k = 0; k < count; k++) size += areas[k].iov_len;
    ssize_t sent = send_once(c, areas, count, size);
    if (sent < 0) return (int)sent;
    if ((size_t)sent == size && count < AREAS_MAX) break; /* that was all */
  }
  if (rille_conn_output_len(c) == 0) {
    rille_conn_give_output(c);
  } else if (!(c->flags & RILLE_CONN_BLOCKED)) {
    if (c->flags & RILLE_CONN_SHAPED) return rille_shaper_send(c);
    rille_conn_mark_dirty(c); /* its share of this turn is sent */
  }
  rille_conn_wake_writers(c);
  return RILLE_OK;
}

/* One send straight from the block; how much of it the kernel took, or an error that broke the output. */
static ssize_t send_shared(rille_conn *c, const uint8_t *base, uint32_t size) {
  struct iovec area = {.iov_base = (void *)(uintptr_t)base, .iov_len = size};
  ssize_t sent;
  do sent = send_areas(c, &area, 1);
  while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno != EAGAIN) {
    int err = rille_err_from_errno(errno);
    rille_conn_break_output(c);
    rille_conn_mark_dirty(c); /* to be settled */
    return err;
  }
  if (sent <= 0) return 0;
  if (c->flags & RILLE_CONN_TRACE) rille_conn_log_bytes(c, "sent", &area, 1, (size_t)sent);
  c->loop->bytes_out += (double)sent;
  c->written_ms = c->loop->now_ms;
  return sent;
}

/* The first message of a turn goes straight to the kernel when nothing waits before it: no buffer is taken for it. Further ones of
 * the turn are linked behind one another and leave in one call at its end. */
int rille_conn_share(rille_conn *c, rille_block *block, const uint8_t *base, uint32_t size) {
  static rille_cell always = {.epoch = 1}; /* the block is held by whoever calls this */
  bool is_first = c->shared_turn != (uint32_t)c->loop->turn;
  bool is_direct = is_first && !c->rare->tls && rille_conn_output_len(c) == 0 && rille_conn_takes_output(c) &&
                   !(c->flags & RILLE_CONN_SHAPED);
  ssize_t sent = 0;
  if (is_direct) {
    c->shared_turn = (uint32_t)c->loop->turn;
    sent = send_shared(c, base, size);
    if (sent < 0 || (size_t)sent == size) return sent < 0 ? (int)sent : RILLE_OK;
  }
  int err;
  rille_linkbuffer *out = rille_conn_output(c, &err);
  rille_slice rest = {
      .base_ = base + sent, .cell_ = &always, .block_ = block, .size_ = size - (uint32_t)sent, .epoch_ = 1};
  if (out) err = rille_linkbuffer_write_direct_slice(out, &rest, 0); /* links it, however short it is */
  if (!err && is_direct) rille_conn_note_blocked(c);
  if (err && sent > 0) { /* no memory: nothing may follow half a message */
    c->reason = c->reason ? c->reason : RILLE_ERR_ERROR;
    rille_conn_abort(c);
  }
  return err;
}

/* ---- events ---------------------------------------------------------------------------------------------------- */

/* What it has is taken by a pump, or read. */
static void take(rille_conn *c, uint32_t events, bool is_hung) {
  if (c->rare->part && c->rare->part->drain) rille_way_run(c->rare->part->drain);
  else receive(c, is_hung || events & EPOLLRDHUP, is_hung);
}

/* It cannot be read now. */
static bool is_held(const rille_conn *c) {
  if (c->rare->part && c->rare->part->drain) return rille_way_is_held(c->rare->part->drain);
  return c->flags & RILLE_CONN_FULL && !(c->flags & RILLE_CONN_LINGERING);
}

void rille_conn_ready(rille_conn *c, uint32_t events) {
  if (c->fd < 0) return;
  if (c->rare->proxied && rille_proxied_ready(c, events)) return;
  if (c->rare->tls && !(c->flags & RILLE_CONN_LINGERING)) {
    events = rille_conn_tls_events(c, events);
    if (!events) return;
  }
  if (events & EPOLLOUT && c->flags & RILLE_CONN_BLOCKED) {
    c->flags &= ~(uint32_t)RILLE_CONN_BLOCKED;
    rille_conn_mark_dirty(c);
    rille_conn_send(c);
    if (c->rare->part && c->rare->part->feed) rille_way_run(c->rare->part->feed);
    rille_conn_wake_writers(c);
    if (c->fd < 0) return;
  }
  bool is_hung = events & (EPOLLHUP | EPOLLERR);
  if (!(c->flags & RILLE_CONN_EOF)) {
    if (events & (EPOLLIN | EPOLLRDHUP) || is_hung) take(c, events, is_hung);
    if (is_hung && c->fd >= 0 && !(c->flags & RILLE_CONN_EOF) && is_held(c)) {
      /* It cannot be read now and epoll would report it for ever; tidying registers it again once there is room. */
      rille_poller_remove(&c->loop->poller, c->fd);
      c->flags &= ~(uint32_t)RILLE_CONN_REGISTERED;
      c->interest = 0;
    }
  } else if (is_hung && c->fd >= 0) { /* both directions are gone */
    bool is_lost =
        rille_conn_output_len(c) > 0 || (c->rare->part && c->rare->part->feed && c->rare->part->feed->piped > 0);
    if (events & EPOLLERR || is_lost) c->error = RILLE_ERR_RESET;
    rille_poller_remove(&c->loop->poller, c->fd);
    c->flags &= ~(uint32_t)RILLE_CONN_REGISTERED;
    c->flags |= RILLE_CONN_BROKEN;
    c->interest = 0;
    rille_conn_give_output(c);
    rille_conn_mark_dirty(c);
  }
}

static void apply_interest(rille_conn *c) {
  if (c->fd < 0 || c->flags & RILLE_CONN_FINISHED) return;
  if (c->flags & RILLE_CONN_FULL && rille_conn_input_len(c) + rille_conn_input_held(c) < rille_conn_input_limit(c)) {
    c->flags &= ~(uint32_t)RILLE_CONN_FULL;
  }
  enum { HELD = RILLE_CONN_FULL | RILLE_CONN_PAUSED };
  bool reads =
      !(c->flags & RILLE_CONN_EOF) && (c->flags & RILLE_CONN_LINGERING || !(c->flags & (HELD | RILLE_CONN_SHAPED)) ||
                                       (!(c->flags & HELD) && !rille_shaper_holds_input(c)));
  const rille_way *drain = c->rare->part ? c->rare->part->drain : NULL;
  reads = reads && !(drain && !rille_way_wants(drain));
  uint8_t interest = (uint8_t)((reads ? EPOLLIN : 0) | (c->flags & RILLE_CONN_BLOCKED ? EPOLLOUT : 0));
  if (c->rare->tls && !(c->flags & RILLE_CONN_LINGERING)) interest = rille_conn_tls_interest(c, interest);
  /* One that was taken out, see rille_conn_ready, goes back in even when paused: with no interest at all the end is still told. */
  if (interest == c->interest && (drain || c->flags & (RILLE_CONN_REGISTERED | RILLE_CONN_EOF | RILLE_CONN_FULL)))
    return;
  uint32_t events = interest | (interest & EPOLLIN ? (uint32_t)EPOLLRDHUP : 0);
  uint64_t data = rille_poller_data(RILLE_TAG_CONN, c->epoch, c->slot);
  if (c->flags & RILLE_CONN_REGISTERED) {
    rille_poller_change(&c->loop->poller, c->fd, events, data);
  } else {
    if (c->flags & RILLE_CONN_OPENING && c->service->hooks & RILLE_HOOK_PREPARE) return; /* not admitted yet */
    if (rille_poller_add(&c->loop->poller, c->fd, events, data) < 0) return;
    c->flags |= RILLE_CONN_REGISTERED;
  }
  c->interest = interest;
}

static void take_rest(rille_conn *c) {
  rille_way *drain = c->rare->part ? c->rare->part->drain : NULL;
  if (!drain) receive(c, false, false);
  else if (rille_way_wants(drain)) rille_way_run(drain); /* else it is told when it does */
}

/* What TLS holds: epoll does not know of it. Of one that has been read in this turn it waits for the next. */
static void receive_rest(rille_conn *c) {
  enum { HELD = RILLE_CONN_FULL | RILLE_CONN_PAUSED | RILLE_CONN_EOF | RILLE_CONN_LINGERING };
  if (c->fd < 0 || c->error || c->flags & HELD) return;
  if (c->rare->tls->read_turn == (uint32_t)c->loop->turn) rille_conn_mark_dirty(c);
  else take_rest(c);
}

void rille_conn_tidy(rille_conn *c) {
  c->flags &= ~(uint32_t)RILLE_CONN_DIRTY;
  if (c->flags & RILLE_CONN_DEAD) { /* freed while it stood on the dirty list */
    c->next_dirty = c->loop->dead;
    c->loop->dead = c;
    return;
  }
  if (!(c->flags & RILLE_CONN_BLOCKED)) rille_conn_send(c);
  if (c->flags & RILLE_CONN_SHUT && !(c->flags & RILLE_CONN_SHUT_DONE) && rille_conn_output_len(c) == 0 && c->fd >= 0) {
    if (!c->rare->tls || rille_conn_tls_goodbye(c)) {
      shutdown(c->fd, SHUT_WR);
      c->flags |= RILLE_CONN_SHUT_DONE;
    }
  }
  if (c->rare->part) rille_pump_check(c);
  if (c->flags & RILLE_CONN_LEFT) {
    c->flags &= ~(uint32_t)RILLE_CONN_LEFT;
    rille_conn_input_changed(c);
  }
  rille_conn_settle(c);
  if (c->flags & RILLE_CONN_FINISHED) return;
  apply_interest(c);
  if (c->rare->tls && c->rare->tls->has_more) receive_rest(c);
}

bool rille_conn_is_put_off(const rille_conn *c) {
  return rille_conn_output_len(c) > 0 ||
         (c->rare->tls && c->rare->tls->has_more && c->rare->tls->read_turn == (uint32_t)c->loop->turn);
}
