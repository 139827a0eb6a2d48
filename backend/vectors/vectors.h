// Passes over rows of floats that come out of a run. Reentrant, from any thread; nothing is allocated. Results are the same bit for bit
// whatever the CPU: squares of floats are exact in double, and there are always the same sixteen sums of them.
#ifndef BEI_VECTORS_H
#define BEI_VECTORS_H

#include <stddef.h>

// Not 0 where this CPU has AVX2, for the functions' `avx2`.
int bei_vectors_avx2(void);

// The sum of the squares of v's n elements: 0 where all are 0, and NaN or infinity exactly where one of them is.
double bei_vectors_squares(const float *v, size_t n, int avx2);

// dst = src / sqrt(squares of src), for n elements that do not overlap and are not all 0.
void bei_vectors_normalize(float *dst, const float *src, size_t n, int avx2);

#endif
