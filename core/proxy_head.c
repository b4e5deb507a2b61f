/*
 * proxy_head: the header of the PROXY protocol, versions 1 and 2, read and written; see rille_proxy.h. Pure: bytes in, a plain struct
 * out, and the same answer however they are cut.
 */
#include "address.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  HEAD = 16,
  INET_SIZE = 12,
  INET6_SIZE = 36,
  PATH_SIZE = 108,
  UNIX_SIZE = 2 * PATH_SIZE,
  TLV_HEAD = 3,
  TLV_CRC = 3
};

static const uint8_t signature[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};
static const char line_start[6] = {'P', 'R', 'O', 'X', 'Y', ' '};

const char *rille_proxy_fault_text(int fault) {
  switch (fault) {
  case RILLE_PROXY_NONE: return "no PROXY header";
  case RILLE_PROXY_CHECKSUM: return "a PROXY header with a wrong checksum";
  case RILLE_PROXY_NO_ROOM: return "too large";
  default: return "a malformed PROXY header";
  }
}

static uint16_t u16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

/* ---- version 1 ------------------------------------------------------------------------------------------------- */

/* The next word, which a space ends (the last one: the end); NULL when there is none. */
static char *word(char **at) {
  char *start = *at;
  if (!start || !*start || *start == ' ') return NULL;
  char *space = strchr(start, ' ');
  if (space) *space = '\0';
  *at = space ? space + 1 : NULL;
  return start;
}

static bool port_of(const char *text, int *out) {
  size_t length = text ? strlen(text) : 0;
  if (length == 0 || length > 5 || strspn(text, "0123456789") != length || (length > 1 && text[0] == '0')) return false;
  *out = (int)strtol(text, NULL, 10);
  return *out <= UINT16_MAX;
}

static bool addresses_of(char *rest, rille_proxy_head *out) {
  const char *source = word(&rest), *destination = word(&rest), *from = word(&rest), *to = word(&rest);
  int family = out->family == RILLE_PROXY_INET ? AF_INET : AF_INET6;
  return source && destination && !rest && inet_pton(family, source, out->source) == 1 &&
         inet_pton(family, destination, out->destination) == 1 && port_of(from, &out->source_port) &&
         port_of(to, &out->destination_port);
}

static int decode_line(const uint8_t *bytes, size_t size, rille_proxy_head *out) {
  size_t most = size < RILLE_PROXY_LINE_MAX ? size : RILLE_PROXY_LINE_MAX;
  const uint8_t *end = memchr(bytes, '\n', most);
  if (!end) return size < RILLE_PROXY_LINE_MAX ? 0 : RILLE_PROXY_BAD;
  size_t length = (size_t)(end - bytes) + 1;
  if (end[-1] != '\r' || memchr(bytes, '\0', length)) return RILLE_PROXY_BAD;
  char text[RILLE_PROXY_LINE_MAX];
  memcpy(text, bytes, length - 2);
  text[length - 2] = '\0';
  char *rest = text + sizeof line_start;
  const char *protocol = word(&rest);
  out->version = 1;
  if (!protocol) return RILLE_PROXY_BAD;
  if (strcmp(protocol, "UNKNOWN") == 0) return (int)length;
  if (strcmp(protocol, "TCP4") == 0) out->family = RILLE_PROXY_INET;
  else if (strcmp(protocol, "TCP6") == 0) out->family = RILLE_PROXY_INET6;
  else return RILLE_PROXY_BAD;
  return addresses_of(rest, out) ? (int)length : RILLE_PROXY_BAD;
}

/* ---- version 2 ------------------------------------------------------------------------------------------------- */

/* Whether they fill the rest; *crc: where the value of a CRC32C stands, 0: there is none. */
static bool has_tlvs(const uint8_t *bytes, size_t at, size_t size, size_t *crc) {
  *crc = 0;
  while (at < size) {
    if (size - at < TLV_HEAD) return false;
    size_t length = u16(bytes + at + 1);
    if (size - at - TLV_HEAD < length) return false;
    if (bytes[at] == TLV_CRC) {
      if (length != 4) return false;
      *crc = at + TLV_HEAD;
    }
    at += TLV_HEAD + length;
  }
  return true;
}

/* Of all bytes, those of the checksum itself being 0. */
static uint32_t checksum(const uint8_t *bytes, size_t size, size_t crc) {
  static const uint8_t zeros[4];
  double sum = rille_crc32c(bytes, (double)crc, 0);
  sum = rille_crc32c(zeros, sizeof zeros, sum);
  return (uint32_t)rille_crc32c(bytes + crc + 4, (double)(size - crc - 4), sum);
}

static uint32_t u32(const uint8_t *at) { return (uint32_t)u16(at) << 16 | u16(at + 2); }

static void take_addresses(const uint8_t *bytes, rille_proxy_head *out) {
  const uint8_t *at = bytes + HEAD;
  size_t size = out->family == RILLE_PROXY_INET ? 4 : 16;
  if (out->family == RILLE_PROXY_UNIX) {
    out->source_at = HEAD;
    out->destination_at = HEAD + PATH_SIZE;
    return;
  }
  memcpy(out->source, at, size);
  memcpy(out->destination, at + size, size);
  out->source_port = u16(at + 2 * size);
  out->destination_port = u16(at + 2 * size + 2);
}

/* Of a header that is all there. */
static int decode_block(const uint8_t *bytes, size_t size, rille_proxy_head *out) {
  static const size_t sizes[] = {0, INET_SIZE, INET6_SIZE, UNIX_SIZE};
  size_t crc;
  if (out->is_local) return (int)size; /* the rest means nothing */
  size_t at = HEAD + sizes[out->family];
  if (at > size) return RILLE_PROXY_BAD;
  bool is_good = has_tlvs(bytes, at, size, &crc);
  if (!is_good && out->family != RILLE_PROXY_UNKNOWN) return RILLE_PROXY_BAD;
  if (!is_good) return (int)size; /* what stands behind an unknown family is not looked at */
  if (crc && checksum(bytes, size, crc) != u32(bytes + crc)) return RILLE_PROXY_CHECKSUM;
  if (out->family != RILLE_PROXY_UNKNOWN) take_addresses(bytes, out);
  out->tlv_at = (uint32_t)at;
  out->tlv_size = (uint32_t)(size - at);
  return (int)size;
}

static int decode_binary(const uint8_t *bytes, size_t size, rille_proxy_head *out) {
  out->version = 2;
  if (size > 12 && (bytes[12] >> 4 != 2 || (bytes[12] & 15) > 1)) return RILLE_PROXY_BAD;
  if (size > 12) out->is_local = (bytes[12] & 15) == 0;
  if (size > 13 && !out->is_local) {
    if (bytes[13] >> 4 > RILLE_PROXY_UNIX || (bytes[13] & 15) > 2) return RILLE_PROXY_BAD;
    out->family = bytes[13] >> 4;
    out->is_datagram = (bytes[13] & 15) == 2;
    if ((bytes[13] & 15) == 0) out->family = RILLE_PROXY_UNKNOWN;
  }
  if (size < HEAD) return 0;
  size_t whole = HEAD + (size_t)u16(bytes + 14);
  return size < whole ? 0 : decode_block(bytes, whole, out);
}

int rille_proxy_decode(const uint8_t *bytes, double size, rille_proxy_head *out) {
  *out = (rille_proxy_head){0};
  if (!(size > 0)) return 0;
  size_t length = size < RILLE_PROXY_HEAD_MAX ? (size_t)size : RILLE_PROXY_HEAD_MAX;
  size_t sure = length < sizeof signature ? length : sizeof signature;
  if (memcmp(bytes, signature, sure) == 0) return length < sizeof signature ? 0 : decode_binary(bytes, length, out);
  sure = length < sizeof line_start ? length : sizeof line_start;
  if (memcmp(bytes, line_start, sure) != 0) return RILLE_PROXY_NONE;
  return length < sizeof line_start ? 0 : decode_line(bytes, length, out);
}

/* ---- text ------------------------------------------------------------------------------------------------------ */

int rille_proxy_address(const rille_proxy_head *head, int which, char *to, double size) {
  if (head->family != RILLE_PROXY_INET && head->family != RILLE_PROXY_INET6) return 0;
  rille_peer peer = {.family = head->family == RILLE_PROXY_INET ? AF_INET : AF_INET6,
                     .port = (uint16_t)(which ? head->destination_port : head->source_port)};
  memcpy(peer.ip, which ? head->destination : head->source, sizeof peer.ip);
  return (int)rille_peer_format(&peer, to, (size_t)size);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

struct end {
  int family, port;
  uint8_t bytes[PATH_SIZE];
};

/* "127.0.0.1:80", "[::1]:80", "unix:/path" */
static bool parse(const char *text, struct end *out) {
  *out = (struct end){0};
  size_t length = strlen(text);
  if (strncmp(text, "unix:", 5) == 0 && length - 5 <= PATH_SIZE) {
    out->family = RILLE_PROXY_UNIX;
    memcpy(out->bytes, text + 5, length - 5);
    return true;
  }
  const char *colon = strrchr(text, ':');
  char host[INET6_ADDRSTRLEN];
  if (!colon || !port_of(colon + 1, &out->port)) return false;
  bool is_inet6 = text[0] == '[' && colon > text + 1 && colon[-1] == ']';
  const char *start = is_inet6 ? text + 1 : text, *stop = is_inet6 ? colon - 1 : colon;
  if ((size_t)(stop - start) >= sizeof host) return false;
  memcpy(host, start, (size_t)(stop - start));
  host[stop - start] = '\0';
  out->family = is_inet6 ? RILLE_PROXY_INET6 : RILLE_PROXY_INET;
  return inet_pton(is_inet6 ? AF_INET6 : AF_INET, host, out->bytes) == 1;
}

static int encode_line(const struct end *source, const struct end *destination, char *to, size_t size) {
  char from[INET6_ADDRSTRLEN], at[INET6_ADDRSTRLEN];
  int length;
  if (source->family == RILLE_PROXY_UNKNOWN) {
    length = snprintf(to, size, "PROXY UNKNOWN\r\n");
  } else {
    bool is_inet = source->family == RILLE_PROXY_INET;
    if (source->family == RILLE_PROXY_UNIX) return RILLE_PROXY_BAD;
    inet_ntop(is_inet ? AF_INET : AF_INET6, source->bytes, from, sizeof from);
    inet_ntop(is_inet ? AF_INET : AF_INET6, destination->bytes, at, sizeof at);
    length = snprintf(to, size, "PROXY %s %s %s %d %d\r\n", is_inet ? "TCP4" : "TCP6", from, at, source->port,
                      destination->port);
  }
  return (size_t)length < size ? length : RILLE_PROXY_NO_ROOM;
}

static uint8_t *put_u16(uint8_t *to, size_t value) {
  to[0] = (uint8_t)(value >> 8);
  to[1] = (uint8_t)value;
  return to + 2;
}

static uint8_t *put(uint8_t *to, const void *from, size_t size) {
  memcpy(to, from, size);
  return to + size;
}

static int encode_binary(const struct end *source, const struct end *destination, const char *tlvs, size_t tlv_size,
                         bool crc, uint8_t *to, size_t size) {
  static const size_t sizes[] = {0, 4, 16, PATH_SIZE};
  static const size_t all_sizes[] = {0, INET_SIZE, INET6_SIZE, UNIX_SIZE};
  size_t one = sizes[source->family], length = all_sizes[source->family] + tlv_size + (crc ? TLV_HEAD + 4 : 0);
  if (length > UINT16_MAX || HEAD + length > size) return RILLE_PROXY_NO_ROOM;
  bool is_local = source->family == RILLE_PROXY_UNKNOWN;
  uint8_t *at = put(to, signature, sizeof signature);
  *at++ = is_local ? 0x20 : 0x21;
  *at++ = is_local ? 0 : (uint8_t)(source->family << 4 | 1);
  at = put_u16(at, length);
  at = put(at, source->bytes, one);
  at = put(at, destination->bytes, one);
  if (source->family == RILLE_PROXY_INET || source->family == RILLE_PROXY_INET6) {
    at = put_u16(at, (size_t)source->port);
    at = put_u16(at, (size_t)destination->port);
  }
  if (tlv_size > 0) at = put(at, tlvs, tlv_size);
  if (!crc) return (int)(at - to);
  *at++ = TLV_CRC;
  at = put_u16(at, 4);
  size_t place = (size_t)(at - to);
  memset(at, 0, 4);
  uint32_t sum = checksum(to, place + 4, place);
  put_u16(put_u16(at, sum >> 16), sum & UINT16_MAX);
  return (int)place + 4;
}

int rille_proxy_encode(int version, const char *source, const char *destination, const char *tlvs, double tlv_size,
                       int crc, uint8_t *to, double size) {
  struct end from = {0}, at = {0};
  if (source && (!destination || !parse(source, &from) || !parse(destination, &at) || from.family != at.family)) {
    return RILLE_PROXY_BAD;
  }
  if (version == 1) return encode_line(&from, &at, (char *)to, (size_t)size);
  return encode_binary(&from, &at, tlvs, (size_t)tlv_size, crc, to, (size_t)size);
}
