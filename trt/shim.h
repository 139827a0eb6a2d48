/*
 * The internal C interface between libbei.so and the libraries libbei_trt_<flavour>.so, one for each flavour and major version of
 * TensorRT. It is no public interface: both sides are built from one source tree, and bei_trt_open refuses any other BEI_TRT_ABI.
 *
 * A library owns nvinfer's objects, CUDA's streams, device and pinned memory, and has no policy: which network, which shapes,
 * which graphs and when is the caller's. It finds libnvinfer (or libtensorrt_rtx) and libcuda.so.1 at run time.
 *
 * Errors: functions return 0, or a BEI_TRT_* code with its text in *error, and leave outputs untouched. The text ends with the last
 * error that TensorRT logged on the calling thread, where there is one. No C++ exception leaves.
 *
 * Threads: every function may be called from any thread. One call at a time for each network and for each lane; lanes run at
 * the same time. Each function that needs the device makes its primary context current and restores the thread's own.
 */
#ifndef BEI_TRT_SHIM_H
#define BEI_TRT_SHIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BEI_TRT_VERSION 2 /* changes with the meaning of anything here */
#define BEI_TRT_MAX_DIMS 8
#define BEI_TRT_MAX_INPUTS 16

/* Codes of errors. */
enum {
  BEI_TRT_FAILED = 1,      /* what was asked for did not work */
  BEI_TRT_UNSUPPORTED = 2, /* this flavour or version has no such feature */
  BEI_TRT_NO_LIBRARY = 3,  /* TensorRT or CUDA is not here, or of another major version */
  BEI_TRT_NO_MEMORY = 4,   /* device or pinned memory is exhausted */
  BEI_TRT_LOST = 5,        /* the device or its context is lost: nothing of it works any more */
  BEI_TRT_BAD_PLAN = 6,    /* a plan that this library or device does not take: build it again */
};

typedef struct bei_trt_error {
  int32_t code;
  char text[4092]; /* NUL-terminated UTF-8 */
} bei_trt_error;

/* Numbers of data types: those of nvinfer1::DataType, which are the same in every version. */
enum {
  BEI_TRT_FLOAT32 = 0,
  BEI_TRT_FLOAT16 = 1,
  BEI_TRT_INT32 = 3,
  BEI_TRT_BOOL = 4,
  BEI_TRT_FLOAT8 = 6, /* E4M3 */
  BEI_TRT_BFLOAT16 = 7,
  BEI_TRT_INT64 = 8,
};

typedef struct bei_trt_dims {
  int32_t count;
  int64_t size[BEI_TRT_MAX_DIMS]; /* -1: known at run time */
} bei_trt_dims;

/* Features of a flavour, as bits. */
enum {
  BEI_TRT_HAS_ATTENTION = 1,
  BEI_TRT_HAS_RUNTIME_CACHE = 2, /* kernels are made when a context is (TensorRT-RTX); they can be kept */
  BEI_TRT_HAS_LENGTHS = 4,       /* attention takes lengths of keys and values instead of a mask */
};

typedef struct bei_trt_library bei_trt_library;
typedef struct bei_trt_network bei_trt_network;
typedef struct bei_trt_blob bei_trt_blob; /* bytes that the library owns: a plan or a runtime cache */
typedef struct bei_trt_program bei_trt_program;
typedef struct bei_trt_lane bei_trt_lane;

/* What a node computes. "ints" and "floats" are node fields. Axes count from 0. Sizes follow nvinfer's layers of the like name. */
enum {
  BEI_TRT_CONSTANT = 1,  /* dtype, dims, data: read until bei_trt_network.build returns */
  BEI_TRT_SHAPE,         /* x -> int64 [rank] */
  BEI_TRT_GATHER,        /* data, indices; ints: axis */
  BEI_TRT_RESHAPE,       /* x [, int64 shape]; dims where there is no shape: 0 copies, -1 infers */
  BEI_TRT_TRANSPOSE,     /* x; ints: permutation */
  BEI_TRT_MATMUL,        /* a, b; ints: transpose a, transpose b */
  BEI_TRT_ELEMENTWISE,   /* a, b; ints: nvinfer1::ElementWiseOperation */
  BEI_TRT_UNARY,         /* x; ints: nvinfer1::UnaryOperation */
  BEI_TRT_ACTIVATION,    /* x; ints: nvinfer1::ActivationType */
  BEI_TRT_SOFTMAX,       /* x; ints: axis */
  BEI_TRT_REDUCE,        /* x; ints: nvinfer1::ReduceOperation, axis, keep dimensions */
  BEI_TRT_CONCAT,        /* x...; ints: axis */
  BEI_TRT_SLICE,         /* x, int64 start, int64 size; ints: stride... */
  BEI_TRT_IOTA,          /* int64 size [1]: int32 0, 1, 2, ... */
  BEI_TRT_CAST,          /* x; dtype */
  BEI_TRT_SELECT,        /* condition, a, b */
  BEI_TRT_NORMALIZATION, /* x, scale, bias; ints: axis; floats: eps. Layer norm over one axis */
  BEI_TRT_ATTENTION, /* q, k, v [, mask or int32 lengths]; ints: causal, decomposable, what input 3 is (0 none, 1 mask, 2 lengths) */
  BEI_TRT_QUANTIZE,   /* x, scale; dtype; ints: axis (-1: one scale) */
  BEI_TRT_DEQUANTIZE, /* x, scale; dtype; ints: axis (-1: one scale) */
};

typedef struct bei_trt_node {
  int32_t kind, dtype;
  int32_t input_count, int_count;
  int32_t inputs[BEI_TRT_MAX_INPUTS]; /* tensors of this network */
  int64_t ints[3 * BEI_TRT_MAX_DIMS];
  float floats[4];
  bei_trt_dims dims;
  const void *data;
  const char *name; /* for messages and profiles; may be NULL */
} bei_trt_node;

typedef struct bei_trt_profile_input {
  const char *name;
  bei_trt_dims least, best, most;
} bei_trt_profile_input;

typedef struct bei_trt_build_options {
  const bei_trt_profile_input *inputs;
  int32_t input_count;
} bei_trt_build_options;

typedef struct bei_trt_device {
  char name[256], uuid[48]; /* uuid as NVML writes it: GPU-... */
  int32_t compute_major, compute_minor;
  int32_t driver; /* CUDA version of the driver, such as 13000 */
  uint64_t memory_total, memory_free;
} bei_trt_device;

/* One input or output of a network or a program. */
typedef struct bei_trt_tensor_info {
  char name[64];
  int32_t is_input, dtype;
  bei_trt_dims dims, least, most; /* dims has -1 for sizes known at run time; least and most: an input's profile */
} bei_trt_tensor_info;

typedef struct bei_trt_program_options {
  int32_t device;
  const void *cache; /* of an earlier program, or NULL */
  size_t cache_size;
} bei_trt_program_options;

typedef struct bei_trt_program_memory {
  uint64_t weights, context; /* device bytes: of the program, and of each lane's context at most */
} bei_trt_program_memory;

/* A lane's memory for one tensor. Inputs: the caller writes to host, enqueue copies. Outputs: wait has filled host. */
typedef struct bei_trt_binding {
  const char *name;
  size_t device_bytes; /* most that a launch needs */
  size_t host_bytes;   /* of staging, for all launches between two waits; 0: none until lane_host */
  void *host;          /* out: pinned, zeroed, of host_bytes; NULL where that is 0 */
} bei_trt_binding;

/* One launch: copy in, compute, copy out. Arrays are in the order of the lane's bindings. */
typedef struct bei_trt_launch {
  const bei_trt_dims *dims;   /* of each input */
  const size_t *host_offsets; /* of each binding: where in its staging memory */
  const size_t *bytes;        /* of each binding: what is copied; 0: nothing */
  int64_t graph; /* key of a CUDA graph of these very dims: captured at its first launch, replayed later; -1: none */
} bei_trt_launch;

/* What became of a launch. One whose graph could not be used is plain. */
typedef enum bei_trt_launch_kind { BEI_TRT_PLAIN, BEI_TRT_CAPTURED, BEI_TRT_REPLAYED } bei_trt_launch_kind;

typedef void (*bei_trt_log)(void *context, int32_t severity,
                            const char *text); /* severity of nvinfer1::ILogger: 0 worst */

typedef struct bei_trt_api {
  uint32_t features; /* BEI_TRT_HAS_* */
  const char *flavour;
  const char *version; /* of the TensorRT library, such as "1.6.1.120" */
  const char *path;    /* of it */

  /* Networks. They need no device. Free blobs with blob_free. */
  int32_t (*network_new)(bei_trt_library *, bei_trt_network **, bei_trt_error *);
  /* Dimensions of inputs that have one name are equal in each launch. */
  int32_t (*network_dimension)(bei_trt_network *, int32_t input, int32_t axis, const char *name, bei_trt_error *);
  int32_t (*network_input)(bei_trt_network *, const char *name, int32_t dtype, const bei_trt_dims *, int32_t *tensor,
                           bei_trt_error *);
  int32_t (*network_add)(bei_trt_network *, const bei_trt_node *, int32_t *tensor, bei_trt_error *);
  int32_t (*network_output)(bei_trt_network *, int32_t tensor, const char *name, bei_trt_error *);
  int32_t (*network_tensor)(bei_trt_network *, int32_t tensor, int32_t *dtype, bei_trt_dims *, bei_trt_error *);
  /* The inputs and outputs, with the profile of the last build: at most room of them. */
  int32_t (*network_tensors)(bei_trt_network *, bei_trt_tensor_info *, int32_t room, int32_t *count, bei_trt_error *);
  int32_t (*network_build)(bei_trt_network *, const bei_trt_build_options *, bei_trt_blob **, bei_trt_error *);
  void (*network_free)(bei_trt_network *);
  const void *(*blob_data)(const bei_trt_blob *, size_t *size);
  void (*blob_free)(bei_trt_blob *);

  /* Devices, in CUDA's order. */
  int32_t (*device_count)(bei_trt_library *, int32_t *count, bei_trt_error *);
  int32_t (*device_get)(bei_trt_library *, int32_t index, bei_trt_device *, bei_trt_error *);

  /* A program is a plan on a device. Free its lanes first. */
  int32_t (*program_new)(bei_trt_library *, const void *plan, size_t size, const bei_trt_program_options *,
                         bei_trt_program **, bei_trt_error *);
  int32_t (*program_tensors)(bei_trt_program *, bei_trt_tensor_info *, int32_t room, int32_t *count, bei_trt_error *);
  int32_t (*program_memory)(bei_trt_program *, bei_trt_program_memory *, bei_trt_error *);
  int32_t (*program_cache)(bei_trt_program *, bei_trt_blob **, bei_trt_error *); /* UNSUPPORTED where there is none */
  void (*program_free)(bei_trt_program *);

  /* A lane is a context with a stream and memory for one caller. Inputs come first in bindings. */
  int32_t (*lane_new)(bei_trt_program *, bei_trt_binding *, int32_t count, bei_trt_lane **, bei_trt_error *);
  /* Bytes of context memory that a launch of these inputs needs. */
  int32_t (*lane_needs)(bei_trt_lane *, const bei_trt_dims *, uint64_t *bytes, bei_trt_error *);
  /* Gives the context memory for launches of these inputs, and all that need no more: once, before the first enqueue. */
  int32_t (*lane_reserve)(bei_trt_lane *, const bei_trt_dims *, bei_trt_error *);
  /* Makes the staging memory of a binding that large. Nothing may be enqueued. What was in it is lost. */
  int32_t (*lane_host)(bei_trt_lane *, int32_t binding, size_t bytes, void **host, bei_trt_error *);
  /* Enqueue puts a launch on the lane's stream, after earlier ones; wait blocks until all are done. kind: a bei_trt_launch_kind. */
  int32_t (*lane_enqueue)(bei_trt_lane *, const bei_trt_launch *, int32_t *kind, bei_trt_error *);
  int32_t (*lane_wait)(bei_trt_lane *, bei_trt_error *);
  void (*lane_free)(bei_trt_lane *);
} bei_trt_api;

/* What both sides must agree on: a table of another size is another interface. */
#define BEI_TRT_ABI ((uint32_t)(BEI_TRT_VERSION << 16 | sizeof(bei_trt_api)))

/*
 * Opens TensorRT at path (a file name without "/" is looked up by the loader) and fills in *api. log receives TensorRT's messages
 * of severity warning or worse (or all, when log_info is set), on its threads; it must not call back. The library stays open for
 * the process: TensorRT does not survive being unloaded.
 */
int32_t bei_trt_open(uint32_t abi, const char *path, bei_trt_log log, void *log_context, int32_t log_info,
                     bei_trt_library **, bei_trt_api *api, bei_trt_error *);

#ifdef __cplusplus
}
#endif
#endif
