/*
 * rille_prefork.h: what surrounds the loops of a process: sockets that were there before the scripts, the processes of a prefork
 * server, the user they run as. Part of rille.h. All of it is for the thread that starts a server, before it makes others.
 */
#ifndef RILLE_PREFORK_H
#define RILLE_PREFORK_H

/* ---- given: sockets that are bound before a script is loaded ----------------------------------------------------- */

/* Take over the descriptors that a service manager passed (LISTEN_FDS), once. 0, or an error with a sentence in message. */
int rille_given_adopt(char *message, size_t message_size);
/* Bind an address of a server, as its options say, for so many processes of so many loops; a passed descriptor that is bound to it
 * already is taken instead. Listeners on the address find the sockets. The length of the bound address in `to`, or an error. */
int rille_given_bind(const char *url, const rille_listen_options *options, uint32_t loops, uint32_t processes, char *to,
                     size_t size, char *message, size_t message_size);
/* log the passed descriptors that nobody uses */
void rille_given_warn(void);
/* close what rille_given_bind bound, and remove its unix paths */
void rille_given_close(void);

/* ---- prefork ----------------------------------------------------------------------------------------------------- */

enum { RILLE_PROCESS_MAX = 64 };

enum rille_prefork_event {
  RILLE_PREFORK_OVER,  /* no process is left */
  RILLE_PREFORK_CHILD, /* this is a new process, which has to run the server and exit */
  RILLE_PREFORK_READY  /* every process accepts */
};

/* The calling process, which has no other thread, becomes the parent of `count` processes. 0 or an error. */
int rille_prefork_start(uint32_t count, uint32_t loops);
/* Wait for the next enum rille_prefork_event; it returns in the parent, and in each process that it forks. */
int rille_prefork_wait(void);
/* the exit status for the parent, when it is over */
int rille_prefork_status(void);
/* this process has loaded its scripts: the others may start */
void rille_process_built(void);
/* this process among those of the server, 1..; 0: there are no others, or it is their parent */
uint32_t rille_process_number(void);
uint32_t rille_process_count(void); /* 1 where there are no others */

/* ---- user -------------------------------------------------------------------------------------------------------- */

/* Give up the rights of root: become "user" or "user:group", names or numbers. 0, or an error with a sentence in message. */
int rille_user_become(const char *who, char *message, size_t message_size);

#endif
