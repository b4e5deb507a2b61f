/*
 * rille_file_watch.h: the part of rille.h for noticing that files change, which hot reload does (lua/rille/reload/); same rules,
 * included at its end. One thread at a time.
 */
#ifndef RILLE_RILLE_FILE_WATCH_H
#define RILLE_RILLE_FILE_WATCH_H

#include "rille.h"

/* An inotify instance and the events it has read. Folders are watched, never files: a file that is replaced takes its watch
 * with it. */
typedef struct rille_file_watch rille_file_watch;

enum rille_file_event_kind {
  RILLE_FILE_EVENT_WRITTEN = 1, /* some of it, by somebody who has it open */
  RILLE_FILE_EVENT_CLOSED,      /* by somebody who could write */
  RILLE_FILE_EVENT_CREATED,     /* not of a folder; maybe a link */
  RILLE_FILE_EVENT_NAME,        /* anything else about what has the name: it went, came, may be read or not */
  RILLE_FILE_EVENT_FOLDER,      /* the watched folder itself has moved or goes */
  RILLE_FILE_EVENT_END,         /* of this watch; its number means nothing any more */
  RILLE_FILE_EVENT_LOST         /* events were: anything may have happened */
};

typedef struct rille_file_event {
  const char *name; /* borrowed until the next event; "" of the folder itself */
  int watch;
  int kind; /* enum rille_file_event_kind */
} rille_file_event;

/* owned; NULL with *err, RILLE_ERR_TOO_MANY_FILES when there are too many instances or descriptors */
rille_file_watch *rille_file_watch_new(int *err);
void rille_file_watch_free(rille_file_watch *w);
/* readable while there are events */
int rille_file_watch_fd(const rille_file_watch *w);
/* The number of the watch of a folder, which is no link; the same one as long as it is the same folder. all: also what is written in
 * it, not only which names come and go; what was once asked for stays. RILLE_ERR_FULL: the user has no more watches. */
int rille_file_watch_add(rille_file_watch *w, const char *folder, int all);
void rille_file_watch_remove(rille_file_watch *w, int watch);
/* 1: *out is the oldest event; 0: there is none; or an error */
int rille_file_watch_next(rille_file_watch *w, rille_file_event *out);
/* 1 when others may change the file system under a path without this kernel noticing: it is on another machine, or a program */
int rille_file_watch_is_blind(const char *path);

/* What a path names, not following it if it is a link: "f" file, "d" folder, "l" link, "o" other, as a number; 0 nothing. Of a link
 * the target, with a NUL behind. */
int rille_file_watch_step(const char *path, char *target, double room);

enum { RILLE_FILE_HASH_MAX = 64 << 20 /* bytes; above, content is told by size, time and inode */ };

/* What was last seen of a file. */
typedef struct rille_file_mark {
  double content; /* a number that stands for it; 0: there is no file that can be read */
  uint64_t device_, inode_, size_;
  int64_t modified_ns_, changed_ns_;
  int is_unknown; /* descriptors or memory lacked for a look: content is the last one, look again */
  int is_young_;  /* it had just been written when it was read: the same times may be another content's */
} rille_file_mark;

/* Look again, following links, and read it if there is any sign that it is another one; its content. */
double rille_file_mark_read(rille_file_mark *mark, const char *path);

#endif
