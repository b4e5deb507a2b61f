/*
 * user: gives up the rights of root, for good. Called by a process that has no thread but this one yet.
 */
#include "rille.h"
#include "socket.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = 255 };

typedef struct identity {
  char name[NAME_MAX_BYTES + 1]; /* "": the user has no entry */
  uid_t uid;
  gid_t gid;
  bool has_gid;
} identity;

/* A number that is written as one. */
static bool number_of(const char *text, unsigned *out) {
  if (text[0] == '\0' || text[strspn(text, "0123456789")] != '\0') return false;
  errno = 0;
  unsigned long value = strtoul(text, NULL, 10);
  *out = (unsigned)value;
  return errno == 0 && value < UINT32_MAX;
}

/* NOLINTBEGIN(concurrency-mt-unsafe): there is one thread */
static int find_user(const char *text, identity *out, char *message, size_t size) {
  unsigned number = 0;
  bool is_number = number_of(text, &number);
  const struct passwd *entry = is_number ? getpwuid(number) : getpwnam(text);
  if (!entry && !is_number)
    return rille_socket_say(message, size, RILLE_ERR_NOT_FOUND, "there is no user \"%s\"", text);
  out->uid = number;
  if (!entry) return RILLE_OK;
  out->uid = entry->pw_uid;
  out->gid = entry->pw_gid;
  out->has_gid = true;
  strncpy(out->name, entry->pw_name, NAME_MAX_BYTES);
  return RILLE_OK;
}

static int find_group(const char *text, identity *out, char *message, size_t size) {
  unsigned number = 0;
  if (number_of(text, &number)) {
    out->gid = number;
  } else {
    const struct group *entry = getgrnam(text);
    if (!entry) return rille_socket_say(message, size, RILLE_ERR_NOT_FOUND, "there is no group \"%s\"", text);
    out->gid = entry->gr_gid;
  }
  out->has_gid = true;
  return RILLE_OK;
}
/* NOLINTEND(concurrency-mt-unsafe) */

static int find(const char *who, identity *out, char *message, size_t size) {
  char text[NAME_MAX_BYTES + 1];
  if (strlen(who) > NAME_MAX_BYTES) return rille_socket_say(message, size, RILLE_ERR_TOO_LARGE, "the name is too long");
  strcpy(text, who); /* NOLINT(clang-analyzer-security.insecureAPI.strcpy): it fits */
  char *colon = strchr(text, ':');
  if (colon) *colon = '\0';
  int err = find_user(text, out, message, size);
  if (err == RILLE_OK && colon) err = find_group(colon + 1, out, message, size);
  if (err == RILLE_OK && !out->has_gid) {
    return rille_socket_say(message, size, RILLE_ERR_INVALID, "user %s has no entry; name a group too: \"%s:GROUP\"",
                            text, text);
  }
  return err;
}

static int fail(const char *who, char *message, size_t size) {
  int err = errno;
  return rille_socket_say(message, size, rille_err_from_errno(err), "cannot become %s: %m", who);
}

int rille_user_become(const char *who, char *message, size_t size) {
  identity to = {0};
  int err = find(who, &to, message, size);
  if (err < 0) return err;
  if (geteuid() != 0) {
    if (geteuid() == to.uid && getegid() == to.gid) return RILLE_OK;
    return rille_socket_say(message, size, RILLE_ERR_PERMISSION, "only root can become %s, and this is uid %u", who,
                            (unsigned)geteuid());
  }
  if (to.name[0] ? initgroups(to.name, to.gid) != 0 : setgroups(1, &to.gid) != 0) return fail(who, message, size);
  if (setresgid(to.gid, to.gid, to.gid) != 0) return fail(who, message, size);
  if (setresuid(to.uid, to.uid, to.uid) != 0) return fail(who, message, size);
  /* the way back has to be closed */
  if (to.uid != 0 && setuid(0) == 0) {
    return rille_socket_say(message, size, RILLE_ERR_PERMISSION, "still root after becoming %s", who);
  }
  prctl(PR_SET_DUMPABLE, 1); /* a crash leaves a core, and /proc/self is ours: as without the change */
  return RILLE_OK;
}
