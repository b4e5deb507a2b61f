/*
 * chunk: the code of a generation. A set holds what every Lua state of one generation of one server loads from files: bytecode,
 * compiled by the first state that asks, and a note of each file and of each path where a file was looked for in vain.
 *
 * All states, on whichever thread, hold a reference and take the very same bytes, so all run the same code however files change
 * meanwhile. A set only grows, and a chunk does not change, so what was found stays good as long as the reference. One lock for each
 * set guards its table; no file is read and nothing is compiled under it.
 *
 * Which file a module's name stands for is decided once for a set: the paths before it count as empty from then on.
 */
#ifndef RILLE_CHUNK_H
#define RILLE_CHUNK_H

#include "rille_chunk.h"

#include <stdbool.h>
#include <sys/stat.h>

struct lua_State;

/* ---- a file ---------------------------------------------------------------------------------------------------- */

enum rille_source_result { RILLE_SOURCE_READ, RILLE_SOURCE_ABSENT /* cannot be opened */, RILLE_SOURCE_UNREADABLE };

typedef struct rille_source {
  char *bytes; /* owned; NULL: only hashed */
  size_t size;
  uint64_t hash;
  struct stat stat; /* before it was read: a change meanwhile is seen as one after */
  int error_number; /* when it was not read */
} rille_source;

/* enum rille_source_result. keep: the bytes as well, to be given back with free. */
int rille_source_read(rille_source *out, const char *path, bool keep);

/* A hash of 64 bits: pieces of a multiple of 8 bytes, except for the last. */
typedef struct rille_digest {
  uint64_t v[4];
  uint64_t size;
} rille_digest;

void rille_digest_begin(rille_digest *d);
void rille_digest_add(rille_digest *d, const void *bytes, size_t size);
uint64_t rille_digest_end(rille_digest *d, const void *rest, size_t size /* below 8 */);

/* ---- a set ----------------------------------------------------------------------------------------------------- */

/* borrowed from the set. Take up a file; bytes (owned, taken in any case) is its bytecode. What is there already stays, unless it did
 * not compile. NULL with *err: RILLE_ERR_FULL, RILLE_ERR_NO_MEMORY */
const rille_chunk *rille_chunks_put(rille_chunks *set, const char *path, const rille_source *source, int kind,
                                    char *bytes, size_t bytes_size, int *err);
/* Another module's file was taken although this path came first: there is nothing here. */
bool rille_chunks_is_passed(rille_chunks *set, const char *path);
/* A module's name stands for this file, which the set has; not for those before (each with its NUL). False: it was decided otherwise
 * meanwhile, search again. */
bool rille_chunks_settle(rille_chunks *set, const char *path, const char *before, size_t before_size);
/* the library's own file of a module's name begins so; NULL: it was not said where they are */
const char *rille_chunks_library_root(void);
bool rille_chunks_is_library(const char *path);

/* ---- a Lua state ----------------------------------------------------------------------------------------------- */

enum rille_chunk_result { RILLE_CHUNK_LOADED, RILLE_CHUNK_ABSENT, RILLE_CHUNK_FAILED };

/* Push the function of a file, or a message as loadfile has it: enum rille_chunk_result. The files of the library come from their own set. */
int rille_chunk_load(struct lua_State *L, rille_chunks *set, const char *path);
/* A new state that is Rille's: its searcher of modules in Lua takes the library from memory. A lua_CFunction. */
int rille_chunk_open(struct lua_State *L);

#endif
