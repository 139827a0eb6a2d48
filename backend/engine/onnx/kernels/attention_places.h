// Disentangled attention: what distances say to queries and to keys. Included by attention_body.h alone, after the scores.
//
// A tile of queries and a block of keys are at most DISTANCES distances apart. Their rows are copied side by side, so that
// each query meets its distances as if they were keys, and each key the distances of consecutive queries as lanes.

// Copies a head's row of the places for each distance i - j = lowest + x, times factor.
static void read_places(const attention_plan *p, const float *table, int64_t head, int64_t lowest, int64_t count,
                        float factor, float *places) {
  const bk_attention_args *a = p->a;
  const int64_t d = a->head_dim, most = a->place_max;
  for (int64_t x = 0; x < count; x++) {
    const int64_t row = a->place_rows[max_i(-most, min_i(most, lowest + x)) + most];
    const float *src = table + (row * a->num_heads + head) * d;
    for (int64_t c = 0; c < d; c += BK_LANES)
      store(places + x * p->dim + c, load_n(src + c, d - c) * factor);
  }
}

// scores[j][i] += said[keys - 1 - j + i][i]: what the distance of query i from key j says to the query.
static void add_said(const float *said, int64_t keys, int64_t n, float *scores) {
  for (int64_t j = 0; j < keys; j++)
    for (int64_t i = 0; i < n; i++)
      scores[j * QUERIES + i] += said[(keys - 1 - j + i) * QUERIES + i];
}

// scores[j][i] += k[j] . places[keys - 1 - j + i], from the transposed places: what the distance says to the key. For
// SCORE_KEYS keys from j0; those from keys on are read as the last one and not stored.
INLINE void key_tile(const attention_plan *p, const float *k, const float *turned, int64_t keys, int64_t j0,
                     float *scores, const int vectors) {
  vf acc[SCORE_KEYS][3] = {{{0}}};
  const float *row[SCORE_KEYS], *place[SCORE_KEYS];
#pragma GCC unroll 4
  for (int r = 0; r < SCORE_KEYS; r++) {
    const int64_t j = min_i(j0 + r, keys - 1);
    row[r] = k + j * p->dim;
    place[r] = turned + keys - 1 - j;
  }
  for (int64_t c = 0; c < p->a->head_dim; c++) {
#pragma GCC unroll 4
    for (int r = 0; r < SCORE_KEYS; r++) {
      vf y = splat(row[r][c]);
#pragma GCC unroll 3
      for (int i = 0; i < vectors; i++)
        acc[r][i] += y * load(place[r] + c * DISTANCES + i * BK_LANES);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < SCORE_KEYS; r++)
    if (j0 + r < keys)
#pragma GCC unroll 3
      for (int i = 0; i < vectors; i++) {
        float *at = scores + (j0 + r) * QUERIES + i * BK_LANES;
        store(at, load(at) + acc[r][i]);
      }
}

// Adds what distances say to the n queries of a tile and to the keys of a block, which are `lowest` and more apart.
static void place_scores(const attention_plan *p, const attention_scratch *s, int64_t head, const float *q,
                         const float *k, int64_t n, int64_t keys, int64_t lowest) {
  const bk_attention_args *a = p->a;
  const int64_t vectors = (n + BK_LANES - 1) / BK_LANES;
  const int64_t distances = (keys + QUERIES - 1 + BK_LANES - 1) / BK_LANES * BK_LANES; // at most DISTANCES
  if (a->place_keys) {
    read_places(p, a->place_keys, head, lowest, distances, 1, s->places);
    score_block(p, q, s->places, distances, vectors, s->said);
    add_said(s->said, keys, n, s->scores);
  }
  if (!a->place_queries)
    return;
  read_places(p, a->place_queries, head, lowest, distances, score_factor(a), s->places);
  for (int64_t x = 0; x < distances; x += BK_LANES)
    for (int64_t c = 0; c < p->dim; c += BK_LANES)
      transpose(s->turned + c * DISTANCES + x, DISTANCES, s->places + x * p->dim + c, p->dim);
  for (int64_t j = 0; j < keys; j += SCORE_KEYS) {
    if (vectors == 3)
      key_tile(p, k, s->turned, keys, j, s->scores, 3);
    else if (vectors == 2)
      key_tile(p, k, s->turned, keys, j, s->scores, 2);
    else
      key_tile(p, k, s->turned, keys, j, s->scores, 1);
  }
}
