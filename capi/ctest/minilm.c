/* The real all-MiniLM-L6-v2 on ONNX Runtime, against vectors of sentence-transformers (testdata/minilm). */
#include "check.h"

#include <math.h>

enum { MAX_TEXTS = 100 };

static bei_handle backend;
static bei_text texts[MAX_TEXTS];
static size_t n;
static float *golden; /* [n x D] */

/* The Go test writes the texts as a 32-bit size and the bytes of each. */
static void load(void) {
  size_t size = 0, golden_size = 0;
  char *data = read_file(setting("BEI_TEST_TEXTS"), &size);
  golden = (float *)read_file(setting("BEI_TEST_GOLDEN"), &golden_size);
  for (size_t at = 0; at < size; n++) {
    uint32_t length;
    CHECK(n < MAX_TEXTS);
    memcpy(&length, data + at, sizeof length);
    texts[n] = (bei_text){data + at + sizeof length, length, NULL, 0, 0, 0};
    at += sizeof length + length;
  }
  CHECK(n >= 60 && golden_size == n * D * sizeof *golden);
  backend = open_minilm("");
}

static void check_row(const float *row, size_t text, const char *how) {
  const float *want = golden + text * D;
  double dot = 0, a = 0, b = 0, worst = 0;
  for (size_t k = 0; k < D; k++) {
    dot += (double)row[k] * want[k];
    a += (double)row[k] * row[k];
    b += (double)want[k] * want[k];
    worst = fmax(worst, fabs((double)row[k] - want[k]));
  }
  double cosine = dot / sqrt(a * b);
  if (!(cosine >= 0.999999) || !(worst < 1e-4))
    fail(__FILE__, __LINE__, "text %zu, %s: cosine %.9f, largest error %g", text, how, cosine, worst);
}

static void minilm_texts(void) {
  load();
  float *rows = calloc(n * D, sizeof *rows);
  int32_t status[MAX_TEXTS];
  OK(bei_embed_texts(backend, texts, n, NULL, rows, n * D, status, n, NULL));
  for (size_t i = 0; i < n; i++) {
    CHECK_EQUAL(status[i], BEI_OK);
    check_row(rows + i * D, i, "in one batch");
  }
  for (size_t i = 0; i < n; i++) {
    OK(bei_embed_texts(backend, &texts[i], 1, NULL, rows, D, NULL, 0, NULL));
    check_row(rows, i, "alone");
  }
  bei_text shuffled[MAX_TEXTS];
  for (size_t i = 0; i < n; i++)
    shuffled[i] = texts[i * 37 % n == i ? i : i * 37 % n];
  OK(bei_embed_texts(backend, shuffled, n, NULL, rows, n * D, NULL, 0, NULL));
  for (size_t i = 0; i < n; i++)
    check_row(rows + i * D, i * 37 % n, "shuffled");
  OK(bei_shutdown(backend, 5000));
}

/* The tokens of bei_tokenize as one packed batch, with pooled and token vectors mixed. */
static void minilm_batch(void) {
  load();
  bei_call_options options = BEI_CALL_OPTIONS_INIT;
  options.truncate = BEI_ON;
  bei_result tokenized = 0, result = 0;
  OK(bei_tokenize(backend, texts, n, &options, NULL, 0, &tokenized));
  uint32_t lengths[MAX_TEXTS + 1] = {0}, items[MAX_TEXTS], raw[MAX_TEXTS];
  uint32_t *ids = malloc(MAX_TEXTS * 256 * sizeof *ids);
  size_t num_raw = 0;
  for (size_t i = 0; i < n; i++) {
    bei_tokens t = BEI_TOKENS_INIT;
    OK(bei_result_tokens(tokenized, i, &t));
    CHECK(t.count > 0 && t.count <= 256);
    memcpy(ids + lengths[i], t.ids, t.count * sizeof *ids);
    lengths[i + 1] = lengths[i] + (uint32_t)t.count;
    items[i] = (uint32_t)i;
    if (i % 3 == 0)
      raw[num_raw++] = (uint32_t)i;
  }
  bei_result_free(tokenized);
  bei_batch batch = BEI_BATCH_INIT;
  batch.input_ids = ids, batch.total_tokens = lengths[n], batch.cumulative_seq_lengths = lengths,
  batch.num_sequences = n;
  batch.pooled_indices = items, batch.num_pooled = n, batch.raw_indices = raw, batch.num_raw = num_raw;
  float *rows = calloc(n * D, sizeof *rows);
  OK(bei_embed(backend, &batch, NULL, rows, n * D, NULL, 0, &result));
  for (size_t i = 0; i < n; i++)
    check_row(rows + i * D, i, "as tokens");
  for (size_t k = 0; k < num_raw; k++) { /* the mean of the token vectors is the pooled vector */
    size_t count = 0, columns = 0;
    const float *v = bei_result_token_vectors(result, raw[k], &count, &columns);
    CHECK(v != NULL && columns == D && count == lengths[raw[k] + 1] - lengths[raw[k]]);
    float mean[D] = {0};
    for (size_t r = 0; r < count * D; r++)
      mean[r % D] += v[r] / (float)count;
    double length = 0;
    for (size_t c = 0; c < D; c++)
      length += (double)mean[c] * mean[c];
    for (size_t c = 0; c < D; c++)
      mean[c] = (float)(mean[c] / sqrt(length));
    check_row(mean, raw[k], "as the mean of its token vectors");
  }
  bei_result_free(result);
  free(ids);
  OK(bei_shutdown(backend, 5000));
}

static void embed_some(int number) {
  float rows[4 * D];
  bei_text some[4];
  size_t which[4];
  for (int k = 0; k < 4; k++) {
    which[k] = (size_t)(number * 13 + k * 29) % n;
    some[k] = texts[which[k]];
  }
  OK(bei_embed_texts(backend, some, 4, NULL, rows, 4 * D, NULL, 0, NULL));
  for (int k = 0; k < 4; k++)
    check_row(rows + k * D, which[k], "from 64 threads");
}

static void minilm_threads(void) {
  load();
  run_threads(64, embed_some);
  OK(bei_shutdown(backend, 5000));
}

static void embed_for_ever(int number) {
  (void)number;
  float *rows = calloc(n * D, sizeof *rows);
  for (;;) {
    bei_error *error = bei_embed_texts(backend, texts, n, NULL, rows, n * D, NULL, 0, NULL);
    CHECK(bei_error_code(error) == BEI_OK || bei_error_code(error) == BEI_SHUT_DOWN);
    bei_error_free(error);
  }
}

static void exit_soon(int number) {
  if (number > 0)
    embed_for_ever(number);
  sleep_ms(300);
  exit(0);
}

static void linger(void) { sleep_ms(200); }

/* exit() while runs are under way stops them before ONNX Runtime's statics are destroyed. */
static void minilm_exit(void) {
  atexit(linger); /* comes after the destructors of what is loaded later: time for runs to trip over them */
  load();
  run_threads(4, exit_soon);
}

const test minilm_tests[] = {{"minilm_texts", minilm_texts},
                             {"minilm_batch", minilm_batch},
                             {"minilm_threads", minilm_threads},
                             {"minilm_exit", minilm_exit},
                             {NULL, NULL}};
