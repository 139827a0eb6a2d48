#include <string.h>

#include "driver.h"
#include "shim.h"

char *bei_ort_cuda_uuid(int32_t device, unsigned char uuid[16]) {
  const bei_cuda_driver *driver;
  char *error = bei_cuda_open(&driver);
  if (error != NULL)
    return error;
  int handle;
  int result = driver->device_get(&handle, device);
  if (result == 0)
    result = driver->device_uuid(uuid, handle); // of the MIG device, where there is one
  return bei_cuda_failed("asking for the device's UUID", result);
}
