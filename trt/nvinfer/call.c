#include "call.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>

extern void beiTRTLog(void *context, int32_t severity, char *text);

static void forward(void *context, int32_t severity, const char *text) { beiTRTLog(context, severity, (char *)text); }

/* After the first use of something, which makes its statics. */
static int32_t watched(int32_t code) {
  if (code == 0)
    bei_exit_watch();
  return code;
}

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
  return watched(open(BEI_TRT_ABI, path, forward, NULL, log_info, library, api, error));
}

static int32_t build(const bei_trt_api *a, bei_trt_network *n, const bei_trt_build_options *o, bei_trt_blob **b,
                     bei_trt_error *e) {
  CALL(a->network_build(n, o, b, e));
}

int32_t call_network_build(const bei_trt_api *a, bei_trt_network *n, const bei_trt_build_options *o, bei_trt_blob **b,
                           bei_trt_error *e) {
  return watched(build(a, n, o, b, e));
}

static int32_t load(const bei_trt_api *a, bei_trt_library *l, const void *plan, size_t size,
                    const bei_trt_program_options *o, bei_trt_program **p, bei_trt_error *e) {
  CALL(a->program_new(l, plan, size, o, p, e));
}

int32_t call_program_new(const bei_trt_api *a, bei_trt_library *l, const void *plan, size_t size,
                         const bei_trt_program_options *o, bei_trt_program **p, bei_trt_error *e) {
  return watched(load(a, l, plan, size, o, p, e));
}

static int32_t wait_inside(const bei_trt_api *a, bei_trt_lane *l, bei_trt_error *e) { CALL(a->lane_wait(l, e)); }

int32_t call_lane_wait(const bei_trt_api *a, bei_trt_lane *l, bei_trt_error *e) {
  static atomic_bool ran;
  int32_t code = wait_inside(a, l, e);
  return code != 0 || atomic_exchange(&ran, true) ? code : watched(code);
}
