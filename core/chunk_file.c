/*
 * chunk_file: a file as it is now: what is in it, a hash of that, and how to know it again. No state; any thread.
 */
#include "chunk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROOM_FIRST = 16 << 10, PIECE = 64 << 10 };

/* ---- hash ------------------------------------------------------------------------------------------------------ */
/* SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012) with a key that never changes, as files are to have the
 * same hash everywhere. */

static uint64_t turn(uint64_t x, int by) { return x << by | x >> (64 - by); }

static void mix(uint64_t *v, int rounds) {
  while (rounds-- > 0) {
    v[0] += v[1];
    v[2] += v[3];
    v[1] = turn(v[1], 13) ^ v[0];
    v[3] = turn(v[3], 16) ^ v[2];
    v[0] = turn(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = turn(v[1], 17) ^ v[2];
    v[3] = turn(v[3], 21) ^ v[0];
    v[2] = turn(v[2], 32);
  }
}

static void take(uint64_t *v, uint64_t word) {
  v[3] ^= word;
  mix(v, 2);
  v[0] ^= word;
}

static uint64_t little(const uint8_t *p, size_t size) {
  uint64_t word = 0;
  for (size_t i = 0; i < size; i++) word |= (uint64_t)p[i] << 8 * i;
  return word;
}

void rille_digest_begin(rille_digest *d) {
  static const uint64_t key[2] = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
  *d = (rille_digest){.v = {key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du, key[0] ^ 0x6c7967656e657261u,
                            key[1] ^ 0x7465646279746573u}};
}

void rille_digest_add(rille_digest *d, const void *bytes, size_t size) {
  const uint8_t *p = bytes;
  d->size += size;
  for (; size >= 8; p += 8, size -= 8) take(d->v, little(p, 8));
}

uint64_t rille_digest_end(rille_digest *d, const void *rest, size_t size) {
  take(d->v, (d->size + size) << 56 | little(rest, size));
  d->v[2] ^= 0xff;
  mix(d->v, 4);
  return d->v[0] ^ d->v[1] ^ d->v[2] ^ d->v[3];
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

/* Fill room as far as the file goes: bytes read, -1 with errno. */
static ssize_t fill(int fd, char *room, size_t size) {
  size_t done = 0;
  while (done < size) {
    ssize_t n = read(fd, room + done, size - done);
    if (n == 0) break;
    if (n > 0) done += (size_t)n;
    else if (errno != EINTR) return -1;
  }
  return (ssize_t)done;
}

static uint64_t hash_whole(const char *bytes, size_t size) {
  rille_digest d;
  rille_digest_begin(&d);
  size_t whole = size & ~(size_t)7;
  rille_digest_add(&d, bytes, whole);
  return rille_digest_end(&d, bytes + whole, size - whole);
}

/* 0 or errno */
static int slurp(rille_source *out, int fd) {
  bool has_size = S_ISREG(out->stat.st_mode) && out->stat.st_size < RILLE_CHUNK_BYTES_MAX;
  size_t room = has_size ? (size_t)out->stat.st_size + 1 : ROOM_FIRST; /* one more shows the end */
  for (;;) {
    char *bytes = realloc(out->bytes, room);
    if (!bytes) return ENOMEM;
    out->bytes = bytes;
    ssize_t n = fill(fd, bytes + out->size, room - out->size);
    if (n < 0) return errno;
    out->size += (size_t)n;
    if (out->size < room) break;
    if (room > RILLE_CHUNK_BYTES_MAX) return EFBIG;
    room *= 2;
  }
  out->hash = hash_whole(out->bytes, out->size);
  return 0;
}

static int hash_only(rille_source *out, int fd) {
  char piece[PIECE];
  rille_digest d;
  rille_digest_begin(&d);
  for (;;) {
    ssize_t n = fill(fd, piece, sizeof piece);
    if (n < 0) return errno;
    out->size += (size_t)n;
    size_t whole = (size_t)n & ~(size_t)7;
    rille_digest_add(&d, piece, whole);
    if (n == sizeof piece) continue;
    out->hash = rille_digest_end(&d, piece + whole, (size_t)n - whole);
    return 0;
  }
}

int rille_source_read(rille_source *out, const char *path, bool keep) {
  *out = (rille_source){.bytes = NULL};
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) {
    out->error_number = errno;
    return RILLE_SOURCE_ABSENT;
  }
  int why = fstat(fd, &out->stat) != 0 ? errno : 0;
  if (!why) why = keep ? slurp(out, fd) : hash_only(out, fd);
  close(fd);
  if (!why) return RILLE_SOURCE_READ;
  free(out->bytes);
  out->bytes = NULL;
  out->error_number = why;
  return RILLE_SOURCE_UNREADABLE;
}
