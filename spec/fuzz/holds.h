/*
 * holds: what a fuzzer asserts, in every kind of build.
 */
#ifndef RILLE_SPEC_HOLDS_H
#define RILLE_SPEC_HOLDS_H

#include <stdio.h>
#include <stdlib.h>

#define HOLDS(what)                                                                                                    \
  do {                                                                                                                 \
    if (!(what)) fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #what), abort();                    \
  } while (0)

#endif
