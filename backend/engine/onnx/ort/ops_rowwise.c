// The operators that work on rows: activations, norms, pooling.
#include <math.h>

#include "ops.h"

// ---- BiasActivation: y = act(x + bias) ----

static OrtStatus *create_activation(const OrtKernelInfo *info, ops_kernel *kernel) {
  int32_t act;
  OPS_TRY(ops_int(info, "activation", BK_ACT_IDENTITY, BK_ACT_TANH, &act));
  kernel->activation.act = (bk_act)act;
  return NULL;
}

OrtStatus *ops_bind_activation(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs,
                               int64_t parts, ops_activation_args *a) {
  const ops_tensor *x = &inputs[0];
  OPS_CHECK(x->rank == 2 && x->dims[1] % parts == 0, "bei.%s: x must be [rows, %lld * width]", kernel->spec->name,
            (long long)parts);
  a->x = x->data;
  a->rows = x->dims[0];
  a->width = x->dims[1] / parts;
  OPS_TRY(ops_vector(kernel, inputs, 1, x->dims[1], &a->bias));
  return ops_output(context, 0, a->rows, a->width, &a->y);
}

static OrtStatus *compute_activation(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs) {
  ops_activation_args a;
  OPS_TRY(ops_bind_activation(kernel, context, inputs, 1, &a));
  bk_parallel parallel = ops_parallel(kernel, context);
  bk_bias_act(kernel->activation.act, a.x, a.bias, a.y, a.rows, a.width, &parallel);
  return NULL;
}

const ops_spec ops_bias_activation = {
    .name = "BiasActivation",
    .num_inputs = 2,
    .num_outputs = 1,
    .inputs = {{"x", OPS_ROWS, false}, {"bias", OPS_ROWS, true}},
    .num_inplace = 1,
    .inplace_inputs = {0},
    .inplace_outputs = {0},
    .create = create_activation,
    .compute = compute_activation,
};

// ---- GatedActivation: y = act(gate + bias) * (up + bias), with rows [gate | up] or [up | gate] ----

static OrtStatus *create_gated(const OrtKernelInfo *info, ops_kernel *kernel) {
  OPS_TRY(ops_int(info, "gate_first", 0, 1, &kernel->activation.gate_first));
  return create_activation(info, kernel);
}

static OrtStatus *compute_gated(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs) {
  ops_activation_args a;
  OPS_TRY(ops_bind_activation(kernel, context, inputs, 2, &a));
  bk_parallel parallel = ops_parallel(kernel, context);
  bk_gated_act(kernel->activation.act, kernel->activation.gate_first, a.x, a.bias, a.y, a.rows, a.width, &parallel);
  return NULL;
}

const ops_spec ops_gated_activation = {
    .name = "GatedActivation",
    .num_inputs = 2,
    .num_outputs = 1,
    .inputs = {{"x", OPS_ROWS, false}, {"bias", OPS_ROWS, true}},
    .create = create_gated,
    .compute = compute_gated,
};

// ---- ResidualNorm: sum = x + x_bias + residual; y = norm(sum) * weight + bias ----

static OrtStatus *create_norm(const OrtKernelInfo *info, ops_kernel *kernel) {
  int32_t norm;
  OPS_TRY(ops_int(info, "norm", BK_NORM_LAYER, BK_NORM_RMS, &norm));
  OPS_TRY(ops_float(info, "eps", &kernel->norm.eps));
  OPS_TRY(ops_int(info, "one_plus_weight", 0, 1, &kernel->norm.one_plus_weight));
  OPS_CHECK(isfinite(kernel->norm.eps) && kernel->norm.eps >= 0, "eps %g is out of range", kernel->norm.eps);
  kernel->norm.norm = (bk_norm)norm;
  return NULL;
}

OrtStatus *ops_bind_norm(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs,
                         bk_residual_norm_args *a) {
  const ops_tensor *x = &inputs[0], *residual = &inputs[2];
  *a = kernel->norm;
  OPS_CHECK(x->rank == 2 && x->dims[1] >= 1, "bei.ResidualNorm: x must be [rows, width]");
  a->x = x->data;
  a->rows = x->dims[0];
  a->width = x->dims[1];
  OPS_CHECK(residual->data == NULL ||
                (residual->rank == 2 && residual->dims[0] == a->rows && residual->dims[1] == a->width),
            "bei.ResidualNorm: residual must be [%lld, %lld]", (long long)a->rows, (long long)a->width);
  a->residual = residual->data;
  OPS_TRY(ops_vector(kernel, inputs, 1, a->width, &a->x_bias));
  OPS_TRY(ops_vector(kernel, inputs, 3, a->width, &a->weight));
  OPS_TRY(ops_vector(kernel, inputs, 4, a->width, &a->bias));
  OPS_TRY(ops_output(context, 0, a->rows, a->width, &a->y));
  return ops_output(context, 1, a->rows, a->width, &a->sum);
}

static OrtStatus *compute_norm(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs) {
  bk_residual_norm_args a;
  OPS_TRY(ops_bind_norm(kernel, context, inputs, &a));
  bk_parallel parallel = ops_parallel(kernel, context);
  bk_residual_norm(&a, &parallel);
  return NULL;
}

const ops_spec ops_residual_norm = {
    .name = "ResidualNorm",
    .num_inputs = 5,
    .num_outputs = 2,
    .inputs = {{"x", OPS_ROWS, false},
               {"x_bias", OPS_ROWS, true},
               {"residual", OPS_ROWS, true},
               {"weight", OPS_ROWS, true},
               {"bias", OPS_ROWS, true}},
    .num_inplace = 3,
    .inplace_inputs = {0, 2, 2},
    .inplace_outputs = {0, 1, 0},
    .create = create_norm,
    .compute = compute_norm,
};

// ---- Pool: one row for each sequence ----

static OrtStatus *create_pool(const OrtKernelInfo *info, ops_kernel *kernel) {
  int32_t pooling;
  OPS_TRY(ops_int(info, "pooling", BK_POOL_CLS, BK_POOL_WEIGHTED_MEAN, &pooling));
  kernel->pooling = (bk_pooling)pooling;
  return NULL;
}

static OrtStatus *compute_pool(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs) {
  const ops_tensor *hidden = &inputs[0];
  int64_t sequences;
  float *y;
  OPS_CHECK(hidden->rank == 2, "bei.Pool: hidden has rank %zu, not 2", hidden->rank);
  OPS_TRY(ops_cu_seqlens(kernel, &inputs[1], hidden->dims[0], &sequences));
  const ops_tensor *skip = &inputs[2];
  const int32_t *prefix = skip->data;
  OPS_CHECK(prefix == NULL || (skip->rank == 1 && skip->dims[0] == sequences), "bei.Pool: skip must be [%lld]",
            (long long)sequences);
  for (int64_t i = 0; prefix != NULL && i < sequences; i++) {
    OPS_CHECK(prefix[i] >= 0, "bei.Pool: skip[%lld] is %d", (long long)i, prefix[i]);
  }
  OPS_TRY(ops_output(context, 0, sequences, hidden->dims[1], &y));
  bk_parallel parallel = ops_parallel(kernel, context);
  bk_pool(kernel->pooling, hidden->data, inputs[1].data, prefix, y, sequences, hidden->dims[1], &parallel);
  return NULL;
}

const ops_spec ops_pool = {
    .name = "Pool",
    .num_inputs = 3,
    .num_outputs = 1,
    .inputs = {{"hidden", OPS_ROWS, false}, {"cu_seqlens", OPS_INT32, false}, {"skip", OPS_INT32, true}},
    .create = create_pool,
    .compute = compute_pool,
};
