#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { MAX_DEVICES = 64 };

static bei_cuda_driver driver;
static bool is_open;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; // guards both until is_open, and contexts

char *bei_cuda_failed(const char *doing, int result) {
  if (result == 0)
    return NULL;
  const char *name = "an unknown error";
  if (driver.get_error_name != NULL)
    driver.get_error_name(result, &name);
  char text[256];
  snprintf(text, sizeof text, "CUDA failure %d: %s; %s", result, name, doing);
  return strdup(text);
}

static char *open_driver(void) {
  if (is_open)
    return NULL;
  void *handle = dlopen("libcuda.so.1", RTLD_NOW); // kept: the CUDA provider has it open for good
  if (handle == NULL)
    return strdup(dlerror());
  const struct {
    const char *name;
    void *place;
  } symbols[] = {
#define SYMBOL(name, symbol, arguments) {symbol, &driver.name},
      BEI_CUDA_DRIVER(SYMBOL)
#undef SYMBOL
  };
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *symbol = dlsym(handle, symbols[i].name);
    if (symbol == NULL) {
      char text[96];
      snprintf(text, sizeof text, "libcuda.so.1 lacks %s: the driver is older than CUDA 12", symbols[i].name);
      return strdup(text);
    }
    memcpy(symbols[i].place, &symbol, sizeof symbol);
  }
  char *error = bei_cuda_failed("starting CUDA", driver.init(0));
  is_open = error == NULL;
  return error;
}

char *bei_cuda_open(const bei_cuda_driver **out) {
  pthread_mutex_lock(&mutex);
  char *error = open_driver();
  pthread_mutex_unlock(&mutex);
  if (error == NULL)
    *out = &driver;
  return error;
}

// A device's primary context, which is retained for good: the last one to release it would take all memory and streams with it.
static char *context_of(int32_t ordinal, bei_cuda_context *out) {
  static bei_cuda_context contexts[MAX_DEVICES]; // guarded by mutex
  if (ordinal < 0 || ordinal >= MAX_DEVICES)
    return strdup("there is no such CUDA device");
  pthread_mutex_lock(&mutex);
  int result = 0, device;
  if (contexts[ordinal] == NULL) {
    result = driver.device_get(&device, ordinal);
    if (result == 0)
      result = driver.retain(&contexts[ordinal], device);
  }
  *out = contexts[ordinal];
  pthread_mutex_unlock(&mutex);
  return bei_cuda_failed("the device's context", result);
}

char *bei_cuda_enter(int32_t ordinal, const bei_cuda_driver **out) {
  bei_cuda_context primary = NULL;
  char *error = bei_cuda_open(out);
  if (error == NULL)
    error = context_of(ordinal, &primary);
  return error != NULL ? error : bei_cuda_failed("making the device's context current", driver.push(primary));
}

void bei_cuda_leave(void) {
  bei_cuda_context popped;
  driver.pop(&popped);
}
