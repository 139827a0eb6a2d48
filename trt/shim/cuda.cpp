#include "cuda.h"

#include <dlfcn.h>
#include <mutex>

#include "failure.h"

namespace bei {

namespace {

constexpr const char *kDriver = "libcuda.so.1";

#define BEI_TEXT(x) #x
#define BEI_NAME(x) BEI_TEXT(x)

Cuda load() {
  void *library = dlopen(kDriver, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    fail(BEI_TRT_NO_LIBRARY,
         "no NVIDIA driver: %s; install the driver, or in a container start it with the GPU (--gpus all)", dlerror());
  Cuda loaded = {};
#define BEI_LOAD(name)                                                                                                 \
  loaded.name = reinterpret_cast<decltype(&::name)>(dlsym(library, BEI_NAME(name)));                                   \
  if (loaded.name == nullptr)                                                                                          \
    fail(BEI_TRT_NO_LIBRARY, "%s has no %s: the NVIDIA driver is too old", kDriver, BEI_NAME(name));
  BEI_CUDA_FUNCTIONS(BEI_LOAD)
#undef BEI_LOAD
  const CUresult result = loaded.cuInit(0);
  if (result != CUDA_SUCCESS) {
    const char *text = "unknown error";
    loaded.cuGetErrorString(result, &text);
    fail(BEI_TRT_NO_LIBRARY, "the NVIDIA driver cannot be used: %s (CUDA error %d)", text, static_cast<int>(result));
  }
  return loaded;
}

} // namespace

const Cuda &cuda() {
  static std::mutex mutex; // a failed call may be repeated
  static Cuda loaded;
  static bool done = false;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!done) {
    loaded = load();
    done = true;
  }
  return loaded;
}

bool isLost(CUresult result) {
  switch (result) {
  case CUDA_ERROR_DEINITIALIZED:
  case CUDA_ERROR_ECC_UNCORRECTABLE:
  case CUDA_ERROR_NVLINK_UNCORRECTABLE:
  case CUDA_ERROR_CONTAINED:
  case CUDA_ERROR_ILLEGAL_ADDRESS:
  case CUDA_ERROR_LAUNCH_TIMEOUT:
  case CUDA_ERROR_CONTEXT_IS_DESTROYED:
  case CUDA_ERROR_ASSERT:
  case CUDA_ERROR_HARDWARE_STACK_ERROR:
  case CUDA_ERROR_ILLEGAL_INSTRUCTION:
  case CUDA_ERROR_MISALIGNED_ADDRESS:
  case CUDA_ERROR_INVALID_ADDRESS_SPACE:
  case CUDA_ERROR_INVALID_PC:
  case CUDA_ERROR_LAUNCH_FAILED:
  case CUDA_ERROR_TENSOR_MEMORY_LEAK:
  case CUDA_ERROR_MPS_CLIENT_TERMINATED:
  case CUDA_ERROR_EXTERNAL_DEVICE:
  case CUDA_ERROR_DEVICE_UNAVAILABLE:
  case CUDA_ERROR_UNKNOWN:
    return true;
  default:
    return false;
  }
}

void check(CUresult result, const char *what) {
  if (result == CUDA_SUCCESS)
    return;
  const char *name = "?", *text = "unknown error";
  cuda().cuGetErrorName(result, &name);
  cuda().cuGetErrorString(result, &text);
  const int32_t code = isLost(result)                       ? BEI_TRT_LOST
                       : result == CUDA_ERROR_OUT_OF_MEMORY ? BEI_TRT_NO_MEMORY
                                                            : BEI_TRT_FAILED;
  fail(code, "%s: %s (%s)", what, text, name);
}

Device::Device(int32_t index) {
  check(cuda().cuDeviceGet(&device_, index), "opening the device");
  check(cuda().cuDevicePrimaryCtxRetain(&context_, device_), "retaining the device's primary context");
}

Device::~Device() { cuda().cuDevicePrimaryCtxRelease(device_); }

} // namespace bei
