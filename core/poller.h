/*
 * poller: a thin, level-triggered epoll with an array of ready events that grows when a wait fills it and shrinks when
 * it stays mostly empty. Owned by one loop thread.
 */
#ifndef RILLE_POLLER_H
#define RILLE_POLLER_H

#include <stdint.h>
#include <sys/epoll.h>

enum { RILLE_POLLER_EVENTS_MIN = 64, RILLE_POLLER_EVENTS_MAX = 4096 };

typedef struct rille_poller {
  int fd;
  int ready; /* events of the last wait */
  int capacity;
  int sparse; /* waits in a row that used less than a quarter */
  struct epoll_event *events;
} rille_poller;

/* 0 or a negative enum rille_err */
int rille_poller_init(rille_poller *p);
void rille_poller_close(rille_poller *p);
/* timeout_ms -1: for ever. Returns the number of ready events; 0 after a signal. */
int rille_poller_wait(rille_poller *p, int timeout_ms);
int rille_poller_add(rille_poller *p, int fd, uint32_t events, uint64_t data);
int rille_poller_change(rille_poller *p, int fd, uint32_t events, uint64_t data);
void rille_poller_remove(rille_poller *p, int fd);

/* A registration names what it is for, which slot, and the epoch of that slot's present user, so that an event that was
 * queued for an earlier user is told apart. */
static inline uint64_t rille_poller_data(uint32_t tag, uint32_t epoch, uint32_t slot) {
  return (uint64_t)tag << 56 | (uint64_t)(epoch & 0xffffffu) << 32 | slot;
}

#endif
