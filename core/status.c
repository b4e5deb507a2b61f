/*
 * status: what `rille status --json` prints, as docs/status.md describes it field by field. Control thread.
 */
#include "control.h"
#include "dict.h"
#include "log.h"
#include "pool.h"

#include <unistd.h>

enum { TOPICS_MAX = 100 };

static const char *const health_names[] = {"serving", "starting", "draining", "stalled"};

/* ---- loops ----------------------------------------------------------------------------------------------------- */

static void write_states(rille_text *t, const rille_snapshot *s) {
  rille_json_open(t, "states", '[');
  for (uint32_t i = 0; i < s->state_count; i++) {
    const rille_state_snapshot *one = &s->states[i];
    if (!one->label[0]) continue;
    rille_json_open(t, NULL, '{');
    rille_json_string(t, "script", one->label);
    rille_json_count(t, "generation", one->generation);
    rille_json_count(t, "lua_bytes", one->lua_bytes);
    rille_json_count(t, "errors", one->errors);
    rille_json_count(t, "failures", one->failures);
    rille_json_close(t, '}');
  }
  rille_json_close(t, ']');
}

static void write_numbers(rille_text *t, const rille_snapshot *s) {
  const rille_loop_stats *n = &s->stats;
  const struct {
    const char *key;
    double value;
  } counts[] = {{"connections", n->connections},
                {"accepted", n->accepted},
                {"messages", n->messages},
                {"bytes_in", n->bytes_in},
                {"bytes_out", n->bytes_out},
                {"errors", n->errors},
                {"failures", n->failures},
                {"turns", n->turns},
                {"stalls", n->stalls},
                {"replaced", n->replaced},
                {"datagrams_dropped", n->datagrams_dropped},
                {"watches", n->watches},
                {"timers", n->timers},
                {"lua_bytes", n->lua_bytes},
                {"lua_allocated", n->lua_allocated}};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) rille_json_count(t, counts[i].key, counts[i].value);
  rille_json_number(t, "turn_p50", s->turn_p50);
  rille_json_number(t, "turn_p99", s->turn_p99);
  rille_json_number(t, "turn_seconds", s->turn_seconds);
}

static void write_loop(rille_text *t, const rille_loop_view *v) {
  rille_json_open(t, NULL, '{');
  rille_json_count(t, "id", v->loop->id);
  rille_json_bool(t, "stalled", v->is_stalled);
  if (v->is_stalled) rille_json_number(t, "since", v->busy_seconds);
  uint64_t now = rille_now_ns(), taken = v->snapshot->taken_ns;
  rille_json_number(t, "age", v->has_answered || now < taken ? 0 : (double)(now - taken) / 1e9);
  write_numbers(t, v->snapshot);
  rille_json_count(t, "mail", rille_mailbox_depth(&v->loop->mailbox));
  write_states(t, v->snapshot);
  rille_json_close(t, '}');
}

static void write_total(rille_text *t, const rille_loop_view *views, uint32_t count) {
  rille_loop_stats sum = {0};
  for (uint32_t i = 0; i < count; i++) {
    const rille_loop_stats *s = &views[i].snapshot->stats;
    sum.connections += s->connections;
    sum.accepted += s->accepted;
    sum.messages += s->messages;
    sum.bytes_in += s->bytes_in;
    sum.bytes_out += s->bytes_out;
    sum.errors += s->errors;
    sum.stalls += s->stalls;
    sum.replaced += s->replaced;
  }
  rille_json_open(t, "total", '{');
  rille_json_count(t, "connections", sum.connections);
  rille_json_count(t, "accepted", sum.accepted);
  rille_json_count(t, "messages", sum.messages);
  rille_json_count(t, "bytes_in", sum.bytes_in);
  rille_json_count(t, "bytes_out", sum.bytes_out);
  rille_json_count(t, "errors", sum.errors);
  rille_json_count(t, "stalls", sum.stalls);
  rille_json_count(t, "replaced", sum.replaced);
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
      rille_json_count(t, "refused_by_list", l->refused_by_list);
      rille_json_count(t, "refused_by_address", l->refused_by_address);
      rille_json_count(t, "shed", l->shed);
      if (l->is_udp) {
        rille_json_count(t, "datagrams", l->datagrams);
        rille_json_count(t, "datagrams_dropped", l->datagrams_dropped);
      }
      rille_json_close(t, '}');
    }
  }
  rille_json_close(t, ']');
  rille_json_count(t, "more_listeners", more);
}

/* ---- what the process shares ----------------------------------------------------------------------------------- */

static void write_pool(void *to, const char *name, const rille_pool_stats *s) {
  rille_text *t = to;
  rille_json_open(t, NULL, '{');
  rille_json_string(t, "name", name);
  rille_json_count(t, "max", s->options.max);
  rille_json_count(t, "workers", s->workers);
  rille_json_count(t, "busy", s->busy);
  rille_json_count(t, "lost", s->lost);
  rille_json_count(t, "queued", s->queued);
  rille_json_count(t, "done", s->done);
  rille_json_count(t, "failed", s->failed);
  rille_json_count(t, "abandoned", s->abandoned);
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
  rille_json_count(t, "subscribers", s->subscribers);
  rille_json_count(t, "publishes", s->publishes);
  rille_json_count(t, "deliveries", s->deliveries);
  rille_json_count(t, "dropped", s->dropped);
  rille_json_count(t, "disconnected", s->disconnected);
  rille_json_close(t, '}');
}

static void write_blocks(rille_text *t) {
  rille_block_stats s;
  rille_block_stats_read(&s);
  rille_json_open(t, "blocks", '{');
  rille_json_count(t, "in_use", s.blocks_in_use);
  rille_json_count(t, "bytes", s.bytes_in_use);
  rille_json_count(t, "cached", s.cached_blocks);
  rille_json_count(t, "cached_bytes", s.cached_bytes);
  rille_json_count(t, "slices", s.slices_retained);
  rille_json_count(t, "slices_leaked", s.slices_leaked);
  rille_json_count(t, "buffers", s.buffers_in_use);
  rille_json_close(t, '}');
}

static void write_log(rille_text *t) {
  rille_log_counts n;
  rille_log_count(&n);
  rille_json_open(t, "log", '{');
  rille_json_count(t, "debug", n.debug);
  rille_json_count(t, "info", n.info);
  rille_json_count(t, "warn", n.warn);
  rille_json_count(t, "error", n.error);
  rille_json_count(t, "suppressed", n.suppressed);
  rille_json_count(t, "dropped", n.dropped);
  rille_json_close(t, '}');
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
  write_blocks(t);
  write_log(t);
  rille_json_close(t, '}');
}
