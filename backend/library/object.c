#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

const char *bei_library_object(void);

const char *bei_library_object(void) {
  Dl_info info;
  return dladdr((void *)bei_library_object, &info) != 0 ? info.dli_fname : NULL;
}
