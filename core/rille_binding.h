/*
 * rille_binding.h: the part of rille.h for connections that have names of the script's own; same rules, included at its end.
 */
#ifndef RILLE_RILLE_BINDING_H
#define RILLE_RILLE_BINDING_H

#include "rille.h"

enum {
  RILLE_BINDING_KEY_MAX = 255, /* bytes */
  RILLE_BINDINGS_OF_CONN = 64,
  RILLE_BINDINGS_MAX = 1 << 20 /* of the process, at first */
};

/* loop thread */
/* From now on the key is the connection's, whoever had it, until it ends. 0, or RILLE_ERR_CLOSED, RILLE_ERR_FULL (keys of this connection, or of
 * the process), RILLE_ERR_NO_MEMORY. */
int rille_binding_set(rille_conn *c, const char *key, size_t size);
/* 1; 0 when the key is not this connection's */
int rille_binding_clear(rille_conn *c, const char *key, size_t size);
/* The n-th key that is the connection's, from 1, in the order of binding: its bytes, until it is cleared, bound to another one or the
 * connection ends; NULL: there are not so many. */
const char *rille_binding_key(const rille_conn *c, uint32_t n, size_t *size);

/* any thread */
/* the id of the connection, 0: there is none */
double rille_binding_find(const char *key, size_t size);
double rille_binding_count(void);
void rille_binding_set_max(double max);

#endif
