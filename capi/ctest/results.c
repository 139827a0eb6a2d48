/* Accessors on results that are stale, foreign or freed twice, and on items that are not there. */
#include "check.h"

static void check_nothing(bei_result result, size_t i, int32_t code) {
  size_t a = 5, b = 5;
  const uint32_t *ids = (const uint32_t *)&a;
  CHECK(bei_result_item_message(result, i) == NULL);
  CHECK(bei_result_token_vectors(result, i, &a, &b) == NULL && a == 0 && b == 0);
  CHECK(bei_result_token_vectors(result, i, NULL, NULL) == NULL);
  a = b = 5;
  CHECK(bei_result_sparse(result, i, &ids, &a) == NULL && a == 0 && ids == NULL);
  CHECK(bei_result_sparse(result, i, NULL, NULL) == NULL);
  a = 5;
  CHECK(bei_result_entities(result, i, &a) == NULL && a == 0);
  CHECK(bei_result_entities(result, i, NULL) == NULL);
  CHECK(bei_result_text(result, i, &b) == NULL && b == 0);
  CHECK(bei_result_text(result, i, NULL) == NULL);
  bei_tokens tokens = BEI_TOKENS_INIT;
  tokens.count = 9, tokens.pieces = "x";
  FAILS(bei_result_tokens(result, i, &tokens), code);
  CHECK(tokens.struct_size == sizeof tokens && tokens.count == 0 && tokens.pieces == NULL);
}

static void stale_results(void) {
  bei_handle backend = open_mock("");
  bei_cancel cancel = 0;
  OK(bei_cancel_new(&cancel));
  packed p = packed_new(2, 3);
  float rows[2 * D];
  bei_result result = 0, second = 0;
  OK(bei_embed(backend, &p.batch, NULL, rows, 2 * D, NULL, 0, &result));
  OK(bei_embed(backend, &p.batch, NULL, rows, 2 * D, NULL, 0, &second));
  const size_t outside[] = {2, 3, (size_t)1 << 31, (size_t)1 << 63, SIZE_MAX};
  for (size_t k = 0; k < sizeof outside / sizeof *outside; k++)
    check_nothing(result, outside[k], BEI_INVALID_ARGUMENT);
  bei_stats stats = BEI_STATS_INIT;
  bei_tokens tokens = BEI_TOKENS_INIT;
  OK(bei_result_stats(result, &stats));
  FAILS_WITH(bei_result_stats(result, NULL), BEI_INVALID_ARGUMENT, "stats is NULL");
  FAILS_WITH(bei_result_tokens(result, 0, NULL), BEI_INVALID_ARGUMENT, "tokens is NULL");
  tokens.struct_size = stats.struct_size = 8;
  FAILS_WITH(bei_result_stats(result, &stats), BEI_INVALID_ARGUMENT, "stats.struct_size is 8, not 56");
  FAILS_WITH(bei_result_tokens(result, 0, &tokens), BEI_INVALID_ARGUMENT, "tokens.struct_size is 8, not 80");
  stats.struct_size = sizeof stats;

  bei_result_free(result);
  const bei_result wrong[] = {0, result, backend, cancel, UINT64_MAX, 1};
  for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
    CHECK_EQUAL(bei_result_count(wrong[k]), 0);
    check_nothing(wrong[k], 0, BEI_INVALID_HANDLE);
    FAILS(bei_result_stats(wrong[k], &stats), BEI_INVALID_HANDLE);
    bei_result_free(wrong[k]);
    bei_result_free(wrong[k]);
  }
  CHECK_EQUAL(bei_result_count(second), 2);
  OK(bei_health(backend, 1, NULL));
  bei_cancel_free(cancel);
  OK(bei_shutdown(backend, 1000));
  CHECK_EQUAL(bei_result_count(second), 2);
  bei_result_free(second);
  CHECK_EQUAL(bei_result_count(second), 0);
  packed_free(&p);
}

/* What accessors hand out stays as it is while Go's collector runs. */
static void pinned_memory(void) {
  bei_handle backend = open_mock("\"go\": {\"gc_percent\": 1}");
  enum { KEPT = 30 };
  packed p = packed_new(3, 20);
  uint32_t all[] = {0, 1, 2};
  p.batch.num_pooled = 0, p.batch.raw_indices = all, p.batch.num_raw = 3, p.batch.sparse_indices = all,
  p.batch.num_sparse = 3;
  bei_result kept[KEPT];
  const float *vectors[KEPT][3], *weights[KEPT][3];
  float first[20 * D];
  for (int k = 0; k < KEPT; k++) {
    OK(bei_embed(backend, &p.batch, NULL, NULL, 0, NULL, 0, &kept[k]));
    for (size_t i = 0; i < 3; i++) {
      size_t n = 0, count = 0;
      vectors[k][i] = bei_result_token_vectors(kept[k], i, &n, NULL);
      weights[k][i] = bei_result_sparse(kept[k], i, NULL, &count);
      CHECK(n == 20 && count > 0);
    }
  }
  memcpy(first, vectors[0][0], sizeof first);
  for (int k = 0; k < 200; k++) {
    bei_result result = 0;
    OK(bei_embed(backend, &p.batch, NULL, NULL, 0, NULL, 0, &result));
    if (k % 2)
      CHECK(bei_result_token_vectors(result, 0, NULL, NULL) != NULL);
    bei_result_free(result);
  }
  for (int k = 0; k < KEPT; k++) {
    CHECK(memcmp(vectors[k][0], first, sizeof first) == 0);
    for (size_t i = 0; i < 3; i++) {
      CHECK(bei_result_token_vectors(kept[k], i, NULL, NULL) == vectors[k][i]);
      CHECK(bei_result_sparse(kept[k], i, NULL, NULL) == weights[k][i]);
      CHECK(memcmp(weights[k][i], weights[0][i], 4 * sizeof(float)) == 0);
    }
    bei_result_free(kept[k]);
  }
  packed_free(&p);
  OK(bei_shutdown(backend, 1000));
}

const test result_tests[] = {{"stale_results", stale_results}, {"pinned_memory", pinned_memory}, {NULL, NULL}};
