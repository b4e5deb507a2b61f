/*
 * conn_option: what the kernel can be asked and told of a connection's socket; see rille_conn.h. Loop thread only.
 */
#include "conn.h"

#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <math.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static bool is_tcp(const rille_conn *c) {
  return c->flags & RILLE_CONN_SOCKET && (c->peer.family == AF_INET || c->peer.family == AF_INET6);
}

/* ---- options --------------------------------------------------------------------------------------------------- */

static const struct option {
  int level, name;
  double min, max;
} options[] = {
    [RILLE_OPTION_NODELAY] = {IPPROTO_TCP, TCP_NODELAY, 0, 1},
    [RILLE_OPTION_KEEPALIVE] = {SOL_SOCKET, SO_KEEPALIVE, 0, 1},
    [RILLE_OPTION_KEEPALIVE_IDLE] = {IPPROTO_TCP, TCP_KEEPIDLE, 1, 32767},
    [RILLE_OPTION_KEEPALIVE_INTERVAL] = {IPPROTO_TCP, TCP_KEEPINTVL, 1, 32767},
    [RILLE_OPTION_KEEPALIVE_COUNT] = {IPPROTO_TCP, TCP_KEEPCNT, 1, 127},
    [RILLE_OPTION_RECEIVE_BUFFER] = {SOL_SOCKET, SO_RCVBUF, 1, 1 << 30},
    [RILLE_OPTION_SEND_BUFFER] = {SOL_SOCKET, SO_SNDBUF, 1, 1 << 30},
    [RILLE_OPTION_LINGER] = {SOL_SOCKET, SO_LINGER, 0, 1},
    [RILLE_OPTION_QUICKACK] = {IPPROTO_TCP, TCP_QUICKACK, 0, 1},
    [RILLE_OPTION_USER_TIMEOUT] = {IPPROTO_TCP, TCP_USER_TIMEOUT, 0, INT32_MAX},
    [RILLE_OPTION_MARK] = {SOL_SOCKET, SO_MARK, 0, UINT32_MAX},
    [RILLE_OPTION_TOS] = {IPPROTO_IP, IP_TOS, 0, 255},
};

static int find(const rille_conn *c, int option, struct option *out) {
  if (option < 1 || option > RILLE_OPTION_LAST) return RILLE_ERR_INVALID;
  if (c->fd < 0) return RILLE_ERR_CLOSED;
  *out = options[option];
  if (!(c->flags & RILLE_CONN_SOCKET) || (out->level != SOL_SOCKET && !is_tcp(c))) return RILLE_ERR_NOT_SUPPORTED;
  return RILLE_OK;
}

static bool is_ipv6(const rille_conn *c) {
  int domain = 0;
  socklen_t length = sizeof domain;
  return getsockopt(c->fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_INET6;
}

int rille_conn_option(const rille_conn *c, int option, double *value) {
  struct option o;
  int err = find(c, option, &o);
  if (err) return err;
  if (option == RILLE_OPTION_TOS && is_ipv6(c)) o.level = IPPROTO_IPV6, o.name = IPV6_TCLASS;
  union {
    int number;
    struct linger linger;
  } got = {0};
  socklen_t length = sizeof got;
  if (getsockopt(c->fd, o.level, o.name, &got, &length) != 0) return rille_err_from_errno(errno);
  *value = option == RILLE_OPTION_MARK ? (double)(uint32_t)got.number : got.number;
  if (option == RILLE_OPTION_LINGER) *value = got.linger.l_onoff && got.linger.l_linger == 0;
  return RILLE_OK;
}

int rille_conn_set_option(rille_conn *c, int option, double value) {
  struct option o;
  int err = find(c, option, &o);
  if (err) return err;
  if (!(value >= o.min && value <= o.max) || floor(value) != value) return RILLE_ERR_INVALID;
  int number = (int)(uint32_t)value;
  struct linger linger = {.l_onoff = number};
  const void *from = option == RILLE_OPTION_LINGER ? (const void *)&linger : &number;
  socklen_t length = option == RILLE_OPTION_LINGER ? sizeof linger : sizeof number;
  if (option == RILLE_OPTION_TOS && is_ipv6(c)) {
    /* packets of IPv4 that come by such a socket have the other one */
    (void)setsockopt(c->fd, o.level, o.name, from, length);
    o.level = IPPROTO_IPV6;
    o.name = IPV6_TCLASS;
  }
  return setsockopt(c->fd, o.level, o.name, from, length) == 0 ? RILLE_OK : rille_err_from_errno(errno);
}

int rille_conn_dup(rille_conn *c) {
  if (c->fd < 0) return RILLE_ERR_CLOSED;
  int fd = fcntl(c->fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return rille_err_from_errno(errno);
  c->flags |= RILLE_CONN_SHARED;
  return fd;
}

void rille_descriptor_close(int fd) {
  if (fd >= 0) (void)close(fd);
}

/* ---- tcp_info -------------------------------------------------------------------------------------------------- */

static double from_us(double us) { return us / 1e6; }

int rille_conn_tcp_info(const rille_conn *c, rille_tcp_info *out) {
  if (c->fd < 0) return RILLE_ERR_CLOSED;
  if (!is_tcp(c)) return RILLE_ERR_NOT_SUPPORTED;
  struct tcp_info i = {0}; /* an older kernel fills less of it */
  socklen_t length = sizeof i;
  if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &i, &length) != 0) return rille_err_from_errno(errno);
  *out = (rille_tcp_info){
      .state = i.tcpi_state,
      .rtt = from_us(i.tcpi_rtt),
      .rttvar = from_us(i.tcpi_rttvar),
      .min_rtt = from_us(i.tcpi_min_rtt),
      .rto = from_us(i.tcpi_rto),
      .last_data_sent = i.tcpi_last_data_sent / 1e3,
      .last_data_received = i.tcpi_last_data_recv / 1e3,
      .retransmits = i.tcpi_retransmits,
      .total_retransmits = i.tcpi_total_retrans,
      .unacked = i.tcpi_unacked,
      .sacked = i.tcpi_sacked,
      .lost = i.tcpi_lost,
      .reordering = i.tcpi_reordering,
      .snd_cwnd = i.tcpi_snd_cwnd,
      .snd_ssthresh = i.tcpi_snd_ssthresh,
      .snd_mss = i.tcpi_snd_mss,
      .rcv_mss = i.tcpi_rcv_mss,
      .pmtu = i.tcpi_pmtu,
      .snd_wnd = i.tcpi_snd_wnd,
      .rcv_space = i.tcpi_rcv_space,
      .delivery_rate = (double)i.tcpi_delivery_rate,
      .pacing_rate = (double)i.tcpi_pacing_rate,
      .bytes_sent = (double)i.tcpi_bytes_sent,
      .bytes_acked = (double)i.tcpi_bytes_acked,
      .bytes_received = (double)i.tcpi_bytes_received,
      .bytes_retransmitted = (double)i.tcpi_bytes_retrans,
      .notsent_bytes = i.tcpi_notsent_bytes,
      .busy_time = from_us((double)i.tcpi_busy_time),
      .rwnd_limited = from_us((double)i.tcpi_rwnd_limited),
      .sndbuf_limited = from_us((double)i.tcpi_sndbuf_limited),
  };
  return RILLE_OK;
}
