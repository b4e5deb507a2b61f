/*
 * rille_chunk.h: the part of rille.h that the code of a generation needs; same rules, included at its end.
 */
#ifndef RILLE_RILLE_CHUNK_H
#define RILLE_RILLE_CHUNK_H

#include "rille.h"

enum rille_chunk_kind {
  RILLE_CHUNK_LUA = 1, /* has bytecode */
  RILLE_CHUNK_BROKEN,  /* Lua that does not compile */
  RILLE_CHUNK_MODULE,  /* a module in C */
  RILLE_CHUNK_DATA     /* what a script named itself */
};

enum {
  RILLE_CHUNK_FILES_MAX = 10000,
  RILLE_CHUNK_MISSES_MAX = 10000,
  RILLE_CHUNK_BYTES_MAX = 256 << 20, /* of bytecode; of one source file as well */
  RILLE_CHUNK_HASH = 17              /* 16 digits and a NUL */
};

/* A file as it was when it was read. Never changes, lives as long as its set. */
typedef struct rille_chunk {
  const char *path;     /* as it was named */
  const char *absolute; /* the same from the root on; symbolic links are not followed */
  const char *bytes;    /* bytecode with all names and lines; NULL: of another kind */
  double bytes_size;
  double size, device, inode, mtime_s, mtime_ns; /* of the file */
  char hash[RILLE_CHUNK_HASH];                   /* of what is in it */
  int kind;                                      /* enum rille_chunk_kind */
  int is_text;                                   /* it is source, not bytecode already */
} rille_chunk;

/* any thread, all of them */
/* A new set: a reference, to be given back with rille_chunks_release. NULL with *err */
rille_chunks *rille_chunks_new(const char *label, int *err);
double rille_chunks_id(const rille_chunks *set);
const char *rille_chunks_label(const rille_chunks *set); /* borrowed from the set */
/* The set of that id, a reference more; NULL: its last reference was given back */
rille_chunks *rille_chunks_find(double id);
void rille_chunks_release(rille_chunks *set);

/* borrowed from the set; NULL: it has no such file */
const rille_chunk *rille_chunks_look(rille_chunks *set, const char *path);
/* Read a file that is not Lua, unless the set has it: 0, or an error. One that is not there becomes a miss: RILLE_ERR_NOT_FOUND */
int rille_chunks_note(rille_chunks *set, const char *path, int kind);
/* A path where there was no file. */
void rille_chunks_note_miss(rille_chunks *set, const char *path);

double rille_chunks_count(rille_chunks *set);
double rille_chunks_misses(rille_chunks *set);
double rille_chunks_bytes(rille_chunks *set); /* of bytecode */
/* grows with each file and each miss */
double rille_chunks_version(rille_chunks *set);
/* borrowed from the set; file 0 .. count - 1 in the order they came, NULL beyond. One that did not compile is another chunk later */
const rille_chunk *rille_chunks_file(rille_chunks *set, double index);
/* borrowed from the set; the absolute path of miss 0 .. misses - 1, NULL beyond. One that became a file leaves; the last takes its
 * place, so whoever walks from the end skips none. */
const char *rille_chunks_miss(rille_chunks *set, double index);
/* The first path whose file is not as it was when it was read, or that is there and was not: borrowed from the set; NULL: none.
 * Reads files whose times differ. */
const char *rille_chunks_changed(rille_chunks *set);
/* What is in all the files, in the order of their paths: 0, or RILLE_ERR_NO_MEMORY. out: RILLE_CHUNK_HASH bytes */
int rille_chunks_hash(rille_chunks *set, char *out);

/* Where the library's own files are: the folder that holds rille/, with a slash or empty. The first one said counts. */
void rille_chunks_set_library(const char *root);
/* static; the library's own files, of the process; NULL when there is no memory */
rille_chunks *rille_chunks_library(void);

#endif
