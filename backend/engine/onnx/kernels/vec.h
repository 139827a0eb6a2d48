// Vectors of BK_LANES floats, by the compilers' vector extension: + - * / and comparisons are the language's own.
// Included by level_body.h alone, once per level.
#include <math.h>
#include <string.h>
#if BK_LANES == 8
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

typedef float vf __attribute__((vector_size(4 * BK_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * BK_LANES)));
typedef float vf_unaligned __attribute__((vector_size(4 * BK_LANES), aligned(4), may_alias));

INLINE vf load(const float *p) { return *(const vf_unaligned *)p; }
INLINE void store(float *p, vf v) { *(vf_unaligned *)p = v; }
INLINE vf splat(float x) { return x - (vf){0}; } // x - 0 keeps -0 and NaN

NOINLINE vf load_part(const float *p, int64_t n) {
  vf v = {0};
  for (int64_t i = 0; i < n; i++)
    v[i] = p[i];
  return v;
}

NOINLINE void store_part(float *p, vf v, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    p[i] = v[i];
}

// The first n elements only, when n < BK_LANES; the other lanes load as 0.
INLINE vf load_n(const float *p, int64_t n) { return __builtin_expect(n >= BK_LANES, 1) ? load(p) : load_part(p, n); }

INLINE void store_n(float *p, vf v, int64_t n) {
  if (__builtin_expect(n >= BK_LANES, 1))
    store(p, v);
  else
    store_part(p, v, n);
}

// mask ? a : b, where a mask's lanes are all ones or all zeros.
INLINE vf choose(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

// a > b ? a : b and a < b ? a : b. Both give b where either is NaN: pass the value that must stay NaN as b.
#if BK_LANES == 8
INLINE vf vmax(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#else
INLINE vf vmax(vf a, vf b) { return choose(a > b, a, b); }
INLINE vf vmin(vf a, vf b) { return choose(a < b, a, b); }
#endif

INLINE vf vabs(vf x) { return (vf)((vi)x & 0x7fffffff); }

INLINE double sum_lanes(vf v) {
#if BK_LANES == 8
  __m256 m = (__m256)v;
  __m256d d = _mm256_cvtps_pd(_mm256_castps256_ps128(m)) + _mm256_cvtps_pd(_mm256_extractf128_ps(m, 1));
  return (d[0] + d[1]) + (d[2] + d[3]);
#else
  double s = 0;
  for (int i = 0; i < BK_LANES; i++)
    s += (double)v[i];
  return s;
#endif
}

// dst[c * dst_stride + r] = src[r * src_stride + c] for r and c below BK_LANES.
INLINE void transpose(float *dst, int64_t dst_stride, const float *src, int64_t src_stride) {
#if BK_LANES == 8
  __m256 r[8], t[8];
  for (int i = 0; i < 8; i++)
    r[i] = _mm256_loadu_ps(src + i * src_stride);
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(dst + i * dst_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(dst + (i + 4) * dst_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
#else
  for (int r = 0; r < BK_LANES; r++)
    for (int c = 0; c < BK_LANES; c++)
      dst[c * dst_stride + r] = src[r * src_stride + c];
#endif
}

// 2^x for x < 127.5, within 2e-7 of it relatively; exactly 0 below -126.5; NaN stays NaN. exp2_low(0) is exactly 1, on
// which attention's independence of its blocks rests.
// 2^x = 2^n * 2^f, n = round(x): adding 1.5 * 2^23 leaves n in the low bits, biased to be an exponent. The minimax
// polynomial of 2^f on [-1/2, 1/2] (relative error 9.2e-8) was fitted for this file.
INLINE vf exp2_low(vf x) {
  const float magic = 12582912.0f + 127.0f;
  x = vmax(splat(-127.0f), x);
  vf t = x + magic;
  vf f = x - (t - magic);
  vf p = f * 1.32647272e-3f + 9.67151264e-3f;
  p = p * f + 5.55073374e-2f;
  p = p * f + 2.40222421e-1f;
  p = p * f + 6.93146978e-1f;
  p = p * f + 1.0f;
  return p * (vf)((vi)t << 23);
}

// The same for every x: infinite from 127.5 on.
INLINE vf exp2v(vf x) { return exp2_low(vmin(splat(128.0f), x)); }

#define LOG2E 1.44269504088896340736f

// Within 4e-7 of tanh relatively: x P(x^2) / Q(x^2) fitted for this file on [0, 9] (error 2.1e-8).
INLINE vf tanhv(vf x) {
  x = vmin(splat(9.0f), vmax(splat(-9.0f), x));
  vf u = x * x;
  vf p = u * 1.33544e-8f + 2.06088886e-5f;
  p = p * u + 3.49557628e-3f;
  p = p * u + 1.33810157e-1f;
  p = p * u + 1.0f;
  vf q = u * 7.77644957e-7f + 3.28561547e-4f;
  q = q * u + 2.58769372e-2f;
  q = q * u + 4.67143313e-1f;
  q = q * u + 1.0f;
  return vmin(splat(1.0f), vmax(splat(-1.0f), x * p / q));
}

// gelu(x) = max(x, 0) - g(|x|), g(a) = a * Phi(-a): subtracting the small tail keeps the absolute error near the
// rounding of the result, where x * (1 + erf) / 2 cancels. Phi(-a) = exp(-a^2/2) * R(a); the rational R was fitted for
// this file on [0, 14] (error of g 9e-9), beyond which g is 0.
INLINE vf geluv(vf x) {
  vf a = vmin(splat(14.0f), vabs(x));
  vf p = a * 1.49910758e-2f + 1.10804106e-1f;
  p = p * a + 3.46797661e-1f;
  p = p * a + 0.5f;
  vf q = a * 3.75861498e-2f + 2.77416714e-1f;
  q = q * a + 9.11697052e-1f;
  q = q * a + 1.49147034f;
  q = q * a + 1.0f;
  return vmax(splat(0.0f), x) - a * exp2v(a * a * (-0.5f * LOG2E)) * p / q;
}

// x * sigmoid(k x)
INLINE vf swishv(vf x, vf kx) { return x / (exp2v(kx * -LOG2E) + 1.0f); }
