/*
 * note: what loops and the control thread tell the state that deploys generations; see rille_reload.h.
 */
#ifndef RILLE_NOTE_H
#define RILLE_NOTE_H

#include "state.h"

/* Any thread. The text is copied; state goes with the note and is discarded where nobody takes it, which is an error. */
int rille_note_send(int kind, const rille_loop *loop, const rille_generation *g, rille_state *state,
                    uint32_t connections, const char *text, size_t size);

/* From here on a request to reload is kept for who attends, as nobody may do so yet. */
void rille_note_expect(void);

struct rille_console;
/* any thread: code of the control socket for that state; 0 or a negative enum rille_err */
int rille_note_console(struct rille_console *console);

#endif
