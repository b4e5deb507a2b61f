/*
 * logsink: the place the lines of the log go to. One for the process, called by any thread; configure and reopen take
 * turns under a mutex, puts to a descriptor take no lock.
 *
 * A descriptor, once taken, keeps its number for the life of the process: another target is put over it with dup3,
 * which is atomic, so that a thread in the middle of a write never meets a closed or foreign descriptor.
 */
#include "logsink.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
  QUEUE_SIZE = 256 << 10, /* bytes of lines that wait for rille_log_take */
  PATH_SIZE = 4096
};

/* How to write without waiting for the reader. */
enum medium {
  MEDIUM_ANY,    /* a descriptor nothing is known of, or one that has to be shared: ask poll first */
  MEDIUM_FILE,   /* never waits for a reader */
  MEDIUM_PIPE,   /* a pipe or a terminal, opened non-blocking for us alone */
  MEDIUM_SOCKET, /* each send says that it shall not wait */
  MEDIUM_QUEUE
};

static struct {
  /* any thread, atomic */
  _Atomic int medium;
  _Atomic int fd;
  _Atomic int is_torn; /* the last line went out in part: start the next one on a new line */
  /* under the mutex */
  pthread_mutex_t mutex;
  int owned_fd;         /* -1 until the first configure */
  char path[PATH_SIZE]; /* empty when the target is no file */
} sink = {.medium = MEDIUM_ANY, .fd = STDERR_FILENO, .mutex = PTHREAD_MUTEX_INITIALIZER, .owned_fd = -1};

/* Lines, each behind its length, in a ring of bytes. Its pages are touched only when the queue is used. */
static struct {
  pthread_mutex_t mutex;
  size_t head; /* where the oldest line begins */
  size_t used;
  char bytes[QUEUE_SIZE];
} queue = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* ---- queue ---- */

static void ring_put(const void *from, size_t size) {
  size_t at = (queue.head + queue.used) % QUEUE_SIZE;
  size_t first = size < QUEUE_SIZE - at ? size : QUEUE_SIZE - at;
  memcpy(queue.bytes + at, from, first);
  memcpy(queue.bytes, (const char *)from + first, size - first);
  queue.used += size;
}

static void ring_take(void *to, size_t size) {
  size_t first = size < QUEUE_SIZE - queue.head ? size : QUEUE_SIZE - queue.head;
  memcpy(to, queue.bytes + queue.head, first);
  memcpy((char *)to + first, queue.bytes, size - first);
}

static void ring_drop(size_t size) {
  queue.head = (queue.head + size) % QUEUE_SIZE;
  queue.used -= size;
}

static int queue_put(const char *line, size_t size) {
  uint32_t length = (uint32_t)(size - 1); /* a taken line comes without its newline */
  pthread_mutex_lock(&queue.mutex);
  int fits = QUEUE_SIZE - queue.used >= sizeof length + length;
  if (fits) {
    ring_put(&length, sizeof length);
    ring_put(line, length);
  }
  pthread_mutex_unlock(&queue.mutex);
  return fits;
}

int rille_logsink_is_queue(void) { return atomic_load_explicit(&sink.medium, memory_order_acquire) == MEDIUM_QUEUE; }

size_t rille_logsink_take(char *to, size_t max) {
  uint32_t length = 0;
  size_t taken = 0;
  pthread_mutex_lock(&queue.mutex);
  if (queue.used > 0) {
    ring_take(&length, sizeof length);
    ring_drop(sizeof length);
    taken = length < max ? length : max;
    ring_take(to, taken);
    ring_drop(length);
  }
  pthread_mutex_unlock(&queue.mutex);
  return taken;
}

/* ---- descriptors ---- */

/* write, but a reader that has gone is an EPIPE and no SIGPIPE: the log may live in a program that leaves that signal
 * deadly. A signal the thread has blocked itself stays pending for it. */
static ssize_t write_without_signal(int fd, const char *bytes, size_t size) {
  sigset_t pipe_signal;
  sigset_t before;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
  ssize_t n = write(fd, bytes, size);
  int error_number = errno;
  if (n < 0 && error_number == EPIPE && sigismember(&before, SIGPIPE) == 0) {
    struct timespec at_once = {0, 0};
    sigtimedwait(&pipe_signal, NULL, &at_once);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  errno = error_number;
  return n;
}

static ssize_t write_some(int medium, int fd, const char *bytes, size_t size) {
  if (medium == MEDIUM_FILE) {
    return write(fd, bytes, size);
  }
  if (medium == MEDIUM_SOCKET) {
    ssize_t n = send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0 || errno != ENOTSOCK) { /* not a socket: the target changed between the two loads of our caller */
      return n;
    }
  }
  if (medium == MEDIUM_ANY) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int ready = poll(&p, 1, 0);
    if (ready <= 0) {
      errno = ready == 0 ? EAGAIN : errno;
      return -1;
    }
  }
  return write_without_signal(fd, bytes, size);
}

int rille_logsink_put(const char *line, size_t size) {
  int medium = atomic_load_explicit(&sink.medium, memory_order_acquire);
  if (medium == MEDIUM_QUEUE) {
    return queue_put(line, size);
  }
  int fd = atomic_load_explicit(&sink.fd, memory_order_acquire);
  if (atomic_load_explicit(&sink.is_torn, memory_order_relaxed) && atomic_exchange(&sink.is_torn, 0) &&
      write_some(medium, fd, "\n", 1) != 1) {
    atomic_store(&sink.is_torn, 1);
    return 0;
  }
  size_t done = 0;
  while (done < size) {
    ssize_t n = write_some(medium, fd, line + done, size - done);
    if (n > 0) {
      done += (size_t)n;
    } else if (n == 0 || errno != EINTR) {
      break;
    }
  }
  if (done > 0 && done < size) {
    atomic_store(&sink.is_torn, 1);
  }
  return done == size;
}

static int medium_of(int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0) {
    return MEDIUM_ANY;
  }
  return S_ISREG(st.st_mode) ? MEDIUM_FILE : S_ISSOCK(st.st_mode) ? MEDIUM_SOCKET : MEDIUM_ANY;
}

/* A descriptor for stderr. O_NONBLOCK on descriptor 2 itself would change it for every process that shares it, so
 * a pipe or a terminal is opened anew through /proc; where that is not allowed (a pipe of another user), it is
 * shared as it is. */
static int open_stderr(int *medium) {
  *medium = medium_of(STDERR_FILENO);
  if (*medium == MEDIUM_ANY) {
    int fd = open("/proc/self/fd/2", O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0) {
      *medium = MEDIUM_PIPE;
      return fd;
    }
  }
  return fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
}

/* O_NONBLOCK matters when the path names a fifo or a device. */
static int open_file(const char *path, int *medium) {
  int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0644);
  if (fd >= 0) {
    *medium = medium_of(fd) == MEDIUM_FILE ? MEDIUM_FILE : MEDIUM_PIPE;
  }
  return fd;
}

/* Under the mutex: let fd (owned) be the sink. */
static int take_over(int fd, int medium) {
  if (fd < 0) {
    return rille_err_from_errno(errno);
  }
  if (sink.owned_fd < 0) {
    sink.owned_fd = fd;
  } else {
    int rc = dup3(fd, sink.owned_fd, O_CLOEXEC);
    int error_number = errno;
    close(fd);
    if (rc < 0) {
      return rille_err_from_errno(error_number);
    }
  }
  atomic_store_explicit(&sink.fd, sink.owned_fd, memory_order_release);
  atomic_store_explicit(&sink.medium, medium, memory_order_release);
  atomic_store(&sink.is_torn, 0);
  return 0;
}

int rille_logsink_configure(int target, const char *path) {
  int rc = 0;
  int medium = MEDIUM_QUEUE;
  if (target == RILLE_LOG_FILE && (path == NULL || *path == '\0' || strlen(path) >= PATH_SIZE)) {
    return RILLE_ERR_INVALID;
  }
  pthread_mutex_lock(&sink.mutex);
  if (target == RILLE_LOG_QUEUE) {
    atomic_store_explicit(&sink.medium, medium, memory_order_release);
  } else {
    int fd = target == RILLE_LOG_FILE ? open_file(path, &medium) : open_stderr(&medium);
    rc = take_over(fd, medium);
  }
  if (rc == 0) {
    snprintf(sink.path, sizeof sink.path, "%s", target == RILLE_LOG_FILE ? path : "");
  }
  pthread_mutex_unlock(&sink.mutex);
  return rc;
}

int rille_logsink_reopen(char *path, size_t size) {
  int rc = 0;
  pthread_mutex_lock(&sink.mutex);
  snprintf(path, size, "%.*s", (int)(size - 1), sink.path);
  if (sink.path[0] != '\0') {
    int medium = MEDIUM_FILE;
    int fd = open_file(sink.path, &medium);
    rc = take_over(fd, medium);
  }
  pthread_mutex_unlock(&sink.mutex);
  return rc;
}
