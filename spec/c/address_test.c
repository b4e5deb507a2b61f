/*
 * Tests of core/address: what parses to what, what is refused and why, and that a text parses back to the same address.
 */
#include "address.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char message[256];

static rille_address parsed(const char *url) {
  rille_address address;
  int rc = rille_address_parse_numeric(url, &address, message, sizeof message);
  if (rc != 0) {
    fail_msg("%s: %s", url, message);
  }
  assert_string_equal(message, "");
  return address;
}

static void assert_format(const char *url, const char *expected) {
  rille_address address = parsed(url);
  char text[RILLE_ADDRESS_TEXT_MAX];
  size_t size = rille_address_format(&address, text, sizeof text);
  assert_string_equal(text, expected);
  assert_int_equal(size, strlen(expected));
  rille_address again = parsed(text);
  assert_int_equal(again.length, address.length);
  assert_memory_equal(&again.storage, &address.storage, sizeof address.storage);
}

static void assert_refused(const char *url, int err, const char *part) {
  rille_address address;
  memset(&address, 0x5a, sizeof address);
  rille_address before = address;
  message[0] = '\0';
  int rc = rille_address_parse_numeric(url, &address, message, sizeof message);
  if (rc != err || strstr(message, part) == NULL) {
    fail_msg("\"%s\": %d %s; expected %d and \"%s\"", url, rc, message, err, part);
  }
  for (const char *c = message; *c != '\0'; c++) {
    assert_true((unsigned char)*c >= 0x20);
  }
  assert_memory_equal(&address, &before, sizeof address);
  assert_int_equal(rille_address_check(url, strlen(url), message, sizeof message), err);
}

static void tcp_urls_parse_and_print(void **state) {
  (void)state;
  assert_format("tcp://127.0.0.1:7000", "tcp://127.0.0.1:7000");
  assert_format("tcp4://10.1.2.3:1", "tcp://10.1.2.3:1");
  assert_format("127.0.0.1:0", "tcp://127.0.0.1:0");
  assert_format("TCP://0.0.0.0:65535", "tcp://0.0.0.0:65535");
  assert_format("tcp://[::1]:7000", "tcp://[::1]:7000");
  assert_format("[2001:db8::7]:80", "tcp://[2001:db8::7]:80");
  assert_format("tcp6://[::1]:7000", "tcp://[::1]:7000");
  assert_format("tcp6://:7000", "tcp6://[::]:7000");
  assert_format("tcp4://:7000", "tcp://0.0.0.0:7000");
  assert_format("[fe80::1%1]:80", "tcp://[fe80::1%1]:80");
  assert_format("tcp://127.0.0.1:0080", "tcp://127.0.0.1:80");
}

static void datagram_urls_parse_and_print(void **state) {
  (void)state;
  assert_format("udp://127.0.0.1:53", "udp://127.0.0.1:53");
  assert_format("udp4://:53", "udp://0.0.0.0:53");
  assert_format("udp://:53", "udp://[::]:53");
  assert_format("udp6://:53", "udp6://[::]:53");
  assert_format("UDP6://[::1]:53", "udp://[::1]:53");
  assert_format("unixgram:///run/x.sock", "unixgram:///run/x.sock");
  assert_format("unixgram:@name", "unixgram:@name");
  rille_address address = parsed("udp://127.0.0.1:53"), stream = parsed("127.0.0.1:53");
  assert_true(rille_address_is_datagram(&address));
  assert_false(rille_address_is_datagram(&stream));
}

static void an_empty_host_is_every_address_of_both_families(void **state) {
  (void)state;
  static const char *const urls[] = {"tcp://:7000", ":7000", "[::]:7000"};
  for (size_t i = 0; i < 3; i++) {
    rille_address address = parsed(urls[i]);
    assert_int_equal(address.kind, RILLE_ADDRESS_TCP);
    assert_int_equal(address.family, AF_INET6);
    assert_int_equal(address.ipv6_only, 0);
    assert_true(rille_address_is_any(&address));
    assert_int_equal(rille_address_port(&address), 7000);
  }
  rille_address six = parsed("tcp6://:7000");
  assert_int_equal(six.ipv6_only, 1);
  rille_address one = parsed("127.0.0.1:7000");
  assert_false(rille_address_is_any(&one));
}

static void localhost_is_the_loopback_address(void **state) {
  (void)state;
  assert_format("localhost:7000", "tcp://127.0.0.1:7000");
  assert_format("tcp4://LocalHost:7000", "tcp://127.0.0.1:7000");
  assert_format("tcp6://localhost:7000", "tcp://[::1]:7000");
}

static void unix_urls_parse_and_print(void **state) {
  (void)state;
  assert_format("unix:///run/x.sock", "unix:///run/x.sock");
  assert_format("unix:///tmp/a b.sock", "unix:///tmp/a b.sock");
  assert_format("unix:@gate", "unix:@gate");
  assert_format("unix:@/a/b", "unix:@/a/b");
  rille_address path = parsed("unix:///run/x.sock");
  assert_int_equal(path.kind, RILLE_ADDRESS_UNIX);
  assert_int_equal(path.family, AF_UNIX);
  assert_int_equal(path.length, offsetof(struct sockaddr_un, sun_path) + strlen("/run/x.sock") + 1);
  rille_address name = parsed("unix:@gate");
  assert_int_equal(name.length, offsetof(struct sockaddr_un, sun_path) + 1 + strlen("gate"));
  assert_int_equal(((struct sockaddr_un *)&name.storage)->sun_path[0], '\0');
}

static void a_unix_name_has_at_most_107_bytes(void **state) {
  (void)state;
  char url[160] = "unix:///";
  memset(url + 8, 'x', 106);
  rille_address address = parsed(url);
  assert_int_equal(address.length, sizeof(struct sockaddr_un));
  url[8 + 106] = 'x';
  assert_refused(url, RILLE_ERR_BAD_ADDRESS, "108 bytes; expected at most 107");
  char name[160] = "unix:@";
  memset(name + 6, 'y', 107);
  assert_int_equal(parsed(name).length, sizeof(struct sockaddr_un));
  name[6 + 107] = 'y';
  assert_refused(name, RILLE_ERR_BAD_ADDRESS, "at most 107");
}

static void a_wrong_url_says_what_is_wrong(void **state) {
  (void)state;
  assert_refused("", RILLE_ERR_BAD_ADDRESS, "empty");
  assert_refused("tcp://", RILLE_ERR_BAD_ADDRESS, "missing");
  assert_refused("tcp://host", RILLE_ERR_BAD_ADDRESS, "port is missing");
  assert_refused("7000", RILLE_ERR_BAD_ADDRESS, "port is missing");
  assert_refused("tcp://127.0.0.1:", RILLE_ERR_BAD_ADDRESS, "port is empty");
  assert_refused(":", RILLE_ERR_BAD_ADDRESS, "port is empty");
  assert_refused(":65536", RILLE_ERR_BAD_ADDRESS, "65536 is out of range");
  assert_refused(":99999999999999999999999", RILLE_ERR_BAD_ADDRESS, "out of range");
  assert_refused(":-1", RILLE_ERR_BAD_ADDRESS, "not a number");
  assert_refused(":+1", RILLE_ERR_BAD_ADDRESS, "not a number");
  assert_refused(":80x", RILLE_ERR_BAD_ADDRESS, "not a number");
  assert_refused(":http", RILLE_ERR_BAD_ADDRESS, "not a number");
  assert_refused("tcp://127.0.0.1:80/", RILLE_ERR_BAD_ADDRESS, "nothing may follow the port");
  assert_refused("tcp://127.0.0.1:80/path", RILLE_ERR_BAD_ADDRESS, "\"/path\"");
  assert_refused("tcp://127.0.0.1/path:80", RILLE_ERR_BAD_ADDRESS, "port is missing");
  assert_refused("tcp://127.0.0.1:80 ", RILLE_ERR_BAD_ADDRESS, "0x20");
  assert_refused(" tcp://127.0.0.1:80", RILLE_ERR_BAD_ADDRESS, "unknown scheme");
  assert_refused("127.0.0.1:80\n", RILLE_ERR_BAD_ADDRESS, "0x0a");
  assert_refused("h\xc3\xb6st:80", RILLE_ERR_BAD_ADDRESS, "0xc3");
  assert_refused("*:80", RILLE_ERR_BAD_ADDRESS, "'*'");
  assert_refused("user@host:80", RILLE_ERR_BAD_ADDRESS, "'@'");
  assert_refused("127.0.0:80", RILLE_ERR_BAD_ADDRESS, "not an IPv4 address");
  assert_refused("256.0.0.1:80", RILLE_ERR_BAD_ADDRESS, "not an IPv4 address");
  assert_refused("1:80", RILLE_ERR_BAD_ADDRESS, "not an IPv4 address");
  assert_refused("::1:80", RILLE_ERR_BAD_ADDRESS, "brackets");
  assert_refused("[::1:80", RILLE_ERR_BAD_ADDRESS, "not closed");
  assert_refused("[::1]", RILLE_ERR_BAD_ADDRESS, "port is missing");
  assert_refused("[::1]80", RILLE_ERR_BAD_ADDRESS, "port is missing");
  assert_refused("[]:80", RILLE_ERR_BAD_ADDRESS, "between the brackets");
  assert_refused("[127.0.0.1]:80", RILLE_ERR_BAD_ADDRESS, "not an IPv6 address");
  assert_refused("tcp4://[::1]:80", RILLE_ERR_BAD_ADDRESS, "IPv4");
  assert_refused("tcp6://127.0.0.1:80", RILLE_ERR_BAD_ADDRESS, "IPv6");
  assert_refused("tcp:7000", RILLE_ERR_BAD_ADDRESS, "tcp://host:port");
  assert_refused("unix://run/x", RILLE_ERR_BAD_ADDRESS, "three slashes");
  assert_refused("unix:/run/x", RILLE_ERR_BAD_ADDRESS, "three slashes");
  assert_refused("unix:x", RILLE_ERR_BAD_ADDRESS, "unix:@name");
  assert_refused("unix:///", RILLE_ERR_BAD_ADDRESS, "empty");
  assert_refused("unix:@", RILLE_ERR_BAD_ADDRESS, "empty");
  assert_refused("unix:///run/", RILLE_ERR_BAD_ADDRESS, "slash");
  assert_refused("unix:///run/x ", RILLE_ERR_BAD_ADDRESS, "space");
  assert_refused("unix:///run/\x01x", RILLE_ERR_BAD_ADDRESS, "0x01");
  assert_refused("ftp://x:1", RILLE_ERR_BAD_ADDRESS, "tcp, tcp4, tcp6, udp");
  assert_refused("://x:1", RILLE_ERR_BAD_ADDRESS, "unknown scheme");
  assert_refused("udp://:x", RILLE_ERR_BAD_ADDRESS, "not a number");
  assert_refused("udp4://[::1]:80", RILLE_ERR_BAD_ADDRESS, "udp4 with an IPv6 address");
  assert_refused("udp6://127.0.0.1:80", RILLE_ERR_BAD_ADDRESS, "udp6 with the IPv4 address");
  assert_refused("unixgram:x", RILLE_ERR_BAD_ADDRESS, "unixgram:@name");
  assert_refused("https://x:1", RILLE_ERR_NOT_SUPPORTED, "https is not supported yet");
}

static void a_long_url_is_cut_in_the_message(void **state) {
  (void)state;
  char url[4096] = "tcp://";
  memset(url + 6, 'a', 4000);
  memcpy(url + 4006, ":80", 4);
  assert_refused(url, RILLE_ERR_BAD_ADDRESS, "...");
  assert_refused(url, RILLE_ERR_BAD_ADDRESS, "4000 bytes");
  char small[8];
  rille_address address;
  assert_int_equal(rille_address_parse("x", &address, small, sizeof small), RILLE_ERR_BAD_ADDRESS);
  assert_int_equal(strlen(small), sizeof small - 1);
  assert_int_equal(rille_address_parse("x", &address, NULL, 0), RILLE_ERR_BAD_ADDRESS);
}

static void a_host_name_is_looked_up_only_by_the_call_that_may_block(void **state) {
  (void)state;
  rille_address address;
  assert_int_equal(rille_address_parse_numeric("some.example:80", &address, message, sizeof message), RILLE_ERR_BUSY);
  assert_int_equal(rille_address_check("some.example:80", 15, message, sizeof message), 0);
  assert_string_equal(message, "");
  /* .invalid never resolves (RFC 6761, 6.4), with or without a resolver at hand */
  assert_int_equal(rille_address_parse("no.such.host.invalid:80", &address, message, sizeof message),
                   RILLE_ERR_NOT_FOUND);
  assert_non_null(strstr(message, "no.such.host.invalid"));
}

static void check_notices_a_nul_byte(void **state) {
  (void)state;
  assert_int_equal(rille_address_check("unix:@a\0b", 9, message, sizeof message), RILLE_ERR_BAD_ADDRESS);
  assert_non_null(strstr(message, "NUL"));
}

static void every_truncation_of_a_url_is_handled(void **state) {
  (void)state;
  static const char *const urls[] = {"tcp6://[fe80::1%1]:65535", "unix:@some", "unix:///run/x.sock",
                                     "tcp4://1.2.3.4:5"};
  for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
    for (size_t n = 0; n <= strlen(urls[i]); n++) {
      char *url = strndup(urls[i], n); /* on the heap, where a sanitizer sees one byte too far */
      rille_address address;
      (void)rille_address_parse_numeric(url, &address, message, sizeof message);
      free(url);
    }
  }
}

static void what_the_kernel_returns_prints(void **state) {
  (void)state;
  rille_address address = parsed("127.0.0.1:0");
  int fd = socket(address.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&address.storage, address.length), 0);
  struct sockaddr_storage storage;
  socklen_t length = sizeof storage;
  assert_int_equal(getsockname(fd, (struct sockaddr *)&storage, &length), 0);
  rille_address bound;
  assert_int_equal(rille_address_from_sockaddr(&bound, (struct sockaddr *)&storage, length), 0);
  assert_true(rille_address_port(&bound) > 0);
  char text[RILLE_ADDRESS_TEXT_MAX];
  char expected[64];
  rille_address_format(&bound, text, sizeof text);
  snprintf(expected, sizeof expected, "tcp://127.0.0.1:%u", rille_address_port(&bound));
  assert_string_equal(text, expected);
  close(fd);

  int pair[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  length = sizeof storage;
  assert_int_equal(getpeername(pair[0], (struct sockaddr *)&storage, &length), 0);
  assert_int_equal(rille_address_from_sockaddr(&bound, (struct sockaddr *)&storage, length), 0);
  rille_address_format(&bound, text, sizeof text);
  assert_string_equal(text, "unix:");
  close(pair[0]);
  close(pair[1]);

  struct sockaddr other = {.sa_family = AF_PACKET};
  assert_int_equal(rille_address_from_sockaddr(&bound, &other, sizeof other), RILLE_ERR_NOT_SUPPORTED);
  assert_int_equal(rille_address_from_sockaddr(&bound, &other, 0), RILLE_ERR_NOT_SUPPORTED);
}

static void a_text_never_leaves_its_buffer(void **state) {
  (void)state;
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  memset(un.sun_path + 1, 0x01, sizeof un.sun_path - 1);
  rille_address address;
  assert_int_equal(rille_address_from_sockaddr(&address, (struct sockaddr *)&un, sizeof un), 0);
  char text[RILLE_ADDRESS_TEXT_MAX];
  assert_int_equal(rille_address_format(&address, text, sizeof text), 6 + 107 * 4);
  for (size_t size = 1; size < 40; size++) {
    char *small = malloc(size);
    size_t n = rille_address_format(&address, small, size);
    assert_true(n < size);
    assert_int_equal(small[n], '\0');
    free(small);
  }
}

static void assert_peer(const char *url, const char *expected) {
  rille_address address = parsed(url);
  rille_peer peer;
  char text[RILLE_PEER_TEXT_MAX];
  rille_peer_from_sockaddr(&peer, (struct sockaddr *)&address.storage, address.length);
  assert_int_equal(rille_peer_format(&peer, text, sizeof text), strlen(expected));
  assert_string_equal(text, expected);
}

static void a_peer_prints_without_its_scheme(void **state) {
  (void)state;
  assert_peer("127.0.0.1:5000", "127.0.0.1:5000");
  assert_peer("[::1]:5000", "[::1]:5000");
  assert_peer("[::ffff:10.0.0.1]:5000", "10.0.0.1:5000");
  assert_peer("[1111:2222:3333:4444:5555:6666:7777:8888]:65535", "[1111:2222:3333:4444:5555:6666:7777:8888]:65535");
  assert_peer("unix:@x", "unix:");
  rille_peer none;
  char text[RILLE_PEER_TEXT_MAX];
  rille_peer_from_sockaddr(&none, NULL, 0);
  rille_peer_format(&none, text, sizeof text);
  assert_string_equal(text, "?");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tcp_urls_parse_and_print),
      cmocka_unit_test(datagram_urls_parse_and_print),
      cmocka_unit_test(an_empty_host_is_every_address_of_both_families),
      cmocka_unit_test(localhost_is_the_loopback_address),
      cmocka_unit_test(unix_urls_parse_and_print),
      cmocka_unit_test(a_unix_name_has_at_most_107_bytes),
      cmocka_unit_test(a_wrong_url_says_what_is_wrong),
      cmocka_unit_test(a_long_url_is_cut_in_the_message),
      cmocka_unit_test(a_host_name_is_looked_up_only_by_the_call_that_may_block),
      cmocka_unit_test(check_notices_a_nul_byte),
      cmocka_unit_test(every_truncation_of_a_url_is_handled),
      cmocka_unit_test(what_the_kernel_returns_prints),
      cmocka_unit_test(a_text_never_leaves_its_buffer),
      cmocka_unit_test(a_peer_prints_without_its_scheme),
  };
  return cmocka_run_group_tests_name("address", tests, NULL, NULL);
}
