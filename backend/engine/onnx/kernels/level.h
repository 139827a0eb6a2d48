// What the levels share: the table of entry points that each fills, and the queue that workers take items from.
#ifndef BEI_KERNELS_LEVEL_H
#define BEI_KERNELS_LEVEL_H

#include "kernels.h"

// One instruction set's kernels.
typedef struct bk_level_table {
  const char *name;
  size_t (*attention_scratch_bytes)(const bk_attention_args *args, int32_t threads);
  void (*attention)(const bk_attention_args *args, void *scratch, const bk_parallel *par);
  void (*act)(bk_act act, const float *gate, const float *gate_bias, const float *up, const float *up_bias,
              int64_t stride, float *y, int64_t rows, int64_t width, const bk_parallel *par);
  void (*residual_norm)(const bk_residual_norm_args *args, const bk_parallel *par);
  void (*pool)(bk_pooling pooling, const float *hidden, const int32_t *cu_seqlens, const int32_t *skip_prefix, float *y,
               int64_t num_sequences, int64_t width, const bk_parallel *par);
} bk_level_table;

extern const bk_level_table bk_table_scalar;
extern const bk_level_table bk_table_vec128;
#if defined(__x86_64__)
extern const bk_level_table bk_table_avx2;
#endif

// Items [0, count), handed out in rising order to the workers of one bk_share call.
typedef struct bk_queue bk_queue;

// Takes the next items [*begin, *end). Returns 0 when none is left.
int bk_take(bk_queue *queue, size_t *begin, size_t *end);

// Runs work(arg, worker, queue) on one worker for every `grain` items, at most par->threads; worker numbers are
// below that. Each worker calls bk_take until it returns 0.
void bk_share(const bk_parallel *par, size_t count, size_t grain,
              void (*work)(void *arg, size_t worker, bk_queue *queue), void *arg);

// Scalars below which a second thread costs more than it brings (some microseconds of work).
enum { BK_GRAIN_ELEMENTS = 16384, BK_GRAIN_MULTIPLY_ADDS = 131072 };

static inline size_t bk_grain(int64_t total, int64_t cost_per_item) {
  return (size_t)(cost_per_item >= total ? 1 : (total + cost_per_item - 1) / cost_per_item);
}

#endif
