#include "ops.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

// ORT hands the OrtCustomOp back to the callbacks, hence base first.
typedef struct {
  OrtCustomOp base;
  const ops_spec *spec;
  int32_t threads;
  ONNXTensorElementDataType type;
  int32_t device; // of CUDA; -1: the CPU
} op;

enum { NUM_DOMAINS = 4, NUM_OPS = 5 };

// ONNX Runtime keeps the names of domains in one map of the process, which the making of any session reads, and that of the first session with a
// name writes, without a lock: CreateCustomRegistry in onnxruntime/core/session/custom_ops.cc. So that one is made alone.
static pthread_rwlock_t making = PTHREAD_RWLOCK_INITIALIZER;
static bool named[NUM_DOMAINS]; // guarded by making

struct bei_ops {
  OrtCustomOpDomain *domains[NUM_DOMAINS];
  op ops[NUM_DOMAINS][NUM_OPS];
};

OrtStatus *ops_invalid(const char *format, ...) {
  char text[256];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return bei_ort_api->CreateStatus(ORT_INVALID_ARGUMENT, text);
}

// ---- Reading ----

OrtStatus *ops_int(const OrtKernelInfo *info, const char *name, int64_t low, int64_t high, int32_t *out) {
  int64_t value;
  OPS_TRY(bei_ort_api->KernelInfoGetAttribute_int64(info, name, &value));
  OPS_CHECK(value >= low && value <= high, "attribute %s is %lld, outside [%lld, %lld]", name, (long long)value,
            (long long)low, (long long)high);
  *out = (int32_t)value;
  return NULL;
}

OrtStatus *ops_float(const OrtKernelInfo *info, const char *name, float *out) {
  return bei_ort_api->KernelInfoGetAttribute_float(info, name, out);
}

static OrtStatus *read_dims(const ops_spec *spec, size_t index, const OrtTensorTypeAndShapeInfo *shape,
                            ops_tensor *out) {
  OPS_TRY(bei_ort_api->GetDimensionsCount(shape, &out->rank));
  OPS_CHECK(out->rank <= OPS_MAX_RANK, "bei.%s: input %s has rank %zu; at most %d", spec->name,
            spec->inputs[index].name, out->rank, OPS_MAX_RANK);
  return bei_ort_api->GetDimensions(shape, out->dims, out->rank);
}

static OrtStatus *read_input(const ops_spec *spec, OrtKernelContext *context, size_t count, size_t index,
                             ops_tensor *out) {
  const OrtValue *value = NULL;
  if (index < count)
    OPS_TRY(bei_ort_api->KernelContext_GetInput(context, index, &value));
  if (value == NULL) {
    OPS_CHECK(spec->inputs[index].optional, "bei.%s: input %s is missing", spec->name, spec->inputs[index].name);
    return NULL;
  }
  OrtTensorTypeAndShapeInfo *shape;
  OPS_TRY(bei_ort_api->GetTensorTypeAndShape(value, &shape));
  OrtStatus *status = read_dims(spec, index, shape, out);
  bei_ort_api->ReleaseTensorTypeAndShapeInfo(shape);
  return status != NULL ? status : bei_ort_api->GetTensorData(value, &out->data);
}

OrtStatus *ops_vector(const ops_kernel *kernel, const ops_tensor *inputs, size_t index, int64_t width,
                      const float **out) {
  const ops_tensor *t = &inputs[index];
  OPS_CHECK(t->data == NULL || (t->rank == 1 && t->dims[0] == width), "bei.%s: input %s must be [%lld]",
            kernel->spec->name, kernel->spec->inputs[index].name, (long long)width);
  *out = t->data;
  return NULL;
}

OrtStatus *ops_cu_seqlens(const ops_kernel *kernel, const ops_tensor *input, int64_t tokens, int64_t *sequences) {
  const char *name = kernel->spec->name;
  OPS_CHECK(input->rank == 1 && input->dims[0] >= 1, "bei.%s: cu_seqlens must be [sequences + 1]", name);
  const int32_t *cu = input->data;
  OPS_CHECK(cu[0] == 0, "bei.%s: cu_seqlens starts at %d, not 0", name, cu[0]);
  for (int64_t i = 1; i < input->dims[0]; i++) {
    OPS_CHECK(cu[i] >= cu[i - 1] && cu[i] <= tokens, "bei.%s: cu_seqlens[%lld] is %d, after %d, with %lld tokens", name,
              (long long)i, cu[i], cu[i - 1], (long long)tokens);
  }
  *sequences = input->dims[0] - 1;
  return NULL;
}

OrtStatus *ops_output(OrtKernelContext *context, size_t index, int64_t rows, int64_t width, float **out) {
  const int64_t dims[2] = {rows, width};
  OrtValue *value = NULL;
  *out = NULL;
  size_t count;
  OPS_TRY(bei_ort_api->KernelContext_GetOutputCount(context, &count));
  if (index >= count)
    return NULL;
  OPS_TRY(bei_ort_api->KernelContext_GetOutput(context, index, dims, 2, &value));
  return value == NULL ? NULL : bei_ort_api->GetTensorMutableData(value, (void **)out);
}

static void run_parallel(void *context, void (*fn)(void *arg, size_t index), size_t count, void *arg) {
  OrtStatus *status = bei_ort_api->KernelContext_ParallelFor(context, fn, count, 0, arg);
  bei_ort_api->ReleaseStatus(status); // it has no way to fail with these arguments
}

bk_parallel ops_parallel(const ops_kernel *kernel, OrtKernelContext *context) {
  return (bk_parallel){.run = run_parallel, .ctx = context, .threads = kernel->threads};
}

// ---- The callbacks of OrtCustomOp ----

static const ops_spec *spec_of(const OrtCustomOp *self) { return ((const op *)self)->spec; }

static const char *get_name(const OrtCustomOp *self) { return spec_of(self)->name; }
static const char *get_provider_cpu(const OrtCustomOp *self) { return (void)self, NULL; }
static const char *get_provider_cuda(const OrtCustomOp *self) { return (void)self, "CUDAExecutionProvider"; }
static size_t get_input_count(const OrtCustomOp *self) { return spec_of(self)->num_inputs; }
static size_t get_output_count(const OrtCustomOp *self) { return spec_of(self)->num_outputs; }

static ONNXTensorElementDataType get_input_type(const OrtCustomOp *self, size_t index) {
  switch (spec_of(self)->inputs[index].dtype) {
  case OPS_INT32:
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  case OPS_FLOAT32:
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  default:
    return ((const op *)self)->type;
  }
}

static ONNXTensorElementDataType get_output_type(const OrtCustomOp *self, size_t index) {
  (void)index;
  return spec_of(self)->float32_outputs ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ((const op *)self)->type;
}

static OrtCustomOpInputOutputCharacteristic get_input_characteristic(const OrtCustomOp *self, size_t index) {
  return spec_of(self)->inputs[index].optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}

static OrtCustomOpInputOutputCharacteristic get_output_characteristic(const OrtCustomOp *self, size_t index) {
  return (void)self, index > 0 ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}

static OrtMemType get_memory_type(const OrtCustomOp *self, size_t index) {
  return (void)self, (void)index, OrtMemTypeDefault;
}

static OrtStatus *create_kernel(const OrtCustomOp *self, const OrtApi *api, const OrtKernelInfo *info, void **out) {
  (void)api;
  ops_kernel *kernel = calloc(1, sizeof *kernel);
  if (kernel == NULL)
    return bei_ort_api->CreateStatus(ORT_FAIL, "out of memory");
  kernel->spec = spec_of(self);
  kernel->threads = ((const op *)self)->threads;
  kernel->type = ((const op *)self)->type;
  kernel->device = ((const op *)self)->device;
  OrtStatus *status = kernel->spec->create(info, kernel);
  if (status != NULL) {
    free(kernel);
    return status;
  }
  *out = kernel;
  return NULL;
}

static OrtStatus *compute(void *arg, OrtKernelContext *context) {
  const ops_kernel *kernel = arg;
  ops_tensor inputs[OPS_MAX_INPUTS] = {0};
  size_t count;
  OPS_TRY(bei_ort_api->KernelContext_GetInputCount(context, &count));
  for (size_t i = 0; i < kernel->spec->num_inputs; i++)
    OPS_TRY(read_input(kernel->spec, context, count, i, &inputs[i]));
  return kernel->spec->compute(kernel, context, inputs);
}

static void destroy_kernel(void *kernel) { free(kernel); }

static size_t get_inplace(int **inputs, int **outputs, const ops_spec *spec) {
  *inputs = (int *)spec->inplace_inputs;
  *outputs = (int *)spec->inplace_outputs;
  return spec->num_inplace;
}

// ORT does not say which operator it asks, so there is one function for each, the same for an operator on CUDA.
static size_t activation_inplace(int **inputs, int **outputs) {
  return get_inplace(inputs, outputs, &ops_bias_activation);
}
static size_t norm_inplace(int **inputs, int **outputs) { return get_inplace(inputs, outputs, &ops_residual_norm); }
static void release_inplace(int *inputs, int *outputs) { (void)inputs, (void)outputs; } // static memory

static op make_op(const ops_spec *spec, int32_t threads, ONNXTensorElementDataType type, int32_t device, bool cuda) {
  OrtCustomOp base = {
      .version = ORT_API_VERSION,
      .GetName = get_name,
      .GetExecutionProviderType = cuda ? get_provider_cuda : get_provider_cpu,
      .GetInputType = get_input_type,
      .GetInputTypeCount = get_input_count,
      .GetOutputType = get_output_type,
      .GetOutputTypeCount = get_output_count,
      .KernelDestroy = destroy_kernel,
      .GetInputCharacteristic = get_input_characteristic,
      .GetOutputCharacteristic = get_output_characteristic,
      .GetInputMemoryType = get_memory_type,
      .CreateKernelV2 = create_kernel,
      .KernelComputeV2 = compute,
  };
  if (spec == &ops_bias_activation || spec == &ops_cuda_bias_activation)
    base.GetMayInplace = activation_inplace;
  if (spec == &ops_residual_norm || spec == &ops_cuda_residual_norm)
    base.GetMayInplace = norm_inplace;
  if (base.GetMayInplace != NULL)
    base.ReleaseMayInplace = release_inplace;
  return (op){.base = base, .spec = spec, .threads = threads, .type = type, .device = device};
}

static const ops_spec *const cpu_ops[] = {&ops_attention, &ops_bias_activation, &ops_gated_activation,
                                          &ops_residual_norm, &ops_pool};
static const ops_spec *const cuda_ops[] = {&ops_cuda_bias_activation, &ops_cuda_gated_activation,
                                           &ops_cuda_residual_norm, &ops_cuda_heads, &ops_cuda_pool};

static const struct {
  const char *name;
  ONNXTensorElementDataType type;
  bool cuda;
} domains[NUM_DOMAINS] = {{"bei", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, false},
                          {"bei.float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, true},
                          {"bei.float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, true},
                          {"bei.bfloat16", ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, true}};

static OrtStatus *add_domain(bei_ops *ops, size_t index, OrtSessionOptions *options, int32_t threads, int32_t device) {
  const bool cuda = domains[index].cuda;
  const ops_spec *const *specs = cuda ? cuda_ops : cpu_ops;
  const size_t count = cuda ? sizeof cuda_ops / sizeof *cuda_ops : sizeof cpu_ops / sizeof *cpu_ops;
  OPS_TRY(bei_ort_api->CreateCustomOpDomain(domains[index].name, &ops->domains[index]));
  for (size_t i = 0; i < count; i++) {
    ops->ops[index][i] = make_op(specs[i], threads, domains[index].type, device, cuda);
    OPS_TRY(bei_ort_api->CustomOpDomain_Add(ops->domains[index], &ops->ops[index][i].base));
  }
  return bei_ort_api->AddCustomOpDomain(options, ops->domains[index]);
}

OrtStatus *bei_ops_register(OrtSessionOptions *options, int32_t threads, bei_ops **out) {
  bei_ops *ops = calloc(1, sizeof *ops);
  if (ops == NULL)
    return bei_ort_api->CreateStatus(ORT_FAIL, "out of memory");
  OrtStatus *status = add_domain(ops, 0, options, threads, -1);
  if (status != NULL) {
    bei_ops_free(ops);
    return status;
  }
  *out = ops;
  return NULL;
}

OrtStatus *bei_ops_register_cuda(bei_ops *ops, OrtSessionOptions *options, int32_t device) {
  for (size_t i = 1; i < NUM_DOMAINS; i++)
    OPS_TRY(add_domain(ops, i, options, 1, device));
  return NULL;
}

void bei_ops_free(bei_ops *ops) {
  if (ops == NULL)
    return;
  for (size_t i = 0; i < NUM_DOMAINS; i++)
    if (ops->domains[i] != NULL)
      bei_ort_api->ReleaseCustomOpDomain(ops->domains[i]);
  free(ops);
}

static bool all_named(const bei_ops *ops) {
  for (size_t i = 0; i < NUM_DOMAINS; i++)
    if (ops->domains[i] != NULL && !named[i])
      return false;
  return true;
}

OrtStatus *bei_ops_make_session(const bei_ops *ops, const void *model, size_t bytes, const OrtSessionOptions *options,
                                OrtSession **out) {
  pthread_rwlock_rdlock(&making);
  const bool alone = !all_named(ops);
  if (alone) {
    pthread_rwlock_unlock(&making);
    pthread_rwlock_wrlock(&making);
  }
  OrtStatus *status = bei_ort_api->CreateSessionFromArray(bei_ort_env, model, bytes, options, out);
  if (alone && status == NULL)
    for (size_t i = 0; i < NUM_DOMAINS; i++)
      named[i] = named[i] || ops->domains[i] != NULL;
  pthread_rwlock_unlock(&making);
  return status;
}
