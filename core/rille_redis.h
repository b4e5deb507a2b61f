/*
 * rille_redis.h: the part of rille.h that a proxy of the Redis protocol needs; same rules, included at its end.
 */
#ifndef RILLE_RILLE_REDIS_H
#define RILLE_RILLE_REDIS_H

#include "rille.h"

enum {
  RILLE_REDIS_SLOTS = 16384, /* hash slots, as Redis Cluster has them */
  RILLE_REDIS_RUN = 4096,    /* commands that go together: their number times this, and their shard */
  RILLE_REDIS_OTHER = 1,     /* a command that has no shard */
  RILLE_REDIS_SHARDS_MAX = 1024,
  RILLE_REDIS_COMMANDS_MAX = 512,
  RILLE_REDIS_NAME_MAX = 23 /* bytes of a command's name */
};

/* Where the keys of a command stand, word 0 being its name. */
typedef struct rille_redis_keys {
  int first;   /* word of the first key */
  int last;    /* of the last one; negative: from the end, -1 is the last word */
  int step;    /* from key to key */
  int numkeys; /* 0, or the word with the number of keys from the word behind it on, besides `first` if that is another */
} rille_redis_keys;

typedef struct rille_redis_route
    rille_redis_route; /* commands by name, shards by slot; immutable once it is used, of one Lua state */

/* owned; NULL when there is no memory */
rille_redis_route *rille_redis_route_new(void);
void rille_redis_route_free(rille_redis_route *route);
/* a name in upper case: 0, RILLE_ERR_INVALID, RILLE_ERR_FULL, RILLE_ERR_EXISTS */
int rille_redis_route_add(rille_redis_route *route, const char *name, size_t size, const rille_redis_keys *keys);
/* slots from .. to (inclusive) belong to a shard, 0 .. RILLE_REDIS_SHARDS_MAX - 1: 0 or RILLE_ERR_INVALID */
int rille_redis_route_assign(rille_redis_route *route, int from, int to, int shard);

/* the hash slot of a key: of what stands between its first braces, if that is not empty */
int rille_redis_slot(const char *key, size_t size);

/* How far the first command of an input is looked at, and what is missing. All zero: not at all. */
typedef struct rille_redis_wait {
  double need; /* bytes that have to be there before a further look makes sense */
  double words, count, done, next;
} rille_redis_wait;

/* Take commands, which are lists of bulk strings, from the front of an input, as long as they stand in one piece and go to one shard:
 * n * RILLE_REDIS_RUN + shard for n of them, n >= 1; RILLE_REDIS_OTHER: one command that has no shard of its own (it was never added, has
 * no keys, or has keys of several shards); 0: nothing whole is there. Their bytes are borrowed until release. RILLE_ERR_TOO_LARGE: beyond
 * max bytes; RILLE_ERR_INVALID: no such list; RILLE_ERR_NOT_SUPPORTED: an inline command. Thread of the reader. */
int rille_redis_take_commands(const rille_redis_route *route, rille_redis_wait *wait, rille_linkbuffer *b, double max,
                              rille_slice *out);
/* Take up to `most` whole values from the front of an input, as many as stand in one piece: how many, or what rille_decoder_take
 * returns. */
int rille_redis_take_values(rille_decoder *decoder, rille_linkbuffer *b, int most, rille_slice *out);

#endif
