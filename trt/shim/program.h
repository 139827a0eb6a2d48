// A plan on a device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda.h"
#include "library.h"

struct bei_trt_program {
  bei_trt_library *library = nullptr;
  bei::Device device;
  std::unique_ptr<nvinfer1::IRuntime> runtime;
  std::unique_ptr<nvinfer1::ICudaEngine> engine;
#if BEI_TRT_IS_RTX
  std::unique_ptr<nvinfer1::IRuntimeConfig> config; // before the cache, which it creates and must outlive
  std::unique_ptr<nvinfer1::IRuntimeCache> cache;
#endif

  explicit bei_trt_program(int32_t index) : device(index) {}
  ~bei_trt_program();
  std::unique_ptr<nvinfer1::IExecutionContext> context();
};
