/*
 * post: what one loop asks of another: a call in the Lua state of the same server there, bytes for one of its connections, the end
 * of one. Each goes through the other's mailbox; what is for the own loop does too, or is done at once where nothing waits for it.
 */
#include "conn.h"
#include "loop.h"
#include "state.h"
#include "team.h"

#include <stdlib.h>
#include <string.h>

enum { POST_MAX = 16 << 20, COUNTER_BITS = 20, EPOCH_BITS = 24 };

/* A call on its way: bytes that Lua encoded. Owned by the message, then by the state. */
struct rille_post {
  struct rille_post *next;
  size_t size;
  char bytes[];
};

static rille_loop *find_loop(rille_loop *from, uint32_t id) {
  if (from->team) return rille_team_loop(from->team, id);
  return id == from->id ? from : NULL;
}

/* ---- calls ----------------------------------------------------------------------------------------------------- */

static void drop_post(const rille_message *m) { free(m->what); }

static void deliver_post(rille_loop *loop, const rille_message *m) {
  rille_state *state = rille_loop_current(loop, m->words[0]);
  struct rille_post *post = m->what;
  if (!state || !state->lua || !rille_state_emit(state, RILLE_EVENT_POST, 0, 0)) {
    free(post);
    return;
  }
  post->next = NULL;
  if (state->last_post) state->last_post->next = post;
  else state->first_post = post;
  state->last_post = post;
}

int rille_post_call(rille_state *from, uint32_t loop_id, const char *bytes, size_t size) {
  rille_loop *loop = find_loop(from->loop, loop_id);
  if (!loop) return RILLE_ERR_NOT_FOUND;
  if (size > POST_MAX) return RILLE_ERR_TOO_LARGE;
  struct rille_post *post = malloc(sizeof *post + size);
  if (!post) return RILLE_ERR_NO_MEMORY;
  post->size = size;
  memcpy(post->bytes, bytes, size);
  rille_message m = {.deliver = deliver_post, .drop = drop_post, .what = post, .words = {from->generation->server}};
  int err = rille_mailbox_send(&loop->mailbox, &m);
  if (err) free(post);
  return err;
}

const char *rille_post_take(rille_state *state, double *size) {
  free(state->taken_post);
  struct rille_post *post = state->taken_post = state->first_post;
  if (!post) return NULL;
  state->first_post = post->next;
  if (!post->next) state->last_post = NULL;
  *size = (double)post->size;
  return post->bytes;
}

void rille_post_forget(rille_state *state) {
  double size;
  while (rille_post_take(state, &size)) {
  }
}

/* ---- connections ----------------------------------------------------------------------------------------------- */

static rille_conn *find_conn(rille_loop *loop, double id) {
  rille_conn *c = rille_conn_at(loop, (uint32_t)((uint64_t)id & ((1u << COUNTER_BITS) - 1)));
  return c && rille_conn_id(c) == id ? c : NULL;
}

static rille_loop *loop_of(rille_loop *from, double id) {
  if (!(id >= 0 && id < 0x1p53)) return NULL;
  return find_loop(from, (uint32_t)((uint64_t)id >> (COUNTER_BITS + EPOCH_BITS)));
}

/* The bytes stand in one block however many connections they are for; size of them. */
static int write_block(rille_conn *c, rille_block *block, uint32_t size) {
  static rille_cell always = {.epoch = 1}; /* the block is held by whoever calls this */
  int result = rille_conn_write_view(c, block->data, size, &always, block, 1);
  return result == RILLE_PARK ? RILLE_OK : result; /* nobody waits for it here */
}

static void drop_bytes(const rille_message *m) { rille_block_release(m->what); }

static void deliver_bytes(rille_loop *loop, const rille_message *m) {
  double id;
  memcpy(&id, &m->number, sizeof id);
  rille_conn *c = find_conn(loop, id);
  if (c) write_block(c, m->what, m->words[0]);
  rille_block_release(m->what);
}

static void deliver_close(rille_loop *loop, const rille_message *m) {
  double id;
  memcpy(&id, &m->number, sizeof id);
  rille_conn_abandon(loop, id);
}

int rille_post_bytes(rille_loop *from, double id, const char *bytes, double size) {
  rille_loop *loop = loop_of(from, id);
  if (!loop) return RILLE_ERR_NOT_FOUND;
  if (size > RILLE_BLOCK_REQUEST_MAX) return RILLE_ERR_TOO_LARGE;
  rille_conn *c = loop == from ? find_conn(loop, id) : NULL;
  if (loop == from) {
    int result = c ? rille_conn_write(c, bytes, (size_t)size) : RILLE_ERR_CLOSED;
    return result == RILLE_PARK ? RILLE_OK : result;
  }
  rille_block *block = rille_block_take(size > 0 ? (size_t)size : 1);
  if (!block) return RILLE_ERR_NO_MEMORY;
  memcpy(block->data, bytes, (size_t)size);
  rille_message m = {.deliver = deliver_bytes, .drop = drop_bytes, .what = block, .words = {(uint32_t)size}};
  memcpy(&m.number, &id, sizeof id);
  int err = rille_mailbox_send(&loop->mailbox, &m);
  if (err) rille_block_release(block);
  return err;
}

int rille_post_close(rille_loop *from, double id) {
  rille_loop *loop = loop_of(from, id);
  if (!loop) return RILLE_ERR_NOT_FOUND;
  if (loop == from) {
    rille_conn_abandon(loop, id);
    return RILLE_OK;
  }
  rille_message m = {.deliver = deliver_close};
  memcpy(&m.number, &id, sizeof id);
  return rille_mailbox_send(&loop->mailbox, &m);
}
