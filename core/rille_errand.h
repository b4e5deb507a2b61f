/*
 * rille_errand.h: the part of rille.h that HTTP requests on workers need; same rules, included at its end.
 */
#ifndef RILLE_RILLE_ERRAND_H
#define RILLE_RILLE_ERRAND_H

#include "rille_http.h"
#include "rille_stream.h"

/* What a handler on a worker asks its loop for. */
enum rille_errand_wish {
  RILLE_ERRAND_PIECE = 1, /* some of the request's body */
  RILLE_ERRAND_WHOLE,     /* all that is left of it, in one piece */
  RILLE_ERRAND_FILE       /* that a file is sent as the answer */
};

/* ---- the thread of the loop, between rille_http_begin and rille_http_done -------------------------------------- */

/* The request that c is at is to be handled by the job of s, which no job uses yet. What has come of its body goes along. 0, or an error:
 * RILLE_ERR_NO_MEMORY; else the server has answered. */
int rille_errand_start(rille_stream *s, rille_conn *c);
/* What the worker asks for, 0: nothing. Of a RILLE_EVENT_STREAM with RILLE_STREAM_INPUT. */
int rille_errand_wish(rille_stream *s);
/* Give it what it asked for of the body: 0: it has it, or an error; or RILLE_PARK: as rille_http_read */
int rille_errand_feed(rille_stream *s, rille_conn *c, int wish);
const char *rille_errand_path(const rille_stream *s); /* of the file; borrowed while the worker waits */
const char *rille_errand_type(const rille_stream *s); /* the same; NULL: by its name */
/* What it asked for was done, or what kept it from being done. */
void rille_errand_grant(rille_stream *s, int result);
/* Pass on what the worker wrote so far: 0, RILLE_PARK (taken, but the output is above its high-water mark) or an error. */
int rille_errand_pass(rille_stream *s, rille_conn *c);
/* Give the connection the status and the fields that the worker has set, for a file or when it is done. 0, or RILLE_ERR_NO_MEMORY */
int rille_errand_set_head(rille_stream *s, rille_conn *c);
/* rille_errand_grant for a file; c NULL: the connection is over. */
void rille_errand_file_done(rille_stream *s, rille_conn *c, int result);
/* The connection is done with it. */
void rille_errand_end(rille_conn *c);

/* ---- the thread of the worker that runs the job ---------------------------------------------------------------- */

/* borrowed: what rille_http_method, _minor, _part, _header, _field_at, _status, _set_status, _set_field, _get_field and _is_sent take,
 * and nothing else may be called with; NULL: the stream is of another kind of job */
rille_conn *rille_errand_conn(rille_stream *s);
/* Wait for some or all of the body: 0: it is in the stream's input; RILLE_HTTP_END: there is no more; or an error: the server has
 * answered and closes, or the client is gone. */
int rille_errand_ask(rille_stream *s, int wish);
/* Send a file as the answer, as res:file does on a loop; type: its Content-Type if none is set, NULL: by its name. 0, or an error. */
int rille_errand_file(rille_stream *s, const char *path, const char *type);
/* The whole answer, size bytes of body, or a piece of it. 0: they are to be written to the stream's output; RILLE_HTTP_END: they are not
 * wanted (HEAD, 204, ...); RILLE_HTTP_OVER_LENGTH, RILLE_ERR_BUSY (the head is out), or why nobody takes an answer. */
int rille_errand_send(rille_stream *s, double size);
int rille_errand_write(rille_stream *s, double size);
/* as rille_stream_flush, for the head too */
int rille_errand_flush(rille_stream *s);
/* The handler has ended the connection: no more is read or written. */
void rille_errand_close(rille_stream *s);
/* The handler has returned: slices of the head expire. */
void rille_errand_leave(rille_stream *s);

#endif
