/*
 * rille_metric.h: the part of rille.h for the metrics that scripts make; same rules, included at its end. Any thread may call everything
 * here.
 */
#ifndef RILLE_RILLE_METRIC_H
#define RILLE_RILLE_METRIC_H

#include "rille.h"

typedef struct rille_metric rille_metric;
typedef struct rille_metric_writer rille_metric_writer;

enum rille_metric_type { RILLE_METRIC_COUNTER = 1, RILLE_METRIC_GAUGE, RILLE_METRIC_HISTOGRAM };

enum {
  RILLE_METRIC_NAME_MAX = 200,
  RILLE_METRIC_LABELS_MAX = 8,
  RILLE_METRIC_VALUE_MAX = 128,
  RILLE_METRIC_BUCKETS_MAX = 64
};

/* How many metrics the process has at most, and how many series (different label values) each. Those there are stay. */
void rille_metric_limit(double metrics, double series);

/* The metric of that name, made when there is none; static. labels: their names, each ended by NUL. bounds: of a histogram, rising.
 * NULL with *err: RILLE_ERR_FULL, RILLE_ERR_NO_MEMORY; RILLE_ERR_EXISTS: it is there with another type, labels or buckets, or what
 * another one is printed as has this name. The first help that is not empty stays. */
rille_metric *rille_metric_open(const char *name, int type, const char *help, const char *labels, int label_count,
                                const double *bounds, int bound_count, int *err);

/* Whoever writes to cells, one thread at a time: a Lua state. owned; NULL when there is no memory */
rille_metric_writer *rille_metric_writer_new(void);
/* Its cells are given to others: counts stay, gauges begin at 0. */
void rille_metric_writer_free(rille_metric_writer *writer);

/* The writer's own cell of the series with these label values (size bytes, each ended by NUL). Only the writer stores to it, others read.
 * A counter or gauge is cell[0]; a histogram has the sum of values in cell[0], behind it a count for each bound and one for what is above
 * all. static, the writer's until rille_metric_writer_free. NULL with *err: RILLE_ERR_FULL (too many series), RILLE_ERR_NO_MEMORY. */
double *rille_metric_cell(rille_metric *metric, rille_metric_writer *writer, const char *values, size_t size, int *err);
/* The sum of all cells of the series; index as in a cell. 0 when there is no such series. */
double rille_metric_read(rille_metric *metric, const char *values, size_t size, int index);

#endif
