/*
 * rille_http_client.h: the part of rille.h for answers of HTTP/1, which a client reads; same rules, included at its end.
 */
#ifndef RILLE_RILLE_HTTP_CLIENT_H
#define RILLE_RILLE_HTTP_CLIENT_H

#include "rille.h"

/* The answers on one connection, one after the other. */
typedef struct rille_reply rille_reply;

/* any thread */

/* owned, for rille_reply_free; NULL: no memory. head: bytes of a head, and of a body's chunk extensions and trailers together; fields: how
 * many there may be in a head, and in trailers */
rille_reply *rille_reply_new(uint32_t head, uint32_t fields);
void rille_reply_free(rille_reply *r /* NULL is allowed */);
/* The answer before is forgotten. */
void rille_reply_start(rille_reply *r);

/* loop thread, with a connection that the caller reads */

/* The next head, of a final answer or an interim one (1xx): 0, RILLE_PARK as rille_conn_want, or an error: SERVER_FAILURE when it is
 * malformed, TOO_LARGE. is_head: the request was HEAD, whose answers have no body. */
int rille_reply_head(rille_reply *r, rille_conn *c, int is_head);
/* The next piece of the body, at most max bytes, borrowed until the next call: 0, RILLE_PARK, RILLE_HTTP_END, or an error; CLOSED: the
 * connection ended before the body did. */
int rille_reply_read(rille_reply *r, rille_conn *c, double max, rille_slice *out);

/* any thread */

/* 1: some byte of the answer was seen, while its head was waited for */
int rille_reply_has_begun(const rille_reply *r);
/* 1: nothing is left of the body */
int rille_reply_is_over(const rille_reply *r);
/* 1: the head allows another request on its connection */
int rille_reply_keeps_alive(const rille_reply *r);
int rille_reply_status(const rille_reply *r);
int rille_reply_minor(const rille_reply *r);        /* of the version 1.minor */
double rille_reply_length(const rille_reply *r);    /* Content-Length of a body that has one, else -1 */
const char *rille_reply_flaw(const rille_reply *r); /* static; what was malformed or too large, "" for nothing */
/* borrowed until the next head: how many bytes */
double rille_reply_reason(const rille_reply *r, const char **out);
/* how many fields; trailer 1: of those behind the body, else of the head */
int rille_reply_fields(const rille_reply *r, int trailer);
/* the index of the first field called so at or behind `from`, or -1; case does not matter */
int rille_reply_find(const rille_reply *r, int trailer, const char *name, size_t size, int from);
/* of the field i, from 0, below their number: how many bytes; borrowed until the next head */
double rille_reply_name(const rille_reply *r, int trailer, int i, const char **out);
double rille_reply_value(const rille_reply *r, int trailer, int i, const char **out);

/* 0, RILLE_HTTP_BAD_NAME or RILLE_HTTP_BAD_VALUE of a field that is to be sent */
int rille_http_check_field(const char *name, size_t name_size, const char *value, size_t value_size);
/* 1: it can stand in a request line as target: visible ASCII, no "#"; 1: it can be a Host field */
int rille_http_check_target(const char *target, size_t size);
int rille_http_check_host(const char *host, size_t size);
/* percent-encoded but for RFC 3986's unreserved characters: its length; `to` has room for 3 * size bytes */
double rille_http_query_encode(const char *from, size_t size, uint8_t *to);

#endif
