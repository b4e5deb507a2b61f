/*
 * rille_encoding.h: the part of rille.h for checksums and for bytes as text; same rules, included at its end. Any thread.
 */
#ifndef RILLE_RILLE_ENCODING_H
#define RILLE_RILLE_ENCODING_H

#include "rille.h"

enum rille_crc16 {
  RILLE_CRC16_CCITT = 1, /* 0x1021 from 0xffff, also called CCITT-FALSE and IBM-3740 */
  RILLE_CRC16_XMODEM,    /* 0x1021 from 0 */
  RILLE_CRC16_KERMIT,    /* 0x1021 reflected, from 0 */
  RILLE_CRC16_X25,       /* 0x1021 reflected, from 0xffff, inverted */
  RILLE_CRC16_MODBUS,    /* 0x8005 reflected, from 0xffff */
  RILLE_CRC16_ARC,       /* 0x8005 reflected, from 0 */
  RILLE_CRC16_USB        /* 0x8005 reflected, from 0xffff, inverted */
};

/* before: the checksum of the bytes in front of these; below 0: there are none */
double rille_crc16(int kind, const uint8_t *bytes, double size, double before);
double rille_crc32(const uint8_t *bytes, double size, double before);  /* of Ethernet, gzip, PNG */
double rille_crc32c(const uint8_t *bytes, double size, double before); /* Castagnoli: iSCSI, ext4 */
double rille_adler32(const uint8_t *bytes, double size, double before);

/* to[i] = from[i] ^ key[(offset + i) % 4]; to may be from */
void rille_mask(uint8_t *to, const uint8_t *from, double size, const uint8_t *key, double offset);

/* to has room for 2 * size bytes */
void rille_hex_encode(const uint8_t *from, double size, uint8_t *to);
/* to has room for size / 2 bytes: how many they are, or -1 where it is not hex */
double rille_hex_decode(const uint8_t *from, double size, uint8_t *to);
/* to has room for 4 * ceil(size / 3) bytes: how many they are. RFC 4648: section 5, without padding, if is_url, else section 4 */
double rille_base64_encode(const uint8_t *from, double size, int is_url, uint8_t *to);
/* to has room for size bytes: how many they are, or -1 where it is not base64. Strict: no other bytes, no bits left over; padding may
 * be missing if is_url */
double rille_base64_decode(const uint8_t *from, double size, int is_url, uint8_t *to);

#endif
