// The CUDA driver API, opened at run time: a machine without a driver can still build plans.
#pragma once

#include <cstdint>
#include <cuda.h>

namespace bei {

// Every function that the shim calls. cuda.h's macros give the versioned names.
#define BEI_CUDA_FUNCTIONS(X)                                                                                          \
  X(cuInit)                                                                                                            \
  X(cuDriverGetVersion)                                                                                                \
  X(cuGetErrorString)                                                                                                  \
  X(cuGetErrorName)                                                                                                    \
  X(cuDeviceGetCount)                                                                                                  \
  X(cuDeviceGet)                                                                                                       \
  X(cuDeviceGetName)                                                                                                   \
  X(cuDeviceGetUuid)                                                                                                   \
  X(cuDeviceGetAttribute)                                                                                              \
  X(cuDevicePrimaryCtxRetain)                                                                                          \
  X(cuDevicePrimaryCtxRelease)                                                                                         \
  X(cuCtxPushCurrent)                                                                                                  \
  X(cuCtxPopCurrent)                                                                                                   \
  X(cuMemGetInfo)                                                                                                      \
  X(cuMemAlloc)                                                                                                        \
  X(cuMemFree)                                                                                                         \
  X(cuMemHostAlloc)                                                                                                    \
  X(cuMemFreeHost)                                                                                                     \
  X(cuMemsetD8Async)                                                                                                   \
  X(cuMemcpyHtoDAsync)                                                                                                 \
  X(cuMemcpyDtoHAsync)                                                                                                 \
  X(cuStreamCreate)                                                                                                    \
  X(cuStreamDestroy)                                                                                                   \
  X(cuStreamQuery)                                                                                                     \
  X(cuStreamSynchronize)                                                                                               \
  X(cuEventCreate)                                                                                                     \
  X(cuEventDestroy)                                                                                                    \
  X(cuEventRecord)                                                                                                     \
  X(cuEventQuery)                                                                                                      \
  X(cuEventSynchronize)                                                                                                \
  X(cuStreamBeginCapture)                                                                                              \
  X(cuStreamEndCapture)                                                                                                \
  X(cuPointerGetAttribute)                                                                                             \
  X(cuGraphGetNodes)                                                                                                   \
  X(cuGraphNodeGetType)                                                                                                \
  X(cuGraphMemcpyNodeGetParams)                                                                                        \
  X(cuGraphMemcpyNodeSetParams)                                                                                        \
  X(cuGraphInstantiate)                                                                                                \
  X(cuGraphLaunch)                                                                                                     \
  X(cuGraphExecDestroy)                                                                                                \
  X(cuGraphDestroy)

struct Cuda {
#define BEI_DECLARE(name) decltype(&::name) name;
  BEI_CUDA_FUNCTIONS(BEI_DECLARE)
#undef BEI_DECLARE
};

// The driver, opened and initialised at the first call. Throws NO_LIBRARY where there is none or it has no device.
const Cuda &cuda();

// Throws what result says: NO_MEMORY, LOST or FAILED.
void check(CUresult result, const char *what);

// Whether the device's context is of no use any more after result.
bool isLost(CUresult result);

// A device's primary context, retained.
class Device {
public:
  explicit Device(int32_t index);
  ~Device();
  Device(const Device &) = delete;
  Device &operator=(const Device &) = delete;
  CUcontext context() const { return context_; }

private:
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
};

// Makes a device's context current, and the thread's own one again at the end.
class Current {
public:
  explicit Current(const Device &device) {
    check(cuda().cuCtxPushCurrent(device.context()), "making the device's context current");
  }
  ~Current() {
    CUcontext popped;
    cuda().cuCtxPopCurrent(&popped);
  }
  Current(const Current &) = delete;
  Current &operator=(const Current &) = delete;
};

} // namespace bei
