/*
 * rille_stream.h: the part of rille.h that streaming jobs need; same rules, included at its end.
 */
#ifndef RILLE_RILLE_STREAM_H
#define RILLE_RILLE_STREAM_H

#include "rille.h"
#include "rille_pool.h"

typedef struct rille_stream rille_stream;

/* arg of RILLE_EVENT_STREAM */
enum rille_stream_side { RILLE_STREAM_INPUT, RILLE_STREAM_OUTPUT };

/* ---- the thread of the loop ------------------------------------------------------------------------------------ */

/* owned, a reference; NULL when there is no memory. limit: bytes that wait each way. What there is to do comes as
 * RILLE_EVENT_STREAM with this token. */
rille_stream *rille_stream_new(rille_pool *pool, rille_state *state, uint32_t token, double limit);
void rille_stream_release(rille_stream *s);
/* The same, and a job that still uses it fails from now on. */
void rille_stream_close(rille_stream *s);
/* The job is to read and write it; before it is submitted. One job at a time. */
void rille_job_use_stream(rille_job *job, rille_stream *s);
/* Bytes of input there is room for; 0: an event says when there is. */
double rille_stream_room(rille_stream *s);
/* Input: a slice by its fields, a string, or all that can be read of a LinkBuffer, which is empty then. */
int rille_stream_feed_view(rille_stream *s, const uint8_t *base, uint32_t size, rille_cell *cell, rille_block *block,
                           uint32_t epoch);
int rille_stream_feed(rille_stream *s, const char *bytes, size_t size);
int rille_stream_feed_buffer(rille_stream *s, rille_linkbuffer *from);
/* No more input comes; err says why. */
void rille_stream_end(rille_stream *s, int err);
/* Nobody takes its output any more. */
void rille_stream_refuse(rille_stream *s, int err);
/* Each call of the job fails from now on. Any thread. */
void rille_stream_abort(rille_stream *s, int err);
/* Bytes of output to be taken; 0: an event says when there are. */
double rille_stream_ready(rille_stream *s);
/* Move all of it to the end of a LinkBuffer, without a copy. */
int rille_stream_drain(rille_stream *s, rille_linkbuffer *to);
/* Bytes of input so far. */
double rille_stream_put(const rille_stream *s);
/* Bytes of input that no job has taken; none may run. */
double rille_stream_left(const rille_stream *s);

/* ---- the thread of the worker that runs the job ---------------------------------------------------------------- */

rille_stream *rille_worker_stream(rille_worker *worker); /* borrowed until rille_worker_answer; NULL: it has none */
/* Wait until n bytes can be read: 0, or why they never can: RILLE_ERR_TOO_LARGE (with what the job holds, more than the
 * limit), or what the input ended with. Publishes the output before it waits, and waits while that is above the limit too. */
int rille_stream_want(rille_stream *s, double n);
double rille_stream_front(rille_stream *s);             /* bytes of the input that can be read in one piece */
rille_linkbuffer *rille_stream_input(rille_stream *s);  /* borrowed: its reader's side */
rille_linkbuffer *rille_stream_output(rille_stream *s); /* borrowed: its writer's side */
/* The slices of the input expire, and their bytes make room for others. */
void rille_stream_give_back(rille_stream *s);
/* Publish and give back, without a word to the loop: the job's answer follows, after which it looks. */
void rille_stream_finish(rille_stream *s);
/* Bytes of the input that were taken so far, whether given back or not. */
double rille_stream_consumed(rille_stream *s);
/* 0, or why nothing can be written. */
int rille_stream_writable(const rille_stream *s);
/* Publish what was written, without waiting. */
void rille_stream_publish(rille_stream *s);
/* Publish what was written and wait until at most the limit is left to be taken: 0, or why it never will be. */
int rille_stream_flush(rille_stream *s);

#endif
