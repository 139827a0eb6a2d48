#include "cuda_kernels.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

// What cuda.h declares; results are 0 for success.
typedef struct CUlib_st *library;
typedef struct CUkern_st *kernel;
typedef struct CUctx_st *context;

enum { ERROR_LOG_BUFFER = 5, ERROR_LOG_BUFFER_SIZE_BYTES = 6 }; // of CUjit_option

static struct {
  int (*init)(unsigned flags);
  int (*get_error_name)(int result, const char **name);
  int (*library_load)(library *out, const void *code, const int *jit, void **jit_values, unsigned jit_count,
                      const int *options, void **option_values, unsigned option_count);
  int (*library_kernel)(kernel *out, library from, const char *name);
  int (*kernel_function)(bei_cuda_function **out, kernel of);
  int (*device_get)(int *device, int ordinal);
  int (*retain)(context *out, int device);
  int (*release)(int device);
  int (*push)(context pushed);
  int (*pop)(context *popped);
  int (*launch)(bei_cuda_function *function, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y,
                unsigned threads_z, unsigned shared_bytes, void *stream, void **arguments, void **extra);
} driver;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; // guards loaded, and the driver until it is set
static library loaded;

static char *failed(const char *doing, int result, const char *log) {
  const char *name = "an unknown error";
  if (driver.get_error_name != NULL)
    driver.get_error_name(result, &name);
  char text[1536];
  snprintf(text, sizeof text, "our CUDA kernels: %s: %s (%d)%s%s", doing, name, result, log[0] != 0 ? ": " : "", log);
  return strdup(text);
}

static char *open_driver(void) {
  void *handle = dlopen("libcuda.so.1", RTLD_NOW); // kept: the CUDA provider has it open for good
  if (handle == NULL)
    return strdup(dlerror());
  const struct {
    const char *name;
    void *place;
  } symbols[] = {
      {"cuInit", &driver.init},
      {"cuGetErrorName", &driver.get_error_name},
      {"cuLibraryLoadData", &driver.library_load},
      {"cuLibraryGetKernel", &driver.library_kernel},
      {"cuKernelGetFunction", &driver.kernel_function},
      {"cuDeviceGet", &driver.device_get},
      {"cuDevicePrimaryCtxRetain", &driver.retain},
      {"cuDevicePrimaryCtxRelease_v2", &driver.release},
      {"cuCtxPushCurrent_v2", &driver.push},
      {"cuCtxPopCurrent_v2", &driver.pop},
      {"cuLaunchKernel", &driver.launch},
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
  int result = driver.init(0);
  return result == 0 ? NULL : failed("starting CUDA", result, "");
}

static char *load(const char *ptx) {
  if (loaded != NULL)
    return NULL;
  char *error = open_driver();
  if (error != NULL)
    return error;
  // Static: who knows for how long the driver keeps the buffer.
  static char log[1024] = "";
  static const int options[] = {ERROR_LOG_BUFFER, ERROR_LOG_BUFFER_SIZE_BYTES};
  static void *values[] = {log, (void *)sizeof log};
  library found;
  int result = driver.library_load(&found, ptx, options, values, 2, NULL, NULL, 0);
  if (result != 0)
    return failed("loading them (they need a driver for CUDA 13)", result, log);
  loaded = found;
  return NULL;
}

char *bei_cuda_load(const char *ptx) {
  pthread_mutex_lock(&mutex);
  char *error = load(ptx);
  pthread_mutex_unlock(&mutex);
  return error;
}

// With the device's context current.
static char *find(const char *name, bei_cuda_function **out) {
  kernel of;
  int result = driver.library_kernel(&of, loaded, name);
  if (result == 0)
    result = driver.kernel_function(out, of);
  return result == 0 ? NULL : failed(name, result, "");
}

char *bei_cuda_find(int32_t ordinal, const char *name, bei_cuda_function **out) {
  if (loaded == NULL)
    return strdup("our CUDA kernels are not loaded");
  int device;
  context primary, popped;
  int result = driver.device_get(&device, ordinal);
  if (result == 0)
    result = driver.retain(&primary, device); // the CUDA provider's own
  if (result != 0)
    return failed("the device's context", result, "");
  char *error;
  if ((result = driver.push(primary)) == 0) {
    error = find(name, out);
    driver.pop(&popped);
  } else {
    error = failed("the device's context", result, "");
  }
  driver.release(device);
  return error;
}

int bei_cuda_launch(bei_cuda_function *function, uint32_t blocks, uint32_t threads, void *stream, void **arguments) {
  return driver.launch(function, blocks, 1, 1, threads, 1, 1, 0, stream, arguments, NULL);
}
