/*
 * luggage: what a script keeps of a connection or a session when that goes over to another generation: its ctx as bytes, and which function
 * of the script handles it. It stays with the connection or session while the way back is open. Loop thread.
 */
#ifndef RILLE_LUGGAGE_H
#define RILLE_LUGGAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rille_luggage {
  struct rille_bag *bag; /* owned; NULL: nothing came along */
  uint32_t came_from;    /* id of the state it came from, while that may get it back; 0: none */
} rille_luggage;

/* It goes from one state (an id) to another, with these bytes; key "": its handler is that of its server. What the one that it leaves has
 * not looked at goes on as it is, and where it goes back, it has what it left with. False: no memory, nothing has changed. */
bool rille_luggage_pack(rille_luggage *l, uint32_t from, uint32_t to, const char *ctx, size_t size, const char *key);
/* Nobody has looked at what came along. */
bool rille_luggage_waits(const rille_luggage *l);
/* What came along, once: borrowed until the next pack or the end; NULL: nothing. */
const char *rille_luggage_take(rille_luggage *l, double *size);
const char *rille_luggage_key(const rille_luggage *l);
/* There is no way back to this state any more. */
void rille_luggage_stay(rille_luggage *l, uint32_t from);
void rille_luggage_drop(rille_luggage *l);

#endif
