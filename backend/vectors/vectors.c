#include "vectors.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

enum { SUMS = 16 };

INLINE double squares(const float *v, size_t n) {
  double sum[SUMS] = {0};
  size_t i = 0;
  for (; n - i >= SUMS; i += SUMS)
    for (int k = 0; k < SUMS; k++)
      sum[k] += (double)v[i + k] * (double)v[i + k];
  for (int k = 0; i < n; i++, k++)
    sum[k] += (double)v[i] * (double)v[i];
  for (int half = SUMS / 2; half > 0; half /= 2)
    for (int k = 0; k < half; k++)
      sum[k] += sum[k + half];
  return sum[0];
}

INLINE void normalize(float *restrict dst, const float *restrict src, size_t n) {
  double scale = 1 / sqrt(squares(src, n));
  for (size_t i = 0; i < n; i++)
    dst[i] = (float)((double)src[i] * scale);
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))
int bei_vectors_avx2(void) { return __builtin_cpu_supports("avx2") != 0; }
#else
#define AVX2
int bei_vectors_avx2(void) { return 0; }
#endif

AVX2 static double squares_avx2(const float *v, size_t n) { return squares(v, n); }
AVX2 static void normalize_avx2(float *dst, const float *src, size_t n) { normalize(dst, src, n); }

double bei_vectors_squares(const float *v, size_t n, int avx2) { return avx2 ? squares_avx2(v, n) : squares(v, n); }

void bei_vectors_normalize(float *dst, const float *src, size_t n, int avx2) {
  if (avx2)
    normalize_avx2(dst, src, n);
  else
    normalize(dst, src, n);
}
