#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

const char *bei_install_object(void);

const char *bei_install_object(void) {
  Dl_info info;
  return dladdr((void *)bei_install_object, &info) != 0 ? info.dli_fname : NULL;
}
