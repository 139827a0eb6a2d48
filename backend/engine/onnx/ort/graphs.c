// CUDA graphs of runs, and the weights that the sessions which capture them share.
#include <stdio.h>

#include "session.h"

// ---- Weights ----

enum { ALIGNMENT = 256 }; // of tensors on the device

static size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static OrtMemoryInfo *device_memory(int32_t device, char **error) {
  OrtMemoryInfo *info = NULL;
  *error = bei_ort_error(bei_ort_api->CreateMemoryInfo("Cuda", OrtDeviceAllocator, device, OrtMemTypeDefault, &info));
  return info;
}

typedef struct {
  void *data;
  size_t bytes, rank;
  int64_t dims[8];
  ONNXTensorElementDataType type;
} constant;

static char *read_constant(OrtValue *value, constant *out) {
  OrtTensorTypeAndShapeInfo *shape;
  TRY(GetTensorTypeAndShape(value, &shape));
  OrtStatus *status = bei_ort_api->GetTensorElementType(shape, &out->type);
  if (status == NULL)
    status = bei_ort_api->GetDimensionsCount(shape, &out->rank);
  if (status == NULL && out->rank > 8)
    status = bei_ort_api->CreateStatus(ORT_INVALID_ARGUMENT, "a weight has more than eight dimensions");
  if (status == NULL)
    status = bei_ort_api->GetDimensions(shape, out->dims, out->rank);
  bei_ort_api->ReleaseTensorTypeAndShapeInfo(shape);
  if (status == NULL)
    status = bei_ort_api->GetTensorSizeInBytes(value, &out->bytes);
  if (status == NULL)
    status = bei_ort_api->GetTensorMutableData(value, &out->data);
  return bei_ort_error(status);
}

static char *total_bytes(const tensors *t, size_t *out) {
  *out = 0;
  for (size_t i = 0; i < t->count; i++) {
    constant c;
    char *error = read_constant(t->values[i], &c);
    if (error != NULL)
      return error;
    *out += aligned(c.bytes);
  }
  return NULL;
}

static char *copy_constants(bei_ort_weights *weights, const tensors *from, char *memory, OrtMemoryInfo *info,
                            const bei_cuda_driver *driver) {
  size_t at = 0;
  for (size_t i = 0; i < from->count; i++) {
    constant c;
    OrtValue *value;
    char *to = memory + at, *error = read_constant(from->values[i], &c);
    if (error != NULL)
      return error;
    if (driver == NULL)
      memcpy(to, c.data, c.bytes);
    else
      error = bei_cuda_failed("copying the weights to the device",
                              driver->copy_in((bei_cuda_address)(uintptr_t)to, c.data, c.bytes));
    if (error != NULL)
      return error;
    TRY(CreateTensorWithDataAsOrtValue(info, to, c.bytes, c.dims, c.rank, c.type, &value));
    error = bei_ort_tensors_append(&weights->values, from->names[i], value);
    if (error != NULL)
      return error;
    at += aligned(c.bytes);
  }
  return NULL;
}

static char *upload(bei_ort_weights *weights, const tensors *from, size_t total) {
  const bei_cuda_driver *driver;
  char *error = bei_cuda_enter(weights->device, &driver);
  if (error != NULL)
    return error;
  error = bei_cuda_failed("allocating memory for the weights", driver->allocate(&weights->memory, total));
  OrtMemoryInfo *info = error == NULL ? device_memory(weights->device, &error) : NULL;
  if (error == NULL)
    error = copy_constants(weights, from, (char *)(uintptr_t)weights->memory, info, driver);
  if (error == NULL) // the sessions' streams do not wait for copies, which may be under way still
    error = bei_cuda_failed("copying the weights to the device", driver->stream_wait(NULL));
  if (info != NULL)
    bei_ort_api->ReleaseMemoryInfo(info);
  bei_cuda_leave();
  return error;
}

static char *fill_weights(bei_ort_weights *weights, const tensors *from) {
  size_t total;
  char *error = total_bytes(from, &total);
  if (error != NULL)
    return error;
  total = total > 0 ? total : ALIGNMENT;
  if (weights->device >= 0)
    return upload(weights, from, total);
  if (posix_memalign(&weights->host, ALIGNMENT, total) != 0)
    return bei_ort_no_memory();
  return copy_constants(weights, from, weights->host, bei_ort_cpu, NULL);
}

char *bei_ort_weights_new(const bei_ort_builder *from, bei_ort_weights **out) {
  bei_exit_inside inside;
  bei_ort_weights *weights = calloc(1, sizeof *weights);
  if (weights == NULL)
    return bei_ort_no_memory();
  weights->device = from->device;
  char *error;
  if (bei_exit_enter(&inside, NULL, NULL)) {
    error = fill_weights(weights, &from->constants);
    bei_exit_leave(&inside);
  } else {
    error = strdup(BEI_EXITING);
  }
  if (error != NULL)
    bei_ort_weights_free(weights);
  else
    *out = weights;
  return error;
}

void bei_ort_weights_free(bei_ort_weights *weights) {
  const bei_cuda_driver *driver;
  bei_exit_inside inside;
  if (weights == NULL || !bei_exit_enter(&inside, NULL, NULL))
    return; // a process that exits frees it all
  bei_ort_tensors_free(&weights->values);
  if (weights->memory != 0) {
    char *error = bei_cuda_enter(weights->device, &driver);
    if (error == NULL) {
      driver->free(weights->memory);
      bei_cuda_leave();
    }
    free(error); // the context is gone, and the memory with it
  }
  free(weights->host);
  bei_exit_leave(&inside);
  free(weights);
}

// ---- Graphs ----

// Bytes of the host between the first and the last of some tensors, and where they lie on the device.
typedef struct {
  char *begin, *end;
  bei_cuda_address device;
} span;

struct bei_ort_graph {
  bei_ort_session *session;
  const bei_cuda_driver *driver;
  span in, out;
  bei_cuda_address memory; // of both
  bei_cuda_graph_exec launches;
};

static size_t span_bytes(const span *s) { return (size_t)(s->end - s->begin); }

static span span_of(const bei_ort_tensor *list, size_t count) {
  span s = {list[0].data, list[0].data, 0};
  for (size_t i = 0; i < count; i++) {
    char *begin = list[i].data, *end = begin + list[i].bytes;
    s.begin = begin < s.begin ? begin : s.begin;
    s.end = end > s.end ? end : s.end;
  }
  return s;
}

// Whether the session reads an input on the CPU.
static char *reads_on_cpu(OrtSession *session, const char *name, bool *out) {
  OrtAllocator *allocator;
  size_t count;
  const OrtMemoryInfo *infos[BEI_ORT_MAX_TENSORS];
  TRY(GetAllocatorWithDefaultOptions(&allocator));
  TRY(SessionGetInputCount(session, &count));
  if (count > BEI_ORT_MAX_TENSORS)
    return strdup("too many inputs");
  TRY(SessionGetMemoryInfoForInputs(session, infos, count));
  for (size_t i = 0; i < count; i++) {
    char *found;
    TRY(SessionGetInputName(session, i, allocator, &found));
    bool same = strcmp(found, name) == 0;
    free(bei_ort_error(bei_ort_api->AllocatorFree(allocator, found)));
    if (same) {
      OrtMemoryInfoDeviceType type;
      bei_ort_api->MemoryInfoGetDeviceType(infos[i], &type);
      *out = type == OrtMemoryInfoDeviceType_CPU;
      return NULL;
    }
  }
  return strdup("the session lacks an input");
}

typedef struct {
  const char *names[BEI_ORT_MAX_TENSORS];
  OrtValue *values[BEI_ORT_MAX_TENSORS];
  size_t inputs, outputs;
} run_values;

static char *make_value(const bei_ort_tensor *t, const span *in, OrtMemoryInfo *device, OrtValue **out) {
  void *data = t->data;
  if (device != bei_ort_cpu)
    data = (void *)(uintptr_t)(in->device + (size_t)((char *)t->data - in->begin));
  return bei_ort_error(bei_ort_api->CreateTensorWithDataAsOrtValue(device, data, t->bytes, t->dims, t->rank,
                                                                   (ONNXTensorElementDataType)t->type, out));
}

static char *make_values(const bei_ort_graph *graph, const bei_ort_tensor *inputs, const bei_ort_tensor *outputs,
                         OrtMemoryInfo *device, run_values *v) {
  for (size_t i = 0; i < v->inputs + v->outputs; i++) {
    const bei_ort_tensor *t = i < v->inputs ? &inputs[i] : &outputs[i - v->inputs];
    bool on_cpu = false;
    char *error = i < v->inputs ? reads_on_cpu(graph->session->session, t->name, &on_cpu) : NULL;
    if (error == NULL)
      error = make_value(t, i < v->inputs ? &graph->in : &graph->out, on_cpu ? bei_ort_cpu : device, &v->values[i]);
    if (error != NULL)
      return error;
    v->names[i] = t->name;
  }
  return NULL;
}

static char *compute(const bei_ort_graph *graph, const OrtRunOptions *options, run_values *v) {
  return bei_ort_error(bei_ort_api->Run(graph->session->session, options, v->names, (const OrtValue *const *)v->values,
                                        v->inputs, v->names + v->inputs, v->outputs, v->values + v->inputs));
}

static char *copy_in(const bei_ort_graph *graph) {
  return bei_cuda_failed(
      "copying inputs to the device",
      graph->driver->copy_in_async(graph->in.device, graph->in.begin, span_bytes(&graph->in), graph->session->stream));
}

static char *copy_out(const bei_ort_graph *graph) {
  return bei_cuda_failed("copying outputs from the device",
                         graph->driver->copy_out_async(graph->out.begin, graph->out.device, span_bytes(&graph->out),
                                                       graph->session->stream));
}

static char *enqueue(const bei_ort_graph *graph, const OrtRunOptions *options, run_values *v) {
  char *error = copy_in(graph);
  if (error == NULL)
    error = compute(graph, options, v);
  if (error == NULL)
    error = copy_out(graph);
  return error;
}

// Whether one end of a copy is memory of the host other than ours.
static bool is_foreign(const bei_ort_graph *graph, const bei_cuda_copy_end *end) {
  const char *at = end->type == BEI_CUDA_MEMORY_HOST ? end->host : (const char *)(uintptr_t)end->device;
  if ((at >= graph->in.begin && at < graph->in.end) || (at >= graph->out.begin && at < graph->out.end))
    return false;
  if (end->type == BEI_CUDA_MEMORY_HOST)
    return true;
  int type = 0;
  int result = graph->driver->attribute(&type, BEI_CUDA_ATTRIBUTE_MEMORY_TYPE, (bei_cuda_address)(uintptr_t)at);
  return result == BEI_CUDA_INVALID_VALUE || (result == 0 && type == BEI_CUDA_MEMORY_HOST);
}

// A graph is launched again and again: it must hold nothing that the run in which it was captured has put down and taken away since.
static char *admit(const bei_ort_graph *graph, bei_cuda_graph captured) {
  size_t count = 0;
  int result = graph->driver->graph_nodes(captured, NULL, &count);
  bei_cuda_node *nodes = result == 0 ? calloc(count > 0 ? count : 1, sizeof *nodes) : NULL;
  if (result == 0 && nodes == NULL)
    return bei_ort_no_memory();
  if (result == 0)
    result = graph->driver->graph_nodes(captured, nodes, &count);
  char *error = bei_cuda_failed("listing the nodes of a CUDA graph", result);
  for (size_t i = 0; error == NULL && i < count; i++) {
    int type;
    bei_cuda_copy copy;
    memset(&copy, 0, sizeof copy);
    result = graph->driver->node_type(nodes[i], &type);
    if (result == 0 && type == BEI_CUDA_NODE_MEMCPY)
      result = graph->driver->copy_of(nodes[i], &copy);
    error = bei_cuda_failed("reading a node of a CUDA graph", result);
    if (error != NULL)
      break;
    switch (type) {
    case BEI_CUDA_NODE_KERNEL:
    case BEI_CUDA_NODE_MEMSET:
    case BEI_CUDA_NODE_EMPTY:
    case BEI_CUDA_NODE_ALLOCATE: // products' scratch memory
    case BEI_CUDA_NODE_FREE:
      break;
    case BEI_CUDA_NODE_MEMCPY:
      if (is_foreign(graph, &copy.from) || is_foreign(graph, &copy.to))
        error = strdup("ONNX Runtime copies to or from host memory of its own");
      break;
    default:
      error = strdup("ONNX Runtime does more than computing and copying");
    }
  }
  free(nodes);
  return error;
}

static char *capture(bei_ort_graph *graph, bei_ort_run *run, run_values *v) {
  const bei_cuda_driver *driver = graph->driver;
  char *error = NULL;
  // Plain runs first: memory for activations is allocated, and products choose their algorithms.
  for (int i = 0; i < 2 && error == NULL; i++)
    error = enqueue(graph, run->options, v);
  if (error == NULL)
    error = bei_cuda_failed("running the model", driver->stream_wait(graph->session->stream));
  if (error == NULL)
    error = bei_cuda_failed("starting to capture a CUDA graph",
                            driver->capture_begin(graph->session->stream, BEI_CUDA_CAPTURE_THREAD_LOCAL));
  if (error != NULL)
    return error;
  bei_cuda_graph captured = NULL;
  error = enqueue(graph, run->capturing, v);
  int result = driver->capture_end(graph->session->stream, &captured);
  if (error == NULL)
    error = bei_cuda_failed("capturing a CUDA graph", result);
  if (error == NULL)
    error = admit(graph, captured);
  if (error == NULL)
    error =
        bei_cuda_failed("making a CUDA graph", driver->graph_make(&graph->launches, captured, BEI_CUDA_FREE_AT_LAUNCH));
  if (captured != NULL)
    driver->graph_free(captured);
  return error;
}

static char *record(bei_ort_graph *graph, bei_ort_run *run, const bei_ort_tensor *inputs, const bei_ort_tensor *outputs,
                    run_values *v) {
  size_t in = aligned(span_bytes(&graph->in));
  char *error = bei_cuda_failed("allocating memory for inputs and outputs",
                                graph->driver->allocate(&graph->memory, in + span_bytes(&graph->out)));
  if (error != NULL)
    return error;
  graph->in.device = graph->memory;
  graph->out.device = graph->memory + in;
  OrtMemoryInfo *device = device_memory(graph->session->device, &error);
  if (error == NULL)
    error = make_values(graph, inputs, outputs, device, v);
  float_mode mode = flush_subnormals();
  if (error == NULL)
    error = capture(graph, run, v);
  restore_mode(mode);
  for (size_t i = 0; i < v->inputs + v->outputs; i++)
    bei_ort_api->ReleaseValue(v->values[i]);
  if (device != NULL)
    bei_ort_api->ReleaseMemoryInfo(device);
  return error;
}

char *bei_ort_graph_new(bei_ort_session *session, bei_ort_run *run, const bei_ort_tensor *inputs, size_t input_count,
                        const bei_ort_tensor *outputs, size_t output_count, bei_ort_graph **out) {
  run_values v = {.inputs = input_count, .outputs = output_count};
  if (input_count == 0 || output_count == 0 || input_count + output_count > BEI_ORT_MAX_TENSORS)
    return strdup("too few or too many tensors");
  bei_exit_inside inside;
  if (!bei_exit_enter(&inside, bei_ort_run_stop, run))
    return strdup(BEI_EXITING);
  bei_ort_graph *graph = calloc(1, sizeof *graph);
  char *error = graph == NULL ? bei_ort_no_memory() : bei_cuda_enter(session->device, &graph->driver);
  if (error == NULL) {
    graph->session = session;
    graph->in = span_of(inputs, input_count);
    graph->out = span_of(outputs, output_count);
    error = record(graph, run, inputs, outputs, &v);
    bei_cuda_leave();
  }
  bei_exit_leave(&inside);
  if (error != NULL)
    bei_ort_graph_free(graph);
  else
    *out = graph;
  return error;
}

char *bei_ort_graph_launch(bei_ort_graph *graph) {
  bei_exit_inside inside;
  if (!bei_exit_enter(&inside, NULL, NULL))
    return strdup(BEI_EXITING);
  const bei_cuda_driver *driver;
  char *error = bei_cuda_enter(graph->session->device, &driver);
  if (error == NULL) {
    int result = driver->graph_launch(graph->launches, graph->session->stream);
    if (result == 0)
      result = driver->stream_wait(graph->session->stream);
    error = bei_cuda_failed("launching a CUDA graph", result);
    bei_cuda_leave();
  }
  bei_exit_leave(&inside);
  return error;
}

void bei_ort_graph_free(bei_ort_graph *graph) {
  bei_exit_inside inside;
  if (graph == NULL || !bei_exit_enter(&inside, NULL, NULL))
    return; // a process that exits frees it all
  const bei_cuda_driver *driver;
  char *error = graph->session != NULL ? bei_cuda_enter(graph->session->device, &driver) : NULL;
  if (graph->session != NULL && error == NULL) {
    if (graph->launches != NULL)
      driver->graph_exec_free(graph->launches);
    if (graph->memory != 0)
      driver->free(graph->memory);
    bei_cuda_leave();
  }
  free(error); // the context is gone, and all with it
  bei_exit_leave(&inside);
  free(graph);
}
