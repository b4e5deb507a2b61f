/*
 * datagram: receiving. Blocks stand ready, the kernel fills many with one call, and each that came becomes a handler's. A datagram larger
 * than its block is put together with what went into the overflow, and the next blocks are larger. With UDP_GRO the kernel may put a run of
 * datagrams of one peer and one size into one block: each becomes a handler's of its own, over the same block. See udp.h.
 */
#include "udp.h"

#include "balance.h"
#include "listener.h"
#include "log.h"
#include "loop.h"
#include "reload.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL_IN_A_ROW = 1024 };

/* ---- slots ------------------------------------------------------------------------------------------------------ */

static bool add_slab(rille_udp_side *side) {
  if (side->slab_count == RILLE_DGRAM_SLABS_MAX) return false;
  rille_dgram *slab = calloc(RILLE_DGRAM_SLAB, sizeof *slab);
  if (!slab) return false;
  uint32_t first = side->slab_count * RILLE_DGRAM_SLAB;
  side->slabs[side->slab_count++] = slab;
  for (uint32_t i = RILLE_DGRAM_SLAB; i-- > 0;) {
    slab[i].slot = first + i;
    slab[i].next = side->free;
    side->free = &slab[i];
  }
  return true;
}

/* One with a cell, whose block the slice can answer to. */
static rille_dgram *take_dgram(rille_udp_side *side) {
  if (!side->free && !add_slab(side)) return NULL;
  rille_dgram *d = side->free;
  rille_slice *slice = &d->face.slice_;
  if (!slice->cell_) {
    slice->cell_ = rille_cell_take();
    if (!slice->cell_) return NULL;
    ((rille_cell_slot *)slice->cell_)->block = (rille_block *)(void *)d; /* how rille_datagram_reply finds it */
  }
  side->free = d->next;
  d->next = NULL;
  return d;
}

static void give_dgram(rille_udp_side *side, rille_dgram *d) {
  if (d->block) rille_block_release(d->block);
  d->block = NULL;
  d->next = side->free;
  side->free = d;
}

void rille_udp_free_dgram(rille_dgram *d) {
  rille_udp *u = d->udp;
  d->udp = NULL;
  if (d->state) d->state->datagrams--;
  d->state = NULL;
  d->face.slice_.cell_ = rille_cell_advance(d->face.slice_.cell_);
  give_dgram(u->loop->udp, d);
  u->in_flight--;
  if (u->is_reading && !(u->interest & EPOLLIN)) rille_udp_look(u);
}

void rille_udp_forget_dgrams(const rille_udp_side *side, const rille_state *state) {
  for (uint32_t i = 0; i < side->slab_count && state->datagrams > 0; i++) {
    for (uint32_t k = 0; k < RILLE_DGRAM_SLAB; k++) {
      rille_dgram *d = &side->slabs[i][k];
      if (d->udp && d->state == state) rille_udp_free_dgram(d);
    }
  }
}

void rille_udp_unready(rille_udp_side *side) {
  for (uint32_t i = 0; i < RILLE_UDP_BATCH; i++) {
    if (side->ready[i]) give_dgram(side, side->ready[i]);
    side->ready[i] = NULL;
  }
}

/* ---- the batch --------------------------------------------------------------------------------------------------- */

static bool fill(rille_udp_side *side, uint32_t i) {
  rille_dgram *d = take_dgram(side);
  if (!d) return false;
  d->block = rille_block_take(side->block_size);
  if (!d->block) {
    give_dgram(side, d);
    return false;
  }
  side->ready[i] = d;
  side->areas[i][0] = (struct iovec){.iov_base = d->block->data, .iov_len = d->block->size};
  side->areas[i][1] =
      (struct iovec){.iov_base = side->overflow + (size_t)i * RILLE_DATAGRAM_MAX, .iov_len = RILLE_DATAGRAM_MAX};
  side->heads[i].msg_hdr = (struct msghdr){.msg_name = &d->from.name, .msg_iov = side->areas[i], .msg_iovlen = 2};
  return true;
}

/* Blocks for so many; how many there are. */
static uint32_t get_ready(rille_udp_side *side, uint32_t most) {
  uint32_t affordable = RILLE_UDP_BATCH_BYTES / side->block_size;
  if (most > affordable) most = affordable;
  if (!side->overflow)
    side->overflow = malloc((size_t)RILLE_UDP_BATCH * RILLE_DATAGRAM_MAX); /* pages come as touched */
  if (!side->overflow) return 0;
  for (uint32_t i = 0; i < most; i++) {
    if (!side->ready[i] && !fill(side, i)) return i;
    struct msghdr *head = &side->heads[i].msg_hdr;
    head->msg_namelen = sizeof side->ready[i]->from.name;
    head->msg_control = side->control[i];
    head->msg_controllen = sizeof side->control[i];
    head->msg_flags = 0;
  }
  return most;
}

/* Returns the bytes of each datagram but the last, of a run; 0: it is one alone. */
static uint32_t read_control(rille_udp *u, struct msghdr *head, rille_udp_end *from) {
  int each = 0;
  from->local_size = 0;
  from->interface = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(head); c; c = CMSG_NXTHDR(head, c)) {
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
      struct in_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      memcpy(from->local, &info.ipi_spec_dst, 4); /* ours, also where the datagram went to a group */
      from->local_size = 4;
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      struct in6_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      const uint8_t *address = info.ipi6_addr.s6_addr;
      bool is_group = IN6_IS_ADDR_MULTICAST(&info.ipi6_addr) ||
                      (IN6_IS_ADDR_V4MAPPED(&info.ipi6_addr) && (address[12] >> 4 == 14 || address[12] == 255));
      memcpy(from->local, address, 16);
      from->local_size = is_group ? 0 : 16;
      if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr)) from->interface = info.ipi6_ifindex;
    } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL) {
      uint32_t count;
      memcpy(&count, CMSG_DATA(c), sizeof count);
      u->stats.overflow = count;
    } else if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
      memcpy(&each, CMSG_DATA(c), sizeof each);
    }
  }
  return each > 0 ? (uint32_t)each : 0;
}

static void count_dropped(rille_udp *u, uint32_t count) {
  u->stats.dropped += count;
  u->loop->datagrams_dropped += count;
}

static void say_too_large(rille_udp *u, uint32_t size) {
  char address[RILLE_ADDRESS_TEXT_MAX];
  rille_address_format(&u->address, address, sizeof address);
  u->stats.too_large++;
  u->loop->datagrams_dropped++;
  RILLE_LOG(RILLE_LOG_WARN, "%s: a datagram of %u bytes or more is over limits.max_datagram (%u): dropped", address,
            size, u->options.max_datagram);
}

/* What came did not fit: put it together, and take larger blocks from now on. */
static bool gather(rille_udp_side *side, rille_dgram *d, uint32_t i, uint32_t size) {
  size_t first = d->block->size;
  rille_block *block = rille_block_take(size);
  if (!block) return false;
  memcpy(block->data, d->block->data, first);
  memcpy(block->data + first, side->areas[i][1].iov_base, size - first);
  rille_block_release(d->block);
  d->block = block;
  while (side->block_size < size && side->block_size < RILLE_DATAGRAM_MAX) side->block_size *= 2;
  side->small = 0;
  return true;
}

static void adapt(rille_udp_side *side, uint32_t size) {
  if (side->block_size == RILLE_UDP_BLOCK_FIRST) return;
  side->small = size <= side->block_size / 4 ? side->small + 1 : 0;
  if (side->small < SMALL_IN_A_ROW) return;
  side->block_size /= 2;
  side->small = 0;
}

/* d has its block, and where it came from. */
static void hand_over(rille_udp *u, rille_dgram *d, uint32_t offset, uint32_t size) {
  rille_slice *slice = &d->face.slice_;
  slice->base_ = d->block->data + offset;
  slice->block_ = size > 0 ? d->block : NULL;
  slice->size_ = size;
  slice->epoch_ = rille_cell_epoch(slice->cell_);
  d->udp = u;
  u->in_flight++;
  u->stats.received++;
  u->stats.bytes_in += size;
  u->loop->bytes_in += size;
  if (!rille_udp_hand_on(u, d)) rille_udp_deliver(u, d);
}

/* A run of datagrams of one peer. */
static void split(rille_udp *u, rille_block *block, const rille_udp_end *from, uint32_t size, uint32_t each) {
  for (uint32_t at = 0; at < size; at += each) {
    uint32_t one = size - at < each ? size - at : each;
    rille_dgram *d = one <= u->options.max_datagram ? take_dgram(u->loop->udp) : NULL;
    if (d) {
      rille_block_retain(block);
      d->block = block;
      d->from = *from;
      hand_over(u, d, at, one);
    } else if (one > u->options.max_datagram) {
      say_too_large(u, one);
    } else {
      count_dropped(u, 1);
    }
  }
}

/* What is in place i of the batch; it stays ready there when it is dropped. Returns how many datagrams that was. */
static uint32_t take(rille_udp *u, uint32_t i) {
  rille_udp_side *side = u->loop->udp;
  rille_dgram *d = side->ready[i];
  struct msghdr *head = &side->heads[i].msg_hdr;
  uint32_t size = side->heads[i].msg_len;
  uint32_t each = read_control(u, head, &d->from);
  uint32_t count = each > 0 && each < size ? (size + each - 1) / each : 1;
  if (head->msg_flags & MSG_TRUNC || (count == 1 && size > u->options.max_datagram)) {
    say_too_large(u, size);
    return count;
  }
  if (size > d->block->size && !gather(side, d, i, size)) {
    count_dropped(u, count);
    return count;
  }
  adapt(side, size);
  side->ready[i] = NULL;
  d->from.name_size = head->msg_namelen;
  if (count == 1) {
    hand_over(u, d, 0, size);
    return 1;
  }
  split(u, d->block, &d->from, size, each);
  give_dgram(side, d); /* with its own reference to the block */
  return count;
}

int rille_udp_pull(rille_udp *u, uint32_t most) {
  rille_udp_side *side = u->loop->udp;
  enum { ERRORS_MAX = 8 };
  /* as many of them as before may be in each */
  uint32_t count = get_ready(side, most > u->run ? most / u->run : most > 0);
  if (count == 0) return most == 0 ? 0 : RILLE_ERR_NO_MEMORY;
  int got = -1;
  for (int i = 0; i < ERRORS_MAX && got < 0; i++) {
    got = recvmmsg(u->fd, side->heads, count, MSG_DONTWAIT, NULL);
    if (got >= 0) break;
    if (errno == EAGAIN) return 0;
    if (errno == EINTR) continue;
    /* What a peer's host had to say of an earlier send; a socket of many peers goes on. */
    if (!u->listener) {
      u->error = rille_err_from_errno(errno);
      return u->error;
    }
  }
  u->run = 1;
  for (int i = 0; i < got; i++) {
    uint32_t run = take(u, (uint32_t)i);
    if (run > u->run) u->run = run;
  }
  return got;
}

/* ---- to whom ------------------------------------------------------------------------------------------------------ */

void rille_udp_deliver(rille_udp *u, rille_dgram *d) {
  rille_udp_peer_of(u, &d->from, &d->face.peer_);
  if (!u->listener) {
    if (u->first_in) u->last_in->next = d;
    else u->first_in = d;
    u->last_in = d;
    return;
  }
  d->face.service_ = u->service->id;
  if (u->options.session_max) {
    rille_session_arrived(u, d);
    return;
  }
  d->state = u->state;
  u->state->datagrams++;
  if (!rille_state_emit(u->state, RILLE_EVENT_DATAGRAM, d->slot, 0)) rille_udp_free_dgram(d);
}

static rille_dgram *dgram_at(const rille_loop *loop, uint32_t slot) {
  const rille_udp_side *side = loop->udp;
  if (!side || slot >= side->slab_count * RILLE_DGRAM_SLAB) return NULL;
  return &side->slabs[slot / RILLE_DGRAM_SLAB][slot % RILLE_DGRAM_SLAB];
}

const rille_datagram *rille_datagram_at(rille_loop *loop, uint32_t slot) {
  rille_dgram *d = dgram_at(loop, slot);
  if (!d || !d->udp || !d->state) return NULL;
  loop->messages++;
  d->began_ns = rille_state_is_observed(d->state) ? rille_reload_message(d->state) : 0;
  return &d->face;
}

void rille_datagram_done(rille_loop *loop, uint32_t slot, int has_failed) {
  rille_dgram *d = dgram_at(loop, slot);
  if (!d || !d->udp || !d->state) return;
  if (rille_state_is_observed(d->state)) rille_reload_message_done(d->state, d->began_ns, has_failed);
  rille_udp_free_dgram(d);
}

size_t rille_datagram_url(const rille_datagram *d, char *to, size_t size) {
  const rille_dgram *whole = (const rille_dgram *)d;
  rille_address address = {.kind = RILLE_ADDRESS_UNIXGRAM, .family = AF_UNIX};
  address.length = whole->from.name_size;
  memcpy(&address.storage, &whole->from.name, sizeof whole->from.name);
  return rille_address_format(&address, to, size);
}

int rille_slice_is_datagram(rille_cell *cell, uint32_t epoch) {
  const rille_cell_slot *slot = (const rille_cell_slot *)cell;
  return cell && rille_cell_epoch(cell) == epoch && slot->refs == 0 && slot->block;
}

int rille_datagram_reply(rille_cell *cell, uint32_t epoch, const char *bytes, double size, rille_block *block) {
  const rille_cell_slot *slot = (const rille_cell_slot *)cell;
  if (!cell || rille_cell_epoch(cell) != epoch) return RILLE_ERR_EXPIRED;
  if (!rille_slice_is_datagram(cell, epoch)) return RILLE_ERR_INVALID;
  const rille_dgram *d = (const rille_dgram *)(const void *)slot->block;
  if (d->from.name_size <= sizeof(sa_family_t)) return RILLE_ERR_NOT_SUPPORTED; /* a Unix socket without a name */
  return rille_udp_put(d->udp, &d->from, bytes, size, block);
}

/* ---- over to another loop ------------------------------------------------------------------------------------------ */

/* Behind the bytes, in the block that goes with the message. */
struct note {
  rille_udp_end from;
};

/* It may have been closed meanwhile, with the generation it was of. */
static bool is_open(const rille_loop *loop, const rille_listener *l) {
  const rille_listener *one = loop->listeners;
  while (one && one != l) one = one->next;
  return one;
}

static void deliver(rille_loop *loop, const rille_message *m) {
  const rille_listener *l = (const rille_listener *)(uintptr_t)m->number;
  bool serves = is_open(loop, l) && l->service->state->is_serving; /* one that is not up yet does not */
  rille_udp *u = serves ? l->udp : NULL;
  rille_block *block = m->what;
  rille_udp_side *side = loop->udp;
  rille_dgram *d = u && !u->is_closed && (u->options.session_max || u->in_flight < u->options.max_datagrams)
                       ? take_dgram(side)
                       : NULL;
  if (!d) {
    rille_block_release(block);
    if (u) u->stats.dropped++;
    loop->datagrams_dropped++;
    return;
  }
  struct note note;
  memcpy(&note, block->data + m->words[1], sizeof note);
  d->block = block;
  d->from = note.from;
  rille_slice *slice = &d->face.slice_;
  slice->base_ = block->data;
  slice->block_ = m->words[0] > 0 ? block : NULL;
  slice->size_ = m->words[0];
  slice->epoch_ = rille_cell_epoch(slice->cell_);
  d->udp = u;
  u->in_flight++;
  rille_udp_deliver(u, d);
}

static void drop(const rille_message *m) { rille_block_release(m->what); }

/* A name of a Unix socket stands for an address, so that the balance rules tell one from another. */
static void hash_name(const rille_udp_end *from, rille_peer *peer) {
  const uint8_t *bytes = (const uint8_t *)&from->name;
  uint32_t hash = 2166136261u;
  for (socklen_t i = sizeof(sa_family_t); i < from->name_size; i++) hash = (hash ^ bytes[i]) * 16777619u;
  peer->family = AF_UNIX;
  for (unsigned i = 0; i < sizeof hash; i++) peer->ip[i] = (uint8_t)(hash >> i * 8);
}

static const rille_listener *pick(rille_udp *u, const rille_dgram *d) {
  rille_peer peer = {0};
  if (d->from.name.any.sa_family == AF_UNIX || d->from.name_size == 0) hash_name(&d->from, &peer);
  else rille_peer_from_sockaddr(&peer, &d->from.name.any, d->from.name_size);
  /* sessions do not change their loop when that is busy */
  if (u->options.session_max) return rille_balance_home(u->group, &peer);
  return rille_balance_pick(u->group, u->listener, &peer);
}

bool rille_udp_hand_on(rille_udp *u, rille_dgram *d) {
  if (!u->group || u->group->accept != RILLE_ACCEPT_BALANCED) return false;
  const rille_listener *to = pick(u, d);
  if (!to || to == u->listener) return false;
  uint32_t size = d->face.slice_.size_;
  rille_block *block = d->block;
  struct note note = {.from = d->from};
  if (block->size - size < sizeof note) {
    rille_block *larger = rille_block_take(size + sizeof note);
    if (larger) memcpy(larger->data, block->data, size);
    block = larger;
  } else {
    d->block = NULL; /* it goes along */
  }
  bool is_sent = false;
  if (block) {
    memcpy(block->data + size, &note, sizeof note);
    rille_message m = {.deliver = deliver, .drop = drop, .what = block, .number = (uintptr_t)to};
    m.words[0] = m.words[1] = size;
    is_sent = rille_mailbox_send(&to->loop->mailbox, &m) == RILLE_OK;
    if (!is_sent) rille_block_release(block);
  }
  if (!is_sent) {
    u->stats.dropped++;
    u->loop->datagrams_dropped++;
  }
  rille_udp_free_dgram(d);
  return true;
}
