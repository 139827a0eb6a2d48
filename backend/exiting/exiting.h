// exit() runs the destructors of a library's statics while other threads may be inside the library, which then fail in odd ways or
// crash. Threads that go into ONNX Runtime, TensorRT or CUDA say so here, and a handler that runs before those destructors stops what it
// can, waits for them, and lets no other in.
#ifndef BEI_EXITING_H
#define BEI_EXITING_H

#include <stdbool.h>

// The error of calls that come while the process exits.
#define BEI_EXITING "the process is exiting"

// A thread inside a library, on its own stack.
typedef struct bei_exit_inside {
  void (*stop)(void *); // makes what it does there end soon, from the thread that exits; may be NULL
  void *what;           // what is to be stopped
  struct bei_exit_inside *next, *previous;
} bei_exit_inside;

// Says that the calling thread goes into a library; false once the process exits: then it must not, nor leave.
bool bei_exit_enter(bei_exit_inside *self, void (*stop)(void *), void *what);
// Returns whether the process exits: what failed may have failed for that.
bool bei_exit_leave(bei_exit_inside *self);

// Makes exit() wait for those inside, 10 seconds at most. Handlers run in the reverse order of their registration and statics are
// made at their first use, so this is called again after something new has been used.
void bei_exit_watch(void);

#endif
