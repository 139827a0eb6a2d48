#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "_cgo_export.h"
#include "internal.h"

const OrtApi *bei_ort_api;
OrtEnv *bei_ort_env;
OrtMemoryInfo *bei_ort_cpu;

int32_t bei_ort_min_minor(void) { return ORT_API_VERSION; }

char *bei_ort_error(OrtStatus *status) {
  if (status == NULL)
    return NULL;
  char *text = strdup(bei_ort_api->GetErrorMessage(status));
  bei_ort_api->ReleaseStatus(status);
  return text != NULL ? text : strdup("out of memory");
}

static void log_message(void *param, OrtLoggingLevel severity, const char *category, const char *logid,
                        const char *location, const char *message) {
  (void)param, (void)logid, (void)location;
  beiOrtLog((int32_t)severity, (char *)category, (char *)message);
}

static char *format(const char *pattern, const char *a, const char *b) {
  char *text = NULL;
  return asprintf(&text, pattern, a, b) < 0 ? strdup("out of memory") : text;
}

// GetApi prints to stderr when it is asked for a version that it does not have, so the version is read first.
static bool has_api(const char *version) {
  int major = 0, minor = 0;
  return sscanf(version, "%d.%d", &major, &minor) == 2 && (major > 1 || (major == 1 && minor >= ORT_API_VERSION));
}

char *bei_ort_load(const char *path, const char **version) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL)
    return format("%s%s", dlerror(), "");
  const OrtApiBase *(*get_base)(void) = (const OrtApiBase *(*)(void))dlsym(library, "OrtGetApiBase");
  if (get_base == NULL) {
    dlclose(library);
    return format("%s: %s", path, "no symbol OrtGetApiBase: not an ONNX Runtime library");
  }
  const OrtApiBase *base = get_base();
  const char *found = base->GetVersionString();
  const OrtApi *api = has_api(found) ? base->GetApi(ORT_API_VERSION) : NULL;
  if (api == NULL) {
    char *text = format("%s: version %s is too old", path, found);
    dlclose(library);
    return text;
  }
  bei_ort_api = api;
  // From here on the library stays loaded: its threads and statics may run already.
  if (bei_ort_env == NULL) {
    char *error = bei_ort_error(
        api->CreateEnvWithCustomLogger(log_message, NULL, ORT_LOGGING_LEVEL_WARNING, "bei", &bei_ort_env));
    if (error != NULL)
      return error;
  }
  char *error = bei_ort_error(api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &bei_ort_cpu));
  if (error != NULL)
    return error;
  *version = found;
  return NULL;
}
