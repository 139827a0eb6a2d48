// Varlen attention. Included by level_body.h alone.
//
// One item of work is a run of queries of one sequence, for the few heads that share a kv head. It walks over blocks
// of KEYS keys: a block's k and v rows are copied (with bias, norm and rope) to this worker's scratch, then each tile
// of QUERIES queries meets it in three steps with an online softmax between blocks (Milakov and Gimelshein
// 2018; Dao et al. 2022, FlashAttention):
//   scores[key][query] = k . q      queries lie in the lanes, so the softmax needs no sum across lanes
//   weights = exp2(scores - max)    the scores carry a factor log2(e)
//   out[query][dim] += weights v    the head's elements lie in the lanes
// Whatever depends on positions alone (causal, window, ALiBi, relative bias) depends on i - j alone, so it is one
// table per tile and block, read at a sliding offset. What a distance says to a query or to a key (disentangled
// attention) is a table of rows per tile and block, likewise: one row for each distance between the two.
//
// Blocks start at multiples of KEYS from the sequence's start, and a key that a query does not see adds exact
// zeros. So a query's result depends neither on its tile nor on the item it fell into.

enum {
  QUERIES = 3 * BK_LANES,            // a tile: three vectors
  KEYS = 128,                        // a block: scores of 12 KiB at eight lanes stay in L1
  SCORE_KEYS = 4,                    // 4 keys x 3 vectors of queries = 12 accumulators of 16 registers
  OUT_QUERIES = QUERIES < 6 ? 3 : 6, // 6 queries x 2 vectors of the head
  DISTANCES = KEYS + QUERIES,        // at least those between a tile's queries and a block's keys, in whole vectors
  ITEM_HEADS = 4,                    // heads of a group that share an item's keys and values
};

// ---- What is fixed for a call --------------------------------------------------------------------------------

typedef struct attention_plan {
  const bk_attention_args *a;
  int64_t left, right;           // window, with causal and "unlimited" resolved
  int64_t item_heads, head_runs; // heads in an item; items side by side in a group
  int64_t item_queries;          // queries in an item, a multiple of QUERIES
  int64_t dim;                   // head_dim rounded up to whole vectors: the stride of every row in scratch
  size_t worker_bytes;
  char *scratch;
} attention_plan;

// One worker's scratch. The tiles of an item are numbered head by head.
typedef struct attention_scratch {
  float *q;       // [tiles, dim, QUERIES]: transposed, scaled
  float *out;     // [tiles, QUERIES, dim]: unfinished sums
  float *max;     // [tiles, QUERIES]
  float *sum;     // [tiles, QUERIES]
  float *k, *v;   // [KEYS, dim]
  float *scores;  // [KEYS, QUERIES], then the weights
  float *by_dist; // [KEYS + QUERIES]: what a distance adds to a score
  float *rows;    // [QUERIES, dim]: queries before they are transposed
  float *places;  // [DISTANCES, dim], where there are places: rows of the distances of a tile and block
  float *turned;  // [dim, DISTANCES]: the same, transposed
  float *said;    // [DISTANCES, QUERIES]: what each distance says to each query
} attention_scratch;

static int64_t min_i(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i(int64_t a, int64_t b) { return a > b ? a : b; }

// Queries in the largest item: enough that copying a block of keys costs little beside using it, few enough for L2.
static int64_t max_item_queries(int64_t item_heads, int64_t head_dim) {
  int64_t rows = (head_dim <= 128 ? 264 : 120) / item_heads / QUERIES * QUERIES;
  return max_i(rows, QUERIES);
}

// Lays the buffers out from `base`; returns the bytes they take, a multiple of 64.
static size_t lay_out(const attention_plan *p, char *base, attention_scratch *s) {
  int64_t tiles = p->item_heads * max_item_queries(p->item_heads, p->a->head_dim) / QUERIES;
  const int64_t distances = p->a->place_keys || p->a->place_queries ? DISTANCES : 0;
  float **field[] = {&s->q,      &s->out,     &s->max,  &s->sum,    &s->k,      &s->v,
                     &s->scores, &s->by_dist, &s->rows, &s->places, &s->turned, &s->said};
  const int64_t floats[] = {tiles * QUERIES * p->dim,
                            tiles * QUERIES * p->dim,
                            tiles * QUERIES,
                            tiles * QUERIES,
                            KEYS * p->dim,
                            KEYS * p->dim,
                            KEYS * QUERIES,
                            KEYS + QUERIES,
                            QUERIES * p->dim,
                            distances * p->dim,
                            distances * p->dim,
                            distances * QUERIES};
  size_t at = 0;
  for (size_t i = 0; i < sizeof field / sizeof *field; i++) {
    *field[i] = (float *)(base + at);
    at += ((size_t)floats[i] * sizeof(float) + 63) / 64 * 64;
  }
  return at;
}

static attention_plan make_plan(const bk_attention_args *a, char *scratch) {
  attention_plan p = {.a = a};
  int64_t group = a->num_heads / a->num_kv_heads;
  p.head_runs = (group + ITEM_HEADS - 1) / ITEM_HEADS;
  p.item_heads = (group + p.head_runs - 1) / p.head_runs;
  p.dim = (a->head_dim + BK_LANES - 1) / BK_LANES * BK_LANES;
  p.left = a->window_left < 0 ? INT32_MAX : a->window_left;
  p.right = a->causal ? 0 : a->window_right < 0 ? INT32_MAX : a->window_right;
  p.scratch = (char *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
  attention_scratch s;
  p.worker_bytes = lay_out(&p, p.scratch, &s);
  return p;
}

static size_t attention_scratch_bytes(const bk_attention_args *a, int32_t threads) {
  attention_plan p = make_plan(a, NULL);
  return p.worker_bytes * (size_t)(threads > 1 ? threads : 1) + 63;
}

// ---- Reading heads -------------------------------------------------------------------------------------------

static void rotate(const bk_attention_args *a, int64_t token, float *x) {
  const int64_t half = a->rope_dim / 2;
  const float *c = a->rope_cos + a->position_ids[token] * half;
  const float *s = a->rope_sin + a->position_ids[token] * half;
  const int64_t step = a->rope == BK_ROPE_HALF ? 1 : 2, pair = a->rope == BK_ROPE_HALF ? half : 1;
  for (int64_t i = 0; i < half; i++) {
    float u = x[i * step], v = x[i * step + pair];
    x[i * step] = u * c[i] - v * s[i];
    x[i * step + pair] = v * c[i] + u * s[i];
  }
}

typedef enum head_kind { HEAD_Q, HEAD_K, HEAD_V } head_kind;

// Head number `head` of a packed row (counted over q, k and v heads) into dst[dim], times `factor`.
static void read_head(const attention_plan *p, head_kind kind, int64_t head, int64_t token, float factor, float *dst) {
  const bk_attention_args *a = p->a;
  const int64_t d = a->head_dim, heads = a->num_heads + 2 * (int64_t)a->num_kv_heads;
  const float *src = a->qkv + (token * heads + head) * d;
  const float *bias = a->qkv_bias ? a->qkv_bias + head * d : NULL;
  int normed = kind != HEAD_V && a->qk_norm != BK_NORM_NONE;
  int rotated = kind != HEAD_V && a->rope != BK_ROPE_NONE;
  float first = normed || rotated ? 1.0f : factor;
  // The next item is mostly the same rows' next heads, which the hardware's prefetchers do not guess.
  const uintptr_t ahead = (uintptr_t)src + sizeof(float) * (size_t)((kind == HEAD_Q ? p->item_heads : 1) * d);
  for (uintptr_t line = 0; line < sizeof(float) * (size_t)d; line += 64)
    __builtin_prefetch((const void *)(ahead + line));
  for (int64_t c = 0; c < d; c += BK_LANES) {
    vf v = load_n(src + c, d - c);
    if (bias)
      v += load_n(bias + c, d - c);
    store(dst + c, v * first); // whole vectors: lanes past head_dim become 0
  }
  if (normed)
    norm_row(dst, dst, d, a->qk_norm, a->qk_norm_eps, kind == HEAD_Q ? a->q_norm_weight : a->k_norm_weight,
             a->qk_norm_one_plus_weight, kind == HEAD_Q ? a->q_norm_bias : a->k_norm_bias);
  if (rotated)
    rotate(a, token, dst);
  if (first != factor)
    for (int64_t c = 0; c < p->dim; c += BK_LANES)
      store(dst + c, load(dst + c) * factor);
}

// The factor of scores. Under a softcap they go through tanh first, so they get their log2(e) after it.
static float score_factor(const bk_attention_args *a) {
  return a->softcap != 0 ? a->scale / a->softcap : a->scale * LOG2E;
}

// Queries [token, token + n) of one head, transposed into q[dim][QUERIES]. Lanes from n on become 0.
static void read_queries(const attention_plan *p, const attention_scratch *s, int64_t head, int64_t token, int64_t n,
                         float *q) {
  const float factor = score_factor(p->a);
  int64_t lanes = (n + BK_LANES - 1) / BK_LANES * BK_LANES;
  for (int64_t i = 0; i < lanes; i++)
    if (i < n)
      read_head(p, HEAD_Q, head, token + i, factor, s->rows + i * p->dim);
    else
      memset(s->rows + i * p->dim, 0, sizeof(float) * (size_t)p->dim);
  for (int64_t i = 0; i < lanes; i += BK_LANES)
    for (int64_t c = 0; c < p->dim; c += BK_LANES)
      transpose(q + c * QUERIES + i, QUERIES, s->rows + i * p->dim + c, p->dim);
}

// ---- Scores --------------------------------------------------------------------------------------------------

// scores[r][i] = k[r] . q[i] for `keys` keys and `vectors` vectors of queries, both constants where this is inlined.
// Keys from `valid` on are read as the last valid one and not stored.
INLINE void score_tile(const float *q, const float *k, int64_t head_dim, int64_t dim, int64_t valid, float *scores,
                       const int keys, const int vectors) {
  vf acc[SCORE_KEYS][3] = {{{0}}};
  const float *row[SCORE_KEYS];
#pragma GCC unroll 4
  for (int r = 0; r < keys; r++)
    row[r] = k + min_i(r, valid - 1) * dim;
  for (int64_t c = 0; c < head_dim; c++) {
    vf x[3];
#pragma GCC unroll 3
    for (int i = 0; i < vectors; i++)
      x[i] = load(q + c * QUERIES + i * BK_LANES);
#pragma GCC unroll 4
    for (int r = 0; r < keys; r++) {
      vf y = splat(row[r][c]);
#pragma GCC unroll 3
      for (int i = 0; i < vectors; i++)
        acc[r][i] += y * x[i];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < keys; r++)
    if (r < valid)
#pragma GCC unroll 3
      for (int i = 0; i < vectors; i++)
        store(scores + r * QUERIES + i * BK_LANES, acc[r][i]);
}

static void score_block(const attention_plan *p, const float *q, const float *k, int64_t keys, int64_t vectors,
                        float *scores) {
  const int64_t d = p->a->head_dim, dim = p->dim;
  for (int64_t j = 0; j < keys; j += SCORE_KEYS) {
    const float *kj = k + j * dim;
    float *sj = scores + j * QUERIES;
    if (vectors == 3)
      score_tile(q, kj, d, dim, keys - j, sj, SCORE_KEYS, 3);
    else if (vectors == 2)
      score_tile(q, kj, d, dim, keys - j, sj, SCORE_KEYS, 2);
    else
      score_tile(q, kj, d, dim, keys - j, sj, SCORE_KEYS, 1);
  }
}

#include "attention_places.h"

// Fills table[x] with what is added to the score (in units of log2) at distance i - j = lowest + x.
static void fill_distances(const attention_plan *p, int64_t head, int64_t lowest, int64_t count, float *table) {
  const bk_attention_args *a = p->a;
  const float slope = a->alibi_slopes ? a->alibi_slopes[head] : 0;
  const int64_t r = a->relative_bias_max;
  const float *bias = a->relative_bias ? a->relative_bias + head * (2 * r + 1) + r : NULL;
  for (int64_t x = 0; x < count; x++) {
    int64_t distance = lowest + x;
    float v = bias ? bias[max_i(-r, min_i(r, -distance))] : 0;
    v -= slope * (float)(distance < 0 ? -distance : distance);
    table[x] = distance > p->left || distance < -p->right ? -INFINITY : v * LOG2E;
  }
}

// Softcap, then the distances' part: row j reads the table from keys - 1 - j on.
static void adjust_scores(const bk_attention_args *a, const float *by_dist, int64_t keys, int64_t vectors,
                          float *scores) {
  for (int64_t j = 0; j < keys; j++)
    for (int64_t i = 0; i < vectors; i++) {
      float *at = scores + j * QUERIES + i * BK_LANES;
      vf v = load(at);
      if (a->softcap != 0)
        v = tanhv(v) * (a->softcap * LOG2E);
      if (by_dist)
        v += load(by_dist + keys - 1 - j + i * BK_LANES);
      store(at, v);
    }
}

// Turns scores into weights, and brings max and sum up to date. `rescale` gets the factor of what was summed before,
// `inverse` 1 / sum, or 0 where nothing was seen.
static void softmax_block(float *scores, int64_t keys, int64_t vectors, int first, float *max_at, float *sum_at,
                          float *rescale, float *inverse) {
  for (int64_t i = 0; i < vectors; i++) {
    float *at = scores + i * BK_LANES;
    vf top = splat(-INFINITY), top2 = top;
    int64_t j = 0;
    for (; j + 2 <= keys; j += 2) {
      top = vmax(top, load(at + j * QUERIES));
      top2 = vmax(top2, load(at + (j + 1) * QUERIES));
    }
    if (j < keys)
      top2 = vmax(top2, load(at + j * QUERIES));
    top = vmax(top, top2);
    vf before = first ? splat(-INFINITY) : load(max_at + i * BK_LANES);
    top = vmax(top, before);
    store(max_at + i * BK_LANES, top);
    // Where nothing was seen yet, 0 stands in for -inf, whose difference to itself is NaN.
    vf base = choose(top == -INFINITY, splat(0), top);
    vf sum = {0};
    for (j = 0; j < keys; j++) {
      vf w = exp2_low(load(at + j * QUERIES) - base);
      store(at + j * QUERIES, w);
      sum += w;
    }
    vf factor = exp2_low(before - base);
    if (!first)
      sum += factor * load(sum_at + i * BK_LANES);
    store(rescale + i * BK_LANES, factor);
    store(sum_at + i * BK_LANES, sum);
    store(inverse + i * BK_LANES, choose(sum == 0, splat(0), 1 / sum));
  }
}

// ---- Output --------------------------------------------------------------------------------------------------

// Where a tile's result goes on from one block of keys to the next.
typedef struct out_tile {
  int64_t queries;      // valid ones
  int first, last;      // blocks of this tile
  const float *rescale; // [QUERIES]
  const float *inverse; // [QUERIES]: 1 / sum, right in the last block
  float *unfinished;    // [QUERIES, dim]
  float *out;           // the first query's head in the caller's output
  int64_t out_stride;   // floats between tokens there
} out_tile;

// out[i] += sum over keys of weights[j][i] v[j], for OUT_QUERIES queries from i0 and `vectors` vectors from element c.
INLINE void out_block(const attention_plan *p, const float *weights, const float *v, int64_t keys, const out_tile *t,
                      int64_t i0, int64_t c, const int vectors) {
  vf acc[OUT_QUERIES][2] = {{{0}}};
  weights += i0;
  v += c;
  for (int64_t j = 0; j < keys; j++, weights += QUERIES, v += p->dim) {
    vf x[2];
#pragma GCC unroll 2
    for (int e = 0; e < vectors; e++)
      x[e] = load(v + e * BK_LANES);
#pragma GCC unroll 6
    for (int r = 0; r < OUT_QUERIES; r++) {
      vf y = splat(weights[r]);
#pragma GCC unroll 2
      for (int e = 0; e < vectors; e++)
        acc[r][e] += y * x[e];
    }
  }
  // Through memory, so that what follows takes no registers from the loop above.
  float sums[OUT_QUERIES][2 * BK_LANES];
#pragma GCC unroll 6
  for (int r = 0; r < OUT_QUERIES; r++)
#pragma GCC unroll 2
    for (int e = 0; e < vectors; e++)
      store(sums[r] + e * BK_LANES, acc[r][e]);
  for (int64_t i = i0; i < min_i(i0 + OUT_QUERIES, t->queries); i++)
    for (int64_t e = 0; e < vectors; e++) {
      const int64_t d = c + e * BK_LANES;
      float *unfinished = t->unfinished + i * p->dim + d;
      vf o = load(sums[i - i0] + e * BK_LANES);
      if (!t->first)
        o += load(unfinished) * t->rescale[i];
      if (t->last)
        store_n(t->out + i * t->out_stride + d, o * t->inverse[i], p->a->head_dim - d);
      else
        store(unfinished, o);
    }
}

static void out_blocks(const attention_plan *p, const float *weights, const float *v, int64_t keys, const out_tile *t) {
  for (int64_t c = 0; c < p->dim; c += 2 * BK_LANES)
    for (int64_t i = 0; i < t->queries; i += OUT_QUERIES)
      if (c + BK_LANES < p->dim)
        out_block(p, weights, v, keys, t, i, c, 2);
      else
        out_block(p, weights, v, keys, t, i, c, 1);
}

// ---- Items ---------------------------------------------------------------------------------------------------

typedef struct attention_item {
  int64_t start, len;           // the sequence
  int64_t kv_head, head, heads; // query heads [head, head + heads)
  int64_t begin, end;           // queries, counted in the sequence
} attention_item;

// One tile of queries [i0, i0 + n) against keys [b0, b1) of the block that starts at key `block`.
static void attend_tile(const attention_plan *p, const attention_scratch *s, const attention_item *it, int64_t head,
                        int64_t tile, int64_t i0, int64_t n, int64_t block, int64_t b0, int64_t b1) {
  const bk_attention_args *a = p->a;
  const int64_t seen_from = max_i(0, i0 - p->left), seen_to = min_i(it->len, i0 + n + p->right);
  const int64_t j0 = max_i(b0, seen_from), j1 = min_i(b1, seen_to), keys = j1 - j0;
  if (keys <= 0)
    return;
  const int64_t vectors = (n + BK_LANES - 1) / BK_LANES, lowest = i0 - (j1 - 1);
  const float *q = s->q + tile * QUERIES * p->dim, *k = s->k + (j0 - b0) * p->dim;
  score_block(p, q, k, keys, vectors, s->scores);
  if (a->place_keys || a->place_queries)
    place_scores(p, s, head, q, k, n, keys, lowest);
  const int by_distance = a->alibi_slopes || a->relative_bias || lowest < -p->right || i0 + n - 1 - j0 > p->left;
  if (by_distance)
    fill_distances(p, head, lowest, keys + QUERIES - 1, s->by_dist);
  if (by_distance || a->softcap != 0)
    adjust_scores(a, by_distance ? s->by_dist : NULL, keys, vectors, s->scores);

  float rescale[QUERIES], inverse[QUERIES];
  const out_tile t = {
      .queries = n,
      .first = seen_from >= block,
      .last = seen_to <= block + KEYS,
      .rescale = rescale,
      .inverse = inverse,
      .unfinished = s->out + tile * QUERIES * p->dim,
      .out = a->out + ((it->start + i0) * a->num_heads + head) * a->head_dim,
      .out_stride = (int64_t)a->num_heads * a->head_dim,
  };
  softmax_block(s->scores, keys, vectors, t.first, s->max + tile * QUERIES, s->sum + tile * QUERIES, rescale, inverse);
  out_blocks(p, s->scores, s->v + (j0 - b0) * p->dim, keys, &t);
}

static void attend(const attention_plan *p, const attention_scratch *s, const attention_item *it) {
  const int64_t tiles = (it->end - it->begin + QUERIES - 1) / QUERIES;
  for (int64_t h = 0; h < it->heads; h++)
    for (int64_t t = 0; t < tiles; t++) {
      int64_t i0 = it->begin + t * QUERIES;
      read_queries(p, s, it->head + h, it->start + i0, min_i(QUERIES, it->end - i0),
                   s->q + (h * tiles + t) * QUERIES * p->dim);
    }
  const int64_t k_head = p->a->num_heads + it->kv_head, v_head = k_head + p->a->num_kv_heads;
  const int64_t from = max_i(0, it->begin - p->left), to = min_i(it->len, it->end + p->right);
  for (int64_t block = from / KEYS * KEYS; block < to; block += KEYS) {
    const int64_t b0 = max_i(block, from), b1 = min_i(block + KEYS, to);
    for (int64_t j = b0; j < b1; j++) {
      read_head(p, HEAD_K, k_head, it->start + j, 1, s->k + (j - b0) * p->dim);
      read_head(p, HEAD_V, v_head, it->start + j, 1, s->v + (j - b0) * p->dim);
    }
    for (int64_t h = 0; h < it->heads; h++)
      for (int64_t t = 0; t < tiles; t++) {
        int64_t i0 = it->begin + t * QUERIES;
        attend_tile(p, s, it, it->head + h, h * tiles + t, i0, min_i(QUERIES, it->end - i0), block, b0, b1);
      }
  }
}

// ---- Sharing out ---------------------------------------------------------------------------------------------

// Runs of queries that a sequence is cut into, about equally long.
static int64_t runs_of(const attention_plan *p, int64_t len) { return (len + p->item_queries - 1) / p->item_queries; }

static int64_t run_length(int64_t len, int64_t runs) { return (len + runs * QUERIES - 1) / (runs * QUERIES) * QUERIES; }

// Items are numbered sequence by sequence, then by run of heads, then by run of queries.
static int64_t items_of(const attention_plan *p, int64_t len) {
  return runs_of(p, len) * p->a->num_kv_heads * p->head_runs;
}

static void attention_worker(void *arg, size_t worker, bk_queue *queue) {
  const attention_plan *p = arg;
  const bk_attention_args *a = p->a;
  attention_scratch s;
  lay_out(p, p->scratch + worker * p->worker_bytes, &s);
  const int64_t group = a->num_heads / a->num_kv_heads;
  int64_t sequence = 0, first = 0; // the sequence that was reached, and its first item: both only rise
  for (size_t begin, end; bk_take(queue, &begin, &end);)
    for (int64_t n = (int64_t)begin; n < (int64_t)end; n++) {
      attention_item it;
      for (;; sequence++) {
        it.start = a->cu_seqlens[sequence];
        it.len = a->cu_seqlens[sequence + 1] - it.start;
        int64_t items = items_of(p, it.len);
        if (n < first + items)
          break;
        first += items;
      }
      const int64_t runs = runs_of(p, it.len), run = run_length(it.len, runs);
      const int64_t heads = (n - first) / runs;
      // The last queries first: under causal attention they cost most, and should not be the ones that finish late.
      it.begin = (runs - 1 - (n - first) % runs) * run; // below len: a run is at most item_queries long
      it.end = min_i(it.len, it.begin + run);
      it.kv_head = heads / p->head_runs;
      const int64_t in_group = heads % p->head_runs * p->item_heads;
      it.head = it.kv_head * group + in_group;
      it.heads = min_i(p->item_heads, group - in_group);
      attend(p, &s, &it);
    }
}

static void attention(const bk_attention_args *a, void *scratch, const bk_parallel *par) {
  attention_plan p = make_plan(a, scratch);
  const int64_t covered = a->num_sequences ? a->cu_seqlens[a->num_sequences] : 0;
  const int64_t width = (int64_t)a->num_heads * a->head_dim;
  if (covered < a->total_tokens)
    memset(a->out + covered * width, 0, sizeof(float) * (size_t)((a->total_tokens - covered) * width));

  // Four items a thread at least, unless that makes them so short that copying the keys shows.
  const int64_t threads = par && par->threads > 1 ? par->threads : 1;
  const int64_t largest = max_item_queries(p.item_heads, a->head_dim);
  const int64_t wanted = covered * a->num_heads / (4 * threads * p.item_heads);
  p.item_queries = max_i(2 * QUERIES, (wanted + QUERIES - 1) / QUERIES * QUERIES);
  p.item_queries = min_i(p.item_queries, largest);

  int64_t items = 0;
  double cost = 0; // multiply-adds
  for (int64_t i = 0; i < a->num_sequences; i++) {
    const int64_t len = a->cu_seqlens[i + 1] - a->cu_seqlens[i];
    items += items_of(&p, len);
    cost += (double)len * (double)min_i(len, p.left + p.right + 1) * 2 * (double)width;
  }
  if (items > 0)
    bk_share(par, (size_t)items, bk_grain(BK_GRAIN_MULTIPLY_ADDS, (int64_t)(cost / (double)items)), attention_worker,
             &p);
}
