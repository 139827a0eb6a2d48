// Lanes: an execution context with its stream, its memory and its CUDA graphs.
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "failure.h"
#include "program.h"

namespace bei {

namespace {

// Waiting polls for so long, since waking a sleeping thread costs tens of microseconds, and then sleeps.
constexpr auto kPoll = std::chrono::microseconds(1000);

struct Binding {
  std::string name;
  size_t bytes = 0;
  void *host = nullptr;
  CUdeviceptr device = 0;
  bool isInput = false;
};

class Profiler : public nvinfer1::IProfiler {
public:
  std::string lines;
  void reportLayerTime(const char *name, float ms) noexcept override {
    char text[64];
    snprintf(text, sizeof text, "\t%.4f\n", static_cast<double>(ms));
    lines += name;
    lines += text;
  }
};

} // namespace

} // namespace bei

struct bei_trt_lane {
  bei_trt_program *program = nullptr;
  std::vector<bei::Binding> bindings;
  int32_t inputs = 0;
  std::unique_ptr<nvinfer1::IExecutionContext> context;
  CUstream stream = nullptr;
  CUevent done = nullptr;
  CUdeviceptr memory = 0; // the context's
  uint64_t memoryBytes = 0;
  std::map<int64_t, CUgraphExec> graphs;
  bei::Profiler profiler; // stays attached to the context from its first use on: TensorRT does not take it back

  ~bei_trt_lane();
  void shape(const bei_trt_dims *dims);
  void copyIn(const bei_trt_run &run);
  void copyOut(const bei_trt_run &run);
  void compute();
  void wait();
  bool enqueue(const bei_trt_run &run);
  CUgraphExec capture(const bei_trt_run &run);
};

bei_trt_lane::~bei_trt_lane() {
  const bei::Cuda &c = bei::cuda();
  CUcontext popped;
  const bool current = c.cuCtxPushCurrent(program->device.context()) == CUDA_SUCCESS;
  if (stream != nullptr)
    c.cuStreamSynchronize(stream);
  for (auto &graph : graphs)
    c.cuGraphExecDestroy(graph.second);
  context.reset();
  for (bei::Binding &b : bindings) {
    if (b.device != 0)
      c.cuMemFree(b.device);
    if (b.host != nullptr)
      c.cuMemFreeHost(b.host);
  }
  if (memory != 0)
    c.cuMemFree(memory);
  if (done != nullptr)
    c.cuEventDestroy(done);
  if (stream != nullptr)
    c.cuStreamDestroy(stream);
  if (current)
    c.cuCtxPopCurrent(&popped);
}

void bei_trt_lane::shape(const bei_trt_dims *dims) {
  for (int32_t i = 0; i < inputs; i++) {
    nvinfer1::Dims d = {};
    d.nbDims = dims[i].count;
    for (int32_t k = 0; k < d.nbDims && k < BEI_TRT_MAX_DIMS; k++)
      d.d[k] = dims[i].size[k];
    if (!context->setInputShape(bindings[static_cast<size_t>(i)].name.c_str(), d))
      bei::fail(BEI_TRT_FAILED, "TensorRT refuses the shape of input %s", bindings[static_cast<size_t>(i)].name.c_str());
  }
}

void bei_trt_lane::copyIn(const bei_trt_run &run) {
  for (size_t i = 0; i < static_cast<size_t>(inputs); i++)
    if (run.bytes[i] > 0)
      bei::check(bei::cuda().cuMemcpyHtoDAsync(bindings[i].device, bindings[i].host, run.bytes[i], stream), "copying an input to the device");
}

void bei_trt_lane::copyOut(const bei_trt_run &run) {
  for (size_t i = static_cast<size_t>(inputs); i < bindings.size(); i++)
    if (run.bytes[i] > 0)
      bei::check(bei::cuda().cuMemcpyDtoHAsync(bindings[i].host, bindings[i].device, run.bytes[i], stream), "copying an output from the device");
}

void bei_trt_lane::compute() {
  if (context->enqueueV3(reinterpret_cast<cudaStream_t>(stream)))
    return;
  const CUresult state = bei::cuda().cuStreamQuery(stream);
  if (bei::isLost(state))
    bei::check(state, "running the engine");
  bei::fail(BEI_TRT_FAILED, "TensorRT does not run the engine");
}

CUgraphExec bei_trt_lane::capture(const bei_trt_run &run) {
  const bei::Cuda &c = bei::cuda();
  bei::check(c.cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "starting to capture a CUDA graph");
  CUgraph graph = nullptr;
  try {
    copyIn(run);
    compute();
    copyOut(run);
  } catch (...) {
    if (c.cuStreamEndCapture(stream, &graph) == CUDA_SUCCESS && graph != nullptr)
      c.cuGraphDestroy(graph);
    throw;
  }
  bei::check(c.cuStreamEndCapture(stream, &graph), "capturing a CUDA graph");
  CUgraphExec made = nullptr;
  const CUresult result = c.cuGraphInstantiate(&made, graph, 0);
  c.cuGraphDestroy(graph);
  bei::check(result, "instantiating a CUDA graph");
  return made;
}

bool bei_trt_lane::enqueue(const bei_trt_run &run) {
  const bei::Cuda &c = bei::cuda();
  for (size_t i = 0; i < bindings.size(); i++)
    if (run.bytes[i] > bindings[i].bytes)
      bei::fail(BEI_TRT_FAILED, "a run copies %zu bytes of %s, which has %zu", run.bytes[i], bindings[i].name.c_str(), bindings[i].bytes);
  bool captured = false;
  const auto found = graphs.find(run.graph);
  if (run.graph >= 0 && found != graphs.end()) {
    bei::check(c.cuGraphLaunch(found->second, stream), "launching a CUDA graph");
  } else {
    shape(run.dims);
    copyIn(run);
    compute();
    copyOut(run);
    if (run.graph >= 0) {
      // TensorRT wants a plain run of the shapes before they are captured: this was it.
      bei::check(c.cuStreamSynchronize(stream), "running the engine");
      graphs[run.graph] = capture(run);
      captured = true;
    }
  }
  bei::check(c.cuEventRecord(done, stream), "recording the end of a run");
  return captured;
}

void bei_trt_lane::wait() {
  const bei::Cuda &c = bei::cuda();
  const auto end = std::chrono::steady_clock::now() + bei::kPoll;
  CUresult state = c.cuEventQuery(done);
  while (state == CUDA_ERROR_NOT_READY && std::chrono::steady_clock::now() < end)
    state = c.cuEventQuery(done);
  if (state == CUDA_ERROR_NOT_READY)
    state = c.cuEventSynchronize(done);
  bei::check(state, "running the engine");
}

namespace bei {

namespace {

int32_t laneNew(bei_trt_program *program, bei_trt_binding *wanted, int32_t count, uint64_t context_bytes, bei_trt_lane **out, bei_trt_error *error) {
  return guard(error, [&] {
    const Cuda &c = cuda();
    const Current current(program->device);
    auto lane = std::make_unique<bei_trt_lane>();
    lane->program = program;
    lane->context = program->context();
    check(c.cuStreamCreate(&lane->stream, CU_STREAM_NON_BLOCKING), "creating a stream");
    check(c.cuEventCreate(&lane->done, CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC), "creating an event");
    lane->bindings.resize(static_cast<size_t>(count));
    for (size_t i = 0; i < lane->bindings.size(); i++) {
      Binding &b = lane->bindings[i];
      b.name = wanted[i].name;
      b.bytes = wanted[i].bytes;
      b.isInput = program->engine->getTensorIOMode(wanted[i].name) == nvinfer1::TensorIOMode::kINPUT;
      if (b.isInput && static_cast<size_t>(lane->inputs) != i)
        fail(BEI_TRT_FAILED, "input %s comes after an output", wanted[i].name);
      lane->inputs += b.isInput ? 1 : 0;
      check(c.cuMemAlloc(&b.device, b.bytes), "allocating device memory for an input or output");
      check(c.cuMemHostAlloc(&b.host, b.bytes, CU_MEMHOSTALLOC_PORTABLE), "allocating pinned memory");
      memset(b.host, 0, b.bytes);
      check(c.cuMemsetD8Async(b.device, 0, b.bytes, lane->stream), "clearing device memory");
      if (!lane->context->setTensorAddress(wanted[i].name, reinterpret_cast<void *>(b.device)))
        fail(BEI_TRT_FAILED, "the plan has no input or output %s", wanted[i].name);
    }
    lane->memoryBytes = static_cast<uint64_t>(program->engine->getDeviceMemorySizeV2());
    if (context_bytes != 0 && context_bytes < lane->memoryBytes)
      lane->memoryBytes = context_bytes;
    if (lane->memoryBytes > 0)
      check(c.cuMemAlloc(&lane->memory, lane->memoryBytes), "allocating the context's device memory");
    lane->context->setDeviceMemoryV2(reinterpret_cast<void *>(lane->memory), static_cast<int64_t>(lane->memoryBytes));
    check(c.cuStreamSynchronize(lane->stream), "preparing a lane");
    for (size_t i = 0; i < lane->bindings.size(); i++)
      wanted[i].host = lane->bindings[i].host;
    *out = lane.release();
  });
}

int32_t laneNeeds(bei_trt_lane *lane, const bei_trt_dims *dims, uint64_t *bytes, bei_trt_error *error) {
  return guard(error, [&] {
    const Current current(lane->program->device);
    lane->shape(dims);
    *bytes = lane->context->updateDeviceMemorySizeForShapes();
    // Asking tells the context to expect that size from now on: say again what it has.
    lane->context->setDeviceMemoryV2(reinterpret_cast<void *>(lane->memory), static_cast<int64_t>(lane->memoryBytes));
  });
}

int32_t laneEnqueue(bei_trt_lane *lane, const bei_trt_run *run, int32_t *captured, bei_trt_error *error) {
  return guard(error, [&] {
    const Current current(lane->program->device);
    const bool made = lane->enqueue(*run);
    if (captured != nullptr)
      *captured = made ? 1 : 0;
  });
}

int32_t laneWait(bei_trt_lane *lane, bei_trt_error *error) {
  return guard(error, [&] {
    const Current current(lane->program->device);
    lane->wait();
  });
}

int32_t laneDropGraph(bei_trt_lane *lane, int64_t key, bei_trt_error *error) {
  return guard(error, [&] {
    const auto found = lane->graphs.find(key);
    if (found == lane->graphs.end())
      return;
    const Current current(lane->program->device);
    const CUgraphExec graph = found->second;
    lane->graphs.erase(found);
    check(cuda().cuGraphExecDestroy(graph), "destroying a CUDA graph");
  });
}

int32_t laneProfile(bei_trt_lane *lane, const bei_trt_run *run, bei_trt_blob **out, bei_trt_error *error) {
  return guard(error, [&] {
    const Current current(lane->program->device);
    bei_trt_run plain = *run;
    plain.graph = -1;
    lane->profiler.lines.clear();
    if (lane->context->getProfiler() == nullptr)
      lane->context->setProfiler(&lane->profiler);
    lane->context->setEnqueueEmitsProfile(true);
    lane->enqueue(plain);
    lane->wait();
    lane->context->setEnqueueEmitsProfile(false);
    auto blob = std::make_unique<bei_trt_blob>();
    blob->text = std::move(lane->profiler.lines);
    *out = blob.release();
  });
}

void laneFree(bei_trt_lane *lane) { delete lane; }

} // namespace

void fillLanes(bei_trt_api &api) {
  api.lane_new = laneNew;
  api.lane_needs = laneNeeds;
  api.lane_enqueue = laneEnqueue;
  api.lane_wait = laneWait;
  api.lane_drop_graph = laneDropGraph;
  api.lane_profile = laneProfile;
  api.lane_free = laneFree;
}

} // namespace bei
