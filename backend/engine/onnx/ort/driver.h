// CUDA's driver, which is opened at run time: a machine without one can run everything else.
#ifndef BEI_ORT_DRIVER_H
#define BEI_ORT_DRIVER_H

#include <stddef.h>
#include <stdint.h>

// What cuda.h declares. Results are 0 for success; handles are opaque.
typedef struct CUlib_st *bei_cuda_library;
typedef struct CUkern_st *bei_cuda_kernel;
typedef struct bei_cuda_function bei_cuda_function; // CUfunc_st
typedef struct CUctx_st *bei_cuda_context;
typedef struct CUstream_st *bei_cuda_stream;
typedef struct CUgraph_st *bei_cuda_graph;
typedef struct CUgraphExec_st *bei_cuda_graph_exec;
typedef struct CUgraphNode_st *bei_cuda_node;
typedef unsigned long long bei_cuda_address;

enum { BEI_CUDA_CAPTURE_THREAD_LOCAL = 1 }; // of CUstreamCaptureMode
enum { BEI_CUDA_STREAM_NON_BLOCKING = 1 };  // of CUstream_flags
enum {                                      // of CUgraphNodeType
  BEI_CUDA_NODE_KERNEL = 0,
  BEI_CUDA_NODE_MEMCPY = 1,
  BEI_CUDA_NODE_MEMSET = 2,
  BEI_CUDA_NODE_EMPTY = 5,
  BEI_CUDA_NODE_ALLOCATE = 10,
  BEI_CUDA_NODE_FREE = 11,
};
enum { BEI_CUDA_FREE_AT_LAUNCH = 1 }; // of CUgraphInstantiate_flags: what is still allocated

// CUDA_MEMCPY3D.
typedef struct {
  size_t x, y, z, level;
  int type; // of CUmemorytype
  const void *host;
  bei_cuda_address device;
  void *array, *reserved;
  size_t pitch, height;
} bei_cuda_copy_end;
typedef struct {
  bei_cuda_copy_end from, to;
  size_t width, height, depth;
} bei_cuda_copy;
enum { BEI_CUDA_MEMORY_HOST = 1 };           // of CUmemorytype
enum { BEI_CUDA_ATTRIBUTE_MEMORY_TYPE = 2 }; // of CUpointer_attribute
enum { BEI_CUDA_INVALID_VALUE = 1 };

// Every function that we call: its name in the library (with the version that cuda.h 12 and 13 map it to), result and arguments.
#define BEI_CUDA_DRIVER(X)                                                                                             \
  X(init, "cuInit", (unsigned flags))                                                                                  \
  X(get_error_name, "cuGetErrorName", (int result, const char **name))                                                 \
  X(library_load, "cuLibraryLoadData",                                                                                 \
    (bei_cuda_library * out, const void *code, const int *jit, void **jit_values, unsigned jit_count,                  \
     const int *options, void **option_values, unsigned option_count))                                                 \
  X(library_kernel, "cuLibraryGetKernel", (bei_cuda_kernel * out, bei_cuda_library from, const char *name))            \
  X(kernel_function, "cuKernelGetFunction", (bei_cuda_function * *out, bei_cuda_kernel of))                            \
  X(launch, "cuLaunchKernel",                                                                                          \
    (bei_cuda_function * function, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y,         \
     unsigned threads_z, unsigned shared_bytes, void *stream, void **arguments, void **extra))                         \
  X(device_get, "cuDeviceGet", (int *device, int ordinal))                                                             \
  X(device_uuid, "cuDeviceGetUuid_v2", (unsigned char uuid[16], int device))                                           \
  X(retain, "cuDevicePrimaryCtxRetain", (bei_cuda_context * out, int device))                                          \
  X(push, "cuCtxPushCurrent_v2", (bei_cuda_context pushed))                                                            \
  X(pop, "cuCtxPopCurrent_v2", (bei_cuda_context * popped))                                                            \
  X(allocate, "cuMemAlloc_v2", (bei_cuda_address * out, size_t bytes))                                                 \
  X(free, "cuMemFree_v2", (bei_cuda_address at))                                                                       \
  X(copy_in, "cuMemcpyHtoD_v2", (bei_cuda_address to, const void *from, size_t bytes))                                 \
  X(copy_in_async, "cuMemcpyHtoDAsync_v2", (bei_cuda_address to, const void *from, size_t bytes, bei_cuda_stream))     \
  X(copy_out_async, "cuMemcpyDtoHAsync_v2", (void *to, bei_cuda_address from, size_t bytes, bei_cuda_stream))          \
  X(stream_new, "cuStreamCreate", (bei_cuda_stream * out, unsigned flags))                                             \
  X(stream_free, "cuStreamDestroy_v2", (bei_cuda_stream))                                                              \
  X(stream_wait, "cuStreamSynchronize", (bei_cuda_stream))                                                             \
  X(capture_begin, "cuStreamBeginCapture_v2", (bei_cuda_stream, int mode))                                             \
  X(capture_end, "cuStreamEndCapture", (bei_cuda_stream, bei_cuda_graph * out))                                        \
  X(graph_nodes, "cuGraphGetNodes", (bei_cuda_graph, bei_cuda_node * out, size_t *count))                              \
  X(node_type, "cuGraphNodeGetType", (bei_cuda_node, int *out))                                                        \
  X(copy_of, "cuGraphMemcpyNodeGetParams", (bei_cuda_node, bei_cuda_copy * out))                                       \
  X(attribute, "cuPointerGetAttribute", (void *out, int attribute, bei_cuda_address))                                  \
  X(graph_free, "cuGraphDestroy", (bei_cuda_graph))                                                                    \
  X(graph_make, "cuGraphInstantiateWithFlags", (bei_cuda_graph_exec * out, bei_cuda_graph, unsigned long long flags))  \
  X(graph_launch, "cuGraphLaunch", (bei_cuda_graph_exec, bei_cuda_stream))                                             \
  X(graph_exec_free, "cuGraphExecDestroy", (bei_cuda_graph_exec))                                                      \
  X(graph_trim, "cuDeviceGraphMemTrim", (int device))

typedef struct {
#define BEI_CUDA_FIELD(name, symbol, arguments) int(*name) arguments;
  BEI_CUDA_DRIVER(BEI_CUDA_FIELD)
#undef BEI_CUDA_FIELD
} bei_cuda_driver;

// Opens and starts the driver, once for the process, for good; *out stays valid. Returns NULL, or a text that the caller frees, here
// and below.
char *bei_cuda_open(const bei_cuda_driver **out);

// NULL for a result of success, else a text: what was done, and "CUDA failure N" with its name, as ONNX Runtime words it.
char *bei_cuda_failed(const char *doing, int result);

// Opens the driver and makes a device's primary context, which is the CUDA provider's, current; leave makes the one before current again.
char *bei_cuda_enter(int32_t ordinal, const bei_cuda_driver **out);
void bei_cuda_leave(void);

#endif
