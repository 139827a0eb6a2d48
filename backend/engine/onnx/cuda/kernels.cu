// The operators of domain bei on a CUDA device, over packed rows in float32, float16 or bfloat16. What they mean stands in
// ../kernels/kernels.h, whose enums' numbers come as arguments; sums, means and functions are computed in float32 from numbers that are
// read once. All of them are bound by memory: a thread moves 16 bytes at a time where rows allow it (the kernels whose name ends in _wide),
// else one number.
//
// scripts/ptx.py compiles this with NVRTC, without headers; testdata/emulate.h lets a C++ compiler do so for the CPU, for tests. Widths, pointers and strides are
// the launcher's promise (../ort/ops_cuda.c): nothing here checks them.

typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

struct half { u16 bits; };
struct bfloat { u16 bits; };

// ---- Numbers ----

#ifdef __CUDACC_RTC__
#define DEVICE __device__ __forceinline__
#define FULL 0xffffffffu
DEVICE float to_float(half h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.bits));
  return f;
}
DEVICE void from_float(float f, half &h) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(f)); }
DEVICE float to_float(bfloat b) { return __uint_as_float((u32)b.bits << 16); }
DEVICE void from_float(float f, bfloat &b) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(b.bits) : "f"(f)); }
DEVICE float xor_lane(float x, int mask) { return __shfl_xor_sync(FULL, x, mask); }
#else
EMULATED_NUMBERS
#endif
DEVICE float to_float(float f) { return f; }
DEVICE void from_float(float f, float &to) { to = f; }

template <typename T, int N> struct alignas(sizeof(T) * N) vec { T v[N]; };

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

DEVICE float sum_of_warp(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1)
    x += xor_lane(x, mask);
  return x;
}

// Of all threads of a block, for each of them. `shared` has a float for each warp, which nothing else uses.
DEVICE float sum_of_block(float x, float *shared) {
  const int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  x = sum_of_warp(x);
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

// ---- Heads: query and key heads, each normalised and rotated by its row's position, and value heads with their bias ----

// A lane holds two portions of four numbers: heads of at most 256.
enum { HEAD_PORTIONS = 2 };

// A warp for a head; `heads` of a row are done, query first, then key, then value. In rows [query | key | value], or, where interleaved,
// [heads, 3, dim]; bias is always [query | key | value]. dim and rope_dim are multiples of 4; cos and sin: [positions, rope_dim / 2]. y may be x.
template <typename T>
DEVICE void heads_of(const T *x, const T *bias, const T *q_weight, const T *k_weight, const T *q_bias, const T *k_bias, const float *cos,
                     const float *sin, const int *positions, T *y, u32 units, int heads, int query_heads, int key_heads, int dim,
                     int interleaved, int norm, float eps, int one_plus_weight, int rope, int rope_dim) {
  const u32 unit = (blockIdx.x * blockDim.x + threadIdx.x) >> 5;
  const int lane = threadIdx.x & 31;
  if (unit >= units)
    return; // the whole warp
  const u32 row = unit / heads;
  const int head = unit % heads, part = head < query_heads ? 0 : head < query_heads + key_heads ? 1 : 2;
  const int column = interleaved ? (head % query_heads * 3 + part) * dim : head * dim;
  const i64 at = (i64)row * (query_heads + 2 * key_heads) * dim + column;
  const T *weight = part == 0 ? q_weight : k_weight, *offset = part == 0 ? q_bias : k_bias;
  const bool turns = rope && part < 2;
  const int pairs = turns ? rope_dim / 4 : 0; // portions that turn

  float v[HEAD_PORTIONS][4], b[4], total = 0;
  int place[HEAD_PORTIONS][2];
#pragma unroll
  for (int p = 0; p < HEAD_PORTIONS; p++) {
    const int k = lane + 32 * p;
    if (4 * k >= dim)
      break;
    const bool apart = rope == 1 && k < pairs;
    place[p][0] = apart ? 2 * k : 4 * k;
    place[p][1] = apart ? rope_dim / 2 + 2 * k : 4 * k + 2;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      load<T, 2>(x + at + place[p][i], &v[p][2 * i]);
      load_optional<T, 2>(bias, head * dim + place[p][i], &b[2 * i]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      v[p][i] += b[i];
      total += v[p][i];
    }
  }
  if (norm && part < 2) {
    const float mean = norm == 1 ? sum_of_warp(total) / dim : 0;
    float squares = 0;
#pragma unroll
    for (int p = 0; p < HEAD_PORTIONS; p++) {
      if (4 * (lane + 32 * p) >= dim)
        break;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        v[p][i] -= mean;
        squares += v[p][i] * v[p][i];
      }
    }
    const float scale = 1 / sqrtf(sum_of_warp(squares) / dim + eps);
#pragma unroll
    for (int p = 0; p < HEAD_PORTIONS; p++) {
      if (4 * (lane + 32 * p) >= dim)
        break;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float w[2] = {1, 1}, o[2];
        if (weight)
          load<T, 2>(weight + place[p][i], w);
        load_optional<T, 2>(offset, place[p][i], o);
#pragma unroll
        for (int j = 0; j < 2; j++)
          v[p][2 * i + j] = v[p][2 * i + j] * scale * (weight && one_plus_weight ? 1 + w[j] : w[j]) + o[j];
      }
    }
  }
#pragma unroll
  for (int p = 0; p < HEAD_PORTIONS; p++) {
    const int k = lane + 32 * p;
    if (4 * k >= dim)
      break;
    if (k < pairs) {
      const i64 angle = (i64)positions[row] * (rope_dim / 2) + 2 * k;
      const float c0 = cos[angle], c1 = cos[angle + 1], s0 = sin[angle], s1 = sin[angle + 1];
      const float v0 = v[p][0], v1 = v[p][1], v2 = v[p][2], v3 = v[p][3];
      if (rope == 1) {
        v[p][0] = v0 * c0 - v2 * s0;
        v[p][1] = v1 * c1 - v3 * s1;
        v[p][2] = v2 * c0 + v0 * s0;
        v[p][3] = v3 * c1 + v1 * s1;
      } else {
        v[p][0] = v0 * c0 - v1 * s0;
        v[p][1] = v1 * c0 + v0 * s0;
        v[p][2] = v2 * c1 - v3 * s1;
        v[p][3] = v3 * c1 + v2 * s1;
      }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
      store<T, 2>(y + at + place[p][i], &v[p][2 * i]);
  }
}

// ---- Entry points: one for each dtype, and for each width of access ----

#define OF_WIDTH(T, NAME, N, WIDTH)                                                                                                       \
  extern "C" __global__ void bias_activation_##NAME##WIDTH(const T *x, const T *bias, T *y, u32 portions, u32 width, int act) {           \
    bias_activation<T, N>(x, bias, y, portions, width, act);                                                                               \
  }                                                                                                                                       \
  extern "C" __global__ void gated_activation_##NAME##WIDTH(const T *x, const T *bias, T *y, u32 portions, u32 inner, int act,            \
                                                             int gate_first) {                                                            \
    gated_activation<T, N>(x, bias, y, portions, inner, act, gate_first);                                                                  \
  }                                                                                                                                       \
  extern "C" __global__ void residual_norm_##NAME##WIDTH(const T *x, const T *x_bias, const T *residual, const T *weight, const T *bias, \
                                                          T *y, T *sum, int width, float eps, int rms, int one_plus_weight) {             \
    residual_norm<T, N>(x, x_bias, residual, weight, bias, y, sum, width, eps, rms, one_plus_weight);                                     \
  }

#define OF_TYPE(T, NAME)                                                                                                                  \
  OF_WIDTH(T, NAME, 16 / sizeof(T), _wide)                                                                                                \
  OF_WIDTH(T, NAME, 1, _narrow)                                                                                                           \
  extern "C" __global__ void heads_##NAME(const T *x, const T *bias, const T *q_weight, const T *k_weight, const T *q_bias,              \
                                          const T *k_bias, const float *cos, const float *sin, const int *positions, T *y, u32 units,    \
                                          int heads, int query_heads, int key_heads, int dim, int interleaved, int norm, float eps,       \
                                          int one_plus_weight, int rope, int rope_dim) {                                                  \
    heads_of<T>(x, bias, q_weight, k_weight, q_bias, k_bias, cos, sin, positions, y, units, heads, query_heads, key_heads, dim,           \
                interleaved, norm, eps, one_plus_weight, rope, rope_dim);                                                                 \
  }

OF_TYPE(float, float32)
OF_TYPE(half, float16)
OF_TYPE(bfloat, bfloat16)
