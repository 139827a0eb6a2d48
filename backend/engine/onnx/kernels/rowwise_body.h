// Activations, norms and pooling: everything that works row by row. Included by level_body.h alone.

// ---- Norm of one row -----------------------------------------------------------------------------------------

// Sums of (x - shift) and of its square. Lanes run for 64 vectors at most before they are added up in double, so the
// error does not grow with n.
static void moments(const float *x, int64_t n, float shift, double *sum, double *squares) {
  *sum = *squares = 0;
  for (int64_t c = 0; c < n;) {
    int64_t end = n - c > 64 * BK_LANES ? c + 64 * BK_LANES : n;
    vf s0 = {0}, s1 = {0}, q0 = {0}, q1 = {0};
    for (; c + 2 * BK_LANES <= end; c += 2 * BK_LANES) {
      vf a = load(x + c) - shift, b = load(x + c + BK_LANES) - shift;
      s0 += a;
      s1 += b;
      q0 += a * a;
      q1 += b * b;
    }
    *sum += sum_lanes(s0 + s1);
    *squares += sum_lanes(q0 + q1);
    if (c + 2 * BK_LANES > end) // fewer than two vectors are left in this stretch
      for (; c < end; c++) {
        double d = (double)(x[c] - shift);
        *sum += d;
        *squares += d * d;
      }
  }
}

// y = ((x - mean) / deviation) * weight + bias. y may be x.
static void norm_row(const float *x, float *y, int64_t n, bk_norm norm, float eps, const float *weight,
                     int one_plus_weight, const float *bias) {
  double sum, squares;
  moments(x, n, 0, &sum, &squares);
  float shift = 0;
  double variance = squares / (double)n, rest = 0;
  if (norm == BK_NORM_LAYER) {
    shift = (float)(sum / (double)n);
    moments(x, n, shift, &sum, &squares);
    rest = sum / (double)n; // what rounding left of the mean
    variance = squares / (double)n - rest * rest;
  }
  double inverse = 1 / sqrt(variance + (double)eps);
  vf scale = splat((float)inverse), offset = splat((float)(-rest * inverse));
  float plus = one_plus_weight ? 1.0f : 0.0f;
  for (int64_t c = 0; c < n; c += BK_LANES) {
    vf v = (load_n(x + c, n - c) - shift) * scale + offset;
    if (weight)
      v *= load_n(weight + c, n - c) + plus;
    if (bias)
      v += load_n(bias + c, n - c);
    store_n(y + c, v, n - c);
  }
}

// ---- Residual + norm -----------------------------------------------------------------------------------------

static void residual_norm_worker(void *arg, size_t worker, bk_queue *queue) {
  (void)worker;
  const bk_residual_norm_args *a = arg;
  const int64_t w = a->width;
  for (size_t begin, end; bk_take(queue, &begin, &end);)
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
      const float *x = a->x + r * w, *residual = a->residual ? a->residual + r * w : NULL;
      float *y = a->y + r * w, *sum = a->sum ? a->sum + r * w : y;
      if (residual || a->x_bias || a->sum) {
        for (int64_t c = 0; c < w; c += BK_LANES) {
          vf v = load_n(x + c, w - c);
          if (a->x_bias)
            v += load_n(a->x_bias + c, w - c);
          if (residual)
            v += load_n(residual + c, w - c);
          store_n(sum + c, v, w - c);
        }
        x = sum;
      }
      norm_row(x, y, w, a->norm, a->eps, a->weight, a->one_plus_weight, a->bias);
    }
}

static void residual_norm(const bk_residual_norm_args *args, const bk_parallel *par) {
  bk_share(par, (size_t)args->rows, bk_grain(BK_GRAIN_ELEMENTS, args->width), residual_norm_worker, (void *)args);
}

// ---- Activation ----------------------------------------------------------------------------------------------

INLINE vf activate(bk_act act, vf x) {
  switch (act) {
  case BK_ACT_GELU:
    return geluv(x);
  case BK_ACT_GELU_TANH: // (1 + tanh u) / 2 = sigmoid(2u)
    return swishv(x, x * (x * x * 0.0713548163f + 1.59576912f));
  case BK_ACT_QUICK_GELU:
    return swishv(x, x * 1.702f);
  case BK_ACT_RELU:
    return vmax(splat(0.0f), x);
  case BK_ACT_SILU:
    return swishv(x, x);
  case BK_ACT_TANH:
    return tanhv(x);
  case BK_ACT_IDENTITY:
    break;
  }
  return x;
}

// One row; `act` is a constant where this is inlined.
INLINE void act_row(bk_act act, const float *x, const float *x_bias, const float *up, const float *up_bias, float *y,
                    int64_t n) {
  for (int64_t c = 0; c < n; c += BK_LANES) {
    vf v = load_n(x + c, n - c);
    if (x_bias)
      v += load_n(x_bias + c, n - c);
    v = activate(act, v);
    if (up) {
      vf u = load_n(up + c, n - c);
      v *= up_bias ? u + load_n(up_bias + c, n - c) : u;
    }
    store_n(y + c, v, n - c);
  }
}

typedef struct act_task {
  bk_act act;
  const float *gate, *gate_bias, *up, *up_bias;
  int64_t stride, width;
  float *y;
} act_task;

static void act_worker(void *arg, size_t worker, bk_queue *queue) {
  (void)worker;
  const act_task *t = arg;
  for (size_t begin, end; bk_take(queue, &begin, &end);)
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
      const float *x = t->gate + r * t->stride, *up = t->up ? t->up + r * t->stride : NULL;
      float *y = t->y + r * t->width;
      switch (t->act) {
#define ACT_CASE(kind)                                                                                                 \
  case kind:                                                                                                           \
    act_row(kind, x, t->gate_bias, up, t->up_bias, y, t->width);                                                       \
    break
        ACT_CASE(BK_ACT_IDENTITY);
        ACT_CASE(BK_ACT_GELU);
        ACT_CASE(BK_ACT_GELU_TANH);
        ACT_CASE(BK_ACT_QUICK_GELU);
        ACT_CASE(BK_ACT_RELU);
        ACT_CASE(BK_ACT_SILU);
        ACT_CASE(BK_ACT_TANH);
#undef ACT_CASE
      }
    }
}

static void act(bk_act kind, const float *gate, const float *gate_bias, const float *up, const float *up_bias,
                int64_t stride, float *y, int64_t rows, int64_t width, const bk_parallel *par) {
  act_task t = {kind, gate, gate_bias, up, up_bias, stride, width, y};
  bk_share(par, (size_t)rows, bk_grain(BK_GRAIN_ELEMENTS, width), act_worker, &t);
}

// ---- Pooling -------------------------------------------------------------------------------------------------

typedef struct pool_task {
  bk_pooling pooling;
  const float *hidden;
  const int32_t *cu_seqlens, *skip_prefix;
  float *y;
  int64_t width;
} pool_task;

// y = scale * sum of weight(t) * x[t] over t in [from, to). Stretches of 64 rows are summed apart, so that the
// error grows with neither.
static void pool_sum(const float *x, float *y, int64_t from, int64_t to, int64_t width, int weighted, float scale) {
  for (int64_t c = 0; c < width; c += BK_LANES) {
    vf total = {0};
    for (int64_t t = from; t < to;) {
      int64_t end = to - t > 64 ? t + 64 : to;
      vf part = {0};
      for (; t < end; t++) {
        vf v = load_n(x + t * width + c, width - c);
        part += weighted ? v * (float)(t + 1) : v;
      }
      total += part;
    }
    store_n(y + c, total * scale, width - c);
  }
}

// NaN is kept apart, since max drops it: its mask turns the result into a NaN.
static void pool_max(const float *x, float *y, int64_t from, int64_t to, int64_t width) {
  for (int64_t c = 0; c < width; c += BK_LANES) {
    vf best = splat(-INFINITY);
    vi nan = {0};
    for (int64_t t = from; t < to; t++) {
      vf v = load_n(x + t * width + c, width - c);
      best = vmax(best, v);
      nan |= v != v;
    }
    store_n(y + c, (vf)((vi)best | nan), width - c);
  }
}

static void pool_sequence(const pool_task *p, int64_t s) {
  const int64_t first = p->cu_seqlens[s], len = p->cu_seqlens[s + 1] - first, w = p->width;
  const float *x = p->hidden + first * w;
  float *y = p->y + s * w;
  int64_t from = p->skip_prefix ? p->skip_prefix[s] : 0;
  if (p->pooling == BK_POOL_CLS || p->pooling == BK_POOL_LAST)
    from = 0;
  if (from >= len) {
    memset(y, 0, sizeof(float) * (size_t)w);
    return;
  }
  const double count = (double)(len - from);
  switch (p->pooling) {
  case BK_POOL_CLS:
    memcpy(y, x, sizeof(float) * (size_t)w);
    break;
  case BK_POOL_LAST:
    memcpy(y, x + (len - 1) * w, sizeof(float) * (size_t)w);
    break;
  case BK_POOL_MEAN:
    pool_sum(x, y, from, len, w, 0, (float)(1 / count));
    break;
  case BK_POOL_MAX:
    pool_max(x, y, from, len, w);
    break;
  case BK_POOL_MEAN_SQRT_LEN:
    pool_sum(x, y, from, len, w, 0, (float)(1 / sqrt(count)));
    break;
  case BK_POOL_WEIGHTED_MEAN: // the weights from + 1 .. len add up to count * their middle
    pool_sum(x, y, from, len, w, 1, (float)(2 / (count * (double)(from + 1 + len))));
    break;
  }
}

static void pool_worker(void *arg, size_t worker, bk_queue *queue) {
  (void)worker;
  for (size_t begin, end; bk_take(queue, &begin, &end);)
    for (size_t s = begin; s < end; s++)
      pool_sequence(arg, (int64_t)s);
}

static void pool(bk_pooling pooling, const float *hidden, const int32_t *cu_seqlens, const int32_t *skip_prefix,
                 float *y, int64_t num_sequences, int64_t width, const bk_parallel *par) {
  if (num_sequences == 0)
    return;
  pool_task t = {pooling, hidden, cu_seqlens, skip_prefix, y, width};
  int64_t mean_len = cu_seqlens[num_sequences] / num_sequences + 1;
  bk_share(par, (size_t)num_sequences, bk_grain(BK_GRAIN_ELEMENTS, mean_len * width), pool_worker, &t);
}
