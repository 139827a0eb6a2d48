// TensorRT's own library, opened at run time, and its logger.
#pragma once

#include <memory>
#include <string>

#include <NvInfer.h>

#include "../shim.h"

// What distinguishes the flavours, from the headers that this source is compiled against.
#ifdef TRT_MAJOR_RTX
#define BEI_TRT_IS_RTX 1
#else
#define BEI_TRT_IS_RTX 0
#endif
// Whether TensorRT proper is at least of that version. TensorRT-RTX 1.6 has what 11.0 has.
#define BEI_TRT_AT_LEAST(major, minor)                                                                                 \
  (BEI_TRT_IS_RTX || NV_TENSORRT_MAJOR > (major) || (NV_TENSORRT_MAJOR == (major) && NV_TENSORRT_MINOR >= (minor)))

namespace bei {

class Logger : public nvinfer1::ILogger {
public:
  Logger(bei_trt_log log, void *context, bool info) : log_(log), context_(context), info_(info) {}
  void log(Severity severity, const char *text) noexcept override;

private:
  bei_trt_log log_;
  void *context_;
  bool info_;
};

} // namespace bei

struct bei_trt_library {
  bei::Logger logger;
  std::string version, path;
  void *(*createBuilder)(void *logger, int32_t version) = nullptr;
  void *(*createRuntime)(void *logger, int32_t version) = nullptr;

  bei_trt_library(bei_trt_log log, void *context, bool info) : logger(log, context, info) {}
  void open(const char *file);
  std::unique_ptr<nvinfer1::IBuilder> builder();
  std::unique_ptr<nvinfer1::IRuntime> runtime();
};

struct bei_trt_blob {
  std::unique_ptr<nvinfer1::IHostMemory> memory;
};

namespace bei {

void copyDims(bei_trt_dims &to, const nvinfer1::Dims &from);
void describe(bei_trt_tensor_info &, const char *name, bool isInput, nvinfer1::DataType, const nvinfer1::Dims &);

// The functions of the interface, filled in by the file that has them.
void fillNetworks(bei_trt_api &);
void fillPrograms(bei_trt_api &);
void fillLanes(bei_trt_api &);

} // namespace bei
