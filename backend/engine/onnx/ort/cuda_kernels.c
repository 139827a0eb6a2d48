#include "cuda_kernels.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ERROR_LOG_BUFFER = 5, ERROR_LOG_BUFFER_SIZE_BYTES = 6 }; // of CUjit_option

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; // guards what follows, until loaded is set
static const bei_cuda_driver *driver;
static bei_cuda_library loaded;

static char *load(const char *ptx) {
  if (loaded != NULL)
    return NULL;
  char *error = bei_cuda_open(&driver);
  if (error != NULL)
    return error;
  // Static: who knows for how long the driver keeps the buffer.
  static char log[1024] = "";
  static const int options[] = {ERROR_LOG_BUFFER, ERROR_LOG_BUFFER_SIZE_BYTES};
  static void *values[] = {log, (void *)sizeof log};
  bei_cuda_library found;
  int result = driver->library_load(&found, ptx, options, values, 2, NULL, NULL, 0);
  if (result == 0) {
    loaded = found;
    return NULL;
  }
  error = bei_cuda_failed("loading our kernels, which need a driver for CUDA 13", result);
  char text[1536];
  snprintf(text, sizeof text, "%s%s%s", error, log[0] != 0 ? ": " : "", log);
  free(error);
  return strdup(text);
}

char *bei_cuda_load(const char *ptx) {
  pthread_mutex_lock(&mutex);
  char *error = load(ptx);
  pthread_mutex_unlock(&mutex);
  return error;
}

char *bei_cuda_find(int32_t ordinal, const char *name, bei_cuda_function **out) {
  if (loaded == NULL)
    return strdup("our CUDA kernels are not loaded");
  const bei_cuda_driver *d;
  char *error = bei_cuda_enter(ordinal, &d);
  if (error != NULL)
    return error;
  bei_cuda_kernel of;
  int result = d->library_kernel(&of, loaded, name);
  if (result == 0)
    result = d->kernel_function(out, of);
  bei_cuda_leave();
  return bei_cuda_failed(name, result);
}

int bei_cuda_launch(bei_cuda_function *function, uint32_t blocks, uint32_t threads, void *stream, void **arguments) {
  return driver->launch(function, blocks, 1, 1, threads, 1, 1, 0, stream, arguments, NULL);
}
