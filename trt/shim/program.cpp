#include "program.h"

#include "failure.h"

using nvinfer1::Dims;

bei_trt_program::~bei_trt_program() {
  // TensorRT frees device memory: the context must be current. Where it cannot be, the memory is gone with it.
  CUcontext popped;
  const bool current = bei::cuda().cuCtxPushCurrent(device.context()) == CUDA_SUCCESS;
#if BEI_TRT_IS_RTX
  cache.reset();
  config.reset();
#endif
  engine.reset();
  runtime.reset();
  if (current)
    bei::cuda().cuCtxPopCurrent(&popped);
}

std::unique_ptr<nvinfer1::IExecutionContext> bei_trt_program::context() {
#if BEI_TRT_IS_RTX
  nvinfer1::IExecutionContext *made = engine->createExecutionContext(config.get());
#else
  nvinfer1::IExecutionContext *made =
      engine->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED);
#endif
  if (made == nullptr)
    bei::fail(BEI_TRT_FAILED, "TensorRT makes no execution context");
  return std::unique_ptr<nvinfer1::IExecutionContext>(made);
}

namespace bei {

namespace {

#if BEI_TRT_IS_RTX
void configure(bei_trt_program &program, const bei_trt_program_options &options) {
  program.config.reset(program.engine->createRuntimeConfig());
  if (!program.config)
    fail(BEI_TRT_FAILED, "TensorRT makes no runtime configuration");
  program.config->setExecutionContextAllocationStrategy(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED);
  // Kernels for each shape, made in its first run, which is at warm-up: docs/measurements.md.
  program.config->setDynamicShapesKernelSpecializationStrategy(
      nvinfer1::DynamicShapesKernelSpecializationStrategy::kEAGER);
  program.cache.reset(program.config->createRuntimeCache());
  if (!program.cache)
    fail(BEI_TRT_FAILED, "TensorRT makes no runtime cache");
  // A cache of another version or device is no loss: its kernels are made again.
  if (options.cache_size > 0 && !program.cache->deserialize(options.cache, options.cache_size))
    program.cache->reset();
  if (!program.config->setRuntimeCache(*program.cache))
    fail(BEI_TRT_FAILED, "TensorRT refuses the runtime cache");
}
#endif

// TensorRT does not say why it takes no plan: a lost or full device is no reason to build it again.
[[noreturn]] void failToLoad(const bei_trt_library &library, size_t size) {
  size_t available = 0, total = 0;
  check(cuda().cuMemGetInfo(&available, &total), "loading the plan");
  if (available < size)
    fail(BEI_TRT_NO_MEMORY, "the plan of %zu MB does not fit into the %zu of %zu MB that are free on the device",
         size >> 20, available >> 20, total >> 20);
  fail(BEI_TRT_BAD_PLAN, "TensorRT %s does not take the plan of %zu bytes", library.version.c_str(), size);
}

int32_t programNew(bei_trt_library *library, const void *plan, size_t size, const bei_trt_program_options *options,
                   bei_trt_program **out, bei_trt_error *error) {
  return guard(error, [&] {
    auto program = std::make_unique<bei_trt_program>(options->device);
    const Current current(program->device);
    program->library = library;
    program->runtime = library->runtime();
    program->engine.reset(program->runtime->deserializeCudaEngine(plan, size));
    if (!program->engine)
      failToLoad(*library, size);
#if BEI_TRT_IS_RTX
    configure(*program, *options);
#endif
    *out = program.release();
  });
}

int32_t programTensors(bei_trt_program *program, bei_trt_tensor_info *infos, int32_t room, int32_t *count,
                       bei_trt_error *error) {
  return guard(error, [&] {
    const nvinfer1::ICudaEngine &engine = *program->engine;
    const int32_t n = engine.getNbIOTensors();
    if (n > room)
      fail(BEI_TRT_BAD_PLAN, "the plan has %d inputs and outputs, more than %d", n, room);
    for (int32_t i = 0; i < n; i++) {
      const char *name = engine.getIOTensorName(i);
      const bool isInput = engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
      bei_trt_tensor_info &info = infos[i];
      describe(info, name, isInput, engine.getTensorDataType(name), engine.getTensorShape(name));
      if (isInput) {
        copyDims(info.least, engine.getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMIN));
        copyDims(info.most, engine.getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMAX));
      }
    }
    *count = n;
  });
}

int32_t programMemory(bei_trt_program *program, bei_trt_program_memory *out, bei_trt_error *error) {
  return guard(error, [&] {
    bei_trt_program_memory memory = {};
    memory.context = static_cast<uint64_t>(program->engine->getDeviceMemorySizeV2());
#if BEI_TRT_AT_LEAST(10, 14)
    const int64_t weights = program->engine->getEngineStat(nvinfer1::EngineStat::kTOTAL_WEIGHTS_SIZE);
    memory.weights = weights > 0 ? static_cast<uint64_t>(weights) : 0;
#endif
    *out = memory;
  });
}

int32_t programCache(bei_trt_program *program, bei_trt_blob **out, bei_trt_error *error) {
  return guard(error, [&] {
#if BEI_TRT_IS_RTX
    const Current current(program->device);
    auto blob = std::make_unique<bei_trt_blob>();
    blob->memory.reset(program->cache->serialize());
    if (!blob->memory)
      fail(BEI_TRT_FAILED, "TensorRT does not write its runtime cache");
    *out = blob.release();
#else
    (void)program, (void)out;
    fail(BEI_TRT_UNSUPPORTED, "this flavour has no runtime cache: its plans hold their kernels");
#endif
  });
}

void programFree(bei_trt_program *program) { delete program; }

} // namespace

void fillPrograms(bei_trt_api &api) {
  api.program_new = programNew;
  api.program_tensors = programTensors;
  api.program_memory = programMemory;
  api.program_cache = programCache;
  api.program_free = programFree;
}

} // namespace bei
