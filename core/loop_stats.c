/*
 * loop_stats: what a loop has done so far, for scripts and for the record of SIGQUIT. Loop thread.
 */
#include "loop.h"

#include "log.h"

#include <stdio.h>

void rille_loop_stats_read(const rille_loop *loop, rille_loop_stats *out) {
  *out = (rille_loop_stats){
      .id = loop->id,
      .turns = (double)loop->turn,
      .connections = loop->conn_count,
      .accepted = loop->accepted,
      .moved_in = loop->moved_in,
      .moved_out = loop->moved_out,
      .messages = loop->messages,
      .bytes_in = loop->bytes_in,
      .bytes_out = loop->bytes_out,
      .watches = loop->watch_count,
      .replaced = loop->replaced,
      .timers = (double)rille_wheel_count(&loop->wheel),
      .datagrams_dropped = loop->datagrams_dropped,
      .stalls = atomic_load_explicit(&loop->stalls, memory_order_relaxed),
      .mail = rille_mailbox_depth(&loop->mailbox),
      .turn_seconds = (double)loop->turns_ns / 1e9,
      .longest_turn = (double)loop->longest_ns / 1e9,
      .longest_work = (double)loop->delay.longest_ns / 1e9,
  };
  out->errors += loop->gone_errors;
  out->failures += loop->gone_failures;
  out->lua_allocated += loop->gone_allocated;
  for (uint32_t i = 0; i < loop->state_count; i++) {
    if (!loop->states[i]) continue;
    out->lua_bytes += rille_state_heap(loop->states[i]);
    out->lua_allocated += loop->states[i]->allocated;
    out->failures += loop->states[i]->failures;
    out->errors += loop->states[i]->errors;
  }
}

/* Of SIGQUIT. */
void rille_loop_dump(const rille_loop *loop) {
  rille_loop_stats s;
  rille_block_stats b;
  rille_loop_stats_read(loop, &s);
  rille_block_stats_read(&b);
  const struct {
    const char *key;
    double value;
  } numbers[] = {
      {"turns", s.turns},
      {"connections", s.connections},
      {"accepted", s.accepted},
      {"moved_in", s.moved_in},
      {"moved_out", s.moved_out},
      {"messages", s.messages},
      {"bytes_in", s.bytes_in},
      {"bytes_out", s.bytes_out},
      {"datagrams_dropped", s.datagrams_dropped},
      {"watches", s.watches},
      {"lua_bytes", s.lua_bytes},
      {"lua_allocated", s.lua_allocated},
      {"failures", s.failures},
      {"replaced", s.replaced},
      {"errors", s.errors},
      {"stalls", s.stalls},
      {"blocks", b.blocks_in_use},
      {"block_bytes", b.bytes_in_use},
      {"cached_bytes", b.cached_bytes},
      {"slices", b.slices_retained},
      {"slices_leaked", b.slices_leaked},
      {"buffers", b.buffers_in_use - loop->buffer_count},
  };
  enum { COUNT = sizeof numbers / sizeof *numbers };
  char text[COUNT][24];
  rille_log_field fields[COUNT];
  for (size_t i = 0; i < COUNT; i++) {
    int size = snprintf(text[i], sizeof text[i], "%.0f", numbers[i].value);
    fields[i] = (rille_log_field){.key = numbers[i].key, .value = text[i], .size = (size_t)size};
  }
  rille_log_write(RILLE_LOG_INFO, 0, NULL, "state", 5, fields, COUNT);
}
