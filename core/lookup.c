/*
 * lookup: see resolver.h. The names that a search list makes of a name are asked for one after the other, as resolv.conf(5) has it.
 */
#include "question.h"

#include "loop.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum { LABEL_MAX = 63 };

int rille_dns_check(const char *name, size_t size, char *message, size_t message_size) {
  const char *problem = NULL;
  size_t label = 0;
  if (size == 0) problem = "a name is needed, this one is empty";
  if (size > RILLE_DNS_NAME_MAX) problem = "a name has at most 255 bytes";
  for (size_t i = 0; i < size && !problem; i++) {
    unsigned char c = (unsigned char)name[i];
    if (c <= 0x20 || c >= 0x7f) problem = "a name holds no spaces, control characters or bytes beyond ASCII";
    else if (c == '\\' || c == '/' || c == '"') problem = "a name holds no backslash, slash or quote";
    else if (c == '.' && label == 0)
      problem = size == 1 ? "the root has no records here" : "a label of the name is empty";
    else label = c == '.' ? 0 : label + 1;
    if (label > LABEL_MAX) problem = "a label of the name has more than 63 bytes";
  }
  if (!problem) return RILLE_OK;
  snprintf(message, message_size, "%s", problem);
  return RILLE_ERR_INVALID;
}

static uint32_t dots_in(const char *name) {
  uint32_t count = 0;
  for (; *name; name++) count += *name == '.';
  return count;
}

/* Number `step` of the names to ask for; false: there is none. */
static bool candidate(const rille_lookup *l, char *to, size_t size) {
  const struct ares_options *known = &l->resolver->known;
  size_t length = strlen(l->name);
  bool is_whole = l->name[length - 1] == '.';
  bool is_address = l->type == RILLE_DNS_A || l->type == RILLE_DNS_AAAA;
  uint32_t domains =
      l->resolver->has_known && is_address && !is_whole && known->ndomains > 0 ? (uint32_t)known->ndomains : 0;
  bool is_first = dots_in(l->name) >= (uint32_t)(l->resolver->has_known ? known->ndots : 1);
  if (l->step > domains) return false;
  bool as_it_is = domains == 0 || l->step == (is_first ? 0 : domains);
  if (as_it_is) {
    snprintf(to, size, "%.*s", (int)(is_whole ? length - 1 : length), l->name);
    return true;
  }
  const char *domain = known->domains[is_first ? l->step - 1 : l->step];
  int n = snprintf(to, size, "%s.%s", l->name, domain);
  if (n > 0 && (size_t)n < size && to[n - 1] == '.') to[n - 1] = '\0';
  for (char *c = to; *c; c++) *c = (char)(*c >= 'A' && *c <= 'Z' ? *c | 0x20 : *c);
  return true;
}

/* A name that cannot be longer is one that is not there. */
static bool fits(const char *name) {
  char ignored[1];
  return strlen(name) < RILLE_DNS_NAME_MAX && rille_dns_check(name, strlen(name), ignored, 0) == RILLE_OK;
}

static bool over(rille_lookup *l, int err, rille_answer *answer) {
  l->err = err;
  l->answer = answer ? rille_answer_keep(answer) : NULL;
  l->resolver->in_use--;
  return true;
}

static bool goes_on(int err) { return err == RILLE_ERR_NOT_FOUND || err == RILLE_ERR_SERVER_FAILURE; }

/* The next name, until one is there or has to be waited for. What failed on the way says more than that the last one does not exist. */
static bool ask(rille_lookup *l) {
  char name[RILLE_DNS_NAME_MAX * 2 + 2];
  for (; candidate(l, name, sizeof name); l->step++) {
    int err = RILLE_ERR_NOT_FOUND;
    rille_answer *answer = NULL;
    if (fits(name) && !rille_question_ask(l->resolver, name, l->type, l, &err, &answer)) return false;
    if (!goes_on(err)) return over(l, err, answer);
    if (err == RILLE_ERR_SERVER_FAILURE) l->err = err;
  }
  return over(l, l->err ? l->err : RILLE_ERR_NOT_FOUND, NULL);
}

static bool look_at_hosts(rille_lookup *l) {
  if (l->type != RILLE_DNS_A && l->type != RILLE_DNS_AAAA) return false;
  char name[RILLE_DNS_NAME_MAX + 1];
  size_t size = strlen(l->name);
  if (l->name[size - 1] == '.') size--;
  memcpy(name, l->name, size);
  name[size] = '\0';
  rille_answer *answer;
  int family = l->type == RILLE_DNS_A ? AF_INET : AF_INET6;
  if (!rille_hosts_find(&l->resolver->hosts, name, family, l->resolver->loop->clock_ms, &answer)) return false;
  over(l, answer ? RILLE_OK : RILLE_ERR_NOT_FOUND, answer);
  rille_answer_drop(answer);
  return true;
}

bool rille_lookup_start(rille_resolver *r, rille_lookup *l, const char *name, int type) {
  l->resolver = r;
  l->question = NULL;
  l->type = type;
  l->step = 0;
  l->err = RILLE_OK;
  l->answer = NULL;
  snprintf(l->name, sizeof l->name, "%s", name);
  for (char *c = l->name; *c; c++) *c = (char)(*c >= 'A' && *c <= 'Z' ? *c | 0x20 : *c);
  r->in_use++;
  return look_at_hosts(l) || ask(l);
}

void rille_lookup_answered(rille_lookup *l, int err, rille_answer *answer) {
  bool is_over = !goes_on(err);
  if (is_over) {
    over(l, err, answer);
  } else {
    if (err == RILLE_ERR_SERVER_FAILURE) l->err = err;
    l->step++;
    is_over = ask(l);
  }
  if (is_over) l->done(l);
}

void rille_lookup_end(rille_lookup *l) {
  if (l->question) {
    rille_question_leave(l);
    l->resolver->in_use--;
  }
  rille_answer_drop(l->answer);
  l->answer = NULL;
}
