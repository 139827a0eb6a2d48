#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "ops.h"

enum {
  QKV,
  CU_SEQLENS,
  POSITION_IDS,
  QKV_BIAS,
  Q_NORM_WEIGHT,
  K_NORM_WEIGHT,
  Q_NORM_BIAS,
  K_NORM_BIAS,
  ROPE_COS,
  ROPE_SIN,
  ALIBI_SLOPES,
  RELATIVE_BIAS,
  PLACE_KEYS,
  PLACE_QUERIES,
  PLACE_ROWS,
};

enum { MAX_HEADS = 1 << 16, MAX_HEAD_DIM = 1 << 16 };

static OrtStatus *create(const OrtKernelInfo *info, ops_kernel *kernel) {
  bk_attention_args *a = &kernel->attention;
  int32_t qk_norm, rope;
  OPS_TRY(ops_int(info, "num_heads", 1, MAX_HEADS, &a->num_heads));
  OPS_TRY(ops_int(info, "num_kv_heads", 1, a->num_heads, &a->num_kv_heads));
  OPS_CHECK(a->num_heads % a->num_kv_heads == 0, "num_kv_heads %d does not divide num_heads %d", a->num_kv_heads,
            a->num_heads);
  OPS_TRY(ops_int(info, "head_dim", 1, MAX_HEAD_DIM, &a->head_dim));
  OPS_TRY(ops_float(info, "scale", &a->scale));
  OPS_TRY(ops_int(info, "qk_norm", BK_NORM_NONE, BK_NORM_RMS, &qk_norm));
  OPS_TRY(ops_float(info, "qk_norm_eps", &a->qk_norm_eps));
  OPS_TRY(ops_int(info, "qk_norm_one_plus_weight", 0, 1, &a->qk_norm_one_plus_weight));
  OPS_TRY(ops_int(info, "rope", BK_ROPE_NONE, BK_ROPE_INTERLEAVED, &rope));
  OPS_TRY(ops_int(info, "rope_dim", 0, a->head_dim, &a->rope_dim));
  OPS_CHECK(rope == BK_ROPE_NONE || (a->rope_dim >= 2 && a->rope_dim % 2 == 0), "rope_dim %d is not even and positive",
            a->rope_dim);
  OPS_TRY(ops_int(info, "causal", 0, 1, &a->causal));
  OPS_TRY(ops_int(info, "window_left", -1, INT32_MAX, &a->window_left));
  OPS_TRY(ops_int(info, "window_right", -1, INT32_MAX, &a->window_right));
  OPS_TRY(ops_float(info, "softcap", &a->softcap));
  OPS_CHECK(isfinite(a->scale) && isfinite(a->softcap) && a->softcap >= 0, "scale %g or softcap %g is out of range",
            a->scale, a->softcap);
  a->qk_norm = (bk_norm)qk_norm;
  a->rope = (bk_rope)rope;
  return NULL;
}

static OrtStatus *bind_rope(bk_attention_args *a, const ops_tensor *inputs) {
  const ops_tensor *cos = &inputs[ROPE_COS], *sin = &inputs[ROPE_SIN], *positions = &inputs[POSITION_IDS];
  OPS_CHECK(cos->data != NULL && sin->data != NULL && positions->data != NULL,
            "bei.Attention: rope needs rope_cos, rope_sin and position_ids");
  OPS_CHECK(cos->rank == 2 && sin->rank == 2 && cos->dims[1] == a->rope_dim / 2 && sin->dims[1] == cos->dims[1] &&
                sin->dims[0] == cos->dims[0],
            "bei.Attention: rope_cos and rope_sin must be [positions, %d]", a->rope_dim / 2);
  OPS_CHECK(positions->rank == 1 && positions->dims[0] == a->total_tokens, "bei.Attention: position_ids must be [%lld]",
            (long long)a->total_tokens);
  a->rope_cos = cos->data;
  a->rope_sin = sin->data;
  a->position_ids = positions->data;
  for (int64_t t = 0; t < a->total_tokens; t++) {
    OPS_CHECK(a->position_ids[t] >= 0 && a->position_ids[t] < cos->dims[0],
              "bei.Attention: position id %d of row %lld is outside [0, %lld)", a->position_ids[t], (long long)t,
              (long long)cos->dims[0]);
  }
  return NULL;
}

// One of the two tables of places, whose rows must be as many as the other's.
static OrtStatus *bind_places_of(const bk_attention_args *a, const ops_tensor *table, int64_t *count,
                                 const float **out) {
  if (table->data == NULL)
    return NULL;
  const int64_t width = (int64_t)a->num_heads * a->head_dim;
  OPS_CHECK(table->rank == 2 && table->dims[1] == width && table->dims[0] > 0 &&
                (*count == 0 || *count == table->dims[0]),
            "bei.Attention: place_keys and place_queries must be [places, %lld]", (long long)width);
  *count = table->dims[0];
  *out = table->data;
  return NULL;
}

static OrtStatus *bind_places(bk_attention_args *a, const ops_tensor *inputs) {
  int64_t count = 0;
  OPS_TRY(bind_places_of(a, &inputs[PLACE_KEYS], &count, &a->place_keys));
  OPS_TRY(bind_places_of(a, &inputs[PLACE_QUERIES], &count, &a->place_queries));
  const ops_tensor *rows = &inputs[PLACE_ROWS];
  if (count == 0 && rows->data == NULL)
    return NULL;
  OPS_CHECK(count > 0 && rows->data != NULL && rows->rank == 1 && rows->dims[0] % 2 == 1 && rows->dims[0] < INT32_MAX &&
                a->num_kv_heads == a->num_heads,
            "bei.Attention: places need a table, place_rows [2 * max + 1] and as many kv heads as heads");
  a->place_rows = rows->data;
  a->place_max = (int32_t)(rows->dims[0] / 2);
  for (int64_t i = 0; i < rows->dims[0]; i++)
    OPS_CHECK(a->place_rows[i] >= 0 && a->place_rows[i] < count, "bei.Attention: place_rows[%lld] is outside [0, %lld)",
              (long long)i, (long long)count);
  return NULL;
}

// Fills the data pointers of a, whose attributes are set.
static OrtStatus *bind(const ops_kernel *kernel, const ops_tensor *inputs, bk_attention_args *a) {
  const int64_t width = ((int64_t)a->num_heads + 2 * (int64_t)a->num_kv_heads) * a->head_dim;
  const ops_tensor *qkv = &inputs[QKV], *relative = &inputs[RELATIVE_BIAS];
  OPS_CHECK(qkv->rank == 2 && qkv->dims[1] == width, "bei.Attention: qkv must be [tokens, %lld]", (long long)width);
  a->qkv = qkv->data;
  a->total_tokens = qkv->dims[0];
  OPS_TRY(ops_cu_seqlens(kernel, &inputs[CU_SEQLENS], a->total_tokens, &a->num_sequences));
  a->cu_seqlens = inputs[CU_SEQLENS].data;
  OPS_TRY(ops_vector(kernel, inputs, QKV_BIAS, width, &a->qkv_bias));
  OPS_TRY(ops_vector(kernel, inputs, Q_NORM_WEIGHT, a->head_dim, &a->q_norm_weight));
  OPS_TRY(ops_vector(kernel, inputs, K_NORM_WEIGHT, a->head_dim, &a->k_norm_weight));
  OPS_TRY(ops_vector(kernel, inputs, Q_NORM_BIAS, a->head_dim, &a->q_norm_bias));
  OPS_TRY(ops_vector(kernel, inputs, K_NORM_BIAS, a->head_dim, &a->k_norm_bias));
  OPS_TRY(ops_vector(kernel, inputs, ALIBI_SLOPES, a->num_heads, &a->alibi_slopes));
  if (a->rope != BK_ROPE_NONE)
    OPS_TRY(bind_rope(a, inputs));
  if (relative->data != NULL) {
    OPS_CHECK(relative->rank == 2 && relative->dims[0] == a->num_heads && relative->dims[1] % 2 == 1 &&
                  relative->dims[1] < INT32_MAX,
              "bei.Attention: relative_bias must be [%d, 2 * max + 1]", a->num_heads);
    a->relative_bias = relative->data;
    a->relative_bias_max = (int32_t)(relative->dims[1] / 2);
  }
  return bind_places(a, inputs);
}

static OrtStatus *compute(const ops_kernel *kernel, OrtKernelContext *context, const ops_tensor *inputs) {
  bk_attention_args a = kernel->attention;
  OPS_TRY(bind(kernel, inputs, &a));
  OPS_TRY(ops_output(context, 0, a.total_tokens, (int64_t)a.num_heads * a.head_dim, &a.out));
  bk_parallel parallel = ops_parallel(kernel, context);
  size_t bytes = bk_attention_scratch_bytes(&a, parallel.threads);
  void *scratch = malloc(bytes > 0 ? bytes : 1);
  if (scratch == NULL)
    return bei_ort_api->CreateStatus(ORT_FAIL, "out of memory for attention's scratch");
  bk_attention(&a, scratch, &parallel);
  free(scratch);
  return NULL;
}

const ops_spec ops_attention = {
    .name = "Attention",
    .num_inputs = 15,
    .num_outputs = 1,
    .inputs = {{"qkv", OPS_ROWS, false},
               {"cu_seqlens", OPS_INT32, false},
               {"position_ids", OPS_INT32, true},
               {"qkv_bias", OPS_ROWS, true},
               {"q_norm_weight", OPS_ROWS, true},
               {"k_norm_weight", OPS_ROWS, true},
               {"q_norm_bias", OPS_ROWS, true},
               {"k_norm_bias", OPS_ROWS, true},
               {"rope_cos", OPS_ROWS, true},
               {"rope_sin", OPS_ROWS, true},
               {"alibi_slopes", OPS_ROWS, true},
               {"relative_bias", OPS_ROWS, true},
               {"place_keys", OPS_ROWS, true},
               {"place_queries", OPS_ROWS, true},
               {"place_rows", OPS_INT32, true}},
    .create = create,
    .compute = compute,
};
