/*
 * pipes: see pipes.h.
 */
#include "pipes.h"

#include <fcntl.h>
#include <unistd.h>

static void close_pipe(const rille_duct *pipe) {
  close(pipe->read);
  close(pipe->write);
}

bool rille_pipes_take(rille_pipes *pipes, rille_duct *out) {
  if (pipes->used >= pipes->max) return false;
  if (pipes->count > 0) {
    *out = pipes->kept[--pipes->count];
  } else {
    int fds[2];
    if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0) return false;
    *out = (rille_duct){.read = fds[0], .write = fds[1]};
    /* a user's pipes have a limit together; beyond it this one stays as small as it is */
    (void)fcntl(out->write, F_SETPIPE_SZ, RILLE_PIPE_SIZE);
  }
  pipes->used++;
  return true;
}

void rille_pipes_give(rille_pipes *pipes, rille_duct *pipe, bool is_empty) {
  if (pipe->read < 0) return;
  pipes->used--;
  if (is_empty && pipes->count < RILLE_PIPES_KEPT) pipes->kept[pipes->count++] = *pipe;
  else close_pipe(pipe);
  *pipe = (rille_duct){.read = -1, .write = -1};
}

void rille_pipes_trim(rille_pipes *pipes, uint32_t left) {
  while (pipes->count > left) close_pipe(&pipes->kept[--pipes->count]);
}
