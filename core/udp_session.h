/*
 * udp_session: what udp_session.c and udp_hand.c know of a session; see there. Loop thread only.
 */
#ifndef RILLE_UDP_SESSION_H
#define RILLE_UDP_SESSION_H

#include "luggage.h"
#include "udp.h"

enum rille_session_flag {
  RILLE_SESSION_USED = 1 << 0,
  RILLE_SESSION_OPENING = 1 << 1, /* on_connect has not returned */
  RILLE_SESSION_BUSY =
      1 << 2, /* on_request runs, or its event is queued, or that of going to another generation before it */
  RILLE_SESSION_READER = 1 << 3,   /* a task is parked in receive */
  RILLE_SESSION_WOKEN = 1 << 4,    /* and its event is on the way */
  RILLE_SESSION_ENDED = 1 << 5,    /* closed: not in the table any more */
  RILLE_SESSION_FINISHED = 1 << 6, /* the state was told; only rille_session_free is left */
  RILLE_SESSION_KNOWN = 1 << 7     /* the state has a table for it */
};

struct rille_session {
  rille_udp *udp;
  rille_state *state;     /* that serves it: the socket's, or one of a generation before */
  rille_service *service; /* of that state */
  uint32_t slot;          /* while free: the next free one */
  uint32_t epoch;
  uint32_t flags;
  uint16_t tasks; /* handlers that run */
  int16_t reason; /* enum rille_err for on_close */
  rille_udp_peer peer;
  uint32_t hash;
  bool has_own_idle;       /* a script has set it */
  bool is_bound;           /* to the generation that serves it; see udp_hand.c */
  bool is_told;            /* that its patience with it is over */
  bool has_failed;         /* a handler raised */
  rille_udp_end *unix_end; /* owned; of a peer on a Unix socket */
  rille_session *next_in_bucket;
  rille_dgram *first, *last; /* not looked at yet */
  uint32_t queued;
  uint32_t active_ms, opened_ms;  /* loop->now_ms then */
  uint32_t idle_ms, lifetime_ms;  /* 0: none */
  rille_dgram *served, *received; /* what handlers look at */
  rille_luggage luggage;          /* what it brought from the generation before */
  uint64_t began_ns;              /* when the message under way began; 0: nobody wants to know */
  rille_timer timer;
};

_Static_assert(sizeof(rille_session) <= 256, "there may be many that are idle");

void rille_session_emit(rille_session *s, int what);
/* What waits is a handler's, unless one runs or a task is parked for it. */
void rille_session_kick(rille_session *s);
void rille_session_arm(rille_session *s);
/* No datagram waits, and no handler works, except for one that waits for another datagram. */
bool rille_session_is_quiet(const rille_session *s);
/* All of a loop; visit may free the one it gets. */
void rille_sessions_each(rille_udp_side *side, void (*visit)(rille_session *s, void *arg), void *arg);
/* Of one that BUSY is set for: it is on its way to another generation, where that is to have its messages. */
bool rille_session_went(rille_session *s);

#endif
