/*
 * address: URLs to socket addresses and back. No state and no owner: any thread may call; only rille_address_parse may
 * block, in the resolver.
 */
#include "address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
  UNIX_NAME_MAX = sizeof(((struct sockaddr_un){0}).sun_path) - 1,
  HOST_MAX = 255,
  URL_SHOWN_MAX = 120 /* of a URL in a message */
};

_Static_assert(UNIX_NAME_MAX == 107, "the number the messages and the docs name");

static const struct scheme {
  const char *name;
  int family; /* AF_UNSPEC: both IP families; -1: it is known but not served here */
  int kind;   /* enum rille_address_kind */
} schemes[] = {
    {"tcp", AF_UNSPEC, RILLE_ADDRESS_TCP},
    {"tcp4", AF_INET, RILLE_ADDRESS_TCP},
    {"tcp6", AF_INET6, RILLE_ADDRESS_TCP},
    {"udp", AF_UNSPEC, RILLE_ADDRESS_UDP},
    {"udp4", AF_INET, RILLE_ADDRESS_UDP},
    {"udp6", AF_INET6, RILLE_ADDRESS_UDP},
    {"unix", AF_UNIX, RILLE_ADDRESS_UNIX},
    {"unixgram", AF_UNIX, RILLE_ADDRESS_UNIXGRAM},
    {"tls", -1, 0},
    {"http", -1, 0},
    {"https", -1, 0},
    {"ws", -1, 0},
    {"wss", -1, 0},
};

/* What one parse works on. */
typedef struct request {
  const char *url;
  char *message;
  size_t message_size;
  int may_look_up;
  const char *scheme; /* "tcp" where the URL names none */
} request;

/* Fill in the message, `bad address "URL": ` first, and return err. Control characters of the URL show as '?', so
 * that a message never breaks a terminal or a log. */
__attribute__((format(printf, 3, 4))) static int refuse(const request *r, int err, const char *format, ...) {
  if (r->message_size == 0) {
    return err;
  }
  char shown[URL_SHOWN_MAX + 4];
  size_t n = 0;
  for (; n < URL_SHOWN_MAX && r->url[n] != '\0'; n++) {
    unsigned char c = (unsigned char)r->url[n];
    shown[n] = c < 0x20 || c == 0x7f ? '?' : (char)c;
  }
  memcpy(shown + n, r->url[n] == '\0' ? "" : "...", r->url[n] == '\0' ? 1 : 4);

  int head = snprintf(r->message, r->message_size, "bad address \"%s\": ", shown);
  if (head > 0 && (size_t)head < r->message_size) {
    va_list args;
    va_start(args, format);
    vsnprintf(r->message + head, r->message_size - (size_t)head, format, args);
    va_end(args);
  }
  return err;
}

static int is_digit(char c) { return c >= '0' && c <= '9'; }

/* A name whose last label is a number cannot be a host name, so it was meant as an IPv4 address (WHATWG URL, 3.5); this
 * keeps the resolver from reading "127.1" or "1" as one. */
static int looks_like_ipv4(const char *host) {
  const char *label = strrchr(host, '.');
  label = label == NULL ? host : label + 1;
  return *label != '\0' && label[strspn(label, "0123456789")] == '\0';
}

static int parse_port(const request *r, const char *text, uint16_t *port) {
  if (*text == '\0') {
    return refuse(r, RILLE_ERR_BAD_ADDRESS,
                  "the port is empty; expected a number from 0 to 65535, 0 for any free port");
  }
  unsigned long value = 0;
  size_t n = 0;
  for (; is_digit(text[n]); n++) {
    value = value > 65535 ? value : value * 10 + (unsigned long)(text[n] - '0');
  }
  if (n > 0 && (text[n] == '/' || text[n] == '?' || text[n] == '#')) {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "nothing may follow the port, found \"%.40s\"; expected host:port",
                  text + n);
  }
  if (text[n] != '\0') {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "the port \"%.40s\" is not a number; expected 0 to 65535", text);
  }
  if (value > 65535) {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "the port %.40s is out of range; expected 0 to 65535", text);
  }
  *port = (uint16_t)value;
  return 0;
}

static void set_ipv4(rille_address *out, const struct in_addr *ip, uint16_t port) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = *ip};
  memcpy(&out->storage, &in, sizeof in);
  out->length = sizeof in;
  out->family = AF_INET;
}

static void set_ipv6(rille_address *out, const struct in6_addr *ip, uint32_t scope, uint16_t port) {
  struct sockaddr_in6 in6 = {
      .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = *ip, .sin6_scope_id = scope};
  memcpy(&out->storage, &in6, sizeof in6);
  out->length = sizeof in6;
  out->family = AF_INET6;
}

/* [::1] without its brackets, and with a scope as in fe80::1%eth0, which only getaddrinfo reads */
static int parse_ipv6(const request *r, const char *host, uint16_t port, rille_address *out) {
  struct addrinfo hints = {.ai_family = AF_INET6, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
  struct addrinfo *found = NULL;
  if (getaddrinfo(host, NULL, &hints, &found) != 0) {
    return refuse(r, RILLE_ERR_BAD_ADDRESS,
                  "\"%.80s\" is not an IPv6 address; expected one like [::1] between the brackets", host);
  }
  struct sockaddr_in6 in6;
  memcpy(&in6, found->ai_addr, sizeof in6);
  freeaddrinfo(found);
  set_ipv6(out, &in6.sin6_addr, in6.sin6_scope_id, port);
  return 0;
}

static int look_up(const request *r, const char *host, int family, uint16_t port, rille_address *out) {
  if (!r->may_look_up) {
    return refuse(r, RILLE_ERR_BUSY, "the host \"%s\" is a name that has to be looked up", host);
  }
  struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
  struct addrinfo *found = NULL;
  int rc = getaddrinfo(host, NULL, &hints, &found);
  if (rc != 0) {
    return refuse(r, RILLE_ERR_NOT_FOUND, "no address for the host \"%s\": %s", host, gai_strerror(rc));
  }
  if (found->ai_family == AF_INET) {
    struct sockaddr_in in;
    memcpy(&in, found->ai_addr, sizeof in);
    set_ipv4(out, &in.sin_addr, port);
  } else {
    struct sockaddr_in6 in6;
    memcpy(&in6, found->ai_addr, sizeof in6);
    set_ipv6(out, &in6.sin6_addr, in6.sin6_scope_id, port);
  }
  freeaddrinfo(found);
  return 0;
}

static int parse_host(const request *r, const char *host, int family, uint16_t port, rille_address *out) {
  if (*host == '\0') {
    if (family == AF_INET) {
      set_ipv4(out, &(struct in_addr){.s_addr = htonl(INADDR_ANY)}, port);
    } else {
      set_ipv6(out, &in6addr_any, 0, port);
    }
    return 0;
  }
  struct in_addr ip;
  if (inet_pton(AF_INET, host, &ip) == 1) {
    if (family == AF_INET6) {
      return refuse(r, RILLE_ERR_BAD_ADDRESS, "%s with the IPv4 address %s; expected an IPv6 address like [::1]",
                    r->scheme, host);
    }
    set_ipv4(out, &ip, port);
    return 0;
  }
  if (looks_like_ipv4(host)) {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "\"%s\" is not an IPv4 address; expected four numbers from 0 to 255", host);
  }
  for (const char *c = host; *c != '\0'; c++) {
    if (!is_digit(*c) && !((*c | 0x20) >= 'a' && (*c | 0x20) <= 'z') && strchr(".-_", *c) == NULL) {
      return refuse(r, RILLE_ERR_BAD_ADDRESS,
                    "the host \"%s\" holds '%c'; expected a name, an IPv4 address, [an IPv6 "
                    "address], or nothing for every address",
                    host, *c);
    }
  }
  if (strcasecmp(host, "localhost") == 0) {
    if (family == AF_INET6) {
      set_ipv6(out, &in6addr_loopback, 0, port);
    } else {
      set_ipv4(out, &(struct in_addr){.s_addr = htonl(INADDR_LOOPBACK)}, port);
    }
    return 0;
  }
  return look_up(r, host, family, port, out);
}

static int parse_ip(const request *r, const char *rest, int family, rille_address *out) {
  if (*rest == '\0') {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "host and port are missing; expected host:port");
  }
  for (const unsigned char *c = (const unsigned char *)rest; *c != '\0'; c++) {
    if (*c <= 0x20 || *c >= 0x7f) {
      return refuse(r, RILLE_ERR_BAD_ADDRESS,
                    "byte 0x%02x is a space, a control character or not ASCII; expected host:port", *c);
    }
  }
  int is_bracketed = rest[0] == '[';
  const char *host = is_bracketed ? rest + 1 : rest;
  size_t host_size = strcspn(host, is_bracketed ? "]/" : ":/?#");
  const char *after = host + host_size;
  if (is_bracketed) {
    if (*after != ']') {
      return refuse(r, RILLE_ERR_BAD_ADDRESS, "the bracket is not closed; expected [IPv6 address]:port");
    }
    if (host_size == 0) {
      return refuse(r, RILLE_ERR_BAD_ADDRESS,
                    "nothing between the brackets; expected an IPv6 address, or :port alone for "
                    "every address");
    }
    after++;
  } else if (*after == ':' && strchr(after + 1, ':') != NULL) {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "more than one colon; expected host:port, an IPv6 address in brackets");
  }
  if (*after != ':') {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "the port is missing; expected host:port");
  }
  if (host_size > HOST_MAX) {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "the host has %zu bytes; expected at most %d", host_size, (int)HOST_MAX);
  }
  uint16_t port = 0;
  int rc = parse_port(r, after + 1, &port);
  if (rc < 0) {
    return rc;
  }
  char name[HOST_MAX + 1];
  memcpy(name, host, host_size);
  name[host_size] = '\0';
  if (is_bracketed && family == AF_INET) {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "%s with an IPv6 address; expected an IPv4 address like 127.0.0.1",
                  r->scheme);
  }
  out->ipv6_only = family == AF_INET6;
  return is_bracketed ? parse_ipv6(r, name, port, out) : parse_host(r, name, family, port, out);
}

/* rest is what follows "unix:" or "unixgram:" */
static int parse_unix(const request *r, const char *rest, rille_address *out) {
  int is_abstract = rest[0] == '@';
  if (!is_abstract && strncmp(rest, "///", 3) != 0) {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "expected %s:///absolute/path (three slashes) or %s:@name", r->scheme,
                  r->scheme);
  }
  const char *name = is_abstract ? rest + 1 : rest + 2;
  size_t size = strlen(name);
  if (size <= (is_abstract ? 0u : 1u)) {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "the name is empty; expected %s:///absolute/path or %s:@name", r->scheme,
                  r->scheme);
  }
  for (const unsigned char *c = (const unsigned char *)name; *c != '\0'; c++) {
    if (*c < 0x20 || *c == 0x7f) {
      return refuse(r, RILLE_ERR_BAD_ADDRESS, "byte 0x%02x is a control character", *c);
    }
  }
  if (name[size - 1] == ' ') {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "a space follows the name");
  }
  if (!is_abstract && name[size - 1] == '/') {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "the path ends in a slash; expected the path of a socket");
  }
  if (size > UNIX_NAME_MAX) {
    return refuse(r, RILLE_ERR_BAD_ADDRESS, "the name has %zu bytes; expected at most %d", size, (int)UNIX_NAME_MAX);
  }
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  /* an abstract name starts with a NUL byte and is as long as the length says; a path ends with one */
  memcpy(un.sun_path + is_abstract, name, size);
  memcpy(&out->storage, &un, sizeof un);
  out->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + 1);
  out->family = AF_UNIX;
  return 0;
}

static int parse(request *r, rille_address *out) {
  if (*r->url == '\0') {
    return refuse(r, RILLE_ERR_BAD_ADDRESS,
                  "it is empty; expected tcp://host:port, host:port, :port, unix:///path or unix:@name");
  }
  size_t name_size = strcspn(r->url, ":");
  const char *colon = r->url + name_size;
  int has_slashes = strncmp(colon, "://", 3) == 0;
  for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
    const struct scheme *s = &schemes[i];
    if (*colon != ':' || strlen(s->name) != name_size || strncasecmp(r->url, s->name, name_size) != 0) {
      continue;
    }
    r->scheme = s->name;
    out->kind = s->kind;
    if (s->family == AF_UNIX) {
      return parse_unix(r, colon + 1, out);
    }
    if (!has_slashes) {
      return refuse(r, RILLE_ERR_BAD_ADDRESS, "two slashes are missing; expected %s://host:port", s->name);
    }
    if (s->family < 0) {
      return refuse(
          r, RILLE_ERR_NOT_SUPPORTED,
          "the scheme %s is not supported yet; use http, tcp, udp (or with 4 or 6 behind it), unix or unixgram",
          s->name);
    }
    return parse_ip(r, colon + 3, s->family, out);
  }
  if (has_slashes) {
    return refuse(r, RILLE_ERR_BAD_ADDRESS,
                  "unknown scheme; expected http, https, tls, tcp, tcp4, tcp6, udp, udp4, udp6, unix or unixgram (ws "
                  "and wss are not supported yet)");
  }
  r->scheme = "tcp";
  out->kind = RILLE_ADDRESS_TCP;
  return parse_ip(r, r->url, AF_UNSPEC, out);
}

static int parse_into(request *r, rille_address *out) {
  rille_address parsed;
  memset(&parsed, 0, sizeof parsed); /* padding too: addresses may be compared and hashed as bytes */
  int rc = parse(r, &parsed);
  if (rc < 0) {
    return rc;
  }
  if (r->message_size > 0) {
    r->message[0] = '\0';
  }
  *out = parsed;
  return 0;
}

int rille_address_parse(const char *url, rille_address *out, char *message, size_t message_size) {
  request r = {url, message, message_size, 1, NULL};
  return parse_into(&r, out);
}

int rille_address_parse_numeric(const char *url, rille_address *out, char *message, size_t message_size) {
  request r = {url, message, message_size, 0, NULL};
  return parse_into(&r, out);
}

int rille_address_check(const char *url, size_t url_size, char *message, double message_size) {
  rille_address ignored;
  size_t room = message_size >= 1 ? (size_t)message_size : 0;
  request r = {url, message, room, 0, NULL};
  if (memchr(url, '\0', url_size) != NULL) {
    return refuse(&r, RILLE_ERR_BAD_ADDRESS, "it holds a NUL byte");
  }
  if (strncmp(url, "fd:", 3) == 0) { /* a descriptor of given.c, which knows its address */
    return url[3] == '\0' ? refuse(&r, RILLE_ERR_BAD_ADDRESS, "the name or number of a descriptor is missing") : 0;
  }
  int rc = parse_into(&r, &ignored);
  if (rc != RILLE_ERR_BUSY) {
    return rc;
  }
  if (room > 0) {
    message[0] = '\0';
  }
  return 0; /* well formed, whatever the resolver will say */
}

int rille_address_needs_lookup(const char *url) {
  rille_address ignored;
  return rille_address_parse_numeric(url, &ignored, NULL, 0) == RILLE_ERR_BUSY;
}

int rille_address_from_sockaddr(rille_address *out, const struct sockaddr *address, socklen_t length) {
  int family = length >= sizeof address->sa_family ? address->sa_family : AF_UNSPEC;
  if (!(family == AF_UNIX || (family == AF_INET && length >= sizeof(struct sockaddr_in)) ||
        (family == AF_INET6 && length >= sizeof(struct sockaddr_in6))) ||
      length > sizeof out->storage) {
    return RILLE_ERR_NOT_SUPPORTED;
  }
  memset(out, 0, sizeof *out);
  memcpy(&out->storage, address, length);
  out->length = length;
  out->kind = family == AF_UNIX ? RILLE_ADDRESS_UNIX : RILLE_ADDRESS_TCP;
  out->family = family;
  return 0;
}

uint16_t rille_address_port(const rille_address *address) {
  if (address->family == AF_INET) {
    return ntohs(((const struct sockaddr_in *)&address->storage)->sin_port);
  }
  if (address->family == AF_INET6) {
    return ntohs(((const struct sockaddr_in6 *)&address->storage)->sin6_port);
  }
  return 0;
}

int rille_address_is_any(const rille_address *address) {
  if (address->family == AF_INET) {
    return ((const struct sockaddr_in *)&address->storage)->sin_addr.s_addr == htonl(INADDR_ANY);
  }
  if (address->family == AF_INET6) {
    return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)&address->storage)->sin6_addr);
  }
  return 0;
}

static size_t format_unix(const rille_address *address, char *out, size_t size) {
  static const char *const prefixes[2][3] = {{"unix:", "unix:@", "unix://"},
                                             {"unixgram:", "unixgram:@", "unixgram://"}};
  const char *const *prefix_of = prefixes[address->kind == RILLE_ADDRESS_UNIXGRAM];
  const struct sockaddr_un *un = (const struct sockaddr_un *)&address->storage;
  size_t header = offsetof(struct sockaddr_un, sun_path);
  size_t length = address->length > header ? address->length - header : 0;
  if (length > sizeof un->sun_path) {
    length = sizeof un->sun_path;
  }
  const unsigned char *name = (const unsigned char *)un->sun_path;
  const char *prefix = prefix_of[0]; /* a socket without a name, as the connecting side has */
  if (length > 1 && name[0] == '\0') {
    prefix = prefix_of[1];
    name++;
    length--;
  } else if (length > 0) {
    prefix = prefix_of[name[0] == '/' ? 2 : 0];
    length = strnlen((const char *)name, length); /* the kernel may count the NUL or not */
  }
  size_t used = rille_address_fitted(snprintf(out, size, "%s", prefix), size);
  for (size_t i = 0; i < length && used + 5 <= size; i++) {
    int is_plain = name[i] >= 0x20 && name[i] != 0x7f;
    used += rille_address_fitted(snprintf(out + used, size - used, is_plain ? "%c" : "\\x%02x", name[i]), size - used);
  }
  return used;
}

size_t rille_address_format(const rille_address *address, char *out, size_t size) {
  char ip[INET6_ADDRSTRLEN] = "";
  if (address->family == AF_UNIX) {
    return format_unix(address, out, size);
  }
  const char *scheme = address->kind == RILLE_ADDRESS_UDP ? "udp" : "tcp";
  if (address->family == AF_INET) {
    inet_ntop(AF_INET, &((const struct sockaddr_in *)&address->storage)->sin_addr, ip, sizeof ip);
    return rille_address_fitted(snprintf(out, size, "%s://%s:%u", scheme, ip, rille_address_port(address)), size);
  }
  const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address->storage;
  inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof ip);
  /* only on the wildcard does the scheme change what the address means */
  const char *six = address->ipv6_only && rille_address_is_any(address) ? "6" : "";
  char scope[16] = "";
  if (in6->sin6_scope_id != 0) {
    snprintf(scope, sizeof scope, "%%%u", in6->sin6_scope_id);
  }
  return rille_address_fitted(
      snprintf(out, size, "%s%s://[%s%s]:%u", scheme, six, ip, scope, rille_address_port(address)), size);
}
