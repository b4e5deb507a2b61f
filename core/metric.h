/*
 * metric: counters, gauges and histograms that scripts make, by name in the whole process. A series, one for each combination of label
 * values, has a cell of numbers for each Lua state that writes to it; states store into their own cells without a lock, from
 * compiled Lua, and whoever reads adds the cells up. One mutex guards names, series and the lists of cells.
 *
 * Nothing of it is freed before the process ends, as a state may still store into a cell while it is being closed; a cell whose state
 * is gone is taken over by the next one that needs a cell of that series.
 */
#ifndef RILLE_METRIC_H
#define RILLE_METRIC_H

#include "json_write.h"
#include "rille_metric.h"

/* control thread: all metrics, as text for Prometheus */
void rille_metrics_write(rille_text *t);
/* help and label values: what must not stand there as it is */
void rille_metric_escape(rille_text *t, const char *text, bool is_label);

#endif
