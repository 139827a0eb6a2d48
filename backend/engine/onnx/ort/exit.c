// exit() runs the destructors of ONNX Runtime's statics while runs may be under way on other threads, which then fail in
// odd ways or crash. A handler that runs before those destructors stops the runs, waits for them, and lets none begin.
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

// A run that does not stop is left behind: exit() must not hang for ever.
enum { EXIT_WAIT_SECONDS = 10 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // guards what follows
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static bei_ort_inside *callers; // threads that are inside ONNX Runtime
static bool exiting;
static pid_t process; // in a forked child there are no other threads to wait for, and the lock may be held for ever

static void process_exits(void) {
  if (getpid() != process)
    return;
  struct timespec deadline;
  clock_gettime(CLOCK_REALTIME, &deadline);
  deadline.tv_sec += EXIT_WAIT_SECONDS;
  pthread_mutex_lock(&lock);
  exiting = true;
  for (bei_ort_inside *c = callers; c != NULL; c = c->next)
    if (c->run != NULL)
      bei_ort_run_terminate(c->run);
  while (callers != NULL && pthread_cond_timedwait(&left, &lock, &deadline) == 0)
    ;
  pthread_mutex_unlock(&lock);
}

void bei_ort_watch_exit(void) {
  pthread_mutex_lock(&lock);
  process = getpid();
  pthread_mutex_unlock(&lock);
  atexit(process_exits); // one that finds no memory is no reason to fail
}

bool bei_ort_enter(bei_ort_inside *self, bei_ort_run *run) {
  pthread_mutex_lock(&lock);
  bool allowed = !exiting;
  if (allowed) {
    *self = (bei_ort_inside){.run = run, .next = callers};
    if (callers != NULL)
      callers->previous = self;
    callers = self;
  }
  pthread_mutex_unlock(&lock);
  return allowed;
}

void bei_ort_leave(bei_ort_inside *self) {
  pthread_mutex_lock(&lock);
  if (self->next != NULL)
    self->next->previous = self->previous;
  *(self->previous != NULL ? &self->previous->next : &callers) = self->next;
  pthread_cond_signal(&left);
  pthread_mutex_unlock(&lock);
}
