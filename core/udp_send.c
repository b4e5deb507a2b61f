/*
 * udp_send: what goes out. A script's own socket sends at once where the kernel lets it; everything else waits in a ring until the end of
 * the chunk and leaves with one call for many. Answers of one size to one peer that stand in a row go as one with UDP_SEGMENT. See udp.h.
 */
#include "udp.h"

#include "log.h"
#include "loop.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>

enum {
  OUT_FIRST = 16,
  IP_MAX = 65507,
  SEGMENT_MAX = 1400, /* bytes that UDP_SEGMENT is used for: what fits into a packet nearly everywhere */
  SEGMENTS_MAX = 44,  /* in one message, 44 x 1400 < 64 KiB */
  RETRY_FIRST_MS = 1,
  RETRY_MAX_MS = 32,
  STUCK_MAX_MS = 200 /* a Unix peer that takes nothing */
};

/* ---- ends -------------------------------------------------------------------------------------------------------- */

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool is_mapped(const uint8_t *ip) { return memcmp(ip, mapped, sizeof mapped) == 0; }

void rille_udp_peer_of(const rille_udp *u, const rille_udp_end *end, rille_udp_peer *out) {
  *out = (rille_udp_peer){.socket_ = u->slot, .epoch_ = u->epoch, .family_ = AF_UNIX};
  if (end->name_size < sizeof(struct sockaddr_in) || u->address.family == AF_UNIX) return;
  memcpy(out->local_, end->local, sizeof out->local_);
  out->local_size_ = end->local_size;
  if (end->name.any.sa_family == AF_INET) {
    out->family_ = AF_INET;
    out->port_ = ntohs(end->name.in.sin_port);
    memcpy(out->ip_, &end->name.in.sin_addr, 4);
    return;
  }
  const uint8_t *ip = end->name.in6.sin6_addr.s6_addr;
  bool is_ipv4 = is_mapped(ip);
  out->family_ = is_ipv4 ? AF_INET : AF_INET6;
  out->port_ = ntohs(end->name.in6.sin6_port);
  out->scope_ = end->name.in6.sin6_scope_id;
  memcpy(out->ip_, is_ipv4 ? ip + 12 : ip, is_ipv4 ? 4 : 16);
}

int rille_udp_end_of(const rille_udp *u, const rille_udp_peer *peer, rille_udp_end *out) {
  *out = (rille_udp_end){.name_size = 0};
  int family = u->address.family;
  if (peer->family_ == AF_INET && family == AF_INET) {
    out->name.in.sin_family = AF_INET;
    out->name.in.sin_port = htons(peer->port_);
    memcpy(&out->name.in.sin_addr, peer->ip_, 4);
    out->name_size = sizeof out->name.in;
  } else if (family == AF_INET6 && (peer->family_ == AF_INET6 || peer->family_ == AF_INET)) {
    out->name.in6.sin6_family = AF_INET6;
    out->name.in6.sin6_port = htons(peer->port_);
    out->name.in6.sin6_scope_id = peer->scope_;
    uint8_t *ip = out->name.in6.sin6_addr.s6_addr;
    bool is_ipv4 = peer->family_ == AF_INET;
    if (is_ipv4) memcpy(ip, mapped, sizeof mapped);
    memcpy(is_ipv4 ? ip + 12 : ip, peer->ip_, is_ipv4 ? 4 : 16);
    out->name_size = sizeof out->name.in6;
  } else {
    return RILLE_ERR_INVALID;
  }
  if (peer->socket_ != u->slot || peer->epoch_ != u->epoch) return RILLE_OK;
  out->local_size = peer->local_size_;
  memcpy(out->local, peer->local_, sizeof out->local);
  const uint8_t *local = out->local;
  if (out->local_size == 16 && local[0] == 0xfe && (local[1] & 0xc0) == 0x80) out->interface = peer->scope_;
  return RILLE_OK;
}

int rille_udp_send_peer(rille_udp *u, const rille_udp_peer *peer, const char *bytes, double size, rille_block *block) {
  rille_udp_end end;
  if (u->is_closed || u->fd < 0) return RILLE_ERR_CLOSED;
  int err = rille_udp_end_of(u, peer, &end);
  return err ? err : rille_udp_put(u, &end, bytes, size, block);
}

size_t rille_udp_peer_format(const rille_udp_peer *peer, char *to, size_t size) {
  rille_peer plain = {.family = peer->family_, .port = peer->port_};
  memcpy(plain.ip, peer->ip_, sizeof plain.ip);
  return rille_peer_format(&plain, to, size);
}

/* ---- one message for the kernel ---------------------------------------------------------------------------------- */

typedef struct message {
  struct mmsghdr *head;
  _Alignas(16) char control[64];
  uint32_t entries; /* of the ring that it holds */
} message;

static void *add_control(struct msghdr *head, char *control, int level, int type, size_t size) {
  head->msg_control = control;
  struct cmsghdr *c = (struct cmsghdr *)(void *)(control + head->msg_controllen);
  c->cmsg_level = level;
  c->cmsg_type = type;
  c->cmsg_len = CMSG_LEN(size);
  head->msg_controllen += CMSG_SPACE(size);
  return CMSG_DATA(c);
}

/* Answers leave from the address that was asked. */
static void add_source(struct msghdr *head, char *control, const rille_udp_end *to) {
  if (to->local_size == 4) {
    struct in_pktinfo info = {0};
    memcpy(&info.ipi_spec_dst, to->local, 4);
    memcpy(add_control(head, control, IPPROTO_IP, IP_PKTINFO, sizeof info), &info, sizeof info);
  } else if (to->local_size == 16) {
    struct in6_pktinfo info = {.ipi6_ifindex = to->interface};
    memcpy(&info.ipi6_addr, to->local, 16);
    memcpy(add_control(head, control, IPPROTO_IPV6, IPV6_PKTINFO, sizeof info), &info, sizeof info);
  }
}

static void address(struct msghdr *head, char *control, const rille_udp_out *out, struct iovec *areas) {
  *head = (struct msghdr){.msg_iov = areas, .msg_iovlen = 1};
  if (out->to.name_size > 0) {
    head->msg_name = (void *)(uintptr_t)&out->to.name;
    head->msg_namelen = out->to.name_size;
  }
  areas[0] = (struct iovec){.iov_base = (void *)(uintptr_t)out->base, .iov_len = out->size};
  if (out->to.local_size) add_source(head, control, &out->to);
}

static int send_now(const rille_udp *u, const rille_udp_out *out) {
  _Alignas(16) char control[64];
  struct msghdr head;
  struct iovec area;
  address(&head, control, out, &area);
  for (int tries = 0;; tries++) {
    if (sendmsg(u->fd, &head, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return RILLE_OK;
    if (errno == EAGAIN) return RILLE_PARK;
    if (errno != EINTR || tries > 8) return rille_err_from_errno(errno);
  }
}

/* ---- the ring ---------------------------------------------------------------------------------------------------- */

static rille_udp_out *out_at(const rille_udp *u, uint32_t i) {
  return &u->out[(u->out_first + i) & (u->out_capacity - 1)];
}

static bool grow(rille_udp *u) {
  uint32_t capacity = u->out_capacity ? u->out_capacity * 2 : OUT_FIRST;
  rille_udp_out *out = malloc(capacity * sizeof *out);
  if (!out) return false;
  for (uint32_t i = 0; i < u->out_count; i++) out[i] = *out_at(u, i);
  free(u->out);
  u->out = out;
  u->out_first = 0;
  u->out_capacity = capacity;
  return true;
}

static void pop(rille_udp *u, bool is_sent) {
  rille_udp_out *out = out_at(u, 0);
  if (is_sent) {
    u->stats.sent++;
    u->stats.bytes_out += out->size;
    u->loop->bytes_out += out->size;
  }
  if (out->block) rille_block_release(out->block);
  u->out_first = (u->out_first + 1) & (u->out_capacity - 1);
  u->out_count--;
}

void rille_udp_drop_output(rille_udp *u) {
  u->stats.unsent += u->out_count;
  while (u->out_count > 0) pop(u, false);
}

/* Copies of small answers stand behind each other in one block, which goes when the last of them is sent. */
static uint8_t *copy(rille_udp_side *side, const char *bytes, uint32_t size, rille_block **block) {
  if (side->room && side->room->size - side->room_used < size) {
    rille_block_release(side->room);
    side->room = NULL;
  }
  if (!side->room) {
    side->room = rille_block_take(size > RILLE_UDP_ROOM ? size : RILLE_UDP_ROOM);
    side->room_used = 0;
  }
  if (!side->room) return NULL;
  uint8_t *to = side->room->data + side->room_used;
  memcpy(to, bytes, size);
  side->room_used += size;
  *block = side->room;
  return to;
}

static int push(rille_udp *u, const rille_udp_out *out) {
  if (u->out_count >= u->options.send_queue) {
    u->stats.unsent++;
    u->loop->datagrams_dropped++;
    return RILLE_ERR_FULL;
  }
  if (u->out_count == u->out_capacity && !grow(u)) return RILLE_ERR_NO_MEMORY;
  rille_udp_out entry = *out;
  if (out->size > 0 && !out->block) {
    entry.base = copy(u->loop->udp, (const char *)out->base, out->size, &entry.block);
    if (!entry.base) return RILLE_ERR_NO_MEMORY;
  }
  if (entry.block) rille_block_retain(entry.block);
  *out_at(u, u->out_count++) = entry;
  if (!u->is_dirty) {
    u->is_dirty = true;
    u->next_dirty = u->loop->udp->dirty;
    u->loop->udp->dirty = u;
  }
  return RILLE_OK;
}

int rille_udp_put(rille_udp *u, const rille_udp_end *to, const char *bytes, double size, rille_block *block) {
  if (u->is_closed || u->fd < 0) return RILLE_ERR_CLOSED;
  if (size > (u->address.family == AF_UNIX ? 1 << 20 : IP_MAX)) return RILLE_ERR_TOO_LARGE;
  rille_udp_out out = {
      .to = *to, .base = (const uint8_t *)bytes, .size = (uint32_t)size, .block = size > 0 ? block : NULL};
  if (!u->listener && u->out_count == 0) {
    int err = send_now(u, &out);
    if (err == RILLE_OK) {
      u->stats.sent++;
      u->stats.bytes_out += size;
      u->loop->bytes_out += size;
    }
    if (err != RILLE_PARK) return err;
  }
  if (u->out_count >= RILLE_UDP_BATCH && !u->is_blocked) rille_udp_flush(u);
  return push(u, &out);
}

/* ---- the batch --------------------------------------------------------------------------------------------------- */

static bool is_same_end(const rille_udp_end *a, const rille_udp_end *b) {
  return a->name_size == b->name_size && a->local_size == b->local_size &&
         memcmp(&a->name, &b->name, a->name_size) == 0 && memcmp(a->local, b->local, a->local_size) == 0;
}

/* How many entries from the i-th on may go as segments of one message: all of one size but the last, which may be smaller. */
static uint32_t run_length(const rille_udp *u, uint32_t i, uint32_t most) {
  const rille_udp_out *first = out_at(u, i);
  if (u->has_no_gso || u->address.family == AF_UNIX || first->size == 0 || first->size > SEGMENT_MAX) return 1;
  if (most > SEGMENTS_MAX) most = SEGMENTS_MAX;
  uint32_t count = 1;
  while (count < most) {
    const rille_udp_out *next = out_at(u, i + count);
    if (next->size == 0 || next->size > first->size || !is_same_end(&first->to, &next->to)) break;
    count++;
    if (next->size < first->size) break;
  }
  return count;
}

/* Messages for what stands first in the ring; how many. */
static uint32_t build(rille_udp *u, struct mmsghdr *heads, struct iovec *areas, message *messages) {
  uint32_t total = u->out_count < RILLE_UDP_BATCH ? u->out_count : RILLE_UDP_BATCH, count = 0;
  for (uint32_t i = 0; i < total; count++) {
    const rille_udp_out *out = out_at(u, i);
    uint32_t entries = run_length(u, i, total - i);
    struct msghdr *head = &heads[count].msg_hdr;
    address(head, messages[count].control, out, &areas[i]);
    if (entries > 1) {
      uint16_t size = (uint16_t)out->size;
      memcpy(add_control(head, messages[count].control, IPPROTO_UDP, UDP_SEGMENT, sizeof size), &size, sizeof size);
    }
    for (uint32_t k = 1; k < entries; k++) {
      const rille_udp_out *next = out_at(u, i + k);
      areas[i + k] = (struct iovec){.iov_base = (void *)(uintptr_t)next->base, .iov_len = next->size};
    }
    head->msg_iovlen = entries;
    messages[count].entries = entries;
    i += entries;
  }
  return count;
}

static void wait_for_peer(rille_udp *u) {
  uint64_t now = u->loop->clock_ms;
  if (!u->retry_ms) u->stuck_ms = now;
  u->retry_ms = u->retry_ms ? u->retry_ms * 2 : RETRY_FIRST_MS;
  if (u->retry_ms > RETRY_MAX_MS) u->retry_ms = RETRY_MAX_MS;
  u->retry_at_ms = now + u->retry_ms;
  u->loop->udp->has_waiting = true;
}

/* The peer of the first entry takes nothing: what waits for it goes, so that others are served. */
static void give_up_peer(rille_udp *u) {
  rille_udp_end to = out_at(u, 0)->to;
  uint32_t kept = 0, count = u->out_count;
  for (uint32_t i = 0; i < count; i++) {
    rille_udp_out out = *out_at(u, i);
    if (!is_same_end(&out.to, &to)) {
      *out_at(u, kept++) = out;
      continue;
    }
    if (out.block) rille_block_release(out.block);
    u->stats.unsent++;
    u->loop->datagrams_dropped++;
  }
  u->out_count = kept;
  u->retry_ms = 0;
}

/* What a device or kernel without UDP_SEGMENT says, and one where a segment is more than a packet. */
static bool is_of_segments(int error_number) {
  return error_number == EIO || error_number == EINVAL || error_number == EMSGSIZE || error_number == EOPNOTSUPP ||
         error_number == ENOPROTOOPT;
}

/* The kernel took nothing, for this reason. False: no more for now. */
static bool recover(rille_udp *u, const message *first, int error_number, bool *has_retried) {
  rille_udp_out *out = out_at(u, 0);
  if (error_number == EINTR) return true;
  if (error_number == EAGAIN) {
    if (u->address.family == AF_UNIX && u->retry_ms && u->loop->clock_ms - u->stuck_ms >= STUCK_MAX_MS) {
      give_up_peer(u);
      return true;
    }
    u->is_blocked = true;
    if (u->address.family == AF_UNIX) wait_for_peer(u);
    return false;
  }
  if (first->entries > 1 && is_of_segments(error_number)) {
    u->has_no_gso = true;
    return true;
  }
  if (!*has_retried) { /* it may be what the network said of an earlier one; and our address may be gone */
    *has_retried = true;
    if (error_number == EINVAL || error_number == EADDRNOTAVAIL) out->to.local_size = 0;
    return true;
  }
  *has_retried = false;
  u->stats.send_errors++;
  if (!u->listener) u->error = rille_err_from_errno(error_number);
  RILLE_LOG(RILLE_LOG_WARN, "a datagram of %u bytes was not sent: %s", out->size,
            rille_err_text(rille_err_from_errno(error_number)));
  pop(u, false);
  return true;
}

void rille_udp_flush(rille_udp *u) {
  struct mmsghdr heads[RILLE_UDP_BATCH];
  struct iovec areas[RILLE_UDP_BATCH];
  message messages[RILLE_UDP_BATCH];
  bool has_retried = false;
  while (u->out_count > 0 && !u->is_blocked) {
    uint32_t count = build(u, heads, areas, messages);
    int sent = sendmmsg(u->fd, heads, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent <= 0 && !recover(u, &messages[0], errno, &has_retried)) break;
    for (int i = 0; i < sent; i++) {
      for (uint32_t k = 0; k < messages[i].entries; k++) pop(u, true);
    }
    if (sent <= 0) continue;
    has_retried = false;
    u->retry_ms = 0;
  }
  rille_udp_look(u);
}
