/*
 * encoding: bytes as hex and base64 (RFC 4648), and the XOR mask of four bytes; see rille_encoding.h. Any thread.
 */
#include "rille_encoding.h"

/* ---- mask ------------------------------------------------------------------------------------------------------ */

void rille_mask(uint8_t *to, const uint8_t *from, double size, const uint8_t *key, double offset) {
  size_t n = (size_t)size, first = (size_t)offset;
  for (size_t i = 0; i < n; i++) to[i] = from[i] ^ key[(first + i) % 4];
}

/* ---- hex ------------------------------------------------------------------------------------------------------- */

void rille_hex_encode(const uint8_t *from, double size, uint8_t *to) {
  static const char digits[] = "0123456789abcdef";
  for (size_t i = 0; i < (size_t)size; i++) {
    to[2 * i] = (uint8_t)digits[from[i] >> 4];
    to[2 * i + 1] = (uint8_t)digits[from[i] & 15];
  }
}

static int digit_of(uint8_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

double rille_hex_decode(const uint8_t *from, double size, uint8_t *to) {
  size_t n = (size_t)size, half = n / 2;
  if (n % 2 != 0) return -1;
  for (size_t i = 0; i < half; i++) {
    int high = digit_of(from[2 * i]), low = digit_of(from[2 * i + 1]);
    if (high < 0 || low < 0) return -1;
    to[i] = (uint8_t)(high << 4 | low);
  }
  return (double)half;
}

/* ---- base64 ---------------------------------------------------------------------------------------------------- */

static uint8_t letter_of(uint32_t value, int is_url) {
  static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
  if (value < 62) return (uint8_t)letters[value];
  if (is_url) return value == 62 ? '-' : '_';
  return value == 62 ? '+' : '/';
}

static int value_of(uint8_t c, int is_url) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == (is_url ? '-' : '+')) return 62;
  return c == (is_url ? '_' : '/') ? 63 : -1;
}

double rille_base64_encode(const uint8_t *from, double size, int is_url, uint8_t *to) {
  size_t n = (size_t)size;
  uint8_t *at = to;
  for (size_t i = 0; i < n; i += 3) {
    size_t have = n - i < 3 ? n - i : 3;
    uint32_t bits = (uint32_t)from[i] << 16;
    if (have > 1) bits |= (uint32_t)from[i + 1] << 8;
    if (have > 2) bits |= from[i + 2];
    for (size_t k = 0; k <= have; k++) *at++ = letter_of(bits >> (18 - 6 * k) & 63, is_url);
    for (size_t k = have; k < 3 && !is_url; k++) *at++ = '=';
  }
  return (double)(at - to);
}

/* The last letters, 2 or 3 of them: how many bytes they are. */
static int decode_rest(uint32_t bits, size_t letters, uint8_t *to) {
  bits <<= 6 * (4 - letters);
  to[0] = (uint8_t)(bits >> 16);
  if (letters == 2) return bits & 0xffff ? -1 : 1;
  to[1] = (uint8_t)(bits >> 8);
  return bits & 0xff ? -1 : 2;
}

double rille_base64_decode(const uint8_t *from, double size, int is_url, uint8_t *to) {
  size_t n = (size_t)size, padding = 0;
  while (n > 0 && padding < 2 && from[n - 1] == '=') n--, padding++;
  size_t rest = n % 4;
  if (rest == 1 || (padding > 0 && rest + padding != 4) || (!is_url && rest > 0 && padding == 0)) return -1;
  uint8_t *at = to;
  uint32_t bits = 0;
  for (size_t i = 0; i < n; i++) {
    int value = value_of(from[i], is_url);
    if (value < 0) return -1;
    bits = bits << 6 | (uint32_t)value;
    if (i % 4 != 3) continue;
    *at++ = (uint8_t)(bits >> 16);
    *at++ = (uint8_t)(bits >> 8);
    *at++ = (uint8_t)bits;
    bits = 0;
  }
  int more = rest > 0 ? decode_rest(bits, rest, at) : 0;
  return more < 0 ? -1 : (double)(at - to) + more;
}
