#include <stdlib.h>

#include "internal.h"

OrtStatus *bei_ort_host_open(OrtSession *session, int32_t device, bei_ort_host *out) {
  bei_ort_host host = {0};
  OrtStatus *status =
      bei_ort_api->CreateMemoryInfo("CudaPinned", OrtDeviceAllocator, device, OrtMemTypeCPUOutput, &host.info);
  if (status == NULL)
    status = bei_ort_api->CreateAllocator(session, host.info, &host.allocator);
  if (status != NULL) {
    bei_ort_host_close(&host);
    return status;
  }
  *out = host;
  return NULL;
}

void bei_ort_host_close(bei_ort_host *host) {
  if (host->allocator != NULL)
    bei_ort_api->ReleaseAllocator(host->allocator);
  if (host->info != NULL)
    bei_ort_api->ReleaseMemoryInfo(host->info);
  *host = (bei_ort_host){0};
}
