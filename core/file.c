/*
 * file: files that are open, as workers read and write them; see rille_fs.h. One request at a time has the file, which the loop's
 * side sees to; only the count of references is shared.
 */
#include "io.h"

#include "linkbuffer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GUESS = 4096, UNSIZED = 64 << 10, AREAS_MAX = 64, TRIES = 100 };

/* A pipe must not block a worker, nor a terminal become ours. */
static const int ALWAYS = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

/* ---- life ------------------------------------------------------------------------------------------------------ */

static rille_file *make(int fd) {
  rille_file *file = calloc(1, sizeof *file);
  if (!file) return NULL;
  atomic_store(&file->refs, 1);
  file->fd = fd;
  return file;
}

void rille_file_release(rille_file *file) {
  if (atomic_fetch_sub(&file->refs, 1) != 1) return;
  if (file->fd >= 0) close(file->fd);
  if (file->temporary) unlink(file->temporary);
  free(file->temporary);
  free(file->target);
  free(file);
}

void rille_file_stat_set(rille_file_stat *out, const struct stat *s) {
  *out = (rille_file_stat){
      .size = (double)s->st_size,
      .mode = s->st_mode & 07777,
      .modified = (double)s->st_mtim.tv_sec + (double)s->st_mtim.tv_nsec / 1e9,
      .accessed = (double)s->st_atim.tv_sec + (double)s->st_atim.tv_nsec / 1e9,
      .changed = (double)s->st_ctim.tv_sec + (double)s->st_ctim.tv_nsec / 1e9,
      .uid = s->st_uid,
      .gid = s->st_gid,
      .inode = (double)s->st_ino,
      .device = (double)s->st_dev,
      .links = (double)s->st_nlink,
      .type = rille_fs_type(s->st_mode),
  };
}

int rille_file_look(const rille_file *file, rille_file_stat *out) {
  struct stat s;
  if (fstat(file->fd, &s) != 0) return rille_err_from_errno(errno);
  rille_file_stat_set(out, &s);
  return RILLE_OK;
}

/* ---- open ------------------------------------------------------------------------------------------------------ */

/* What is not a file, a folder least of all, is not read as one. 0, or an errno. */
static int refuse(int fd) {
  struct stat s;
  if (fstat(fd, &s) != 0) return errno;
  if (S_ISDIR(s.st_mode)) return EISDIR;
  return S_ISFIFO(s.st_mode) || S_ISSOCK(s.st_mode) ? EOPNOTSUPP : 0;
}

static int flags_of(unsigned mode) {
  int flags = mode & RILLE_FILE_WRITE ? (mode & RILLE_FILE_READ ? O_RDWR : O_WRONLY) : O_RDONLY;
  if (mode & RILLE_FILE_CREATE) flags |= O_CREAT;
  if (mode & RILLE_FILE_TRUNCATE) flags |= O_TRUNC;
  if (mode & RILLE_FILE_APPEND) flags |= O_APPEND;
  if (mode & RILLE_FILE_EXCLUSIVE) flags |= O_EXCL;
  return flags | ALWAYS;
}

/* A file of a new name in the folder of target: its descriptor and *name (owned), or -1 with errno. */
static int open_beside(const char *target, int flags, mode_t permissions, char **name) {
  static _Atomic unsigned serial;
  const char *slash = strrchr(target, '/');
  int folder = slash ? (int)(slash - target) + 1 : 0;
  for (int i = 0; i < TRIES; i++) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (asprintf(name, "%.*s.rille-%x-%lx-%x", folder, target, (unsigned)getpid(), (unsigned long)now.tv_nsec,
                 atomic_fetch_add(&serial, 1)) < 0) {
      *name = NULL;
      errno = ENOMEM;
      return -1;
    }
    int fd = open(*name, (flags & ~O_TRUNC) | O_CREAT | O_EXCL, permissions);
    if (fd >= 0) return fd;
    int why = errno;
    free(*name);
    *name = NULL;
    errno = why;
    if (why != EEXIST) return -1;
  }
  return -1;
}

/* The permissions of the file that will be replaced. */
static void keep_mode(int fd, const char *target) {
  struct stat s;
  if (stat(target, &s) == 0 && S_ISREG(s.st_mode)) (void)fchmod(fd, s.st_mode & 07777);
}

static int open_atomic(rille_io *io, int flags, mode_t permissions) {
  struct stat s;
  if (stat(io->path, &s) == 0 && !S_ISREG(s.st_mode))
    return rille_io_fail(io, "replace", S_ISDIR(s.st_mode) ? EISDIR : EOPNOTSUPP);
  char *name = NULL;
  int fd = open_beside(io->path, flags, permissions, &name);
  if (fd < 0) return rille_io_fail(io, "make a file beside", errno);
  if (io->b < 0) keep_mode(fd, io->path);
  rille_file *file = make(fd);
  char *target = file ? strdup(io->path) : NULL;
  if (!target) {
    close(fd);
    unlink(name);
    free(name);
    free(file);
    return rille_io_fail(io, "open", ENOMEM);
  }
  file->temporary = name;
  file->target = target;
  io->file = file;
  return RILLE_OK;
}

static int open_file(rille_io *io) {
  unsigned mode = (unsigned)io->a;
  mode_t permissions = io->b >= 0 ? (mode_t)io->b : 0666;
  if (mode & RILLE_FILE_ATOMIC) return open_atomic(io, flags_of(mode), permissions);
  int fd = open(io->path, flags_of(mode), permissions);
  if (fd < 0) return rille_io_fail(io, "open", errno);
  int why = refuse(fd);
  rille_file *file = why ? NULL : make(fd);
  if (file) {
    io->file = file;
    return RILLE_OK;
  }
  close(fd);
  return rille_io_fail(io, "open", why ? why : ENOMEM);
}

rille_file *rille_file_open_cached(const char *path, int *err) {
  struct open_how how = {.flags = (unsigned)(O_RDONLY | ALWAYS), .resolve = RESOLVE_CACHED};
  long fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
  if (fd < 0) {
    bool is_for_worker = errno == EAGAIN || errno == ENOSYS || errno == EINVAL || errno == EPERM;
    *err = is_for_worker ? RILLE_ERR_BUSY : rille_err_from_errno(errno);
    return NULL;
  }
  struct stat s;
  bool is_file = fstat((int)fd, &s) == 0 && S_ISREG(s.st_mode);
  rille_file *file = is_file ? make((int)fd) : NULL;
  *err = is_file ? RILLE_ERR_NO_MEMORY : RILLE_ERR_NOT_FOUND;
  if (!file) close((int)fd);
  return file;
}

/* ---- read ------------------------------------------------------------------------------------------------------ */

/* Fill the request's block, up to size bytes in all. False, with errno, on an error; *is_end: the file has no more. */
static bool fill(rille_io *io, int fd, size_t size, bool *is_end) {
  size_t used = (size_t)io->result.size;
  *is_end = false;
  while (used < size && !*is_end) {
    ssize_t got = read(fd, io->block->data + used, size - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return false;
    *is_end = got == 0;
    used += (size_t)got;
    io->result.size = (double)used;
  }
  return true;
}

/* bytes between here and the end; -1: it does not say */
static double left_in(int fd) {
  struct stat s;
  if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) return -1;
  off_t at = lseek(fd, 0, SEEK_CUR);
  return at >= 0 && s.st_size > at ? (double)(s.st_size - at) : -1;
}

static int read_some(rille_io *io) {
  double left = left_in(io->file->fd), size = io->a;
  if (left < 0) left = UNSIZED;
  if (size > left) size = left;
  io->block = rille_block_take((size_t)size);
  if (!io->block) return rille_io_fail(io, "read", ENOMEM);
  bool is_end;
  if (fill(io, io->file->fd, (size_t)size, &is_end) || io->result.size > 0) return RILLE_OK;
  return rille_io_fail(io, "read", errno);
}

static int too_large(rille_io *io, double max) {
  snprintf(io->result.message, sizeof io->result.message, "%s%.160s has more than %.0f bytes",
           io->path ? "" : "the file", io->path ? io->path : "", max);
  return RILLE_ERR_TOO_LARGE;
}

static bool grow(rille_io *io, size_t size) {
  rille_block *larger = rille_block_take(size);
  if (!larger) return false;
  if (io->block) {
    memcpy(larger->data, io->block->data, (size_t)io->result.size);
    rille_block_release(io->block);
  }
  io->block = larger;
  return true;
}

int rille_file_slurp(rille_io *io, int fd, double max) {
  double left = left_in(fd);
  size_t most = (size_t)max + 1; /* a byte too many tells that there are */
  if (left > max) return too_large(io, max);
  size_t room = left < 0 ? GUESS : (size_t)left + 1;
  bool is_end = false;
  for (;;) {
    if (room > most) room = most;
    if (!grow(io, room)) return rille_io_fail(io, "read", ENOMEM);
    if (!fill(io, fd, room, &is_end)) return rille_io_fail(io, "read", errno);
    if (is_end) return RILLE_OK;
    if (room == most) return too_large(io, max);
    room *= 2;
  }
}

/* ---- write ----------------------------------------------------------------------------------------------------- */

static int write_all(rille_io *io) {
  struct iovec areas[AREAS_MAX];
  int count;
  while ((count = rille_linkbuffer_areas(io->buffer, areas, AREAS_MAX)) > 0) {
    ssize_t sent = writev(io->file->fd, areas, count);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return rille_io_fail(io, "write", errno);
    rille_linkbuffer_drop(io->buffer, (size_t)sent);
    io->result.size += (double)sent;
  }
  return RILLE_OK;
}

static int seek(rille_io *io) {
  static const int whence[] = {SEEK_SET, SEEK_CUR, SEEK_END};
  off_t at = lseek(io->file->fd, (off_t)io->a, whence[(int)io->b]);
  if (at < 0) return rille_io_fail(io, "seek", errno);
  io->result.size = (double)at;
  return RILLE_OK;
}

static int look(rille_io *io) {
  struct stat s;
  if (fstat(io->file->fd, &s) != 0) return rille_io_fail(io, "stat", errno);
  rille_file_stat_set(&io->result.stat, &s);
  return RILLE_OK;
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

/* Its name is on the disk when its folder is. A file system that cannot do that says so, and nobody can help it. */
static void sync_folder(const char *path) {
  char *folder = strdup(path);
  if (!folder) return;
  char *slash = strrchr(folder, '/');
  if (slash) slash[slash == folder] = '\0';
  int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    (void)fsync(fd);
    close(fd);
  }
  free(folder);
}

static int close_file(rille_io *io) {
  int fd = io->file->fd;
  io->file->fd = -1;
  if (io->file->temporary) unlink(io->file->temporary);
  free(io->file->temporary);
  io->file->temporary = NULL;
  return close(fd) == 0 || errno == EINTR ? RILLE_OK : rille_io_fail(io, "close", errno);
}

static int commit(rille_io *io) {
  rille_file *file = io->file;
  if (io->a > 0 && fsync(file->fd) != 0) return rille_io_fail(io, "sync", errno);
  if (rename(file->temporary, file->target) != 0) return rille_io_fail(io, "rename", errno);
  free(file->temporary);
  file->temporary = NULL;
  if (io->a > 0) sync_folder(file->target);
  return close_file(io);
}

int rille_file_run(rille_io *io) {
  if (io->op == RILLE_IO_OPEN) return open_file(io);
  if (!io->file || io->file->fd < 0) return RILLE_ERR_CLOSED;
  switch (io->op) {
  case RILLE_IO_READ: return read_some(io);
  case RILLE_IO_READ_ALL: return rille_file_slurp(io, io->file->fd, io->a);
  case RILLE_IO_WRITE: return write_all(io);
  case RILLE_IO_SEEK: return seek(io);
  case RILLE_IO_SYNC: return fsync(io->file->fd) == 0 ? RILLE_OK : rille_io_fail(io, "sync", errno);
  case RILLE_IO_TRUNCATE:
    return ftruncate(io->file->fd, (off_t)io->a) == 0 ? RILLE_OK : rille_io_fail(io, "truncate", errno);
  case RILLE_IO_FILE_STAT: return look(io);
  case RILLE_IO_COMMIT: return commit(io);
  default: return close_file(io);
  }
}
