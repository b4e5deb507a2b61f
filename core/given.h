/*
 * given: listening sockets that are there before the scripts: passed by a service manager (sd_listen_fds(3)), or bound by the process
 * that starts the server, for those it forks or before it gives up its rights. A listener finds its own by address, instead of binding.
 *
 * The table is filled by the thread that starts the server; listeners of any thread take from it, under a mutex.
 */
#ifndef RILLE_GIVEN_H
#define RILLE_GIVEN_H

#include "address.h"

#include <stdbool.h>

/* The address of "fd:NAME" or "fd:3", a passed descriptor. 1; 0: url is none of these; or an error with a sentence. */
int rille_given_resolve(const char *url, rille_address *out, char *message, size_t size);
/* How the loops share an address: as asked for, or what fits where nothing was (RILLE_ACCEPT_DEFAULT). Or an error. */
int rille_given_accept(const rille_address *address, int asked, char *message, size_t size);
/* The listening socket for an address; RILLE_ERR_NOT_FOUND: none is given, bind one; or another error. *stays: it belongs to the
 * table, and is handed back with rille_given_return; else it is the caller's. */
int rille_given_take(const rille_address *address, bool *stays, char *message, size_t size);
void rille_given_return(int fd);
/* Of a socket that stays: no process will accept on it after this one, so what waits in its queue is to be accepted. */
bool rille_given_is_ending(int fd);
/* Whether a service manager passed it: how it listens is not ours to change. */
bool rille_given_is_passed(int fd);
/* The configuration has its address no more. The parent and other processes have the socket as well: this ends the listening of all, and
 * listen() begins it again. Before it is returned. */
void rille_given_drop(int fd);
/* In a process that was just forked: close what is another's. */
void rille_given_forked(void);

#endif
