/*
 * rille_dict.h: the part of rille.h that dicts need; same rules, included at its end. Any thread may call everything here.
 */
#ifndef RILLE_RILLE_DICT_H
#define RILLE_RILLE_DICT_H

#include "rille.h"

typedef struct rille_dict rille_dict;

enum rille_dict_type {
  RILLE_DICT_NIL = 0,
  RILLE_DICT_FALSE,
  RILLE_DICT_TRUE,
  RILLE_DICT_NUMBER,
  RILLE_DICT_STRING,
  RILLE_DICT_LIST
};

enum rille_dict_mode {
  RILLE_DICT_SET,
  RILLE_DICT_ADD,     /* RILLE_ERR_EXISTS when the key is there */
  RILLE_DICT_REPLACE, /* RILLE_ERR_NOT_FOUND when it is not */
  RILLE_DICT_IF_ROOM  /* RILLE_ERR_NO_MEMORY when others had to go for it: they do not */
};

/* A result above 0: it worked, and other keys had to go for it. */
enum { RILLE_DICT_FORCED = 1 };

/* What is read, and where to. */
typedef struct rille_dict_value {
  uint8_t *bytes; /* the caller's, `room` of them */
  double room;
  double size; /* of the string; when it is above room nothing was copied */
  double number;
  double flags;
} rille_dict_value;

/* A walk over all keys: all zero at the beginning. */
typedef struct rille_dict_walk {
  uint32_t shard, bucket;
  double used;   /* bytes written: for each key its size in two bytes, least significant first, and its bytes */
  double wanted; /* above 0: room for so many bytes is needed to go on */
} rille_dict_walk;

/* borrowed until the process ends; NULL with *err. The dict of that name, made if there is none. size in bytes, 0: whatever it
 * has, 16 MiB for a new one. RILLE_ERR_EXISTS: it has another size; RILLE_ERR_INVALID: a name or size that no dict has;
 * RILLE_ERR_NOT_SUPPORTED: the name is reserved. */
rille_dict *rille_dict_open(const char *name, double name_size, double size, int *err);
/* No dict of that name is made from here on: what it stands for is not in memory. 0; RILLE_ERR_EXISTS: there is one. */
int rille_dict_reserve(const char *name, double name_size);
double rille_dict_capacity(const rille_dict *d);
double rille_dict_free_space(rille_dict *d);

/* Keys have 1 .. 65535 bytes, any of them; another size is RILLE_ERR_INVALID. Times are seconds. */

/* The enum rille_dict_type of what is there, or an error; a list is RILLE_ERR_A_LIST. */
int rille_dict_get(rille_dict *d, const void *key, double key_size, rille_dict_value *out);
/* type: NIL removes the key, NUMBER takes number, STRING takes bytes. ttl 0: until it is removed. */
int rille_dict_set(rille_dict *d, const void *key, double key_size, int mode, int type, double number,
                   const void *bytes, double size, double ttl, double flags);
/* Add by to the number there, which *result is then. Without the key: RILLE_ERR_NOT_FOUND, or with has_init as set does
 * init + by with the ttl. */
int rille_dict_incr(rille_dict *d, const void *key, double key_size, double by, int has_init, double init, double ttl,
                    double *result);
/* seconds left, 0 when it does not expire, or an error */
double rille_dict_ttl(rille_dict *d, const void *key, double key_size);
/* used now; with a ttl of 0 or more it expires then, anew (0: not at all); below 0 it expires when it would have */
int rille_dict_touch(rille_dict *d, const void *key, double key_size, double ttl);
void rille_dict_flush(rille_dict *d);
/* Write keys to `to`, `room` bytes: 1 there is more, 0 those were the last. Keys that stay throughout are seen once. */
int rille_dict_keys(rille_dict *d, rille_dict_walk *walk, uint8_t *to, double room);

/* Lists: their items are numbers and strings. A pushed one: the length of the list, or an error. */
double rille_dict_push(rille_dict *d, const void *key, double key_size, int at_end, int type, double number,
                       const void *bytes, double size);
/* The type of what was taken, NIL when there was nothing, or an error. When out has not enough room nothing was taken. */
int rille_dict_pop(rille_dict *d, const void *key, double key_size, int at_end, rille_dict_value *out);
double rille_dict_llen(rille_dict *d, const void *key, double key_size);

#endif
