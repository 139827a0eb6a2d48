// What the files of our custom operators share: how an operator is declared, and how its kernel reads inputs.
#ifndef BEI_ORT_OPS_H
#define BEI_ORT_OPS_H

#include <stdbool.h>

#include "../kernels/kernels.h"
#include "cuda_kernels.h"
#include "internal.h"

enum { OPS_MAX_INPUTS = 15, OPS_MAX_RANK = 4 };

// A tensor as an operator sees it, on the operator's device. data is NULL where an optional one is absent.
typedef struct {
  const void *data;
  size_t rank;
  int64_t dims[OPS_MAX_RANK];
} ops_tensor;

// The dtype of an input. That of rows, and of outputs unless the operator says otherwise, is the domain's: float32 but on CUDA.
typedef enum { OPS_ROWS, OPS_INT32, OPS_FLOAT32 } ops_dtype;

typedef struct {
  const char *name;
  ops_dtype dtype;
  bool optional;
} ops_port;

typedef struct ops_kernel ops_kernel;

// One operator. Inputs are checked for rank (at most OPS_MAX_RANK) before compute sees them.
typedef struct {
  const char *name;
  size_t num_inputs, num_outputs; // of the outputs all but the first are optional
  bool float32_outputs;           // whatever rows are
  ops_port inputs[OPS_MAX_INPUTS];
  // Outputs that may use an input's memory, when that is read no more: pairs of input and output.
  size_t num_inplace;
  int inplace_inputs[3], inplace_outputs[3];
  OrtStatus *(*create)(const OrtKernelInfo *info, ops_kernel *kernel); // reads the attributes
  OrtStatus *(*compute)(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs);
} ops_spec;

typedef struct {
  int32_t num_heads, num_kv_heads, head_dim, lanes, norm, one_plus_weight, rope, rope_dim;
  float eps;
} ops_cuda_heads_args;

// A row of a norm on CUDA has at most so many portions, of as many numbers as a thread moves at once: see kernels.cu.
enum { OPS_CUDA_MAX_PORTIONS = 4096 };

// A node of a session. Immutable after create, so that runs can share it.
struct ops_kernel {
  const ops_spec *spec;
  int32_t threads;
  ONNXTensorElementDataType type; // of rows
  int32_t device;                 // of CUDA
  struct {
    bei_cuda_function *wide, *narrow;
    ops_cuda_heads_args heads;
  } cuda;
  union {
    bk_attention_args attention;
    bk_residual_norm_args norm;
    struct {
      bk_act act;
      int32_t gate_first;
    } activation;
    bk_pooling pooling;
  };
};

extern const ops_spec ops_attention, ops_bias_activation, ops_gated_activation, ops_residual_norm, ops_pool;
extern const ops_spec ops_cuda_bias_activation, ops_cuda_gated_activation, ops_cuda_residual_norm, ops_cuda_heads,
    ops_cuda_pool;

// An error status: INVALID_ARGUMENT with a printf text.
OrtStatus *ops_invalid(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define OPS_CHECK(condition, ...)                                                                                      \
  do {                                                                                                                 \
    if (!(condition))                                                                                                  \
      return ops_invalid(__VA_ARGS__);                                                                                 \
  } while (0)
#define OPS_TRY(call)                                                                                                  \
  do {                                                                                                                 \
    OrtStatus *status_ = (call);                                                                                       \
    if (status_ != NULL)                                                                                               \
      return status_;                                                                                                  \
  } while (0)

// Attributes, which are all required: an int within [low, high], a float.
OrtStatus *ops_int(const OrtKernelInfo *info, const char *name, int64_t low, int64_t high, int32_t *out);
OrtStatus *ops_float(const OrtKernelInfo *info, const char *name, float *out);
// An optional [width] input, which on CUDA is float for the type's sake only.
OrtStatus *ops_vector(const ops_kernel *kernel, const ops_tensor *inputs, size_t index, int64_t width,
                      const float **out);
// cu_seqlens [n + 1]: starts at 0, never falls, ends at most at tokens.
OrtStatus *ops_cu_seqlens(const ops_kernel *kernel, const ops_tensor *input, int64_t tokens, int64_t *sequences);
// Output [rows, width]; NULL where nothing reads it.
OrtStatus *ops_output(OrtKernelContext *context, size_t index, int64_t rows, int64_t width, float **out);
// The arguments of operators that are the same on all devices, checked. On CUDA the pointers are float for the type's sake only.
typedef struct {
  const float *x, *bias; // [rows, parts * width], optional [parts * width]
  float *y;              // [rows, width]
  int64_t rows, width;
} ops_activation_args;
OrtStatus *ops_bind_activation(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs,
                               int64_t parts, ops_activation_args *a);
OrtStatus *ops_bind_norm(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs,
                         bk_residual_norm_args *a);
// The session's threads, for a kernel.
bk_parallel ops_parallel(const ops_kernel *kernel, OrtKernelContext *context);

#endif
