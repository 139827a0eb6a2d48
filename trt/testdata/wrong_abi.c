/* A shim of another build: it passes calls on to the real one at REAL_SHIM, with another version of the interface. */
#include <dlfcn.h>
#include <stddef.h>

#include "../shim.h"

int32_t bei_trt_open(uint32_t abi, const char *path, bei_trt_log log, void *log_context, int32_t log_info,
                     bei_trt_library **library, bei_trt_api *api, bei_trt_error *error) {
  void *handle = dlopen(REAL_SHIM, RTLD_NOW | RTLD_LOCAL);
  int32_t (*open)(uint32_t, const char *, bei_trt_log, void *, int32_t, bei_trt_library **, bei_trt_api *,
                  bei_trt_error *) = NULL;
  if (handle != NULL)
    *(void **)&open = dlsym(handle, "bei_trt_open");
  return open == NULL ? -1 : open(abi + 1, path, log, log_context, log_info, library, api, error);
}
