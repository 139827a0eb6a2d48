#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "shim.h"

// Of CUDA's driver, as cuda.h has them.
typedef int (*device_get)(int *device, int ordinal);
typedef int (*device_uuid)(unsigned char uuid[16], int device);

char *bei_ort_cuda_uuid(int32_t device, unsigned char uuid[16]) {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW); // kept: the CUDA provider has it open for good
  if (driver == NULL)
    return strdup(dlerror());
  device_get get = (device_get)dlsym(driver, "cuDeviceGet");
  device_uuid ask = (device_uuid)dlsym(driver, "cuDeviceGetUuid_v2"); // of the MIG device, where there is one
  if (get == NULL || ask == NULL)
    return strdup("libcuda.so.1 lacks cuDeviceGet or cuDeviceGetUuid_v2");
  int handle;
  int result = get(&handle, device);
  if (result == 0)
    result = ask(uuid, handle);
  if (result == 0)
    return NULL;
  char text[48];
  snprintf(text, sizeof text, "CUDA driver error %d", result);
  return strdup(text);
}
