/*
 * export: compiled in front of every source file of the library. What rille.h declares is exported; the rest of the core
 * is compiled with -fvisibility=hidden and stays inside.
 */
#ifndef RILLE_EXPORT_H
#define RILLE_EXPORT_H

#pragma GCC visibility push(default)
#include "rille.h"
#pragma GCC visibility pop

#endif
