/*
 * reload: how a loop changes from one generation of a server to the next, and back. A state arrives by mail, starts beside the one that
 * serves, and takes over between two turns; the one before stays as it is until it is retired, so that going back is a swap of two
 * pointers. See docs/reload.md for the course of it and rille_reload.h for the calls. Loop thread.
 */
#ifndef RILLE_RELOAD_H_
#define RILLE_RELOAD_H_

#include "conn.h"
#include "loop.h"

/* End of a turn: what the changes under way need. Returns when to look again, in ms of the loop's clock, or UINT64_MAX. */
uint64_t rille_reload_tend(rille_loop *loop);
/* Another object stands for the state now; see rille_state_renew. */
void rille_reload_replaced(const rille_state *old, rille_state *state);
/* The state does not come up: it goes, and whoever sent it hears why. */
void rille_reload_refuse(rille_state *state);

/* The state is broken: true when the generation before it serves again. */
bool rille_reload_fails(rille_state *state);

/* Of a state that is observed: a message begins; false when it is for another generation, and on its way there. */
bool rille_reload_begin(rille_conn *c);
/* ... and is over */
void rille_reload_done(rille_conn *c, bool has_failed);

/* The same for a datagram, or one of a session: when it began, in ns, 0 where nobody wants to know; and its end. */
uint64_t rille_reload_message(rille_state *state);
void rille_reload_message_done(rille_state *state, uint64_t began_ns, bool has_failed);

/* Of one that retires: patience with what is in this slot is over. */
bool rille_reload_is_late(const rille_state *state, uint32_t slot);
/* leave.c: its server goes: its listeners close when they have taken what waits, its connections end when they are idle. How many there
 * still are, datagrams and what is under way from other loops included. */
void rille_leave_begin(rille_state *state);
uint32_t rille_leave_sweep(rille_state *state);
/* Whether another loop may still hand it a connection. */
bool rille_leave_is_expected(const rille_state *state);

/* conn_hand.c: whether the connection may go over to the generation that its state gave way to; it does */
bool rille_conn_may_go(const rille_conn *c);
void rille_conn_go(rille_conn *c);

#endif
