/*
 * checksum: CRCs by table, and Adler-32; see rille_encoding.h. The tables are made once for the process. Any thread.
 */
#include "rille_encoding.h"

#include <pthread.h>
#include <stdbool.h>

enum { SLICES = 8, ADLER_MODULUS = 65521, ADLER_RUN = 5552 /* bytes until a sum could pass 32 bits */ };

/* 32 bits, reflected, eight bytes a step */
typedef uint32_t slices[SLICES][256];

static slices crc32_table, crc32c_table;
static uint16_t straight_1021[256], reflected_1021[256], reflected_8005[256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_32(slices table, uint32_t polynomial) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ polynomial : crc >> 1;
    table[0][i] = crc;
  }
  for (int slice = 1; slice < SLICES; slice++) {
    for (int i = 0; i < 256; i++) {
      uint32_t crc = table[slice - 1][i];
      table[slice][i] = crc >> 8 ^ table[0][crc & 0xff];
    }
  }
}

static void make_16(uint16_t table[256], uint16_t polynomial, bool is_reflected) {
  for (unsigned i = 0; i < 256; i++) {
    unsigned crc = is_reflected ? i : i << 8;
    for (int bit = 0; bit < 8; bit++) {
      if (is_reflected) crc = crc & 1 ? crc >> 1 ^ polynomial : crc >> 1;
      else crc = crc & 0x8000 ? crc << 1 ^ polynomial : crc << 1;
    }
    table[i] = (uint16_t)crc;
  }
}

static void make_tables(void) {
  make_32(crc32_table, 0xedb88320);
  make_32(crc32c_table, 0x82f63b78);
  make_16(straight_1021, 0x1021, false);
  make_16(reflected_1021, 0x8408, true);
  make_16(reflected_8005, 0xa001, true);
}

/* ---- 32 bits --------------------------------------------------------------------------------------------------- */

static double crc_of(slices t, const uint8_t *bytes, size_t size, double before) {
  uint32_t crc = before < 0 ? UINT32_MAX : ~(uint32_t)before;
  for (; size >= SLICES; bytes += SLICES, size -= SLICES) {
    uint32_t low =
        crc ^ ((uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24);
    crc = t[7][low & 0xff] ^ t[6][low >> 8 & 0xff] ^ t[5][low >> 16 & 0xff] ^ t[4][low >> 24] ^ t[3][bytes[4]] ^
          t[2][bytes[5]] ^ t[1][bytes[6]] ^ t[0][bytes[7]];
  }
  for (size_t i = 0; i < size; i++) crc = crc >> 8 ^ t[0][(crc ^ bytes[i]) & 0xff];
  return ~crc;
}

double rille_crc32(const uint8_t *bytes, double size, double before) {
  pthread_once(&once, make_tables);
  return crc_of(crc32_table, bytes, (size_t)size, before);
}

double rille_crc32c(const uint8_t *bytes, double size, double before) {
  pthread_once(&once, make_tables);
  return crc_of(crc32c_table, bytes, (size_t)size, before);
}

double rille_adler32(const uint8_t *bytes, double size, double before) {
  uint32_t start = before < 0 ? 1 : (uint32_t)before;
  uint32_t a = start & 0xffff, b = start >> 16;
  for (size_t left = (size_t)size; left > 0;) {
    size_t run = left < ADLER_RUN ? left : ADLER_RUN;
    left -= run;
    for (; run > 0; run--) {
      a += *bytes++;
      b += a;
    }
    a %= ADLER_MODULUS;
    b %= ADLER_MODULUS;
  }
  return b << 16 | a;
}

/* ---- 16 bits --------------------------------------------------------------------------------------------------- */

typedef struct crc16 {
  const uint16_t *table;
  bool is_reflected;
  uint16_t start, end; /* what it begins with; what is added to the result */
} crc16;

static const crc16 kinds[] = {
    [RILLE_CRC16_CCITT] = {straight_1021, false, 0xffff, 0},
    [RILLE_CRC16_XMODEM] = {straight_1021, false, 0, 0},
    [RILLE_CRC16_KERMIT] = {reflected_1021, true, 0, 0},
    [RILLE_CRC16_X25] = {reflected_1021, true, 0xffff, 0xffff},
    [RILLE_CRC16_MODBUS] = {reflected_8005, true, 0xffff, 0},
    [RILLE_CRC16_ARC] = {reflected_8005, true, 0, 0},
    [RILLE_CRC16_USB] = {reflected_8005, true, 0xffff, 0xffff},
};

double rille_crc16(int kind, const uint8_t *bytes, double size, double before) {
  if (kind < RILLE_CRC16_CCITT || kind > RILLE_CRC16_USB) return -1;
  pthread_once(&once, make_tables);
  const crc16 *k = &kinds[kind];
  unsigned crc = before < 0 ? k->start : (unsigned)before ^ k->end;
  for (size_t i = 0; i < (size_t)size; i++) {
    if (k->is_reflected) crc = crc >> 8 ^ k->table[(crc ^ bytes[i]) & 0xff];
    else crc = (crc << 8 & 0xffff) ^ k->table[crc >> 8 ^ bytes[i]];
  }
  return crc ^ k->end;
}
