#include "exiting.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

// Who does not come out is left behind: exit() must not hang for ever.
enum { EXIT_WAIT_SECONDS = 10 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // guards what follows
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static bei_exit_inside *callers; // threads that are inside a library
static bool exiting;
static struct timespec deadline; // of the first handler; a process may have registered many
static pid_t process; // in a forked child there are no other threads to wait for, and the lock may be held for ever

static void process_exits(void) {
  if (getpid() != process)
    return;
  pthread_mutex_lock(&lock);
  if (!exiting) {
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += EXIT_WAIT_SECONDS;
  }
  exiting = true;
  for (bei_exit_inside *c = callers; c != NULL; c = c->next)
    if (c->stop != NULL)
      c->stop(c->what);
  while (callers != NULL && pthread_cond_timedwait(&left, &lock, &deadline) == 0)
    ;
  pthread_mutex_unlock(&lock);
}

void bei_exit_watch(void) {
  pthread_mutex_lock(&lock);
  process = getpid();
  pthread_mutex_unlock(&lock);
  atexit(process_exits); // one that finds no memory is no reason to fail
}

bool bei_exit_enter(bei_exit_inside *self, void (*stop)(void *), void *what) {
  pthread_mutex_lock(&lock);
  bool allowed = !exiting;
  if (allowed) {
    *self = (bei_exit_inside){.stop = stop, .what = what, .next = callers};
    if (callers != NULL)
      callers->previous = self;
    callers = self;
  }
  pthread_mutex_unlock(&lock);
  return allowed;
}

bool bei_exit_leave(bei_exit_inside *self) {
  pthread_mutex_lock(&lock);
  if (self->next != NULL)
    self->next->previous = self->previous;
  *(self->previous != NULL ? &self->previous->next : &callers) = self->next;
  bool exits = exiting;
  pthread_cond_signal(&left);
  pthread_mutex_unlock(&lock);
  return exits;
}
