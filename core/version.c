/*
 * version: what this library is, and which Lua files fit it.
 */
#include "rille.h"

#ifndef RILLE_VERSION
#define RILLE_VERSION "0.1.0"
#endif

int rille_abi(void) { return RILLE_ABI; }

const char *rille_version(void) { return RILLE_VERSION; }
