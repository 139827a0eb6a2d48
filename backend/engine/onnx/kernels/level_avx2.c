// Eight lanes with AVX2 and FMA. The pragmas are for this file's code alone, so that the library still runs on any
// x86-64: nothing here is called before the CPU has been asked.
#include "level.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define BK_LANES 8
#define BK_TABLE bk_table_avx2
#define BK_NAME "avx2"
#include "level_body.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
