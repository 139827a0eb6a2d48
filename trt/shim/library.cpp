#include "library.h"

#include <dlfcn.h>
#include <mutex>

#include "cuda.h"
#include "failure.h"

#if BEI_TRT_IS_RTX
#define BEI_TRT_FLAVOUR "rtx1"
#elif NV_TENSORRT_MAJOR == 11
#define BEI_TRT_FLAVOUR "11"
#elif NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 1
#define BEI_TRT_FLAVOUR "10"
#else
#error "supported: TensorRT-RTX 1.x, TensorRT from 10.1 on and 11.x"
#endif

namespace bei {

namespace {

thread_local std::string loggedHere;
std::mutex loggedMutex;
std::string loggedAnywhere; // guarded by loggedMutex

} // namespace

std::string lastLogged() {
  if (!loggedHere.empty())
    return loggedHere;
  const std::lock_guard<std::mutex> lock(loggedMutex);
  return loggedAnywhere;
}

void forgetLogged() {
  loggedHere.clear();
  const std::lock_guard<std::mutex> lock(loggedMutex);
  loggedAnywhere.clear();
}

void Logger::log(Severity severity, const char *text) noexcept {
  if (severity <= Severity::kERROR) {
    try {
      loggedHere = text;
      const std::lock_guard<std::mutex> lock(loggedMutex);
      loggedAnywhere = text;
    } catch (...) { // no memory for the text: the error itself still counts
    }
  }
  if (log_ != nullptr && (info_ || severity <= Severity::kWARNING))
    log_(context_, static_cast<int32_t>(severity), text);
}

namespace {

int32_t deviceCount(bei_trt_library *, int32_t *count, bei_trt_error *error) {
  return guard(error, [&] {
    int found = 0;
    check(cuda().cuDeviceGetCount(&found), "counting devices");
    *count = found;
  });
}

int32_t deviceGet(bei_trt_library *, int32_t index, bei_trt_device *out, bei_trt_error *error) {
  return guard(error, [&] {
    const Cuda &c = cuda();
    bei_trt_device d = {};
    CUdevice device;
    check(c.cuDeviceGet(&device, index), "opening the device");
    check(c.cuDeviceGetName(d.name, sizeof d.name, device), "asking for the device's name");
    CUuuid id;
    check(c.cuDeviceGetUuid(&id, device), "asking for the device's UUID");
    char *to = d.uuid + snprintf(d.uuid, sizeof d.uuid, "GPU-");
    for (int i = 0; i < 16; i++)
      to += snprintf(to, sizeof d.uuid - static_cast<size_t>(to - d.uuid),
                     i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", static_cast<unsigned char>(id.bytes[i]));
    const auto attribute = [&](CUdevice_attribute which) {
      int value = 0;
      check(c.cuDeviceGetAttribute(&value, which, device), "asking for a device attribute");
      return value;
    };
    d.compute_major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    d.compute_minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    check(c.cuDriverGetVersion(&d.driver), "asking for the driver's version");
    const Device held(index);
    const Current current(held);
    size_t available = 0, total = 0;
    check(c.cuMemGetInfo(&available, &total), "asking for the device's memory");
    d.memory_free = available;
    d.memory_total = total;
    *out = d;
  });
}

const void *blobData(const bei_trt_blob *blob, size_t *size) {
  *size = blob->memory->size();
  return blob->memory->data();
}

void blobFree(bei_trt_blob *blob) { delete blob; }

} // namespace

} // namespace bei

void bei_trt_library::open(const char *file) {
  void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr)
    bei::fail(BEI_TRT_NO_LIBRARY, "%s", dlerror());
  const auto symbol = [&](const char *name) {
    void *found = dlsym(handle, name);
    if (found == nullptr)
      bei::fail(BEI_TRT_NO_LIBRARY, "%s is no TensorRT library, or one that cannot build engines: it has no %s", file,
                name);
    return found;
  };
  const auto number = [&](const char *name) { return reinterpret_cast<int32_t (*)()>(symbol(name))(); };
  const int32_t major = number("getInferLibMajorVersion"), minor = number("getInferLibMinorVersion");
  version =
      std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(number("getInferLibPatchVersion"));
  if (dlsym(handle, "getInferLibBuildVersion") != nullptr)
    version += "." + std::to_string(number("getInferLibBuildVersion"));
  // RTX: a plan and the interface's virtual tables belong to one minor version's headers; newer minors only add to them.
  if (major != NV_TENSORRT_MAJOR)
    bei::fail(BEI_TRT_NO_LIBRARY, "%s is version %s; libbei_trt_" BEI_TRT_FLAVOUR ".so needs %d.x", file,
              version.c_str(), NV_TENSORRT_MAJOR);
  if (minor < NV_TENSORRT_MINOR)
    bei::fail(BEI_TRT_NO_LIBRARY,
              "%s is version %s; libbei_trt_" BEI_TRT_FLAVOUR ".so was built for %d.%d and needs that or a later %d.x",
              file, version.c_str(), NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_MAJOR);
  createRuntime = reinterpret_cast<void *(*)(void *, int32_t)>(symbol("createInferRuntime_INTERNAL"));
  createBuilder = reinterpret_cast<void *(*)(void *, int32_t)>(symbol("createInferBuilder_INTERNAL"));
  path = file;
  Dl_info where;
  if (dladdr(reinterpret_cast<void *>(createRuntime), &where) != 0 && where.dli_fname != nullptr)
    path = where.dli_fname;
}

std::unique_ptr<nvinfer1::IBuilder> bei_trt_library::builder() {
  auto *made = static_cast<nvinfer1::IBuilder *>(createBuilder(&logger, NV_TENSORRT_VERSION));
  if (made == nullptr)
    bei::fail(BEI_TRT_FAILED, "TensorRT %s makes no builder", version.c_str());
  return std::unique_ptr<nvinfer1::IBuilder>(made);
}

std::unique_ptr<nvinfer1::IRuntime> bei_trt_library::runtime() {
  auto *made = static_cast<nvinfer1::IRuntime *>(createRuntime(&logger, NV_TENSORRT_VERSION));
  if (made == nullptr)
    bei::fail(BEI_TRT_FAILED, "TensorRT %s makes no runtime", version.c_str());
  return std::unique_ptr<nvinfer1::IRuntime>(made);
}

namespace bei {

void copyDims(bei_trt_dims &to, const nvinfer1::Dims &from) {
  if (from.nbDims < 0 || from.nbDims > BEI_TRT_MAX_DIMS)
    fail(BEI_TRT_FAILED, "TensorRT finds no shape for a tensor, or one of more than %d dimensions", BEI_TRT_MAX_DIMS);
  to.count = from.nbDims;
  for (int32_t i = 0; i < from.nbDims; i++)
    to.size[i] = from.d[i];
}

void describe(bei_trt_tensor_info &info, const char *name, bool isInput, nvinfer1::DataType dtype,
              const nvinfer1::Dims &dims) {
  info = {};
  if (snprintf(info.name, sizeof info.name, "%s", name) >= static_cast<int>(sizeof info.name))
    fail(BEI_TRT_FAILED, "tensor %s has a name of more than %zu bytes", name, sizeof info.name - 1);
  info.is_input = isInput;
  info.dtype = static_cast<int32_t>(dtype);
  copyDims(info.dims, dims);
}

} // namespace bei

extern "C" __attribute__((visibility("default"))) int32_t bei_trt_open(uint32_t abi, const char *path, bei_trt_log log,
                                                                       void *log_context, int32_t log_info,
                                                                       bei_trt_library **out, bei_trt_api *api,
                                                                       bei_trt_error *error) {
  return bei::guard(error, [&] {
    if (abi != BEI_TRT_ABI)
      bei::fail(BEI_TRT_NO_LIBRARY,
                "libbei_trt_" BEI_TRT_FLAVOUR
                ".so speaks version %u of the internal interface, libbei.so version %u: they are of different builds",
                BEI_TRT_ABI, abi);
    auto library = std::make_unique<bei_trt_library>(log, log_context, log_info != 0);
    library->open(path);
    bei_trt_api filled = {};
    filled.features = (BEI_TRT_AT_LEAST(10, 14) ? BEI_TRT_HAS_ATTENTION : 0) |
                      (BEI_TRT_IS_RTX ? BEI_TRT_HAS_RUNTIME_CACHE : 0) |
                      (!BEI_TRT_IS_RTX && BEI_TRT_AT_LEAST(11, 0) ? BEI_TRT_HAS_LENGTHS : 0);
    filled.flavour = BEI_TRT_FLAVOUR;
    filled.version = library->version.c_str();
    filled.path = library->path.c_str();
    filled.device_count = bei::deviceCount;
    filled.device_get = bei::deviceGet;
    filled.blob_data = bei::blobData;
    filled.blob_free = bei::blobFree;
    bei::fillNetworks(filled);
    bei::fillPrograms(filled);
    bei::fillLanes(filled);
    *api = filled;
    *out = library.release(); // open for the process
  });
}
