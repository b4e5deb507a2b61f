/*
 * errand: an HTTP request whose handler runs on a worker. The loop decodes heads, reads bodies and frames answers as it does for
 * its own handlers; what crosses is the decoded head, over the very block it arrived in, and the bytes of both bodies by a stream.
 *
 * The worker asks for the body when its handler does, so time-outs, 100 (Continue) and the limits are those of a handler on the
 * loop. Head and fields of the answer are set on the worker, and go over when it has written something, or is done.
 *
 * An errand belongs to its stream. Who may touch it: the loop until the job is submitted and after it was answered; the worker
 * in between, but for what is atomic; while the worker waits in rille_errand_ask, the loop.
 */
#ifndef RILLE_ERRAND_H
#define RILLE_ERRAND_H

#include "http.h"
#include "stream.h"

#include <stdatomic.h>
#include <stdbool.h>

typedef struct rille_errand {
  rille_conn stub;  /* what http_request.c and http_fields.c look at: its `http`, and CLOSING among its flags */
  rille_http *http; /* owned; the request's head, and the answer's as the worker sets it */

  _Atomic uint32_t wish; /* enum rille_errand_wish: what the worker waits for */
  _Atomic int result;    /* RILLE_PARK until it has it */
  _Atomic bool
      is_open; /* the head of the answer is complete: framing, answer_left and the fields do not change any more */

  /* worker */
  bool is_told;    /* the loop was sent word of the open head */
  uint64_t length; /* WHOLE: of the body, does not change any more; COUNTED: what is left of it */

  /* loop */
  bool is_complete; /* all of the request's body is in the stream; the worker looks while nothing is asked */
  bool is_set;      /* the connection has status and fields */
  bool is_begun;    /* the head is out */
  const char *path; /* of RILLE_ERRAND_FILE; borrowed from the worker while it waits */
  const char *type; /* the same, or NULL */
} rille_errand;

void rille_errand_free(rille_errand *e);

#endif
