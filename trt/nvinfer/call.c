#include "call.h"

#include <dlfcn.h>
#include <stdio.h>

extern void beiTRTLog(void *context, int32_t severity, char *text);

static void forward(void *context, int32_t severity, const char *text) { beiTRTLog(context, severity, (char *)text); }

int32_t bei_trt_load(const char *shim, const char *path, int32_t log_info, bei_trt_library **library, bei_trt_api *api,
                     bei_trt_error *error) {
  void *handle = dlopen(shim, RTLD_NOW | RTLD_LOCAL);
  int32_t (*open)(uint32_t, const char *, bei_trt_log, void *, int32_t, bei_trt_library **, bei_trt_api *,
                  bei_trt_error *) = NULL;
  if (handle != NULL)
    *(void **)&open = dlsym(handle, "bei_trt_open");
  if (open == NULL) {
    const char *reason = dlerror();
    snprintf(error->text, sizeof error->text, "%s", reason == NULL ? "no bei_trt_open in it" : reason);
    return error->code = BEI_TRT_NO_LIBRARY;
  }
  return open(BEI_TRT_ABI, path, forward, NULL, log_info, library, api, error);
}
