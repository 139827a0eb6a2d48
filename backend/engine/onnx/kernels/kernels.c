// Chooses a level, checks nothing else, and shares work out among the caller's threads.
#include "level.h"

#include <stdatomic.h>

static _Atomic(const bk_level_table *) current;

// NULL when this CPU lacks the level.
static const bk_level_table *table_of(bk_level level) {
  switch (level) {
  case BK_LEVEL_SCALAR:
    return &bk_table_scalar;
  case BK_LEVEL_VEC128:
    return &bk_table_vec128;
#if defined(__x86_64__)
  case BK_LEVEL_AUTO:
  case BK_LEVEL_AVX2:
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      return &bk_table_avx2;
    return level == BK_LEVEL_AUTO ? &bk_table_vec128 : NULL;
#else
  case BK_LEVEL_AUTO:
    return &bk_table_vec128;
#endif
  default:
    return NULL;
  }
}

static const bk_level_table *table(void) {
  const bk_level_table *t = atomic_load_explicit(&current, memory_order_relaxed);
  if (t == NULL) {
    t = table_of(BK_LEVEL_AUTO);
    const bk_level_table *unset = NULL; // a bk_set_level meanwhile wins
    if (!atomic_compare_exchange_strong(&current, &unset, t))
      t = unset;
  }
  return t;
}

int bk_set_level(bk_level level) {
  const bk_level_table *t = table_of(level);
  if (t == NULL)
    return -1;
  atomic_store(&current, t);
  return 0;
}

const char *bk_level_name(void) { return table()->name; }

size_t bk_attention_scratch_bytes(const bk_attention_args *args, int32_t threads) {
  return table()->attention_scratch_bytes(args, threads);
}

void bk_attention(const bk_attention_args *args, void *scratch, const bk_parallel *par) {
  table()->attention(args, scratch, par);
}

void bk_bias_act(bk_act act, const float *x, const float *bias, float *y, int64_t rows, int64_t width,
                 const bk_parallel *par) {
  table()->act(act, x, bias, NULL, NULL, width, y, rows, width, par);
}

void bk_gated_act(bk_act act, int32_t gate_first, const float *x, const float *bias, float *y, int64_t rows,
                  int64_t inner, const bk_parallel *par) {
  int64_t gate = gate_first ? 0 : inner, up = inner - gate;
  table()->act(act, x + gate, bias ? bias + gate : NULL, x + up, bias ? bias + up : NULL, 2 * inner, y, rows, inner,
               par);
}

void bk_residual_norm(const bk_residual_norm_args *args, const bk_parallel *par) { table()->residual_norm(args, par); }

void bk_pool(bk_pooling pooling, const float *hidden, const int32_t *cu_seqlens, const int32_t *skip_prefix, float *y,
             int64_t num_sequences, int64_t width, const bk_parallel *par) {
  table()->pool(pooling, hidden, cu_seqlens, skip_prefix, y, num_sequences, width, par);
}

struct bk_queue {
  atomic_size_t next;
  size_t count, step;
  void (*work)(void *arg, size_t worker, bk_queue *queue);
  void *arg;
};

int bk_take(bk_queue *queue, size_t *begin, size_t *end) {
  // `next` passes `count` by at most one step per worker, so it cannot wrap.
  size_t at = atomic_fetch_add_explicit(&queue->next, queue->step, memory_order_relaxed);
  if (at >= queue->count)
    return 0;
  *begin = at;
  *end = queue->count - at < queue->step ? queue->count : at + queue->step;
  return 1;
}

static void run_worker(void *arg, size_t index) {
  bk_queue *queue = arg;
  queue->work(queue->arg, index, queue);
}

void bk_share(const bk_parallel *par, size_t count, size_t grain,
              void (*work)(void *arg, size_t worker, bk_queue *queue), void *arg) {
  if (count == 0)
    return;
  size_t workers = par && par->run && par->threads > 1 ? (size_t)par->threads : 1;
  if (workers > (count + grain - 1) / grain)
    workers = (count + grain - 1) / grain;
  // Sixteen helpings each: late workers cost at most a sixteenth, and the counter stays uncontended.
  size_t step = workers == 1 ? count : count / (workers * 16);
  bk_queue queue = {.count = count, .step = step ? step : 1, .work = work, .arg = arg};
  atomic_init(&queue.next, 0);
  if (workers == 1)
    run_worker(&queue, 0);
  else
    par->run(par->ctx, run_worker, workers, &queue);
}
