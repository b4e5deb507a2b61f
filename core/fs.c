/*
 * fs: what is done with paths, on a worker; see rille_fs.h.
 */
#include "io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LIST_MAX = 16 << 20 /* bytes of names */, LIST_FIRST = 4096 };

char rille_fs_type(mode_t mode) {
  if (S_ISREG(mode)) return 'f';
  if (S_ISDIR(mode)) return 'd';
  return S_ISLNK(mode) ? 'l' : 'o';
}

static int read_file(rille_io *io) {
  int fd = open(io->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a pipe must not block a worker */
  if (fd < 0) return rille_io_fail(io, "open", errno);
  struct stat s;
  int err = RILLE_OK;
  if (fstat(fd, &s) != 0) err = rille_io_fail(io, "stat", errno);
  else if (S_ISDIR(s.st_mode) || S_ISFIFO(s.st_mode))
    err = rille_io_fail(io, "read", S_ISDIR(s.st_mode) ? EISDIR : EOPNOTSUPP);
  if (!err) err = rille_file_slurp(io, fd, io->a);
  close(fd);
  return err;
}

static int look(rille_io *io) {
  struct stat s;
  if (fstatat(AT_FDCWD, io->path, &s, io->a > 0 ? AT_SYMLINK_NOFOLLOW : 0) != 0)
    return rille_io_fail(io, "stat", errno);
  rille_file_stat_set(&io->result.stat, &s);
  return RILLE_OK;
}

/* ---- list ------------------------------------------------------------------------------------------------------ */

typedef struct names {
  char *bytes; /* owned; each a letter, the name, a NUL */
  size_t size, room;
  uint32_t count;
} names;

static char type_of(int folder, const struct dirent *entry) {
  struct stat s;
  switch (entry->d_type) {
  case DT_REG: return 'f';
  case DT_DIR: return 'd';
  case DT_LNK: return 'l';
  case DT_UNKNOWN: /* the file system does not tell */
    return fstatat(folder, entry->d_name, &s, AT_SYMLINK_NOFOLLOW) == 0 ? rille_fs_type(s.st_mode) : 'o';
  default: return 'o';
  }
}

/* 0, or an errno. */
static int add(names *n, char type, const char *name) {
  size_t size = strlen(name) + 2;
  if (n->size + size > LIST_MAX) return E2BIG;
  if (n->size + size > n->room) {
    size_t room = n->room ? n->room * 2 : LIST_FIRST;
    char *bytes = realloc(n->bytes, room);
    if (!bytes) return ENOMEM;
    n->bytes = bytes;
    n->room = room;
  }
  n->bytes[n->size] = type;
  memcpy(n->bytes + n->size + 1, name, size - 1);
  n->size += size;
  n->count++;
  return 0;
}

static int collect(DIR *folder, names *n) {
  for (;;) {
    errno = 0;
    const struct dirent *entry = readdir(folder); /* NOLINT(concurrency-mt-unsafe): the stream is this call's alone */
    if (!entry) return errno;
    const char *name = entry->d_name;
    if (name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'))) continue;
    int why = add(n, type_of(dirfd(folder), entry), name);
    if (why) return why;
  }
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(const char *const *)a + 1, *(const char *const *)b + 1);
}

/* The names in order, as the request's block. 0, or an errno. */
static int sort(rille_io *io, const names *n) {
  const char **order = malloc(sizeof *order * (n->count + 1u));
  io->block = rille_block_take(n->size + 1);
  int why = order && io->block ? 0 : ENOMEM;
  if (!why) {
    const char *at = n->bytes;
    for (uint32_t i = 0; i < n->count; i++, at += strlen(at) + 1) order[i] = at;
    qsort(order, n->count, sizeof *order, by_name);
    uint8_t *to = io->block->data;
    for (uint32_t i = 0; i < n->count; i++) {
      size_t size = strlen(order[i]) + 1;
      memcpy(to, order[i], size);
      to += size;
    }
    io->result.size = (double)n->size;
  }
  free(order);
  return why;
}

static int list(rille_io *io) {
  DIR *folder = opendir(io->path);
  if (!folder) return rille_io_fail(io, "list", errno);
  names n = {0};
  int why = collect(folder, &n);
  closedir(folder);
  if (!why) why = sort(io, &n);
  free(n.bytes);
  return why ? rille_io_fail(io, "list", why) : RILLE_OK;
}

/* ---- change ---------------------------------------------------------------------------------------------------- */

static bool is_folder(const char *path) {
  struct stat s;
  return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static int make_folder(rille_io *io) {
  mode_t mode = (mode_t)io->a;
  bool with_parents = io->b > 0;
  for (char *at = io->path + 1; with_parents && io->path[0] && *at; at++) {
    if (*at != '/') continue;
    *at = '\0';
    int result = mkdir(io->path, 0777);
    int why = errno;
    bool is_there = result == 0 || is_folder(io->path);
    *at = '/';
    if (!is_there) return rille_io_fail(io, "make folders above", why == EEXIST ? ENOTDIR : why);
  }
  if (mkdir(io->path, mode) == 0) return RILLE_OK;
  int why = errno;
  if (with_parents && why == EEXIST && is_folder(io->path)) return RILLE_OK;
  return rille_io_fail(io, "make", why);
}

static int remove_path(rille_io *io) {
  if (unlink(io->path) == 0) return RILLE_OK;
  int why = errno;
  if ((why == EISDIR || why == EPERM) && rmdir(io->path) == 0) return RILLE_OK;
  if (why == EISDIR) why = errno;
  return rille_io_fail(io, "remove", why);
}

static int rename_path(rille_io *io) {
  if (rename(io->path, io->other) == 0) return RILLE_OK;
  return rille_io_fail(io, "rename", errno);
}

int rille_fs_run(rille_io *io) {
  switch (io->op) {
  case RILLE_IO_READ_FILE: return read_file(io);
  case RILLE_IO_STAT: return look(io);
  case RILLE_IO_LIST: return list(io);
  case RILLE_IO_MKDIR: return make_folder(io);
  case RILLE_IO_REMOVE: return remove_path(io);
  case RILLE_IO_RENAME: return rename_path(io);
  default: return RILLE_ERR_INVALID;
  }
}
