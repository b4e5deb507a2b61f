/*
 * stream: what a job of a worker pool reads while its loop still fills it, and writes while the loop sends it: two LinkBuffers,
 * each with a reader and a writer on threads of their own, without a lock. Counted references: the Lua state of the
 * loop has one, and each job that uses it.
 *
 * Either side says that it waits by an exchange of a flag and then looks once more; the other one publishes, exchanges the flag back,
 * and rings if it was set. As both exchange the same flag, one of them sees what the other did. The worker sleeps on a futex, the loop
 * is told by its mailbox: one message, however much is published until it looks.
 */
#ifndef RILLE_STREAM_H
#define RILLE_STREAM_H

#include "linkbuffer.h"

#include <stdatomic.h>

/* One direction. */
typedef struct rille_pipe {
  rille_linkbuffer *buffer;    /* owned */
  uint64_t put;                /* writer: bytes it has published */
  _Atomic uint64_t freed;      /* stored by the reader: bytes it is done with */
  _Atomic int end;             /* 0, or why nothing more comes (input), is taken (output); stored by the loop */
  _Atomic uint32_t loop_waits; /* a flag */
} rille_pipe;

struct rille_stream {
  /* immutable after init */
  rille_pool *pool; /* a reference */
  uint32_t state;   /* its id */
  uint32_t token;
  uint64_t limit;

  rille_loop *loop; /* under the pool's lock; NULL: it is over */

  /* any thread, atomic */
  _Atomic uint32_t refs;
  _Atomic int aborted;   /* 0, or why */
  _Atomic uint32_t bell; /* the futex of the worker */
  _Atomic uint32_t worker_waits;

  rille_pipe input;  /* the loop writes, the worker reads */
  rille_pipe output; /* the worker writes, the loop reads */

  struct rille_errand *errand; /* owned; NULL: the job is no HTTP request, see errand.h */
};

/* Worker: a STREAM event for this side, whether the loop waits or not. */
void rille_stream_tell_loop(rille_stream *s, uint32_t side);
/* Loop: the worker, if it waits, looks again. */
void rille_stream_ring_worker(rille_stream *s);
/* Worker: wait until look(s, n) says something else than RILLE_PARK. */
int rille_stream_await(rille_stream *s, int (*look)(rille_stream *, double), double n);
/* Loop, when no job uses it: as new. */
void rille_stream_reset(rille_stream *s);

#endif
