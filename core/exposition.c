/*
 * exposition: the statistics of the process and the metrics of scripts as text for Prometheus, format 0.0.4. docs/metrics.md lists
 * the names. Control thread.
 */
#include "control.h"
#include "dict.h"
#include "log.h"
#include "metric.h"
#include "pool.h"
#include "process.h"
#include "report.h"

typedef struct column {
  const char *name, *type, *help;
  size_t offset; /* of a double in what the lines are of */
} column;

static void head(rille_text *t, const char *name, const char *type, const char *help) {
  rille_text_printf(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void plain(rille_text *t, const char *name, const char *type, const char *help, double value) {
  head(t, name, type, help);
  rille_text_printf(t, "%s %.17g\n", name, value);
}

static void labelled(rille_text *t, const char *name, const char *label, const char *value, double number) {
  rille_text_printf(t, "%s{%s=\"", name, label);
  rille_metric_escape(t, value, true);
  rille_text_printf(t, "\"} %.17g\n", number);
}

/* ---- loops ----------------------------------------------------------------------------------------------------- */

#define LOOP(name, type, field, help)                                                                                  \
  { "rille_loop_" name, type, help, offsetof(rille_loop_stats, field) }

static const column loop_columns[] = {
    LOOP("connections", "gauge", connections, "Open connections."),
    LOOP("accepted_total", "counter", accepted, "Connections taken so far."),
    LOOP("moved_in_total", "counter", moved_in, "Connections that came from other loops."),
    LOOP("moved_out_total", "counter", moved_out, "Connections that went to other loops."),
    LOOP("messages_total", "counter", messages, "Calls of on_request."),
    LOOP("received_bytes_total", "counter", bytes_in, "Bytes read from connections."),
    LOOP("sent_bytes_total", "counter", bytes_out, "Bytes the kernel took for connections."),
    LOOP("errors_total", "counter", errors, "Errors that scripts raised."),
    LOOP("failures_total", "counter", failures, "Failures of the dispatcher; none is expected."),
    LOOP("stalls_total", "counter", stalls, "Turns that lasted longer than stall_after."),
    LOOP("replaced_total", "counter", replaced, "Lua states that were replaced."),
    LOOP("datagrams_dropped_total", "counter", datagrams_dropped, "Datagrams that a loop dropped."),
    LOOP("turns_total", "counter", turns, "Turns."),
    LOOP("watches", "gauge", watches, "Descriptors and timers that tasks wait for."),
    LOOP("lua_bytes", "gauge", lua_bytes, "Memory of the Lua states."),
};

static void write_turns(rille_text *t, const rille_loop_view *views, uint32_t count) {
  head(t, "rille_loop_turn_seconds", "summary", "How long turns lasted, quantiles of the last minute.");
  for (uint32_t i = 0; i < count; i++) {
    const rille_snapshot *s = views[i].snapshot;
    uint32_t id = views[i].loop->id;
    rille_text_printf(t, "rille_loop_turn_seconds{loop=\"%u\",quantile=\"0.5\"} %.9g\n", id, s->turn_p50);
    rille_text_printf(t, "rille_loop_turn_seconds{loop=\"%u\",quantile=\"0.99\"} %.9g\n", id, s->turn_p99);
    rille_text_printf(t, "rille_loop_turn_seconds_sum{loop=\"%u\"} %.9g\n", id, s->turn_seconds);
    rille_text_printf(t, "rille_loop_turn_seconds_count{loop=\"%u\"} %.17g\n", id, s->stats.turns);
  }
}

static void write_loops(rille_text *t, const rille_loop_view *views, uint32_t count) {
  for (size_t c = 0; c < sizeof loop_columns / sizeof *loop_columns; c++) {
    const column *one = &loop_columns[c];
    head(t, one->name, one->type, one->help);
    for (uint32_t i = 0; i < count; i++) {
      rille_text_printf(t, "%s{loop=\"%u\"} %.17g\n", one->name, views[i].loop->id,
                        rille_number_at(&views[i].snapshot->stats, one->offset));
    }
  }
  head(t, "rille_loop_stalled", "gauge", "1: the loop is in a turn that does not end.");
  for (uint32_t i = 0; i < count; i++) {
    rille_text_printf(t, "rille_loop_stalled{loop=\"%u\"} %d\n", views[i].loop->id, views[i].is_stalled);
  }
  head(t, "rille_loop_mail", "gauge", "Messages of other threads that wait.");
  for (uint32_t i = 0; i < count; i++) {
    rille_text_printf(t, "rille_loop_mail{loop=\"%u\"} %u\n", views[i].loop->id,
                      rille_mailbox_depth(&views[i].loop->mailbox));
  }
  write_turns(t, views, count);
}

#define LISTENER(name, reason, field, is_udp, help)                                                                    \
  { "rille_listener_" name, reason, help, offsetof(rille_listener_snapshot, field), is_udp }

/* reason: of its label, NULL: it has none. Those of one name stand together. */
static const struct {
  const char *name, *reason, *help;
  size_t offset;
  bool is_udp; /* of datagrams only */
} listener_columns[] = {
    LISTENER("accepted_total", NULL, accepted, false, "Connections that came by an address."),
    LISTENER("refused_total", "list", refused_by_list, false, "Connections that were refused."),
    LISTENER("refused_total", "address", refused_by_address, false, NULL),
    LISTENER("refused_total", "descriptors", shed, false, NULL),
    LISTENER("datagrams_total", NULL, datagrams, true, "Datagrams received."),
    LISTENER("datagrams_dropped_total", NULL, datagrams_dropped, true, "Datagrams that no handler got."),
};

static void write_listener(rille_text *t, size_t which, uint32_t loop_id, const rille_listener_snapshot *l) {
  rille_text_printf(t, "%s{loop=\"%u\",script=\"", listener_columns[which].name, loop_id);
  rille_metric_escape(t, l->label, true);
  rille_text_printf(t, "\",address=\"");
  rille_metric_escape(t, l->address, true);
  if (listener_columns[which].reason) rille_text_printf(t, "\",reason=\"%s", listener_columns[which].reason);
  rille_text_printf(t, "\"} %.17g\n", rille_number_at(l, listener_columns[which].offset));
}

/* One line for each loop and address; a number of theirs goes with the address, so a port that two sockets have counts twice. */
static void write_listeners(rille_text *t, const rille_loop_view *views, uint32_t count) {
  for (size_t c = 0; c < sizeof listener_columns / sizeof *listener_columns; c++) {
    if (listener_columns[c].help) head(t, listener_columns[c].name, "counter", listener_columns[c].help);
    for (uint32_t i = 0; i < count; i++) {
      const rille_snapshot *s = views[i].snapshot;
      for (uint32_t k = 0; k < s->listener_count; k++) {
        if (s->listeners[k].is_udp || !listener_columns[c].is_udp)
          write_listener(t, c, views[i].loop->id, &s->listeners[k]);
      }
    }
  }
}

/* ---- what has a name ------------------------------------------------------------------------------------------- */

typedef struct line_of {
  rille_text *t;
  const column *column;
} line_of;

#define POOL(name, type, field, help)                                                                                  \
  { "rille_pool_" name, type, help, offsetof(rille_pool_stats, field) }

static const column pool_columns[] = {
    POOL("workers", "gauge", workers, "Workers."),
    POOL("busy", "gauge", busy, "Workers that run a job."),
    POOL("lost", "gauge", lost, "Workers busy with a job nobody waits for any more."),
    POOL("states", "gauge", states, "Lua states of workers."),
    POOL("queued", "gauge", queued, "Jobs that wait."),
    POOL("done_total", "counter", done, "Jobs that returned."),
    POOL("failed_total", "counter", failed, "Jobs that raised or could not be run."),
    POOL("abandoned_total", "counter", abandoned, "Jobs whose caller did not wait for the end."),
};

static void write_pool(void *to, const char *name, const rille_pool_stats *s) {
  const line_of *l = to;
  labelled(l->t, l->column->name, "pool", name, rille_number_at(s, l->column->offset));
}

static void write_dict_capacity(void *to, rille_dict *d) {
  labelled(to, "rille_dict_capacity_bytes", "dict", d->name, rille_dict_capacity(d));
}

static void write_dict_free(void *to, rille_dict *d) {
  labelled(to, "rille_dict_free_bytes", "dict", d->name, rille_dict_free_space(d));
}

static void write_dict_keys(void *to, rille_dict *d) {
  labelled(to, "rille_dict_keys", "dict", d->name, dict_count(d));
}

static void write_reloads(void *to, const char *name, const rille_server_report *r) {
  rille_text *t = to;
  for (int is_ok = 1; is_ok >= 0; is_ok--) {
    rille_text_printf(t, "rille_reloads_total{server=\"");
    rille_metric_escape(t, name, true);
    rille_text_printf(t, "\",result=\"%s\"} %.17g\n", is_ok ? "ok" : "failed", is_ok ? r->done : r->failed);
  }
}

static void write_rollbacks(void *to, const char *name, const rille_server_report *r) {
  labelled(to, "rille_reload_rollbacks_total", "server", name, r->rolled_back);
}

static void write_generations(void *to, const char *name, const rille_server_report *r) {
  labelled(to, "rille_generations", "server", name, r->generations);
}

static void write_servers(rille_text *t) {
  head(t, "rille_reloads_total", "counter", "Reloads of a server's script, by what became of them.");
  rille_reports_each(write_reloads, t);
  head(t, "rille_reload_rollbacks_total", "counter", "Reloads that were taken back after the new version had served.");
  rille_reports_each(write_rollbacks, t);
  head(t, "rille_generations", "gauge", "Generations of a server's script that are alive.");
  rille_reports_each(write_generations, t);
}

static void write_named(rille_text *t) {
  for (size_t c = 0; c < sizeof pool_columns / sizeof *pool_columns; c++) {
    line_of l = {.t = t, .column = &pool_columns[c]};
    head(t, l.column->name, l.column->type, l.column->help);
    rille_pools_each(write_pool, &l);
  }
  head(t, "rille_dict_capacity_bytes", "gauge", "Size of a dict.");
  dict_each(write_dict_capacity, t);
  head(t, "rille_dict_free_bytes", "gauge", "What nothing is in.");
  dict_each(write_dict_free, t);
  head(t, "rille_dict_keys", "gauge", "Keys of a dict.");
  dict_each(write_dict_keys, t);
}

/* ---- the process ----------------------------------------------------------------------------------------------- */

static void add_topic(void *to, const char *name, size_t size, const rille_topic_stats *s) {
  (void)name;
  (void)size;
  *(double *)to += s->subscribers;
}

static void write_process(rille_text *t, int health) {
  enum { TOPICS_MAX = 10000 };
  rille_usage p;
  rille_block_stats b;
  rille_log_counts n;
  rille_process_counts children;
  double subscribers = 0;
  rille_usage_read(&p);
  rille_block_stats_read(&b);
  rille_log_count(&n);
  rille_processes_count(&children);
  head(t, "rille_info", "gauge", "Its version.");
  labelled(t, "rille_info", "version", rille_version(), 1);
  plain(t, "rille_process", "gauge", "Which process of several this is, from 1; 0: there is one.",
        rille_process_number());
  plain(t, "rille_up", "gauge", "1 while it serves and no loop is stalled.", health == RILLE_HEALTH_SERVING);
  plain(t, "rille_uptime_seconds", "gauge", "Since the start.", p.uptime);
  plain(t, "process_resident_memory_bytes", "gauge", "Resident memory.", p.rss_bytes);
  plain(t, "process_open_fds", "gauge", "Open descriptors.", p.descriptors);
  plain(t, "rille_children", "gauge", "Programs that scripts started and that run.", children.running);
  plain(t, "rille_children_started_total", "counter", "Programs that scripts started.", children.started);
  plain(t, "rille_block_bytes", "gauge", "Memory in blocks that are in use.", b.bytes_in_use);
  plain(t, "rille_block_cached_bytes", "gauge", "Memory in blocks that are kept for reuse.", b.cached_bytes);
  plain(t, "rille_slices_retained", "gauge", "Slices that were retained and not released.", b.slices_retained);
  plain(t, "rille_slices_leaked_total", "counter", "Retained slices that the collector freed.", b.slices_leaked);
  plain(t, "rille_buffers", "gauge", "LinkBuffers that are not closed.", b.buffers_in_use);
  plain(t, "rille_topics", "gauge", "Topics.", rille_topics_each(add_topic, &subscribers, TOPICS_MAX));
  plain(t, "rille_topic_subscribers", "gauge", "Subscriptions, of at most 10000 topics.", subscribers);
  head(t, "rille_log_lines_total", "counter", "Log lines written.");
  labelled(t, "rille_log_lines_total", "level", "debug", n.debug);
  labelled(t, "rille_log_lines_total", "level", "info", n.info);
  labelled(t, "rille_log_lines_total", "level", "warn", n.warn);
  labelled(t, "rille_log_lines_total", "level", "error", n.error);
  plain(t, "rille_log_suppressed_total", "counter", "Records over the rate of their place.", n.suppressed);
  plain(t, "rille_log_dropped_total", "counter", "Lines that the target did not take.", n.dropped);
}

void rille_exposition_write(rille_text *t, const rille_loop_view *views, uint32_t count, int health) {
  write_process(t, health);
  write_loops(t, views, count);
  write_listeners(t, views, count);
  write_servers(t);
  write_named(t);
  rille_metrics_write(t);
}
