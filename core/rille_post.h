/*
 * rille_post.h: the part of rille.h for what goes from one loop to another; same rules, included at its end. Loop thread only.
 */
#ifndef RILLE_RILLE_POST_H
#define RILLE_RILLE_POST_H

#include "rille.h"

/* Event POST with these bytes in the state of the same server on loop 1 ..: 0, or RILLE_ERR_NOT_FOUND (no such loop), RILLE_ERR_FULL
 * (its mailbox), RILLE_ERR_TOO_LARGE (above 16 MiB). */
int rille_post_call(rille_state *from, uint32_t loop_id, const char *bytes, size_t size);
/* the bytes of the oldest call, borrowed until the next one is taken */
const char *rille_post_take(rille_state *state, double *size);
/* Bytes for the connection of that id, of any loop; copied once. 0: written, or on their way; RILLE_ERR_CLOSED (one of this loop that is
 * gone), RILLE_ERR_NOT_FOUND (no such loop), RILLE_ERR_FULL. */
int rille_post_bytes(rille_loop *from, double id, const char *bytes, double size);
/* close it, after its output */
int rille_post_close(rille_loop *from, double id);

#endif
