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
  size_t deviceBytes = 0, hostBytes = 0;
  char *host = nullptr;
  CUdeviceptr device = 0;
  bool isInput = false;
};

using HostMemory = std::unique_ptr<void, decltype(Cuda::cuMemFreeHost)>;

HostMemory allocateHost(size_t bytes) {
  void *made = nullptr;
  check(cuda().cuMemHostAlloc(&made, bytes, CU_MEMHOSTALLOC_PORTABLE), "allocating pinned memory");
  return HostMemory(made, cuda().cuMemFreeHost);
}

// Most bytes that a graph keeps of what its copies read: sizes are eight each.
constexpr size_t kMostKept = 4096;

// A CUDA graph of launches of some shapes. TensorRT may copy sizes of the shapes to the device (copy_h2d in a plan's program; for a boolean mask,
// say, which our plans have not), from host memory of the context: what a graph's copy would read when it is replayed is those of the shapes that ran
// last without a graph. So a graph keeps what its copies read when it was captured. (A kernel that reads the host's memory by itself would not be seen.)
class Graph {
public:
  // Of a captured one, which may be destroyed afterwards. nullptr where it does not stand on its own, for the reason that why says.
  static std::unique_ptr<Graph> of(CUgraph captured, std::string &why);
  ~Graph();
  Graph(const Graph &) = delete;
  Graph &operator=(const Graph &) = delete;
  CUgraphExec launches() const { return launches_; }

private:
  CUgraphExec launches_ = nullptr;
  HostMemory kept_ = HostMemory(nullptr, nullptr);
  size_t used_ = 0;

  Graph() = default;
  const char *admit(CUgraphNode node);
  const char *admitCopy(CUgraphNode node);
  void *keep(const void *from, size_t bytes);
};

// Whether memory of a copy lies on the device alone, which an address tells but not the copy: CUDA's addresses are unified.
bool onDevice(CUmemorytype type, CUdeviceptr at) {
  if (type == CU_MEMORYTYPE_HOST)
    return false;
  if (type == CU_MEMORYTYPE_ARRAY)
    return true;
  const Cuda &c = cuda();
  unsigned found = 0, managed = 0;
  const CUresult result = c.cuPointerGetAttribute(&found, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at);
  if (result == CUDA_ERROR_INVALID_VALUE)
    return false; // memory that CUDA does not know
  check(result, "asking where memory lies");
  if (c.cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, at) != CUDA_SUCCESS)
    managed = 0;
  return managed == 0 && found != CU_MEMORYTYPE_HOST;
}

// nullptr: there is no room.
void *Graph::keep(const void *from, size_t bytes) {
  if (kept_ == nullptr)
    kept_ = allocateHost(kMostKept);
  const size_t at = (used_ + 15) / 16 * 16;
  if (at > kMostKept || bytes > kMostKept - at)
    return nullptr;
  used_ = at + bytes;
  return memcpy(static_cast<char *>(kept_.get()) + at, from, bytes);
}

const char *Graph::admitCopy(CUgraphNode node) {
  const Cuda &c = cuda();
  CUDA_MEMCPY3D copy = {};
  if (c.cuGraphMemcpyNodeGetParams(node, &copy) != CUDA_SUCCESS)
    return "has a copy that cannot be read";
  if (!onDevice(copy.dstMemoryType, copy.dstDevice))
    return "copies to the host";
  if (onDevice(copy.srcMemoryType, copy.srcDevice) || copy.WidthInBytes == 0)
    return nullptr;
  if (copy.Height > 1 || copy.Depth > 1 || copy.srcY != 0 || copy.srcZ != 0)
    return "copies more than a row from the host";
  const void *source =
      copy.srcMemoryType == CU_MEMORYTYPE_HOST ? copy.srcHost : reinterpret_cast<const void *>(copy.srcDevice);
  copy.srcHost = keep(static_cast<const char *>(source) + copy.srcXInBytes, copy.WidthInBytes);
  if (copy.srcHost == nullptr)
    return "copies more than sizes from the host";
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcXInBytes = 0;
  return c.cuGraphMemcpyNodeSetParams(node, &copy) == CUDA_SUCCESS ? nullptr : "has a copy that cannot be changed";
}

// nullptr: the node may stay.
const char *Graph::admit(CUgraphNode node) {
  CUgraphNodeType type;
  check(cuda().cuGraphNodeGetType(node, &type), "reading a node of a CUDA graph");
  switch (type) {
  case CU_GRAPH_NODE_TYPE_KERNEL:
  case CU_GRAPH_NODE_TYPE_MEMSET:
  case CU_GRAPH_NODE_TYPE_EMPTY:
    return nullptr;
  case CU_GRAPH_NODE_TYPE_MEMCPY:
    return admitCopy(node);
  default:
    return "has nodes of other kinds than kernels and copies";
  }
}

std::unique_ptr<Graph> Graph::of(CUgraph captured, std::string &why) {
  const Cuda &c = cuda();
  std::unique_ptr<Graph> made(new Graph);
  size_t count = 0;
  check(c.cuGraphGetNodes(captured, nullptr, &count), "counting the nodes of a CUDA graph");
  std::vector<CUgraphNode> nodes(count);
  check(c.cuGraphGetNodes(captured, nodes.data(), &count), "listing the nodes of a CUDA graph");
  for (const CUgraphNode node : nodes) {
    const char *reason = made->admit(node);
    if (reason != nullptr) {
      why = reason;
      return nullptr;
    }
  }
  check(c.cuGraphInstantiate(&made->launches_, captured, 0), "instantiating a CUDA graph");
  return made;
}

Graph::~Graph() {
  if (launches_ != nullptr)
    cuda().cuGraphExecDestroy(launches_);
}

} // namespace

} // namespace bei

struct bei_trt_lane {
  bei_trt_program *program = nullptr;
  std::vector<bei::Binding> bindings;
  int32_t inputs = 0;
  std::unique_ptr<nvinfer1::IExecutionContext> context;
  CUstream stream = nullptr;
  CUevent done = nullptr;
  CUdeviceptr memory = 0; // the context's, of so many bytes
  size_t memoryBytes = 0;
  std::map<int64_t, std::unique_ptr<bei::Graph>> graphs; // nullptr: launches of that key go without
  bool warned = false;                                   // of such

  ~bei_trt_lane();
  void shape(const bei_trt_dims *dims);
  void prepare(const bei_trt_dims *dims);
  void copy(const bei_trt_launch &launch, size_t from, size_t to);
  void compute();
  void wait();
  bei_trt_launch_kind enqueue(const bei_trt_launch &launch);
  std::unique_ptr<bei::Graph> capture();
  void reserve(const bei_trt_dims *dims);
  void resizeHost(bei::Binding &binding, size_t bytes);
};

bei_trt_lane::~bei_trt_lane() {
  const bei::Cuda &c = bei::cuda();
  CUcontext popped;
  const bool current = c.cuCtxPushCurrent(program->device.context()) == CUDA_SUCCESS;
  if (stream != nullptr)
    c.cuStreamSynchronize(stream);
  graphs.clear();
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
      bei::fail(BEI_TRT_FAILED, "TensorRT refuses the shape of input %s",
                bindings[static_cast<size_t>(i)].name.c_str());
  }
}

// Makes the context ready for launches of these inputs. It lays its memory out for the shapes of its last update, and keeps that for
// whatever runs next, right or wrong: so each change of shapes has its own.
void bei_trt_lane::prepare(const bei_trt_dims *dims) {
  shape(dims);
  const size_t bytes = context->updateDeviceMemorySizeForShapes();
  if (bytes > memoryBytes)
    bei::fail(BEI_TRT_FAILED, "a launch needs %zu bytes of context memory; the lane has reserved %zu", bytes,
              memoryBytes);
  context->setDeviceMemoryV2(reinterpret_cast<void *>(memory), static_cast<int64_t>(memoryBytes));
}

// Copies bindings [from, to): inputs to the device, outputs from it.
void bei_trt_lane::copy(const bei_trt_launch &launch, size_t from, size_t to) {
  for (size_t i = from; i < to; i++) {
    const bei::Binding &b = bindings[i];
    const size_t offset = launch.host_offsets[i], bytes = launch.bytes[i];
    if (bytes == 0)
      continue;
    if (bytes > b.deviceBytes || offset > b.hostBytes || bytes > b.hostBytes - offset)
      bei::fail(BEI_TRT_FAILED, "a launch copies %zu bytes of %s at %zu; it has %zu on the device and %zu of staging",
                bytes, b.name.c_str(), offset, b.deviceBytes, b.hostBytes);
    if (b.isInput)
      bei::check(bei::cuda().cuMemcpyHtoDAsync(b.device, b.host + offset, bytes, stream),
                 "copying an input to the device");
    else
      bei::check(bei::cuda().cuMemcpyDtoHAsync(b.host + offset, b.device, bytes, stream),
                 "copying an output from the device");
  }
}

void bei_trt_lane::compute() {
  if (context->enqueueV3(reinterpret_cast<cudaStream_t>(stream)))
    return;
  const CUresult state = bei::cuda().cuStreamQuery(stream);
  if (bei::isLost(state))
    bei::check(state, "running the engine");
  bei::fail(BEI_TRT_FAILED, "TensorRT does not run the engine");
}

std::unique_ptr<bei::Graph> bei_trt_lane::capture() {
  const bei::Cuda &c = bei::cuda();
  bei::check(c.cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "starting to capture a CUDA graph");
  CUgraph graph = nullptr;
  try {
    compute();
  } catch (...) {
    if (c.cuStreamEndCapture(stream, &graph) == CUDA_SUCCESS && graph != nullptr)
      c.cuGraphDestroy(graph);
    throw;
  }
  bei::check(c.cuStreamEndCapture(stream, &graph), "capturing a CUDA graph");
  const std::unique_ptr<CUgraph_st, decltype(c.cuGraphDestroy)> captured(graph, c.cuGraphDestroy);
  std::string why;
  std::unique_ptr<bei::Graph> made = bei::Graph::of(graph, why);
  if (made == nullptr && !warned) {
    warned = true;
    why = "a CUDA graph of TensorRT " + why + ": launches of its shapes, and maybe of others, go without graphs";
    program->library->logger.log(nvinfer1::ILogger::Severity::kWARNING, why.c_str());
  }
  return made;
}

bei_trt_launch_kind bei_trt_lane::enqueue(const bei_trt_launch &launch) {
  const bei::Cuda &c = bei::cuda();
  const size_t in = static_cast<size_t>(inputs);
  const auto found = launch.graph >= 0 ? graphs.find(launch.graph) : graphs.end();
  bei_trt_launch_kind kind = BEI_TRT_PLAIN;
  if (found != graphs.end() && found->second != nullptr) {
    copy(launch, 0, in);
    bei::check(c.cuGraphLaunch(found->second->launches(), stream), "launching a CUDA graph");
    kind = BEI_TRT_REPLAYED;
  } else {
    // Earlier launches may still have to read the sizes that this one's replace.
    bei::check(c.cuStreamSynchronize(stream), "running the engine");
    prepare(launch.dims);
    copy(launch, 0, in);
    compute();
    if (launch.graph >= 0 && found == graphs.end()) {
      // TensorRT wants a plain run of the shapes before they are captured: this was it.
      bei::check(c.cuStreamSynchronize(stream), "running the engine");
      std::unique_ptr<bei::Graph> &made = graphs[launch.graph] = capture();
      kind = made != nullptr ? BEI_TRT_CAPTURED : BEI_TRT_PLAIN;
    }
  }
  copy(launch, in, bindings.size());
  bei::check(c.cuEventRecord(done, stream), "recording the end of a launch");
  return kind;
}

void bei_trt_lane::reserve(const bei_trt_dims *dims) {
  if (memory != 0)
    bei::fail(BEI_TRT_FAILED, "the lane has its context's memory already");
  shape(dims);
  const size_t bytes = context->updateDeviceMemorySizeForShapes();
  if (bytes > 0)
    bei::check(bei::cuda().cuMemAlloc(&memory, bytes), "allocating the context's device memory");
  memoryBytes = bytes;
}

void bei_trt_lane::resizeHost(bei::Binding &binding, size_t bytes) {
  const bei::Cuda &c = bei::cuda();
  if (binding.host != nullptr)
    c.cuMemFreeHost(binding.host);
  binding.host = nullptr;
  binding.hostBytes = 0;
  if (bytes == 0)
    return;
  binding.host = static_cast<char *>(bei::allocateHost(bytes).release());
  memset(binding.host, 0, bytes);
  binding.hostBytes = bytes;
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

int32_t laneNew(bei_trt_program *program, bei_trt_binding *wanted, int32_t count, bei_trt_lane **out,
                bei_trt_error *error) {
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
      b.isInput = program->engine->getTensorIOMode(wanted[i].name) == nvinfer1::TensorIOMode::kINPUT;
      if (b.isInput && static_cast<size_t>(lane->inputs) != i)
        fail(BEI_TRT_FAILED, "input %s comes after an output", wanted[i].name);
      lane->inputs += b.isInput ? 1 : 0;
      check(c.cuMemAlloc(&b.device, wanted[i].device_bytes), "allocating device memory for an input or output");
      b.deviceBytes = wanted[i].device_bytes;
      check(c.cuMemsetD8Async(b.device, 0, b.deviceBytes, lane->stream), "clearing device memory");
      lane->resizeHost(b, wanted[i].host_bytes);
      if (!lane->context->setTensorAddress(wanted[i].name, reinterpret_cast<void *>(b.device)))
        fail(BEI_TRT_FAILED, "the plan has no input or output %s", wanted[i].name);
    }
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
  });
}

int32_t laneReserve(bei_trt_lane *lane, const bei_trt_dims *dims, bei_trt_error *error) {
  return guard(error, [&] {
    const Current current(lane->program->device);
    lane->reserve(dims);
  });
}

int32_t laneHost(bei_trt_lane *lane, int32_t binding, size_t bytes, void **host, bei_trt_error *error) {
  return guard(error, [&] {
    const Current current(lane->program->device);
    Binding &b = lane->bindings.at(static_cast<size_t>(binding));
    lane->resizeHost(b, bytes);
    *host = b.host;
  });
}

int32_t laneEnqueue(bei_trt_lane *lane, const bei_trt_launch *launch, int32_t *kind, bei_trt_error *error) {
  return guard(error, [&] {
    const Current current(lane->program->device);
    *kind = lane->enqueue(*launch);
  });
}

int32_t laneWait(bei_trt_lane *lane, bei_trt_error *error) {
  return guard(error, [&] {
    const Current current(lane->program->device);
    lane->wait();
  });
}

void laneFree(bei_trt_lane *lane) { delete lane; }

} // namespace

void fillLanes(bei_trt_api &api) {
  api.lane_new = laneNew;
  api.lane_needs = laneNeeds;
  api.lane_reserve = laneReserve;
  api.lane_host = laneHost;
  api.lane_enqueue = laneEnqueue;
  api.lane_wait = laneWait;
  api.lane_free = laneFree;
}

} // namespace bei
