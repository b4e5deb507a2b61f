/*
 * file_watch: see rille_file_watch.h. A thin layer over inotify, and what is asked of the file system besides. Nothing here waits
 * for events; who owns the handle waits for its descriptor.
 */
#include "rille_file_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_ROOM = 16384 /* bytes: some hundred events a read */, READ_ROOM = 32768 };

struct rille_file_watch {
  int fd;
  size_t at, end; /* of what was read and not handed out */
  _Alignas(struct inotify_event) char events[EVENTS_ROOM];
};

/* ---- events ---------------------------------------------------------------------------------------------------- */

rille_file_watch *rille_file_watch_new(int *err) {
  rille_file_watch *w = calloc(1, sizeof *w);
  if (!w) {
    *err = RILLE_ERR_NO_MEMORY;
    return NULL;
  }
  w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (w->fd >= 0) return w;
  *err = rille_err_from_errno(errno);
  free(w);
  return NULL;
}

void rille_file_watch_free(rille_file_watch *w) {
  if (!w) return;
  close(w->fd);
  free(w);
}

int rille_file_watch_fd(const rille_file_watch *w) { return w->fd; }

int rille_file_watch_add(rille_file_watch *w, const char *folder, int all) {
  uint32_t mask = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF;
  if (all) mask |= IN_MODIFY | IN_CLOSE_WRITE;
  /* IN_EXCL_UNLINK: nothing of files that have no name any more */
  int watch = inotify_add_watch(w->fd, folder, mask | IN_MASK_ADD | IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK);
  return watch >= 0 ? watch : rille_err_from_errno(errno);
}

/* It may have gone by itself, and then its end is on the way. */
void rille_file_watch_remove(rille_file_watch *w, int watch) { (void)inotify_rm_watch(w->fd, watch); }

static int kind_of(uint32_t mask) {
  if (mask & IN_Q_OVERFLOW) return RILLE_FILE_EVENT_LOST;
  if (mask & IN_IGNORED) return RILLE_FILE_EVENT_END;
  if (mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT)) return RILLE_FILE_EVENT_FOLDER;
  if (mask & IN_MODIFY) return RILLE_FILE_EVENT_WRITTEN;
  if (mask & IN_CLOSE_WRITE) return RILLE_FILE_EVENT_CLOSED;
  return mask & IN_CREATE && !(mask & IN_ISDIR) ? RILLE_FILE_EVENT_CREATED : RILLE_FILE_EVENT_NAME;
}

int rille_file_watch_next(rille_file_watch *w, rille_file_event *out) {
  if (w->at >= w->end) {
    ssize_t size;
    do size = read(w->fd, w->events, sizeof w->events);
    while (size < 0 && errno == EINTR);
    if (size < 0) return errno == EAGAIN ? 0 : rille_err_from_errno(errno);
    w->at = 0;
    w->end = (size_t)size;
    if (size == 0) return 0;
  }
  const struct inotify_event *event = (const struct inotify_event *)(const void *)(w->events + w->at);
  w->at += sizeof *event + event->len;
  out->watch = event->wd;
  out->kind = kind_of(event->mask);
  out->name = event->len > 0 ? event->name : "";
  return 1;
}

int rille_file_watch_is_blind(const char *path) {
  /* NFS, SMB1, SMB2, CIFS, 9p, FUSE (virtiofs too), Ceph, AFS, shared folders of VirtualBox */
  static const uint32_t blind[] = {0x6969,     0x517b,     0xfe534d42, 0xff534d42, 0x01021997,
                                   0x65735546, 0x00c36400, 0x5346414f, 0x786f4256};
  struct statfs s;
  if (statfs(path, &s) != 0) return 0;
  for (size_t i = 0; i < sizeof blind / sizeof *blind; i++)
    if (blind[i] == (uint32_t)s.f_type) return 1;
  return 0;
}

/* ---- what is there --------------------------------------------------------------------------------------------- */

static int64_t ns_of(struct timespec t) { return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec; }

int rille_file_watch_step(const char *path, char *target, double room) {
  struct stat s;
  if (!(room >= 1 && room <= INT_MAX) || lstat(path, &s) != 0) return 0;
  if (!S_ISLNK(s.st_mode)) return S_ISREG(s.st_mode) ? 'f' : S_ISDIR(s.st_mode) ? 'd' : 'o';
  ssize_t size = readlink(path, target, (size_t)room);
  if (size < 0 || size >= (ssize_t)room) return 0;
  target[size] = '\0';
  return 'l';
}

/* Words, then what is left of them byte by byte: nobody gains by two contents with one hash. */
static uint64_t hash(uint64_t h, const uint8_t *bytes, size_t size) {
  uint64_t word;
  for (; size >= sizeof word; bytes += sizeof word, size -= sizeof word) {
    memcpy(&word, bytes, sizeof word);
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    h ^= h >> 32;
  }
  while (size-- > 0) h = (h ^ *bytes++) * 0x100000001b3u;
  return h ^ h >> 29;
}

/* As a number that Lua has exactly, and not 0. */
static double content_of(uint64_t h) { return (double)(h >> 12) + 1; }

/* As many bytes as there are, READ_ROOM at most; less at the end alone, so that the hash does not depend on how reads are cut. */
static ssize_t fill(int fd, uint8_t *to) {
  size_t have = 0;
  while (have < READ_ROOM) {
    ssize_t size = read(fd, to + have, READ_ROOM - have);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return -1;
    if (size == 0) break;
    have += (size_t)size;
  }
  return (ssize_t)have;
}

static double read_content(int fd, const struct stat *s) {
  uint64_t signs[] = {(uint64_t)s->st_dev, (uint64_t)s->st_ino, (uint64_t)s->st_size, (uint64_t)ns_of(s->st_mtim)};
  if (s->st_size > RILLE_FILE_HASH_MAX) return content_of(hash(1, (const uint8_t *)signs, sizeof signs));
  uint8_t bytes[READ_ROOM];
  uint64_t h = 2;
  double total = 0;
  for (;;) {
    ssize_t size = fill(fd, bytes);
    if (size < 0) return 0;
    h = hash(h, bytes, (size_t)size);
    total += (double)size;
    if (size < READ_ROOM || total > RILLE_FILE_HASH_MAX)
      return content_of(hash(h, (const uint8_t *)&total, sizeof total));
  }
}

static int is_same(const rille_file_mark *mark, const struct stat *s) {
  return mark->device_ == (uint64_t)s->st_dev && mark->inode_ == (uint64_t)s->st_ino &&
         mark->size_ == (uint64_t)s->st_size && mark->modified_ns_ == ns_of(s->st_mtim) &&
         mark->changed_ns_ == ns_of(s->st_ctim);
}

/* The times of files are as coarse as the file system makes them, up to 2 seconds. */
static int is_young(const struct stat *s) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return ns_of(now) - ns_of(s->st_ctim) < (int64_t)2500000000;
}

double rille_file_mark_read(rille_file_mark *mark, const char *path) {
  struct stat s;
  int fd = -1;
  mark->is_unknown = 0;
  if (stat(path, &s) == 0 && S_ISREG(s.st_mode)) {
    if (mark->content > 0 && !mark->is_young_ && is_same(mark, &s)) return mark->content;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* it may be a pipe by now */
    mark->is_unknown = fd < 0 && rille_err_is_shortage(errno);
    if (mark->is_unknown) return mark->content;
  }
  *mark = (rille_file_mark){0};
  if (fd < 0) return 0;
  if (fstat(fd, &s) == 0 && S_ISREG(s.st_mode)) {
    /* before its bytes: what is written while they are read shows next time */
    *mark = (rille_file_mark){
        .device_ = (uint64_t)s.st_dev,
        .inode_ = (uint64_t)s.st_ino,
        .size_ = (uint64_t)s.st_size,
        .modified_ns_ = ns_of(s.st_mtim),
        .changed_ns_ = ns_of(s.st_ctim),
        .is_young_ = is_young(&s),
    };
    mark->content = read_content(fd, &s);
  }
  close(fd);
  return mark->content;
}
