// CPU kernels for packed (unpadded) transformer batches, fp32. No dependency but libc and libm.
//
// Data are rows of `total_tokens` x `width` contiguous floats, row-major. The tokens of sequence s are rows
// cu_seqlens[s] .. cu_seqlens[s+1]-1; nothing is padded. Sequences may be empty.
//
// The functions check nothing: the caller (the graph layer) guarantees the preconditions stated here, and above
// all that cu_seqlens starts at 0, never falls and ends at or below total_tokens. Pointers need only the
// alignment of their type. Optional pointers are NULL when absent. Inputs must not overlap outputs unless said.
//
// Threads: every function is reentrant and safe from any thread; nothing is allocated and no state is kept. Results
// do not depend on the number of threads, nor on which other sequences are in the batch, bit for bit.
// Non-finite values: a NaN or infinity in one sequence never reaches another sequence.
#ifndef BEI_KERNELS_H
#define BEI_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// ---- Level ---------------------------------------------------------------------------------------------------

// Instruction sets, slowest first. One source is compiled for each; they agree to rounding, not bit for bit.
typedef enum bk_level {
  BK_LEVEL_AUTO = 0,   // the best one that this CPU runs; the default
  BK_LEVEL_SCALAR = 1, // plain C, one lane: the reference
  BK_LEVEL_VEC128 = 2, // four lanes, whatever the platform's baseline has (SSE2, NEON)
  BK_LEVEL_AVX2 = 3    // eight lanes, AVX2 + FMA
} bk_level;

// Chooses the level for later calls of every kernel in the process. Calls that are running keep theirs.
// Returns 0, or -1 (level unchanged) when `level` is unknown or this CPU lacks it.
int bk_set_level(bk_level level);

// The level in use: "scalar", "vec128" or "avx2". A static string.
const char *bk_level_name(void);

// ---- Parallelism ---------------------------------------------------------------------------------------------

// The caller's thread pool. `run` calls fn(arg, index) once for every index in [0, count), in any order and on any
// threads, and returns when all have returned. A kernel calls it at most once, with count <= threads: the
// indices are workers that share the work out among themselves, so `run` need not balance. With threads <= 1, run
// NULL, or little work the kernel stays on the calling thread. A NULL bk_parallel means the same.
typedef struct bk_parallel {
  void (*run)(void *ctx, void (*fn)(void *arg, size_t index), size_t count, void *arg);
  void *ctx;
  int32_t threads;
} bk_parallel;

// ---- Attention -----------------------------------------------------------------------------------------------

typedef enum bk_rope {
  BK_ROPE_NONE = 0,
  BK_ROPE_HALF = 1,       // "neox": element i is paired with i + rope_dim/2
  BK_ROPE_INTERLEAVED = 2 // "gptj": element 2i is paired with 2i+1
} bk_rope;

typedef enum bk_norm {
  BK_NORM_NONE = 0,
  BK_NORM_LAYER = 1, // (x - mean) / sqrt(variance + eps)
  BK_NORM_RMS = 2    // x / sqrt(mean(x^2) + eps)
} bk_norm;

// One call of attention over a packed batch. Zero-initialise, then set what applies; note that the windows' "none"
// is -1. With H = num_heads, KV = num_kv_heads, D = head_dim:
//
//   q, k, v = split(qkv + qkv_bias); q, k = rope(qk_norm(q)), rope(qk_norm(k))
//   s[i][j] = softcap(scale * (q_i . k_j + q_i . place_keys[r] + k_j . place_queries[r]))
//             - alibi[h] * |i - j| + relative_bias[h][clamp(j - i, -R, R) + R]
//             with r = place_rows[clamp(i - j, -P, P) + P]
//   out_i   = sum over visible j of softmax_j(s[i]) * v_j
//
// i and j count from the start of their sequence. Query head h reads kv head h / (H / KV).
// A query that sees no key gives zeros. Memory is O(block), time is proportional to the visible area.
typedef struct bk_attention_args {
  // The batch.
  const float *qkv;          // [total_tokens, (H + 2*KV) * D]: query heads, key heads, value heads
  float *out;                // [total_tokens, H * D]; rows outside every sequence are set to zero
  int64_t total_tokens;      // >= 0
  int64_t num_sequences;     // >= 0
  const int32_t *cu_seqlens; // [num_sequences + 1]
  // The heads.
  int32_t num_heads;     // H >= 1
  int32_t num_kv_heads;  // KV >= 1, divides H (grouped-query and multi-query attention)
  int32_t head_dim;      // D >= 1
  float scale;           // of q . k, usually 1 / sqrt(D)
  const float *qkv_bias; // optional, [(H + 2*KV) * D]
  // Norm of each query and key head over head_dim, before rope.
  bk_norm qk_norm;
  float qk_norm_eps;
  int32_t qk_norm_one_plus_weight; // not 0: multiply by (1 + weight), as Gemma does
  const float *q_norm_weight;      // [D]; optional (1)
  const float *k_norm_weight;      // [D]; optional (1)
  const float *q_norm_bias;        // optional, [D]
  const float *k_norm_bias;        // optional, [D]
  // Rotary position embedding of elements [0, rope_dim) of each query and key head; the rest passes through.
  bk_rope rope;
  int32_t rope_dim;            // even, 2 <= rope_dim <= D
  const float *rope_cos;       // [positions, rope_dim / 2]
  const float *rope_sin;       // [positions, rope_dim / 2]
  const int32_t *position_ids; // [total_tokens], rows of the two tables
  // What a query sees: key j is visible to query i iff i - window_left <= j <= i + window_right, and j <= i if causal.
  int32_t causal;
  int32_t window_left;  // -1: unlimited
  int32_t window_right; // -1: unlimited
  // Changes to the scores.
  float softcap;              // cap * tanh(s / cap); 0: none
  const float *alibi_slopes;  // optional, [H]
  const float *relative_bias; // optional, [H, 2 * relative_bias_max + 1], indexed by key minus query position
  int32_t relative_bias_max;  // R >= 0; larger distances use the table's ends
  // Disentangled attention (DeBERTa): keys and queries of a distance, query minus key. Needs KV = H.
  const float *place_keys;    // optional, [place_count, H * D]
  const float *place_queries; // optional, [place_count, H * D]
  const int32_t *place_rows;  // [2 * place_max + 1], where one of the two is given: each within [0, place_count)
  int32_t place_max;          // P >= 0; larger distances use the ends
} bk_attention_args;

// Bytes of scratch that bk_attention needs for these args (what the data pointers point to is not read) and that many threads. Grows
// with head_dim and threads, not with the batch. Any head_dim and thread count whose product fits size_t.
size_t bk_attention_scratch_bytes(const bk_attention_args *args, int32_t threads);

// `scratch`: at least bk_attention_scratch_bytes(args, par->threads) bytes (1 thread if par is NULL), any alignment,
// used by this call alone; its contents mean nothing before or after. `out` must not overlap `qkv`.
void bk_attention(const bk_attention_args *args, void *scratch, const bk_parallel *par);

// ---- Activation ----------------------------------------------------------------------------------------------

typedef enum bk_act {
  BK_ACT_IDENTITY = 0,
  BK_ACT_GELU = 1,       // x * Phi(x), with erf
  BK_ACT_GELU_TANH = 2,  // x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))): gelu_new, gelu_pytorch_tanh
  BK_ACT_QUICK_GELU = 3, // x * sigmoid(1.702 x)
  BK_ACT_RELU = 4,
  BK_ACT_SILU = 5, // x * sigmoid(x)
  BK_ACT_TANH = 6
} bk_act;

// Errors, with a the true value: below 4e-7 * max(1, |a|) for all, below 1.5e-7 * max(1, |a|) for gelu.

// y[r][c] = act(x[r][c] + bias[c]). x, y: [rows, width]; bias: optional, [width]. y may be x.
void bk_bias_act(bk_act act, const float *x, const float *bias, float *y, int64_t rows, int64_t width,
                 const bk_parallel *par);

// y[r][c] = act(gate + bias) * (up + bias): x, bias (optional) are [rows, 2*inner] and [2*inner], with the gate in the
// first half of a row if gate_first, otherwise in the second. y: [rows, inner], not overlapping x.
void bk_gated_act(bk_act act, int32_t gate_first, const float *x, const float *bias, float *y, int64_t rows,
                  int64_t inner, const bk_parallel *par);

// ---- Norm ----------------------------------------------------------------------------------------------------

// sum = x + x_bias + residual;  y = norm(sum) * weight + bias. Zero-initialise, then set what applies.
typedef struct bk_residual_norm_args {
  const float *x;        // [rows, width]
  const float *x_bias;   // optional, [width]
  const float *residual; // optional, [rows, width]
  float *sum;            // optional, [rows, width]: receives the sum (pre-norm models). May be x or residual, not y
  float *y;              // [rows, width]. May be x or residual
  int64_t rows;          // >= 0
  int64_t width;         // >= 1
  bk_norm norm;          // BK_NORM_LAYER or BK_NORM_RMS
  float eps;
  int32_t one_plus_weight; // not 0: multiply by (1 + weight), as Gemma does
  const float *weight;     // optional, [width]
  const float *bias;       // optional, [width]
} bk_residual_norm_args;

void bk_residual_norm(const bk_residual_norm_args *args, const bk_parallel *par);

// ---- Pooling -------------------------------------------------------------------------------------------------

typedef enum bk_pooling {
  BK_POOL_CLS = 0,  // the first token
  BK_POOL_LAST = 1, // the last token
  BK_POOL_MEAN = 2,
  BK_POOL_MAX = 3,
  BK_POOL_MEAN_SQRT_LEN = 4, // sum / sqrt(count)
  BK_POOL_WEIGHTED_MEAN = 5  // token t (from 0) has weight t + 1
} bk_pooling;

// hidden: [total_tokens, width] -> y: [num_sequences, width]. A sequence with nothing to pool gives zeros.
// skip_prefix: optional, [num_sequences], >= 0: the first tokens of each sequence that the last four kinds leave
// out (sentence-transformers' include_prompt = false, which likewise leaves cls, last and the weights t + 1 alone).
void bk_pool(bk_pooling pooling, const float *hidden, const int32_t *cu_seqlens, const int32_t *skip_prefix, float *y,
             int64_t num_sequences, int64_t width, const bk_parallel *par);

#ifdef __cplusplus
}
#endif

#endif
