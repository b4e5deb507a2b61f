/*
 * conn_rest: connections that a script made itself and keeps for later, in a pool: whether one can be kept, and whether it can still be used.
 * Meanwhile it is served, so that whatever happens to it reaches the pool without a coroutine. Loop thread.
 */
#include "conn_tls.h"
#include "loop.h"
#include "pump.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

/* Both ways are open, and nothing is on either. */
static bool is_clean(const rille_conn *c) {
  enum {
    USED = RILLE_CONN_OPENING | RILLE_CONN_BUSY | RILLE_CONN_READER | RILLE_CONN_WRITER | RILLE_CONN_PAUSED |
           RILLE_CONN_FULL | RILLE_CONN_SHUT
  };
  if (!rille_conn_is_active(c) || c->flags & USED || c->tasks > 0 || c->is_http) return false;
  if (c->rare->part && (c->rare->part->drain || c->rare->part->feed)) return false;
  if (c->rare->tls && c->rare->tls->is_shaking) return false;
  return rille_conn_input_len(c) == 0 && rille_conn_output_len(c) == 0;
}

/* What the kernel has for it and the poller has not told yet. TLS may have sent tickets, which are no message. */
static bool is_silent(const rille_conn *c) {
  char byte;
  if (!(c->flags & RILLE_CONN_SOCKET)) return true;
  ssize_t size = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  return size > 0 && c->rare->tls;
}

/* False: no memory. */
static bool reset_timeouts(rille_conn *c, double idle_ms) {
  rille_timeouts *own = NULL;
  if (c->timeouts != &c->service->timeouts) {
    own = (rille_timeouts *)(uintptr_t)c->timeouts;
    if (own->write_ms != c->service->timeouts.write_ms) {
      (void)rille_conn_set_option(c, RILLE_OPTION_USER_TIMEOUT, rille_user_timeout(c->service->timeouts.write_ms));
    }
    *own = c->service->timeouts;
  }
  return rille_conn_set(c, RILLE_SET_IDLE, idle_ms) == RILLE_OK;
}

int rille_conn_rest(rille_conn *c, double idle_ms) {
  if (c->flags & RILLE_CONN_SERVED) return 0; /* the script has given it an on_request */
  rille_conn_release(c);
  if (rille_conn_output_len(c) > 0 && !(c->flags & RILLE_CONN_BLOCKED)) (void)rille_conn_send(c);
  if (!is_clean(c) || !reset_timeouts(c, idle_ms)) return 0;
  c->high_water = c->service->high_water;
  c->low_water = c->service->low_water;
  c->is_bound = true;
  c->flags &= ~(uint32_t)RILLE_CONN_READ_LATE;
  rille_conn_serve(c, 1);
  return 1;
}

int rille_conn_rouse(rille_conn *c) {
  if (!is_clean(c) || !is_silent(c)) return 0;
  rille_conn_serve(c, 0);
  c->is_bound = false;
  return rille_conn_set(c, RILLE_SET_IDLE, 0) == RILLE_OK;
}
