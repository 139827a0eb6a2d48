// The operators of domain bei on a CUDA device, over packed rows in float32, float16 or bfloat16. What they mean stands in
// ../kernels/kernels.h, whose enums' numbers come as arguments; sums, means and functions are computed in float32 from
// numbers that are read once. All of them are bound by memory: a thread moves 16 bytes at a time where rows allow it (the
// kernels whose name ends in _wide), else one number.
//
// scripts/ptx.py compiles this with NVRTC, without headers; testdata/emulate.h lets a C++ compiler do so for the CPU, for
// tests. Widths, pointers and strides are the launcher's promise (../ort/ops_cuda.c): nothing here checks them.

typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

struct half {
  u16 bits;
};
struct bfloat {
  u16 bits;
};

// ---- Numbers ----

#ifdef __CUDACC_RTC__
#define DEVICE __device__ __forceinline__
#define FULL 0xffffffffu
#define INFINITY __int_as_float(0x7f800000)
DEVICE float to_float(half h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.bits));
  return f;
}
DEVICE void from_float(float f, half &h) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(f)); }
DEVICE float to_float(bfloat b) { return __uint_as_float((u32)b.bits << 16); }
// To nearest, ties to even; the instruction for it came with 8.0.
DEVICE void from_float(float f, bfloat &b) {
  const u32 bits = __float_as_uint(f);
  b.bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
DEVICE float xor_lane(float x, int mask) { return __shfl_xor_sync(FULL, x, mask); }
#else
EMULATED_NUMBERS
#endif
DEVICE float to_float(float f) { return f; }
DEVICE void from_float(float f, float &to) { to = f; }

template <typename T, int N> struct alignas(sizeof(T) * N) vec {
  T v[N];
};

template <typename T, int N> DEVICE void load(const T *from, float *to) {
  vec<T, N> in = *(const vec<T, N> *)from;
#pragma unroll
  for (int i = 0; i < N; i++)
    to[i] = to_float(in.v[i]);
}

// As load; zeros where there is nothing.
template <typename T, int N> DEVICE void load_optional(const T *from, i64 at, float *to) {
  if (from) {
    load<T, N>(from + at, to);
    return;
  }
#pragma unroll
  for (int i = 0; i < N; i++)
    to[i] = 0;
}

template <typename T, int N> DEVICE void store(T *to, const float *from) {
  vec<T, N> out;
#pragma unroll
  for (int i = 0; i < N; i++)
    from_float(from[i], out.v[i]);
  *(vec<T, N> *)to = out;
}

// Sums among `lanes` neighbours, a power of two; all lanes of the warp take part.
DEVICE float sum_of_lanes(float x, int lanes) {
  for (int mask = lanes >> 1; mask > 0; mask >>= 1)
    x += xor_lane(x, mask);
  return x;
}

// Of all threads of a block, for each of them. `shared` has a float for each warp, which nothing else uses.
DEVICE float sum_of_block(float x, float *shared) {
  const int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  x = sum_of_lanes(x, 32);
  if (warps == 1)
    return x;
  if ((threadIdx.x & 31) == 0)
    shared[warp] = x;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < warps; i++)
    sum += shared[i];
  return sum;
}

DEVICE float sigmoid(float x) { return 1 / (1 + expf(-x)); }

// The numbers of bk_act.
DEVICE float activation(int act, float x) {
  switch (act) {
  case 1:
    return 0.5f * x * (1 + erff(x * 0.70710678118654752f));
  case 2:
    // x/2 * (1 + tanh(u)) is x * sigmoid(2 u).
    return x * sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));
  case 3:
    return x * sigmoid(1.702f * x);
  case 4:
    return x > 0 || x != x ? x : 0;
  case 5:
    return x * sigmoid(x);
  case 6:
    return tanhf(x);
  }
  return x;
}

// ---- BiasActivation: y = act(x + bias), a thread for N numbers. x, y: [rows, width] ----

template <typename T, int N>
DEVICE void bias_activation(const T *x, const T *bias, T *y, u32 portions, u32 width, int act) {
  const u32 portion = blockIdx.x * blockDim.x + threadIdx.x;
  if (portion >= portions)
    return;
  const i64 at = (i64)portion * N;
  float a[N], b[N];
  load<T, N>(x + at, a);
  load_optional<T, N>(bias, portion % (width / N) * N, b);
#pragma unroll
  for (int i = 0; i < N; i++)
    a[i] = activation(act, a[i] + b[i]);
  store<T, N>(y + at, a);
}

// ---- GatedActivation: y = act(gate + bias) * (up + bias), a thread for N numbers. x: [rows, 2 * inner], y: [rows, inner] ----

template <typename T, int N>
DEVICE void gated_activation(const T *x, const T *bias, T *y, u32 portions, u32 inner, int act, int gate_first) {
  const u32 portion = blockIdx.x * blockDim.x + threadIdx.x;
  if (portion >= portions)
    return;
  const u32 column = portion % (inner / N) * N;
  const u32 gate = column + (gate_first ? 0 : inner), up = column + (gate_first ? inner : 0);
  const T *row = x + (i64)(portion / (inner / N)) * 2 * inner;
  float a[N], b[N], c[N];
  load<T, N>(row + gate, a);
  load_optional<T, N>(bias, gate, b);
#pragma unroll
  for (int i = 0; i < N; i++)
    a[i] = activation(act, a[i] + b[i]);
  load<T, N>(row + up, b);
  load_optional<T, N>(bias, up, c);
#pragma unroll
  for (int i = 0; i < N; i++)
    a[i] *= b[i] + c[i];
  store<T, N>(y + (i64)portion * N, a);
}

// ---- ResidualNorm: sum = x + x_bias + residual; y = norm(sum) * weight + bias, a block for a row ----

// Numbers of a row that a thread holds, in portions of N: a row has at most PORTIONS * N * 1024.
enum { PORTIONS = 4 };

template <typename T, int N>
DEVICE void residual_norm(const T *x, const T *x_bias, const T *residual, const T *weight, const T *bias, T *y, T *sum,
                          int width, float eps, int rms, int one_plus_weight) {
  __shared__ float shared[2][32];
  const i64 row = (i64)blockIdx.x * width;
  const int step = blockDim.x * N, first = threadIdx.x * N;
  float a[PORTIONS][N], b[N], total = 0;
#pragma unroll
  for (int p = 0; p < PORTIONS; p++) {
    const int at = first + p * step;
    if (at >= width)
      break;
    load<T, N>(x + row + at, a[p]);
    load_optional<T, N>(x_bias, at, b);
#pragma unroll
    for (int i = 0; i < N; i++)
      a[p][i] += b[i];
    if (residual) {
      load<T, N>(residual + row + at, b);
#pragma unroll
      for (int i = 0; i < N; i++)
        a[p][i] += b[i];
    }
    if (sum)
      store<T, N>(sum + row + at, a[p]);
#pragma unroll
    for (int i = 0; i < N; i++)
      total += a[p][i];
  }
  const float mean = rms ? 0 : sum_of_block(total, shared[0]) / width;
  float squares = 0;
#pragma unroll
  for (int p = 0; p < PORTIONS; p++) {
    if (first + p * step >= width)
      break;
#pragma unroll
    for (int i = 0; i < N; i++) {
      a[p][i] -= mean;
      squares += a[p][i] * a[p][i];
    }
  }
  const float scale = 1 / sqrtf(sum_of_block(squares, shared[1]) / width + eps);
#pragma unroll
  for (int p = 0; p < PORTIONS; p++) {
    const int at = first + p * step;
    if (at >= width)
      break;
    if (weight) {
      load<T, N>(weight + at, b);
#pragma unroll
      for (int i = 0; i < N; i++)
        a[p][i] *= scale * (one_plus_weight ? 1 + b[i] : b[i]);
    } else {
#pragma unroll
      for (int i = 0; i < N; i++)
        a[p][i] *= scale;
    }
    load_optional<T, N>(bias, at, b);
#pragma unroll
    for (int i = 0; i < N; i++)
      a[p][i] += b[i];
    store<T, N>(y + row + at, a[p]);
  }
}

// ---- Heads: the query, key and value heads of rows, with their bias; query and key normalised, and rotated by the row's position ----

// A lane has eight numbers of a head, and `lanes` of them have a head: the power of two from dim / 8. `groups` of these share a row: group g has
// heads g, g + groups, ..., and reads once what heads have in common. x: [rows, query | key | value]; q: [rows, query_heads * dim];
// k, v: [rows, key_heads * dim], or a cache of so many such rows (places), of which row r is slots[r]; rows with another
// slot have their query heads only. dim and rope_dim are multiples of 8; cos, sin: [positions, rope_dim / 2].
template <typename T>
DEVICE void heads_of(const T *x, const T *bias, const T *q_weight, const T *k_weight, const T *q_bias, const T *k_bias,
                     const float *cos, const float *sin, const int *positions, const int *slots, u32 places, T *q, T *k,
                     T *v, u32 rows, u32 groups, u32 lanes, int query_heads, int key_heads, int dim, int norm,
                     float eps, int one_plus_weight, int rope, int rope_dim) {
  const u32 thread = blockIdx.x * blockDim.x + threadIdx.x, unit = thread / lanes, row = unit / groups;
  const int lane = thread % lanes, group = unit % groups, heads = query_heads + 2 * key_heads;
  const bool inside = row < rows && 8 * lane < dim, pairs = rope && 8 * lane < rope_dim;
  const float share = 1.0f / dim;
  float a[8], b[8], w[8], c[4] = {}, s[4] = {};
  if (inside && pairs) {
    const i64 angle = (i64)positions[row] * (rope_dim / 2) + 4 * lane;
    load<float, 4>(cos + angle, c);
    load<float, 4>(sin + angle, s);
  }
  const u32 place = slots && inside ? (u32)slots[row] : row;
  const int written = !inside ? 0 : place < places ? heads : query_heads;
  x += (i64)row * heads * dim;
  q += (i64)row * query_heads * dim;
  k += (i64)place * key_heads * dim;
  v += (i64)place * key_heads * dim;
  int last = -1;                                                 // the part of the head before
  for (int head = group; head - group < heads; head += groups) { // as often in all lanes of a warp, which sum
    const int part = head < query_heads ? 0 : head < query_heads + key_heads ? 1 : 2;
    const bool active = head < written, turns = pairs && part < 2;
    // Where rope pairs the halves, a lane has four numbers of each.
    const int at[2] = {turns && rope == 1 ? 4 * lane : 8 * lane,
                       turns && rope == 1 ? rope_dim / 2 + 4 * lane : 8 * lane + 4};
#pragma unroll
    for (int half = 0; half < 2; half++) {
      load_optional<T, 4>(active ? x : nullptr, head * dim + at[half], a + 4 * half);
      load_optional<T, 4>(active ? bias : nullptr, head * dim + at[half], b + 4 * half);
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
      a[i] += b[i];
    if (norm) {
      const T *weight = part == 0 ? q_weight : k_weight, *offset = part == 0 ? q_bias : k_bias;
      if (part != last && weight && active && part < 2) {
#pragma unroll
        for (int half = 0; half < 2; half++)
          load<T, 4>(weight + at[half], w + 4 * half);
#pragma unroll
        for (int i = 0; i < 8; i++)
          w[i] = one_plus_weight ? 1 + w[i] : w[i];
      }
      last = part;
      float mean = 0, squares = 0;
      if (norm == 1) {
#pragma unroll
        for (int i = 0; i < 8; i++)
          mean += a[i];
        mean = sum_of_lanes(mean, lanes) * share;
      }
#pragma unroll
      for (int i = 0; i < 8; i++)
        squares += active ? (a[i] - mean) * (a[i] - mean) : 0;
      const float scale = 1 / sqrtf(sum_of_lanes(squares, lanes) * share + eps);
      if (active && part < 2) {
#pragma unroll
        for (int half = 0; half < 2; half++)
          load_optional<T, 4>(offset, at[half], b + 4 * half);
#pragma unroll
        for (int i = 0; i < 8; i++)
          a[i] = (a[i] - mean) * scale * (weight ? w[i] : 1) + b[i];
      }
    }
    if (turns) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (rope == 1) {
          b[i] = a[i] * c[i] - a[i + 4] * s[i];
          b[i + 4] = a[i + 4] * c[i] + a[i] * s[i];
        } else {
          b[2 * i] = a[2 * i] * c[i] - a[2 * i + 1] * s[i];
          b[2 * i + 1] = a[2 * i + 1] * c[i] + a[2 * i] * s[i];
        }
      }
#pragma unroll
      for (int i = 0; i < 8; i++)
        a[i] = b[i];
    }
    if (!active)
      continue;
    T *y = part == 0   ? q + head * dim
           : part == 1 ? k + (head - query_heads) * dim
                       : v + (head - query_heads - key_heads) * dim;
#pragma unroll
    for (int half = 0; half < 2; half++)
      store<T, 4>(y + at[half], a + 4 * half);
  }
}

// ---- Pool: a float32 row for each sequence; a block for 32 * N columns of one, whose warps take turns at its rows ----

// max keeps NaN, which fmaxf drops.
DEVICE float larger(float a, float b) { return b > a || b != b ? b : a; }

// x: [tokens, width]; cu_seqlens: [sequences + 1]; skip: [sequences] or null; y: [sequences, width].
template <typename T, int N>
DEVICE void pool(const T *x, const int *cu_seqlens, const int *skip, float *y, int width, int pooling) {
  enum { WARPS = 8, CLS = 0, LAST = 1, MAX = 3, MEAN_SQRT_LEN = 4, WEIGHTED_MEAN = 5 };
  __shared__ float shared[WARPS][32 * N];
  const int blocks = (width + 32 * N - 1) / (32 * N), sequence = blockIdx.x / blocks;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, column = (blockIdx.x % blocks * 32 + lane) * N;
  const int start = cu_seqlens[sequence], length = cu_seqlens[sequence + 1] - start;
  const bool one = pooling == CLS || pooling == LAST;
  const int from = pooling == LAST ? (length > 0 ? length - 1 : 0) : skip && !one ? skip[sequence] : 0;
  const int to = pooling == CLS && length > 0 ? 1 : length;
  float a[N], b[N];
#pragma unroll
  for (int i = 0; i < N; i++)
    a[i] = pooling == MAX ? -INFINITY : 0;
  if (column < width)
    for (int t = from + warp; t < to; t += WARPS) {
      load<T, N>(x + (i64)(start + t) * width + column, b);
      const float weight = pooling == WEIGHTED_MEAN ? t + 1 : 1;
#pragma unroll
      for (int i = 0; i < N; i++)
        a[i] = pooling == MAX ? larger(a[i], b[i]) : a[i] + b[i] * weight;
    }
#pragma unroll
  for (int i = 0; i < N; i++)
    shared[warp][i * 32 + lane] = a[i];
  __syncthreads();
  if (warp > 0 || column >= width)
    return;
  const float count = to - from;
  float scale = 1;
  if (!one && pooling != MAX)
    scale = pooling == MEAN_SQRT_LEN   ? 1 / sqrtf(count)
            : pooling == WEIGHTED_MEAN ? 2 / (count * (from + 1 + to))
                                       : 1 / count;
#pragma unroll
  for (int i = 0; i < N; i++) {
    for (int w = 1; w < WARPS; w++) {
      const float other = shared[w][i * 32 + lane];
      a[i] = pooling == MAX ? larger(a[i], other) : a[i] + other;
    }
    a[i] = to > from ? a[i] * scale : 0;
  }
  for (int i = 0; i < N; i += N > 4 ? 4 : N)
    store<float, (N > 4 ? 4 : N)>(y + (i64)sequence * width + column + i, a + i);
}

// ---- Entry points: one for each dtype, and for each width of access ----

#define OF_WIDTH(T, NAME, N, WIDTH)                                                                                    \
  extern "C" __global__ void bias_activation_##NAME##WIDTH(const T *x, const T *bias, T *y, u32 portions, u32 width,   \
                                                           int act) {                                                  \
    bias_activation<T, N>(x, bias, y, portions, width, act);                                                           \
  }                                                                                                                    \
  extern "C" __global__ void gated_activation_##NAME##WIDTH(const T *x, const T *bias, T *y, u32 portions, u32 inner,  \
                                                            int act, int gate_first) {                                 \
    gated_activation<T, N>(x, bias, y, portions, inner, act, gate_first);                                              \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(1024)                                                                   \
      residual_norm_##NAME##WIDTH(const T *x, const T *x_bias, const T *residual, const T *weight, const T *bias,      \
                                  T *y, T *sum, int width, float eps, int rms, int one_plus_weight) {                  \
    residual_norm<T, N>(x, x_bias, residual, weight, bias, y, sum, width, eps, rms, one_plus_weight);                  \
  }                                                                                                                    \
  extern "C" __global__ void pool_##NAME##WIDTH(const T *x, const int *cu_seqlens, const int *skip, float *y,          \
                                                int width, int pooling) {                                              \
    pool<T, N>(x, cu_seqlens, skip, y, width, pooling);                                                                \
  }

#define OF_TYPE(T, NAME)                                                                                               \
  OF_WIDTH(T, NAME, 16 / sizeof(T), _wide)                                                                             \
  OF_WIDTH(T, NAME, 1, _narrow)                                                                                        \
  extern "C" __global__ void heads_##NAME(const T *x, const T *bias, const T *q_weight, const T *k_weight,             \
                                          const T *q_bias, const T *k_bias, const float *cos, const float *sin,        \
                                          const int *positions, const int *slots, u32 places, T *q, T *k, T *v,        \
                                          u32 rows, u32 groups, u32 lanes, int query_heads, int key_heads, int dim,    \
                                          int norm, float eps, int one_plus_weight, int rope, int rope_dim) {          \
    heads_of<T>(x, bias, q_weight, k_weight, q_bias, k_bias, cos, sin, positions, slots, places, q, k, v, rows,        \
                groups, lanes, query_heads, key_heads, dim, norm, eps, one_plus_weight, rope, rope_dim);               \
  }

OF_TYPE(float, float32)
OF_TYPE(half, float16)
OF_TYPE(bfloat, bfloat16)
