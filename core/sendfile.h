/*
 * sendfile: a file goes to a connection piece by piece, in order with its output. From the page cache to a plain socket the kernel sends
 * it; else, and where a file is small, it is read into the output's blocks. What is not in the page cache is read by a worker, see io.h:
 * the loop does not wait for a disk. Loop thread only.
 */
#ifndef RILLE_SENDFILE_H
#define RILLE_SENDFILE_H

#include "io.h"

/* As rille_conn_write_file. */
int rille_sendfile_piece(rille_conn *c, const rille_file *file, uint64_t *left);
/* As rille_conn_write_read. */
int rille_sendfile_read(rille_conn *c, const rille_job *job, uint64_t *left);

#endif
