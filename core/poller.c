/*
 * poller: see poller.h.
 */
#include "poller.h"

#include "rille.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { SHRINK_AFTER = 1024 };

int rille_poller_init(rille_poller *p) {
  *p = (rille_poller){.fd = epoll_create1(EPOLL_CLOEXEC), .capacity = RILLE_POLLER_EVENTS_MIN};
  if (p->fd < 0) return rille_err_from_errno(errno);
  p->events = malloc(sizeof *p->events * (size_t)p->capacity);
  if (p->events) return RILLE_OK;
  close(p->fd);
  return RILLE_ERR_NO_MEMORY;
}

void rille_poller_close(rille_poller *p) {
  if (p->fd >= 0) close(p->fd);
  free(p->events);
  *p = (rille_poller){.fd = -1};
}

/* Keeps the old array when there is no memory: a smaller batch is no error. */
static void resize(rille_poller *p, int capacity) {
  struct epoll_event *events = realloc(p->events, sizeof *events * (size_t)capacity);
  if (!events) return;
  p->events = events;
  p->capacity = capacity;
}

int rille_poller_wait(rille_poller *p, int timeout_ms) {
  if (p->ready == p->capacity && p->capacity < RILLE_POLLER_EVENTS_MAX) {
    resize(p, p->capacity * 2);
    p->sparse = 0;
  } else if (p->capacity > RILLE_POLLER_EVENTS_MIN) {
    p->sparse = p->ready < p->capacity / 4 ? p->sparse + 1 : 0;
    if (p->sparse > SHRINK_AFTER) {
      resize(p, p->capacity / 2);
      p->sparse = 0;
    }
  }
  int ready = epoll_wait(p->fd, p->events, p->capacity, timeout_ms);
  p->ready = ready > 0 ? ready : 0; /* EINTR is the only error a valid descriptor gives */
  return p->ready;
}

static int control(rille_poller *p, int op, int fd, uint32_t events, uint64_t data) {
  struct epoll_event event = {.events = events, .data.u64 = data};
  if (epoll_ctl(p->fd, op, fd, &event) == 0) return RILLE_OK;
  switch (errno) {
  case EEXIST: return RILLE_ERR_BUSY;
  case EPERM: return RILLE_ERR_NOT_SUPPORTED; /* a regular file: always ready, not pollable */
  case EBADF: return RILLE_ERR_INVALID;
  default: return rille_err_from_errno(errno);
  }
}

int rille_poller_add(rille_poller *p, int fd, uint32_t events, uint64_t data) {
  return control(p, EPOLL_CTL_ADD, fd, events, data);
}

int rille_poller_change(rille_poller *p, int fd, uint32_t events, uint64_t data) {
  return control(p, EPOLL_CTL_MOD, fd, events, data);
}

void rille_poller_remove(rille_poller *p, int fd) { (void)control(p, EPOLL_CTL_DEL, fd, 0, 0); }
