/*
 * errors: the closed list of errors a script can see. The functions are in rille.h because Lua calls them too; this
 * header is the noun's name for C files. Any thread.
 */
#ifndef RILLE_ERRORS_H
#define RILLE_ERRORS_H

#include "rille.h"

#endif
