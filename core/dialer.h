/*
 * dialer: connections on their way. A dial looks names up, tries the addresses it gets and ends with a descriptor or an error; a look-up of a
 * script is a dial that stops when it has its records. Its loop owns it until it is taken or cancelled; loop thread only.
 *
 * Addresses are tried as RFC 8305 has it ("Happy Eyeballs"): IPv6 and IPv4 by turns, each next one when the last has failed or after 250 ms; and an
 * answer with IPv4 addresses alone waits 50 ms for the other one.
 */
#ifndef RILLE_DIALER_H
#define RILLE_DIALER_H

#include "address.h"
#include "resolver.h"

enum {
  RILLE_DIAL_TARGETS_MAX = 16, /* addresses of a family that are tried */
  RILLE_DIAL_ATTEMPTS_MAX = 2 * RILLE_DIAL_TARGETS_MAX,
  RILLE_DIAL_ATTEMPT_MS = 250,
  RILLE_DIAL_RESOLUTION_MS = 50,
  RILLE_DIAL_RETRIES_MAX = 3,
  RILLE_DIALS_MAX = 1 << 20 /* of a loop */
};

/* An address of a name. */
typedef struct rille_target {
  uint8_t ip[16];
} rille_target;

typedef struct rille_targets {
  rille_target list[RILLE_DIAL_TARGETS_MAX];
  uint8_t count, next;
  bool is_known; /* no more will come */
} rille_targets;

typedef struct rille_dial {
  rille_loop *loop;
  rille_state *state;
  uint32_t slot, epoch, token;
  bool connects;    /* else it ends with records */
  bool is_over;     /* fd or err says how, or the look-ups have it */
  bool is_starting; /* who starts it looks at it as soon as that returns */
  bool is_named;    /* targets come from look-ups */
  bool is_early;    /* IPv4 waits for IPv6 */
  bool nodelay;
  int family; /* AF_UNSPEC: both */
  int keepalive_s;
  int retries;
  uint16_t port;
  int fd; /* connected, owned; -1 */
  int err;
  rille_alarm next; /* attempt, or the end of waiting for IPv6 */
  rille_alarm limit;
  rille_lookup four, six;
  rille_targets targets[2]; /* IPv6, IPv4 */
  int turn;                 /* of the two */
  rille_address fixed;      /* where the URL has an address; of the connection, once there is one */
  rille_address bound;      /* where it comes from; family 0: anywhere */
  int attempt_count;
  struct rille_attempt {
    int fd; /* -1: over */
    rille_address to;
  } * attempts; /* room for RILLE_DIAL_ATTEMPTS_MAX; NULL before the first */
  char url[RILLE_ADDRESS_TEXT_MAX];
} rille_dial;

typedef struct rille_dial_slot {
  rille_dial *dial; /* owned */
  uint32_t epoch, next_free;
} rille_dial_slot;

/* What a loop has of all this, from the first use on. */
typedef struct rille_dial_side {
  rille_wheel wheel;
  rille_dial_slot *slots;
  uint32_t slot_count, free_slot, count;
  rille_resolver *resolvers;
  uint32_t resolver_count, last_serial;
} rille_dial_side;

/* loop.c calls */
void rille_dial_ready(rille_loop *loop, uint32_t slot, uint32_t epoch);
void rille_dial_timers(rille_loop *loop);
uint64_t rille_dial_next(const rille_loop *loop);
void rille_dial_evict(rille_loop *loop, const rille_state *state);
void rille_dial_end_loop(rille_loop *loop);

/* dialer.c for dial_attempt.c: it is over with fd or err; the state hears of it */
void rille_dial_finish(rille_dial *d, int fd, int err);
/* dial_attempt.c: try the next address, if there is one and nothing forbids it; finish where none is left */
void rille_dial_go_on(rille_dial *d);
void rille_dial_attempt_ready(rille_dial *d, int index);
int rille_dial_in_flight(const rille_dial *d);
void rille_dial_drop_attempts(rille_dial *d);
void rille_dial_next_fired(rille_alarm *alarm);

#endif
