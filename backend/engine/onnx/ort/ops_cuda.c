// The operators on CUDA, of the domains bei.float32, bei.float16 and bei.bfloat16: those that work on rows, as in ops_rowwise.c, and Heads.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"

static const char *dtype_name(ONNXTensorElementDataType type) {
  switch (type) {
  case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
    return "float16";
  case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
    return "bfloat16";
  default:
    return "float32";
  }
}

static OrtStatus *find(ops_kernel *kernel, const char *name, const char *suffix, bei_cuda_function **out) {
  char text[64];
  snprintf(text, sizeof text, "%s_%s%s", name, dtype_name(kernel->type), suffix);
  char *error = bei_cuda_find(kernel->device, text, out);
  if (error == NULL)
    return NULL;
  OrtStatus *status = bei_ort_api->CreateStatus(ORT_FAIL, error);
  free(error);
  return status;
}

static OrtStatus *find_both(ops_kernel *kernel, const char *name) {
  OPS_TRY(find(kernel, name, "_wide", &kernel->cuda.wide));
  return find(kernel, name, "_narrow", &kernel->cuda.narrow);
}

static OrtStatus *launch(const ops_kernel *kernel, OrtKernelContext *context, bei_cuda_function *function,
                         int64_t blocks, uint32_t threads, void **arguments) {
  void *stream;
  if (blocks == 0)
    return NULL;
  OPS_CHECK(blocks <= INT32_MAX, "bei.%s: %lld blocks are too many", kernel->spec->name, (long long)blocks);
  OPS_TRY(bei_ort_api->KernelContext_GetGPUComputeStream(context, &stream));
  int result = bei_cuda_launch(function, (uint32_t)blocks, threads, stream, arguments);
  if (result == 0)
    return NULL;
  char text[96];
  snprintf(text, sizeof text, "CUDA failure %d: at the launch of bei.%s", result, kernel->spec->name);
  return bei_ort_api->CreateStatus(ORT_FAIL, text);
}

// Numbers that a thread moves at once, where all pointers and the width allow it, else 1.
static uint32_t access_width(const ops_kernel *kernel, int64_t width, const void *const *pointers, size_t count) {
  const uint32_t wide = kernel->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4 : 8;
  for (size_t i = 0; i < count; i++)
    if ((uintptr_t)pointers[i] % 16 != 0)
      return 1;
  return width % wide == 0 ? wide : 1;
}

// The function for that access width.
static bei_cuda_function *of_width(const ops_kernel *kernel, uint32_t n) {
  return n > 1 ? kernel->cuda.wide : kernel->cuda.narrow;
}

// ---- BiasActivation and GatedActivation ----

enum { ROW_THREADS = 256 };

static OrtStatus *create_activation(const OrtKernelInfo *info, ops_kernel *kernel) {
  OPS_TRY(ops_bias_activation.create(info, kernel));
  return find_both(kernel, "bias_activation");
}

// Launches a kernel of (x, bias, y, portions, width, act, gate_first).
static OrtStatus *launch_activation(const ops_kernel *kernel, OrtKernelContext *context, ops_activation_args a) {
  const void *pointers[] = {a.x, a.bias, a.y};
  const uint32_t n = access_width(kernel, a.width, pointers, 3);
  const int64_t count = a.rows * a.width / n;
  OPS_CHECK(count <= UINT32_MAX - ROW_THREADS && a.width <= INT32_MAX, "bei.%s: %lld rows of %lld are too many numbers",
            kernel->spec->name, (long long)a.rows, (long long)a.width);
  uint32_t portions = (uint32_t)count, columns = (uint32_t)a.width;
  int32_t act = kernel->activation.act, gate_first = kernel->activation.gate_first;
  void *arguments[] = {&a.x, &a.bias, &a.y, &portions, &columns, &act, &gate_first};
  return launch(kernel, context, of_width(kernel, n), (count + ROW_THREADS - 1) / ROW_THREADS, ROW_THREADS, arguments);
}

static OrtStatus *compute_activation(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs) {
  ops_activation_args a;
  OPS_TRY(ops_bind_activation(kernel, context, inputs, 1, &a));
  return launch_activation(kernel, context, a);
}

const ops_spec ops_cuda_bias_activation = {
    .name = "BiasActivation",
    .num_inputs = 2,
    .num_outputs = 1,
    .inputs = {{"x", OPS_ROWS, false}, {"bias", OPS_ROWS, true}},
    .create = create_activation,
    .compute = compute_activation,
};

static OrtStatus *create_gated(const OrtKernelInfo *info, ops_kernel *kernel) {
  OPS_TRY(ops_gated_activation.create(info, kernel));
  return find_both(kernel, "gated_activation");
}

static OrtStatus *compute_gated(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs) {
  ops_activation_args a;
  OPS_TRY(ops_bind_activation(kernel, context, inputs, 2, &a));
  return launch_activation(kernel, context, a);
}

const ops_spec ops_cuda_gated_activation = {
    .name = "GatedActivation",
    .num_inputs = 2,
    .num_outputs = 1,
    .inputs = {{"x", OPS_ROWS, false}, {"bias", OPS_ROWS, true}},
    .create = create_gated,
    .compute = compute_gated,
};

// ---- ResidualNorm ----

static OrtStatus *create_norm(const OrtKernelInfo *info, ops_kernel *kernel) {
  OPS_TRY(ops_residual_norm.create(info, kernel));
  return find_both(kernel, "residual_norm");
}

// As many threads as portions of a row, up to 256; more only where a thread would hold more than 4 portions.
static uint32_t norm_threads(int64_t portions) {
  int64_t threads = portions <= 256 ? portions : (portions + 3) / 4 > 256 ? (portions + 3) / 4 : 256;
  return (uint32_t)((threads + 31) / 32 * 32);
}

static OrtStatus *compute_norm(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs) {
  bk_residual_norm_args a;
  OPS_TRY(ops_bind_norm(kernel, context, inputs, &a));
  const void *pointers[] = {a.x, a.x_bias, a.residual, a.weight, a.bias, a.y, a.sum};
  const uint32_t n = access_width(kernel, a.width, pointers, 7);
  const int64_t portions = a.width / n;
  OPS_CHECK(portions <= OPS_CUDA_MAX_PORTIONS, "bei.ResidualNorm: rows of %lld numbers; the limit is %lld",
            (long long)a.width, (long long)OPS_CUDA_MAX_PORTIONS * n);
  int32_t columns = (int32_t)a.width, rms = a.norm == BK_NORM_RMS;
  void *arguments[] = {&a.x,   &a.x_bias, &a.residual, &a.weight, &a.bias,           &a.y,
                       &a.sum, &columns,  &a.eps,      &rms,      &a.one_plus_weight};
  return launch(kernel, context, of_width(kernel, n), a.rows, norm_threads(portions), arguments);
}

const ops_spec ops_cuda_residual_norm = {
    .name = "ResidualNorm",
    .num_inputs = 5,
    .num_outputs = 2,
    .inputs = {{"x", OPS_ROWS, false},
               {"x_bias", OPS_ROWS, true},
               {"residual", OPS_ROWS, true},
               {"weight", OPS_ROWS, true},
               {"bias", OPS_ROWS, true}},
    .create = create_norm,
    .compute = compute_norm,
};

// ---- Pool ----

static OrtStatus *create_pool(const OrtKernelInfo *info, ops_kernel *kernel) {
  OPS_TRY(ops_pool.create(info, kernel));
  return find_both(kernel, "pool");
}

// The values of cu_seqlens and skip lie on the device: whoever made them has checked them.
static OrtStatus *compute_pool(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs) {
  enum { THREADS = 256, LANES = 32 };
  const ops_tensor *hidden = &inputs[0], *cu = &inputs[1], *skip = &inputs[2];
  OPS_CHECK(hidden->rank == 2, "bei.Pool: hidden has rank %zu, not 2", hidden->rank);
  OPS_CHECK(cu->rank == 1 && cu->dims[0] >= 1, "bei.Pool: cu_seqlens must be [sequences + 1]");
  const int64_t sequences = cu->dims[0] - 1, width = hidden->dims[1];
  OPS_CHECK(skip->data == NULL || (skip->rank == 1 && skip->dims[0] == sequences), "bei.Pool: skip must be [%lld]",
            (long long)sequences);
  float *y;
  OPS_TRY(ops_output(context, 0, sequences, width, &y));
  const void *x = hidden->data, *ends = cu->data, *skipped = skip->data, *pointers[] = {x, y};
  const uint32_t n = access_width(kernel, width, pointers, 2);
  int32_t columns = (int32_t)width, pooling = kernel->pooling;
  void *arguments[] = {&x, &ends, &skipped, &y, &columns, &pooling};
  return launch(kernel, context, of_width(kernel, n), sequences * ((width + LANES * n - 1) / (LANES * n)), THREADS,
                arguments);
}

const ops_spec ops_cuda_pool = {
    .name = "Pool",
    .num_inputs = 3,
    .num_outputs = 1,
    .float32_outputs = true,
    .inputs = {{"hidden", OPS_ROWS, false}, {"cu_seqlens", OPS_INT32, false}, {"skip", OPS_INT32, true}},
    .create = create_pool,
    .compute = compute_pool,
};

// ---- Heads: q, k, v = split(qkv + bias); q, k = rope(qk_norm(q)), rope(qk_norm(k)); see bk_attention_args ----

enum {
  QKV,
  POSITION_IDS,
  QKV_BIAS,
  Q_NORM_WEIGHT,
  K_NORM_WEIGHT,
  Q_NORM_BIAS,
  K_NORM_BIAS,
  ROPE_COS,
  ROPE_SIN,
  SLOTS,
  KEY_CACHE,
  VALUE_CACHE
};
enum { HEAD_THREADS = 256, NUMBERS_OF_A_LANE = 8, MAX_HEAD_DIM = 32 * NUMBERS_OF_A_LANE };
enum { BUSY_THREADS = 1 << 18 }; // about what large GPUs run at once

// How many groups of lanes share a row: one for each head, but where heads have much in common and there are rows enough fewer.
static int64_t head_groups(const ops_cuda_heads_args *a, int64_t rows) {
  const int64_t heads = (int64_t)a->num_heads + 2 * (int64_t)a->num_kv_heads;
  if ((a->norm == BK_NORM_NONE && a->rope == BK_ROPE_NONE) || rows == 0)
    return heads;
  const int64_t groups = BUSY_THREADS / (rows * a->lanes);
  return groups < 1 ? 1 : groups < heads ? groups : heads;
}

static OrtStatus *create_heads(const OrtKernelInfo *info, ops_kernel *kernel) {
  ops_cuda_heads_args *a = &kernel->cuda.heads;
  OPS_TRY(ops_int(info, "num_heads", 1, 1 << 16, &a->num_heads));
  OPS_TRY(ops_int(info, "num_kv_heads", 1, a->num_heads, &a->num_kv_heads));
  OPS_TRY(ops_int(info, "head_dim", 1, MAX_HEAD_DIM, &a->head_dim));
  OPS_TRY(ops_int(info, "qk_norm", BK_NORM_NONE, BK_NORM_RMS, &a->norm));
  OPS_TRY(ops_float(info, "qk_norm_eps", &a->eps));
  OPS_TRY(ops_int(info, "qk_norm_one_plus_weight", 0, 1, &a->one_plus_weight));
  OPS_TRY(ops_int(info, "rope", BK_ROPE_NONE, BK_ROPE_INTERLEAVED, &a->rope));
  OPS_TRY(ops_int(info, "rope_dim", 0, a->head_dim, &a->rope_dim));
  OPS_CHECK(a->head_dim % NUMBERS_OF_A_LANE == 0 && a->rope_dim % NUMBERS_OF_A_LANE == 0 &&
                (a->rope == BK_ROPE_NONE || a->rope_dim > 0),
            "bei.Heads: head_dim %d and rope_dim %d must be multiples of %d", a->head_dim, a->rope_dim,
            NUMBERS_OF_A_LANE);
  OPS_CHECK(isfinite(a->eps) && a->eps >= 0, "qk_norm_eps %g is out of range", a->eps);
  for (a->lanes = 1; a->lanes * NUMBERS_OF_A_LANE < a->head_dim;)
    a->lanes *= 2;
  return find(kernel, "heads", "", &kernel->cuda.wide);
}

static OrtStatus *compute_heads(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs) {
  ops_cuda_heads_args a = kernel->cuda.heads;
  const int64_t heads = (int64_t)a.num_heads + 2 * (int64_t)a.num_kv_heads, width = heads * a.head_dim;
  const ops_tensor *qkv = &inputs[QKV], *positions = &inputs[POSITION_IDS];
  OPS_CHECK(qkv->rank == 2 && qkv->dims[1] == width, "bei.Heads: qkv must be [tokens, %lld]", (long long)width);
  const int64_t rows = qkv->dims[0];
  const float *bias, *norms[4];
  OPS_TRY(ops_vector(kernel, inputs, QKV_BIAS, width, &bias));
  for (int i = 0; i < 4; i++)
    OPS_TRY(ops_vector(kernel, inputs, Q_NORM_WEIGHT + i, a.head_dim, &norms[i]));
  if (a.rope != BK_ROPE_NONE) {
    OPS_CHECK(positions->data != NULL && positions->rank == 1 && positions->dims[0] == rows,
              "bei.Heads: position_ids must be [%lld]", (long long)rows);
    for (int i = ROPE_COS; i <= ROPE_SIN; i++)
      OPS_CHECK(inputs[i].data != NULL && inputs[i].rank == 2 && inputs[i].dims[1] == a.rope_dim / 2,
                "bei.Heads: %s must be [positions, %d]", kernel->spec->inputs[i].name, a.rope_dim / 2);
  }
  const bool cached = inputs[SLOTS].data != NULL;
  float *parts[3] = {NULL, (float *)inputs[KEY_CACHE].data, (float *)inputs[VALUE_CACHE].data};
  int64_t places = rows;
  OPS_CHECK(cached == (inputs[KEY_CACHE].data != NULL) && cached == (inputs[VALUE_CACHE].data != NULL),
            "bei.Heads: slots, key_cache and value_cache belong together");
  if (cached) { // as PagedAttention itself writes to its caches; slots lie on the device, where those outside are left out
    OPS_CHECK(inputs[SLOTS].rank == 1 && inputs[SLOTS].dims[0] == rows, "bei.Heads: slots must be [%lld]",
              (long long)rows);
    for (int i = KEY_CACHE; i <= VALUE_CACHE; i++)
      OPS_CHECK(inputs[i].rank == 4 && inputs[i].dims[2] == a.num_kv_heads && inputs[i].dims[3] == a.head_dim &&
                    memcmp(inputs[i].dims, inputs[KEY_CACHE].dims, sizeof inputs[i].dims) == 0,
                "bei.Heads: %s must be [pages, rows, %d, %d]", kernel->spec->inputs[i].name, a.num_kv_heads,
                a.head_dim);
    places = inputs[KEY_CACHE].dims[0] * inputs[KEY_CACHE].dims[1];
    OPS_CHECK(places <= INT32_MAX, "bei.Heads: %lld rows of caches are too many", (long long)places);
  }
  for (size_t i = 0; i < (cached ? 1 : 3); i++) {
    OPS_TRY(ops_output(context, i, rows, (int64_t)(i == 0 ? a.num_heads : a.num_kv_heads) * a.head_dim, &parts[i]));
    OPS_CHECK(parts[i] != NULL, "bei.Heads: output %zu is needed", i);
  }
  for (size_t i = 0; i < kernel->spec->num_inputs; i++)
    OPS_CHECK((uintptr_t)inputs[i].data % 16 == 0, "bei.Heads: input %s is not aligned to 16 bytes",
              kernel->spec->inputs[i].name);
  const int64_t sharing = head_groups(&a, rows), threads = rows * sharing * a.lanes;
  OPS_CHECK(threads <= UINT32_MAX - HEAD_THREADS, "bei.Heads: %lld rows are too many", (long long)rows);
  const void *x = qkv->data, *cos = inputs[ROPE_COS].data, *sin = inputs[ROPE_SIN].data, *ids = positions->data,
             *slots = inputs[SLOTS].data;
  uint32_t count = (uint32_t)rows, groups = (uint32_t)sharing, lanes = (uint32_t)a.lanes, all_places = (uint32_t)places;
  void *arguments[] = {&x,
                       &bias,
                       &norms[0],
                       &norms[1],
                       &norms[2],
                       &norms[3],
                       &cos,
                       &sin,
                       &ids,
                       &slots,
                       &all_places,
                       &parts[0],
                       &parts[1],
                       &parts[2],
                       &count,
                       &groups,
                       &lanes,
                       &a.num_heads,
                       &a.num_kv_heads,
                       &a.head_dim,
                       &a.norm,
                       &a.eps,
                       &a.one_plus_weight,
                       &a.rope,
                       &a.rope_dim};
  return launch(kernel, context, kernel->cuda.wide, (threads + HEAD_THREADS - 1) / HEAD_THREADS, HEAD_THREADS,
                arguments);
}

const ops_spec ops_cuda_heads = {
    .name = "Heads",
    .num_inputs = 12,
    .num_outputs = 3,
    .inputs = {{"qkv", OPS_ROWS, false},
               {"position_ids", OPS_INT32, true},
               {"bias", OPS_ROWS, true},
               {"q_norm_weight", OPS_ROWS, true},
               {"k_norm_weight", OPS_ROWS, true},
               {"q_norm_bias", OPS_ROWS, true},
               {"k_norm_bias", OPS_ROWS, true},
               {"rope_cos", OPS_FLOAT32, true},
               {"rope_sin", OPS_FLOAT32, true},
               {"slots", OPS_INT32, true},
               {"key_cache", OPS_ROWS, true},
               {"value_cache", OPS_ROWS, true}},
    .create = create_heads,
    .compute = compute_heads,
};
