/* Sparse weights, token vectors and vectors of spans by tiny models on ONNX Runtime, against the numbers of their golden.json. */
#include "check.h"

#include <math.h>

static const char sentence[] = "the quick brown fox jumps over the lazy dog"; /* item 0 of each golden.json */

static FILE *golden;

static size_t next_count(void) {
  size_t n = 0;
  CHECK_EQUAL(fscanf(golden, "%zu", &n), 1);
  return n;
}

static void check_next(float got, double bound) {
  float want = 0;
  CHECK_EQUAL(fscanf(golden, "%f", &want), 1);
  if (!(fabs((double)got - want) <= bound))
    fail(__FILE__, __LINE__, "%.9g instead of %.9g", (double)got, (double)want);
}

/* The Go test writes a model's folder, and numbers of its golden.json in the order in which its test reads them. */
static bei_handle open_golden(const char *model) {
  char path[1024], folder[1024];
  snprintf(path, sizeof path, "%s/%s", setting("BEI_TEST_OUTPUTS"), model);
  CHECK((golden = fopen(path, "r")) != NULL);
  CHECK_EQUAL(fscanf(golden, "%1023s", folder), 1);
  return open_model(folder, "\"threads\": 1");
}

static void check_sparse(bei_result result, size_t i) {
  const uint32_t *ids = NULL;
  size_t count = 0;
  const float *weights = bei_result_sparse(result, i, &ids, &count);
  CHECK_EQUAL(count, next_count());
  CHECK(count > 0 && weights != NULL && ids != NULL);
  for (size_t k = 0; k < count; k++) {
    CHECK_EQUAL(ids[k], next_count());
    CHECK(weights[k] > 0 && (k == 0 || ids[k] > ids[k - 1]));
    check_next(weights[k], 1e-4);
  }
}

/* Dense, sparse and token vectors of one text, in one call. */
static void bge_m3(void) {
  bei_handle backend = open_golden("bge-m3");
  bei_info info = BEI_INFO_INIT;
  OK(bei_get_info(backend, &info));
  bei_text texts[] = {text_of(sentence), text_of("a")};
  texts[0].outputs = BEI_OUTPUT_POOLED | BEI_OUTPUT_TOKEN_VECTORS | BEI_OUTPUT_SPARSE | BEI_OUTPUT_TOKENS;
  float pooled[2 * D];
  size_t d = next_count();
  CHECK(d == info.dimensions && d <= D);
  bei_result result = 0;
  OK(bei_embed_texts(backend, texts, 2, NULL, pooled, 2 * d, NULL, 0, &result));
  for (size_t k = 0; k < d; k++)
    check_next(pooled[k], 2e-5);
  check_sparse(result, 0);
  size_t rows = 0, columns = 0, count = 9;
  const float *vectors = bei_result_token_vectors(result, 0, &rows, &columns);
  CHECK_EQUAL(rows, next_count());
  CHECK_EQUAL(columns, next_count());
  CHECK_EQUAL(columns, info.token_dimensions);
  for (size_t k = 0; k < rows * columns; k++)
    check_next(vectors[k], 2e-5);
  bei_tokens tokens = BEI_TOKENS_INIT;
  OK(bei_result_tokens(result, 0, &tokens));
  CHECK_EQUAL(rows, tokens.count - 1);
  CHECK(bei_result_sparse(result, 1, NULL, &count) == NULL && count == 0);
  CHECK(bei_result_token_vectors(result, 1, NULL, NULL) == NULL);
  bei_result_free(result);
  fclose(golden);
  OK(bei_shutdown(backend, 1000));
}

static void splade(void) {
  bei_handle backend = open_golden("distilbert-splade");
  bei_info info = BEI_INFO_INIT;
  OK(bei_get_info(backend, &info));
  CHECK(info.pooling == BEI_POOLING_SPLADE && info.dimensions == 0);
  bei_text text = text_of(sentence);
  text.outputs = BEI_OUTPUT_SPARSE | BEI_OUTPUT_TOKENS;
  bei_result result = 0;
  OK(bei_embed_texts(backend, &text, 1, NULL, NULL, 0, NULL, 0, &result));
  check_sparse(result, 0);
  bei_tokens t = BEI_TOKENS_INIT;
  OK(bei_result_tokens(result, 0, &t));
  /* The same as a token batch. */
  uint32_t lengths[] = {0, (uint32_t)t.count}, items[] = {0};
  bei_batch batch = BEI_BATCH_INIT;
  batch.input_ids = t.ids, batch.total_tokens = t.count;
  batch.cumulative_seq_lengths = lengths, batch.num_sequences = 1, batch.sparse_indices = items, batch.num_sparse = 1;
  bei_result same = 0;
  OK(bei_embed(backend, &batch, NULL, NULL, 0, NULL, 0, &same));
  size_t a = 0, b = 0;
  const float *of_text = bei_result_sparse(result, 0, NULL, &a), *of_tokens = bei_result_sparse(same, 0, NULL, &b);
  CHECK(a == b && memcmp(of_text, of_tokens, a * sizeof *of_text) == 0);
  bei_result_free(result);
  bei_result_free(same);
  float row[D];
  text.outputs = BEI_OUTPUT_POOLED;
  FAILS_WITH(bei_embed_texts(backend, &text, 1, NULL, row, D, NULL, 0, NULL), BEI_UNSUPPORTED, "output \"pooled\"");
  fclose(golden);
  OK(bei_shutdown(backend, 1000));
}

enum { SPANS = 16 };

static void spans(void) {
  bei_handle backend = open_golden("roberta-mean");
  size_t d = next_count(), m = next_count();
  CHECK(d <= D && m <= SPANS);
  bei_span parts[SPANS];
  float want[SPANS * D], rows[SPANS * D];
  for (size_t k = 0; k < m; k++) {
    parts[k] = (bei_span){(uint32_t)next_count(), (uint32_t)next_count()};
    for (size_t c = 0; c < d; c++)
      CHECK_EQUAL(fscanf(golden, "%f", &want[k * d + c]), 1);
  }
  bei_text texts[] = {text_of(sentence), text_of(sentence)};
  uint32_t cumulative[] = {0, 2, (uint32_t)m};
  int32_t status[2];
  bei_result result = 0;
  OK(bei_embed_spans(backend, texts, 2, parts, m, cumulative, NULL, rows, m * d, status, 2, &result));
  CHECK(status[0] == BEI_OK && status[1] == BEI_OK);
  for (size_t k = 0; k < m * d; k++)
    CHECK(fabs((double)rows[k] - want[k]) <= 2e-5);
  bei_stats stats = BEI_STATS_INIT;
  OK(bei_result_stats(result, &stats));
  CHECK(stats.runs >= 1 && stats.runs <= 2);
  bei_result_free(result);
  OK(bei_embed_spans(backend, NULL, 0, NULL, 0, cumulative, NULL, NULL, 0, NULL, 0, NULL));

  /* One item fails, the other does not. */
  parts[0].end = 1000;
  OK(bei_embed_spans(backend, texts, 2, parts, m, cumulative, NULL, rows, m * d, status, 2, &result));
  CHECK(status[0] == BEI_INVALID_ARGUMENT && status[1] == BEI_OK);
  CHECK(strstr(bei_result_item_message(result, 0), "[0, 1000), but the text has 43 code points") != NULL);
  bei_result_free(result);
  FAILS_WITH(bei_embed_spans(backend, texts, 2, parts, m, cumulative, NULL, rows, m * d, NULL, 0, NULL),
             BEI_INVALID_ARGUMENT, "item 0");
  parts[0] = (bei_span){3, 4}; /* a blank */
  OK(bei_embed_spans(backend, texts, 2, parts, m, cumulative, NULL, rows, m * d, status, 2, NULL));
  CHECK(status[0] == BEI_EMPTY && status[1] == BEI_OK);
  FAILS(bei_embed_spans(backend, texts, 2, parts, m, cumulative, NULL, rows, m * d - 1, NULL, 0, NULL),
        BEI_BUFFER_TOO_SMALL);
  FAILS_WITH(bei_embed_spans(backend, texts, 2, NULL, m, cumulative, NULL, rows, m * d, NULL, 0, NULL),
             BEI_INVALID_ARGUMENT, "spans is NULL");
  FAILS_WITH(bei_embed_spans(backend, texts, 2, parts, m, NULL, NULL, rows, m * d, NULL, 0, NULL), BEI_INVALID_ARGUMENT,
             "cumulative_spans is NULL");
  FAILS_WITH(bei_embed_spans(backend, texts, 2, parts, (size_t)1 << 40, cumulative, NULL, rows, m * d, NULL, 0, NULL),
             BEI_INVALID_ARGUMENT, "num_spans");
  cumulative[1] = (uint32_t)m + 1;
  FAILS_WITH(bei_embed_spans(backend, texts, 2, parts, m, cumulative, NULL, rows, m * d, NULL, 0, NULL),
             BEI_INVALID_ARGUMENT, "cumulative_spans[2]");
  fclose(golden);
  OK(bei_shutdown(backend, 1000));
  FAILS(bei_embed_spans(backend, texts, 2, parts, m, cumulative, NULL, rows, m * d, NULL, 0, NULL), BEI_INVALID_HANDLE);
}

const test output_tests[] = {
    {"outputs_bge_m3", bge_m3}, {"outputs_splade", splade}, {"outputs_spans", spans}, {NULL, NULL}};
