/*
 * rille_proxy.h: the part of rille.h for the PROXY protocol, with which a proxy says whose connection it hands on; same rules, included
 * at its end. The protocol: https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
 */
#ifndef RILLE_RILLE_PROXY_H
#define RILLE_RILLE_PROXY_H

#include "rille.h"

enum { RILLE_PROXY_LINE_MAX = 107, /* of version 1, CR LF included */ RILLE_PROXY_HEAD_MAX = 65551 };

/* Why bytes are not a header. */
enum rille_proxy_fault {
  RILLE_PROXY_NONE = -1,     /* something else */
  RILLE_PROXY_BAD = -2,      /* it begins as one */
  RILLE_PROXY_CHECKSUM = -3, /* it carries a CRC32C, of other bytes */
  RILLE_PROXY_NO_ROOM = -4   /* of rille_proxy_encode */
};

enum rille_proxy_family { RILLE_PROXY_UNKNOWN, RILLE_PROXY_INET, RILLE_PROXY_INET6, RILLE_PROXY_UNIX };

/* Offsets are from the header's first byte. */
typedef struct rille_proxy_head {
  int version, is_local; /* LOCAL: the proxy speaks for itself */
  int family, is_datagram;
  int source_port, destination_port;
  uint32_t tlv_at, tlv_size;
  uint32_t source_at, destination_at; /* of paths, 108 bytes each, NUL behind shorter ones */
  uint8_t source[16], destination[16];
} rille_proxy_head;

/* > 0: the length of the header; 0: it goes on; < 0: enum rille_proxy_fault. Any thread, as all here but the last ones. */
int rille_proxy_decode(const uint8_t *bytes, double size, rille_proxy_head *out);
/* static */
const char *rille_proxy_fault_text(int fault);
/* "127.0.0.1:80", "[::1]:80" as text; 0: unknown or a path. which: 0 source, 1 destination. Its length */
int rille_proxy_address(const rille_proxy_head *head, int which, char *to, double size);
/* A header of this version for two addresses ("127.0.0.1:80", "[::1]:80", "unix:/path"; NULL: LOCAL, or UNKNOWN), with tlvs as they are
 * and, with crc, a CRC32C behind them. Its length or a fault; RILLE_PROXY_BAD: an address is none, or one is of another family. */
int rille_proxy_encode(int version, const char *source, const char *destination, const char *tlvs, double tlv_size,
                       int crc, uint8_t *to, double size);

/* loop thread: what the header of a connection said, borrowed as long as it lives, with the address it came from in via (56 bytes); NULL:
 * it had none */
const uint8_t *rille_conn_proxied(const rille_conn *c, rille_proxy_head *out, char *via);

/* of rille_listen_options.proxy */
enum rille_proxy_wish { RILLE_PROXY_OFF, RILLE_PROXY_OPTIONAL, RILLE_PROXY_REQUIRED };

#endif
