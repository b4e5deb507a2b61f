/*
 * rille_http.h: the part of rille.h that HTTP/1 needs; same rules, included at its end.
 */
#ifndef RILLE_RILLE_HTTP_H
#define RILLE_RILLE_HTTP_H

#include "rille.h"
#include "rille_fs.h"

enum rille_http_method {
  RILLE_HTTP_OTHER = 0, /* by name */
  RILLE_HTTP_GET,
  RILLE_HTTP_HEAD,
  RILLE_HTTP_POST,
  RILLE_HTTP_PUT,
  RILLE_HTTP_DELETE,
  RILLE_HTTP_CONNECT,
  RILLE_HTTP_OPTIONS,
  RILLE_HTTP_TRACE,
  RILLE_HTTP_PATCH
};

/* What rille_http_part gives. */
enum rille_http_part {
  RILLE_HTTP_PART_METHOD = 1,
  RILLE_HTTP_PART_TARGET, /* as it was sent */
  RILLE_HTTP_PART_PATH,   /* decoded and normalized */
  RILLE_HTTP_PART_QUERY,
  RILLE_HTTP_PART_HOST
};

/* Results above RILLE_PARK. */
enum {
  RILLE_HTTP_END = 2,         /* the body is over */
  RILLE_HTTP_OVER_LENGTH = 3, /* more than the Content-Length that was set */
  RILLE_HTTP_COLD = 4         /* what comes next of a file is not in memory */
};

/* What is wrong with a header field that a script sets. */
enum rille_http_flaw {
  RILLE_HTTP_BAD_NAME = 1, /* no token */
  RILLE_HTTP_BAD_VALUE,    /* a control character in it */
  RILLE_HTTP_BAD_LENGTH,   /* Content-Length that is no number */
  RILLE_HTTP_OWN_FIELD,    /* Transfer-Encoding, and Connection but for "close" and "upgrade", are the server's */
  RILLE_HTTP_TOO_MANY,     /* more than 64 KiB of fields */
  RILLE_HTTP_TOO_LATE      /* the head is out */
};

/* loop thread; all but begin and done may be called only between these two, on a connection of a service with RILLE_SET_HTTP */

/* on_request starts: 1, or 2 for CONNECT; 0 when it need not any more; 3: not yet, the output is above its high-water mark (park as
 * rille_conn_wait_output says, then ask again). It returned: 1 when the next request is there and it is to be called again at once */
int rille_http_begin(rille_conn *c);
int rille_http_done(rille_conn *c);
/* on_request raised: 500 with this text as the body (without one: a short sentence) when the head is not out, else the connection is over */
void rille_http_failed(rille_conn *c, const char *text, size_t size);

int rille_http_method(const rille_conn *c);
int rille_http_minor(const rille_conn *c); /* of the version 1.minor */
/* 0, or RILLE_ERR_NOT_FOUND (a query that is not there). The slices are borrowed until on_request returns; that of a path that had to
 * be decoded cannot be retained. */
int rille_http_part(rille_conn *c, int part, rille_slice *out);
/* the value of a field; of several of one name the combined value (RFC 9110 section 5.3); RILLE_ERR_NOT_FOUND */
int rille_http_header(rille_conn *c, const char *name, size_t size, rille_slice *out);
/* the field number i, from 0: RILLE_ERR_NOT_FOUND behind the last one */
int rille_http_field_at(rille_conn *c, uint32_t i, rille_slice *name, rille_slice *value);
/* the decoded value of the first parameter called name in a query: its length, or -1. to has room for query_size bytes. Any thread */
double rille_http_query_value(const uint8_t *query, double query_size, const char *name, size_t name_size, uint8_t *to);
/* a name or value of a query, decoded: its length. to has room for size bytes and may be from. Any thread */
double rille_http_query_decode(const uint8_t *from, double size, uint8_t *to);
/* the rest of the body in one piece: 0, RILLE_PARK (as rille_conn_want), or an error: the answer is out and the connection closes then */
int rille_http_body(rille_conn *c, rille_slice *out);
/* the next piece of it, at most max bytes, borrowed until the next call: 0, RILLE_PARK, RILLE_HTTP_END or an error */
int rille_http_read(rille_conn *c, double max, rille_slice *out);

int rille_http_status(const rille_conn *c);
/* 200 .. 599: 0, or RILLE_HTTP_TOO_LATE */
int rille_http_set_status(rille_conn *c, int status);
/* value NULL removes; add: beside one of the same name instead of in its place. 0 or an enum rille_http_flaw */
int rille_http_set_field(rille_conn *c, const char *name, size_t name_size, const char *value, size_t value_size,
                         int add);
/* what set_field has put there, borrowed until the next call on c: its length, or -1 */
double rille_http_get_field(rille_conn *c, const char *name, size_t size, const char **out);
int rille_http_is_sent(const rille_conn *c); /* the head is out */
/* the whole answer; 0, RILLE_PARK: taken, but the output is above its high-water mark; or an error; RILLE_ERR_BUSY: the head is out */
int rille_http_send(rille_conn *c, const char *bytes, size_t size);
int rille_http_send_view(rille_conn *c, const uint8_t *base, uint32_t size, rille_cell *cell, rille_block *block,
                         uint32_t epoch);
int rille_http_send_buffer(rille_conn *c, rille_linkbuffer *from);
/* a piece of it; or RILLE_HTTP_OVER_LENGTH */
int rille_http_write(rille_conn *c, const char *bytes, size_t size);
int rille_http_write_view(rille_conn *c, const uint8_t *base, uint32_t size, rille_cell *cell, rille_block *block,
                          uint32_t epoch);
int rille_http_write_buffer(rille_conn *c, rille_linkbuffer *from);
/* from `at` on: 0, or an error */
int rille_http_file_seek(const rille_file *file, double at);
/* the head of an answer of so many bytes: 0, or an error */
int rille_http_open_body(rille_conn *c, double size);
/* The next piece of the file, as rille_conn_write_file */
int rille_http_write_file(rille_conn *c, const rille_file *file);
/* the same from a request RILLE_IO_READ that was answered */
int rille_http_write_read(rille_conn *c, const rille_job *job);
/* an IMF-fixdate of 29 bytes (RFC 9110 section 5.6.7). Any thread */
void rille_http_format_date(double seconds, char to[32]);
/* leave HTTP: 101 with these as Upgrade, or 200 for CONNECT; what follows is the script's. 0, RILLE_PARK or an error */
int rille_http_upgrade(rille_conn *c, const char *protocol, size_t size);
/* a connection of a service without RILLE_SET_HTTP speaks HTTP from here on, beginning with what of its input is not consumed: it is one of
 * `service` then, of the same state, which has RILLE_SET_HTTP. 0; RILLE_ERR_BUSY: it does already, a task reads it, other handlers of
 * it run or TLS shakes hands; RILLE_ERR_CLOSED */
int rille_http_adopt(rille_conn *c, rille_service *service);
/* static; "Not Found"; empty for a status without a name */
const char *rille_http_reason(int status);

#endif
