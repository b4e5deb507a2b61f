/*
 * tune: what a configuration that is loaded again changes of loops that run, and what it asks first. Any thread.
 */
#include "given.h"
#include "process_note.h"
#include "socket.h"
#include "team.h"

#include <string.h>
#include <unistd.h>

static void deliver(rille_loop *loop, const rille_message *m) {
  double ms;
  memcpy(&ms, m->words, sizeof ms);
  if (m->number) rille_loop_set_drain(loop, ms);
  else rille_loop_set_budget(loop, ms);
}

static int tell(rille_loop *loop, bool is_drain, double ms) {
  rille_message m = {.deliver = deliver, .number = is_drain};
  memcpy(m.words, &ms, sizeof ms);
  return ms < 0 ? RILLE_OK : rille_mailbox_send(&loop->mailbox, &m);
}

int rille_team_tune(rille_team *team, double drain_ms, double budget_ms) {
  int result = RILLE_OK;
  for (uint32_t i = 0; i < team->count; i++) {
    int err = tell(team->loops[i], true, drain_ms);
    if (!err) err = tell(team->loops[i], false, budget_ms);
    if (err) result = err;
  }
  return result;
}

/* Processes of one server have the same addresses, each with sockets of its own. */
static int bind_once(const rille_address *address, const rille_listen_options *o, char *message, size_t size) {
  rille_socket_options options = {
      .type = rille_address_is_datagram(address) ? SOCK_DGRAM : SOCK_STREAM,
      .reuseport = rille_process_number() > 0,
      .ipv6_only = o->ipv6_only || address->ipv6_only,
      .mode = o->mode,
      .device = o->device,
  };
  int fd = rille_socket_bind(address, &options, message, size);
  if (fd < 0) return fd;
  close(fd);
  if (rille_socket_path(address)) unlink(rille_socket_path(address));
  return RILLE_OK;
}

int rille_listen_try(const char *url, const rille_listen_options *options, char *message, size_t message_size) {
  rille_address address = {0};
  char why[256];
  int err = rille_given_resolve(url, &address, why, sizeof why);
  if (err > 0) return RILLE_OK;
  if (err == 0) err = rille_address_parse(url, &address, why, sizeof why);
  bool is_bound = address.family == AF_UNIX || rille_address_port(&address) != 0;
  if (err >= 0 && is_bound) err = bind_once(&address, options, why, sizeof why);
  if (err < 0) return rille_socket_say(message, message_size, err, "cannot listen on %s: %s", url, why);
  return RILLE_OK;
}
