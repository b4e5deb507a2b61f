/*
 * status: what `rille status --json` prints, as docs/status.md describes it field by field. Control thread.
 */
#include "control.h"
#include "dict.h"
#include "log.h"
#include "pool.h"
#include "process.h"
#include "report.h"

#include <unistd.h>

enum { TOPICS_MAX = 100 };

static const char *const health_names[] = {"serving", "starting", "draining", "stalled"};

/* ---- tables of counts ------------------------------------------------------------------------------------------ */

typedef struct number {
  const char *key;
  size_t offset; /* of a double in what is described */
} number;

#define NUMBER(key, of, field)                                                                                         \
  { key, offsetof(rille_##of, field) }
#define KEY(of, field) NUMBER(#field, of, field)

static const number loop_numbers[] = {KEY(loop_stats, connections),
                                      KEY(loop_stats, accepted),
                                      KEY(loop_stats, moved_in),
                                      KEY(loop_stats, moved_out),
                                      KEY(loop_stats, messages),
                                      KEY(loop_stats, bytes_in),
                                      KEY(loop_stats, bytes_out),
                                      KEY(loop_stats, errors),
                                      KEY(loop_stats, failures),
                                      KEY(loop_stats, turns),
                                      KEY(loop_stats, stalls),
                                      KEY(loop_stats, replaced),
                                      KEY(loop_stats, datagrams_dropped),
                                      KEY(loop_stats, watches),
                                      KEY(loop_stats, timers),
                                      KEY(loop_stats, lua_bytes),
                                      KEY(loop_stats, lua_allocated)};
static const number total_numbers[] = {
    KEY(loop_stats, connections), KEY(loop_stats, accepted), KEY(loop_stats, messages), KEY(loop_stats, bytes_in),
    KEY(loop_stats, bytes_out),   KEY(loop_stats, errors),   KEY(loop_stats, stalls),   KEY(loop_stats, replaced)};

static const number state_numbers[] = {KEY(state_snapshot, connections), KEY(state_snapshot, lua_bytes),
                                       KEY(state_snapshot, errors), KEY(state_snapshot, failures)};

static const number refusal_numbers[] = {KEY(listener_snapshot, refused_by_list),
                                         KEY(listener_snapshot, refused_by_address), KEY(listener_snapshot, shed)};
static const number datagram_numbers[] = {KEY(listener_snapshot, datagrams), KEY(listener_snapshot, datagrams_dropped)};

static const number pool_numbers[] = {NUMBER("max", pool_stats, options.max),
                                      KEY(pool_stats, workers),
                                      KEY(pool_stats, busy),
                                      KEY(pool_stats, lost),
                                      KEY(pool_stats, states),
                                      KEY(pool_stats, queued),
                                      KEY(pool_stats, done),
                                      KEY(pool_stats, failed),
                                      KEY(pool_stats, abandoned)};

static const number topic_numbers[] = {KEY(topic_stats, subscribers), KEY(topic_stats, publishes),
                                       KEY(topic_stats, deliveries), KEY(topic_stats, dropped),
                                       KEY(topic_stats, disconnected)};

static const number block_numbers[] = {
    NUMBER("in_use", block_stats, blocks_in_use),   NUMBER("bytes", block_stats, bytes_in_use),
    NUMBER("cached", block_stats, cached_blocks),   NUMBER("cached_bytes", block_stats, cached_bytes),
    NUMBER("slices", block_stats, slices_retained), NUMBER("slices_leaked", block_stats, slices_leaked),
    NUMBER("buffers", block_stats, buffers_in_use)};

static const number log_numbers[] = {KEY(log_counts, debug), KEY(log_counts, info),       KEY(log_counts, warn),
                                     KEY(log_counts, error), KEY(log_counts, suppressed), KEY(log_counts, dropped)};

static const number children_numbers[] = {KEY(process_counts, running), KEY(process_counts, started)};

#define WRITE(t, of, numbers)             write_numbers(t, of, numbers, sizeof(numbers) / sizeof *(numbers))
#define WRITE_OBJECT(t, key, of, numbers) write_object(t, key, of, numbers, sizeof(numbers) / sizeof *(numbers))

static void write_numbers(rille_text *t, const void *of, const number *numbers, size_t count) {
  for (size_t i = 0; i < count; i++) rille_json_count(t, numbers[i].key, rille_number_at(of, numbers[i].offset));
}

static void write_object(rille_text *t, const char *key, const void *of, const number *numbers, size_t count) {
  rille_json_open(t, key, '{');
  write_numbers(t, of, numbers, count);
  rille_json_close(t, '}');
}

/* ---- loops ----------------------------------------------------------------------------------------------------- */

/* of what its files had in them when they were loaded */
static void write_hash(rille_text *t, double id) {
  char hash[RILLE_CHUNK_HASH];
  rille_chunks *set = rille_chunks_find(id);
  if (set && rille_chunks_hash(set, hash) == RILLE_OK) rille_json_string(t, "hash", hash);
  else rille_json_null(t, "hash"); /* it is over since the loop was asked */
  if (set) rille_chunks_release(set);
}

static void write_states(rille_text *t, const rille_snapshot *s) {
  rille_json_open(t, "states", '[');
  for (uint32_t i = 0; i < s->state_count; i++) {
    const rille_state_snapshot *one = &s->states[i];
    if (!one->label[0]) continue;
    rille_json_open(t, NULL, '{');
    rille_json_string(t, "script", one->label);
    rille_json_count(t, "generation", one->generation);
    write_hash(t, one->chunks);
    rille_json_string(t, "phase", one->phase);
    WRITE(t, one, state_numbers);
    rille_json_close(t, '}');
  }
  rille_json_close(t, ']');
}

static void write_loop(rille_text *t, const rille_loop_view *v) {
  rille_json_open(t, NULL, '{');
  rille_json_count(t, "id", v->loop->id);
  rille_json_bool(t, "stalled", v->is_stalled);
  if (v->is_stalled) rille_json_number(t, "since", v->busy_seconds);
  uint64_t now = rille_now_ns(), taken = v->snapshot->taken_ns;
  rille_json_number(t, "age", v->has_answered || now < taken ? 0 : (double)(now - taken) / 1e9);
  WRITE(t, &v->snapshot->stats, loop_numbers);
  rille_json_number(t, "turn_p50", v->snapshot->turn_p50);
  rille_json_number(t, "turn_p99", v->snapshot->turn_p99);
  rille_json_number(t, "turn_seconds", v->snapshot->turn_seconds);
  rille_json_number(t, "longest_turn", v->snapshot->stats.longest_turn);
  rille_json_number(t, "longest_work", v->snapshot->stats.longest_work);
  rille_json_count(t, "mail", rille_mailbox_depth(&v->loop->mailbox));
  write_states(t, v->snapshot);
  rille_json_close(t, '}');
}

static void write_total(rille_text *t, const rille_loop_view *views, uint32_t count) {
  rille_json_open(t, "total", '{');
  for (size_t k = 0; k < sizeof total_numbers / sizeof *total_numbers; k++) {
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += rille_number_at(&views[i].snapshot->stats, total_numbers[k].offset);
    rille_json_count(t, total_numbers[k].key, sum);
  }
  rille_json_close(t, '}');
}

/* ---- listeners ------------------------------------------------------------------------------------------------- */

static void write_listeners(rille_text *t, const rille_loop_view *views, uint32_t count) {
  double more = 0;
  rille_json_open(t, "listeners", '[');
  for (uint32_t i = 0; i < count; i++) {
    const rille_snapshot *s = views[i].snapshot;
    more += s->more_listeners;
    for (uint32_t k = s->listener_count; k-- > 0;) { /* the latest stands first */
      const rille_listener_snapshot *l = &s->listeners[k];
      rille_json_open(t, NULL, '{');
      rille_json_count(t, "loop", views[i].loop->id);
      rille_json_string(t, "address", l->address);
      rille_json_string(t, "script", l->label);
      rille_json_count(t, "accepted", l->accepted);
      if (l->connections < 0) rille_json_null(t, "connections");
      else rille_json_count(t, "connections", l->connections);
      WRITE(t, l, refusal_numbers);
      if (l->is_udp) WRITE(t, l, datagram_numbers);
      rille_json_close(t, '}');
    }
  }
  rille_json_close(t, ']');
  rille_json_count(t, "more_listeners", more);
}

/* ---- servers --------------------------------------------------------------------------------------------------- */

static void write_last(rille_text *t, const rille_server_report *r) {
  if (!r->label[0]) {
    rille_json_null(t, "last_reload");
    return;
  }
  rille_json_open(t, "last_reload", '{');
  rille_json_bool(t, "ok", r->is_ok);
  rille_json_string(t, "label", r->label);
  rille_json_string(t, "message", r->message);
  rille_json_number(t, "seconds", r->seconds);
  rille_json_number(t, "at", r->at);
  rille_json_close(t, '}');
}

static void write_server(void *to, const char *name, const rille_server_report *r) {
  rille_text *t = to;
  rille_json_open(t, NULL, '{');
  rille_json_string(t, "name", name);
  rille_json_count(t, "generations", r->generations);
  rille_json_count(t, "reloads", r->done);
  rille_json_count(t, "failed", r->failed);
  rille_json_count(t, "rolled_back", r->rolled_back);
  write_last(t, r);
  rille_json_close(t, '}');
}

/* ---- what the process shares ----------------------------------------------------------------------------------- */

static void write_pool(void *to, const char *name, const rille_pool_stats *s) {
  rille_text *t = to;
  rille_json_open(t, NULL, '{');
  rille_json_string(t, "name", name);
  WRITE(t, s, pool_numbers);
  rille_json_close(t, '}');
}

static void write_dict(void *to, rille_dict *d) {
  rille_text *t = to;
  rille_json_open(t, NULL, '{');
  rille_json_string(t, "name", d->name);
  rille_json_count(t, "capacity", rille_dict_capacity(d));
  rille_json_count(t, "free", rille_dict_free_space(d));
  rille_json_count(t, "keys", dict_count(d));
  rille_json_close(t, '}');
}

static void write_topic(void *to, const char *name, size_t size, const rille_topic_stats *s) {
  rille_text *t = to;
  rille_json_open(t, NULL, '{');
  rille_json_bytes(t, "name", name, size);
  WRITE(t, s, topic_numbers);
  rille_json_close(t, '}');
}

static void write_process(rille_text *t) {
  rille_process_counts children;
  rille_block_stats blocks;
  rille_log_counts log;
  rille_processes_count(&children);
  rille_block_stats_read(&blocks);
  rille_log_count(&log);
  WRITE_OBJECT(t, "children", &children, children_numbers);
  WRITE_OBJECT(t, "blocks", &blocks, block_numbers);
  WRITE_OBJECT(t, "log", &log, log_numbers);
}

void rille_status_write(rille_text *t, const rille_loop_view *views, uint32_t count, int health) {
  rille_usage p;
  rille_usage_read(&p);
  rille_json_open(t, NULL, '{');
  rille_json_string(t, "version", rille_version());
  rille_json_count(t, "pid", getpid());
  rille_json_count(t, "process", rille_process_number());
  rille_json_count(t, "processes", rille_process_count());
  rille_json_string(t, "conf", p.conf);
  rille_json_string(t, "health", health_names[health]);
  rille_json_number(t, "uptime", p.uptime);
  rille_json_count(t, "rss", p.rss_bytes);
  rille_json_count(t, "descriptors", p.descriptors);
  write_total(t, views, count);
  rille_json_open(t, "loops", '[');
  for (uint32_t i = 0; i < count; i++) write_loop(t, &views[i]);
  rille_json_close(t, ']');
  write_listeners(t, views, count);
  rille_json_open(t, "servers", '[');
  rille_reports_each(write_server, t);
  rille_json_close(t, ']');
  rille_json_open(t, "pools", '[');
  rille_pools_each(write_pool, t);
  rille_json_close(t, ']');
  rille_json_open(t, "dicts", '[');
  dict_each(write_dict, t);
  rille_json_close(t, ']');
  rille_json_open(t, "topics", '[');
  uint32_t topics = rille_topics_each(write_topic, t, TOPICS_MAX);
  rille_json_close(t, ']');
  rille_json_count(t, "more_topics", topics > TOPICS_MAX ? topics - TOPICS_MAX : 0);
  write_process(t);
  rille_json_close(t, '}');
}
