/*
 * conn_tls: what the rest of a connection calls when it has TLS (c->rare->tls); see conn_tls.c. Loop thread.
 */
#ifndef RILLE_CONN_TLS_H
#define RILLE_CONN_TLS_H

#include "tls.h"

#include <sys/types.h>

struct iovec;

/* It was accepted where TLS begins with the first byte. False: no memory. */
bool rille_conn_tls_accept(rille_conn *c);
/* One step of the handshake. */
void rille_conn_tls_shake(rille_conn *c);
/* A worker has taken one. */
void rille_conn_tls_go_on(rille_conn *c);
/* The handshake is over without success; the connection closes. */
void rille_conn_tls_fail(rille_conn *c, int err, const char *why);
/* What is left of epoll's events for the connection, 0: nothing. */
uint32_t rille_conn_tls_events(rille_conn *c, uint32_t events);
/* What epoll is to look for, where the connection by itself would want `interest`. */
uint8_t rille_conn_tls_interest(const rille_conn *c, uint8_t interest);
/* As readv: bytes, 0 at the peer's close_notify, -1 with errno; an end without close_notify is ECONNRESET. */
ssize_t rille_conn_tls_read(rille_conn *c, const struct iovec *areas, int count);
/* The first `size` bytes of the output: how many it took, maybe more; -1 with errno. */
ssize_t rille_conn_tls_write(rille_conn *c, size_t size);
/* Send close_notify. False: the socket takes nothing at the moment, try again. */
bool rille_conn_tls_goodbye(rille_conn *c);
/* What goes to the socket as it is, the kernel encrypts. */
bool rille_conn_tls_is_kernels(const rille_conn *c);
/* The socket is about to be closed. */
void rille_conn_tls_leave_socket(rille_conn *c);
void rille_conn_tls_free(rille_conn_tls *t);
/* tls_face.c: a client says whom it wants, and expects that one's certificate. False: no memory, or no name. */
bool rille_conn_tls_aim(rille_conn_tls *t);

#endif
