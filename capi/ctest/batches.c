/* Token batches on the mock engine: what is computed, and what becomes of single items. */
#include "check.h"

#include <math.h>

static double length_of(const float *v, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++)
    sum += (double)v[i] * v[i];
  return sqrt(sum);
}

static void embed(void) {
  bei_handle backend = open_mock("");
  enum { N = 40 };
  packed p = packed_new(N, 7);
  float *rows = calloc(N * D, sizeof *rows), alone[D];
  int32_t status[N];
  bei_result result = 0;
  memset(status, 0x55, sizeof status);
  OK(bei_embed(backend, &p.batch, NULL, rows, N * D, status, N, &result));
  CHECK_EQUAL(bei_result_count(result), N);
  for (size_t i = 0; i < N; i++) {
    CHECK_EQUAL(status[i], BEI_OK);
    CHECK_TEXT(bei_result_item_message(result, i), "");
    CHECK(fabs(length_of(rows + i * D, D) - 1) < 1e-5);
    packed one = packed_new(1, 7);
    memcpy(one.ids, p.ids + 7 * i, 7 * sizeof *one.ids);
    OK(bei_embed(backend, &one.batch, NULL, alone, D, NULL, 0, NULL));
    CHECK(memcmp(alone, rows + i * D, sizeof alone) == 0);
    packed_free(&one);
  }
  bei_stats stats = BEI_STATS_INIT;
  OK(bei_result_stats(result, &stats));
  CHECK_EQUAL(stats.tokens, N * 7);
  CHECK_EQUAL(stats.runs, 1);
  CHECK(stats.total_ns > 0 && stats.inference_ns <= stats.total_ns);
  bei_result_free(result);

  /* Without what is optional, then with every array and max_length given. */
  OK(bei_embed(backend, &p.batch, NULL, rows, N * D, NULL, 0, NULL));
  uint32_t zeros[N * 7] = {0}, positions[N * 7];
  for (uint32_t i = 0; i < N * 7; i++)
    positions[i] = i % 7;
  float *same = calloc(N * D, sizeof *same);
  p.batch.token_type_ids = zeros, p.batch.position_ids = positions, p.batch.max_length = 7;
  OK(bei_embed(backend, &p.batch, NULL, same, N * D, NULL, 0, NULL));
  CHECK(memcmp(rows, same, N * D * sizeof *rows) == 0);

  bei_call_options options = BEI_CALL_OPTIONS_INIT;
  options.dimensions = 16;
  OK(bei_embed(backend, &p.batch, &options, same, N * 16, NULL, 0, NULL));
  CHECK(fabs(length_of(same + 16, 16) - 1) < 1e-5);
  options.normalize = BEI_OFF;
  OK(bei_embed(backend, &p.batch, &options, same, N * 16, NULL, 0, NULL));
  CHECK(fabs(length_of(same + 16, 16) - 1) > 1e-3);
  FAILS(bei_embed(backend, &p.batch, &options, same, N * 16 - 1, NULL, 0, NULL), BEI_BUFFER_TOO_SMALL);
  free(rows);
  free(same);
  packed_free(&p);
  OK(bei_shutdown(backend, 1000));
}

/* Pooled, token vectors and sparse weights of one batch in one call, each item in other lists. */
static void mixed_outputs(void) {
  bei_handle backend = open_mock("");
  packed p = packed_new(5, 4);
  uint32_t pooled[] = {0, 2, 4}, raw[] = {1, 2}, sparse[] = {3, 4};
  p.batch.pooled_indices = pooled, p.batch.num_pooled = 3;
  p.batch.raw_indices = raw, p.batch.num_raw = 2;
  p.batch.sparse_indices = sparse, p.batch.num_sparse = 2;
  float rows[5 * D];
  for (size_t i = 0; i < 5 * D; i++)
    rows[i] = 7;
  int32_t status[5];
  bei_result result = 0;
  OK(bei_embed(backend, &p.batch, NULL, rows, 5 * D, status, 5, &result));
  for (size_t i = 0; i < 5; i++) {
    CHECK_EQUAL(status[i], BEI_OK);
    int has_row = i % 2 == 0;
    CHECK((rows[i * D] != 7) == has_row && (rows[i * D + D - 1] != 7) == has_row);
    size_t n = 9, columns = 9, count = 9;
    const float *vectors = bei_result_token_vectors(result, i, &n, &columns);
    int has_vectors = i == 1 || i == 2;
    CHECK((vectors != NULL) == has_vectors);
    CHECK_EQUAL(n, has_vectors ? 4 : 0);
    CHECK_EQUAL(columns, has_vectors ? D : 0);
    CHECK(bei_result_token_vectors(result, i, NULL, NULL) == vectors);
    const uint32_t *ids = p.ids;
    const float *weights = bei_result_sparse(result, i, &ids, &count);
    int has_weights = i >= 3;
    CHECK((weights != NULL) == has_weights && (ids != NULL) == has_weights && (count > 0) == has_weights);
    for (size_t k = 0; k < count; k++)
      CHECK(weights[k] != 0 && ids[k] < 30522 && (k == 0 || ids[k] > ids[k - 1]));
    CHECK(bei_result_sparse(result, i, NULL, NULL) == weights);
    bei_tokens tokens = BEI_TOKENS_INIT;
    FAILS_WITH(bei_result_tokens(result, i, &tokens), BEI_INVALID_ARGUMENT, "no tokens");
    CHECK(bei_result_entities(result, i, &count) == NULL && count == 0);
    CHECK(bei_result_text(result, i, &count) == NULL && count == 0);
  }
  bei_result_free(result);
  packed_free(&p);
  OK(bei_shutdown(backend, 1000));
}

static void sizes(void) {
  bei_handle backend =
      open_mock("\"max_tokens\": 64, \"max_length\": 32, \"best_tokens\": 64, \"max_sequences\": 8, \"slots\": 2");
  int32_t status[300];
  float *rows = malloc(300 * D * sizeof *rows);
  /* No items; also without any array but the lengths. */
  packed none = packed_new(0, 0);
  OK(bei_embed(backend, &none.batch, NULL, NULL, 0, NULL, 0, NULL));
  none.batch.input_ids = NULL, none.batch.pooled_indices = NULL;
  bei_result result = 0;
  OK(bei_embed(backend, &none.batch, NULL, rows, D, status, 300, &result));
  CHECK_EQUAL(bei_result_count(result), 0);
  CHECK(bei_result_item_message(result, 0) == NULL);
  bei_result_free(result);
  /* Many times what one run takes. */
  packed many = packed_new(300, 5);
  OK(bei_embed(backend, &many.batch, NULL, rows, 300 * D, status, 300, &result));
  bei_stats stats = BEI_STATS_INIT;
  OK(bei_result_stats(result, &stats));
  CHECK_EQUAL(stats.tokens, 1500);
  CHECK(stats.runs >= 300 / 8);
  for (size_t i = 0; i < 300; i++)
    CHECK_EQUAL(status[i], BEI_OK);
  bei_result_free(result);
  /* An item of no tokens: fails where something is pooled, and has no token vectors otherwise. */
  packed p = packed_new(3, 2);
  uint32_t lengths[] = {0, 2, 2, 4}, all[] = {0, 1, 2};
  p.batch.total_tokens = 4, p.batch.cumulative_seq_lengths = lengths;
  OK(bei_embed(backend, &p.batch, NULL, rows, 3 * D, status, 3, &result));
  CHECK(status[0] == BEI_OK && status[1] == BEI_EMPTY && status[2] == BEI_OK);
  CHECK(strstr(bei_result_item_message(result, 1), "item 1") != NULL);
  bei_result_free(result);
  p.batch.num_pooled = 0, p.batch.raw_indices = all, p.batch.num_raw = 3;
  OK(bei_embed(backend, &p.batch, NULL, NULL, 0, status, 3, &result));
  CHECK(status[0] == BEI_OK && status[1] == BEI_OK && status[2] == BEI_OK);
  size_t n = 9;
  CHECK(bei_result_token_vectors(result, 1, &n, NULL) == NULL && n == 0);
  CHECK(bei_result_token_vectors(result, 2, &n, NULL) != NULL && n == 2);
  bei_result_free(result);
  packed_free(&none);
  packed_free(&many);
  packed_free(&p);
  free(rows);
  OK(bei_shutdown(backend, 1000));
}

/* One item is wrong in each way; its neighbours are not touched. Without item_status the call fails, naming the item. */
static void bad_items(void) {
  bei_handle backend = open_mock("\"mock\": {\"faults\": [{\"kind\": \"nan\", \"token_id\": 20001}, {\"kind\": "
                                 "\"bad_item\", \"token_id\": 20002}]}");
  packed p = packed_new(4, 200);
  uint32_t lengths[] = {0, 200, 400, 600, 800}, longest[] = {0, 200, 457, 600, 800}, two[] = {0, 3};
  uint32_t *types = calloc(800, sizeof *types), *positions = calloc(800, sizeof *positions);
  p.batch.token_type_ids = types, p.batch.position_ids = positions;
  float rows[4 * D], good[4 * D];
  OK(bei_embed(backend, &p.batch, NULL, good, 4 * D, NULL, 0, NULL));
  for (int way = 0; way < 7; way++) {
    bei_batch batch = p.batch;
    batch.cumulative_seq_lengths = lengths;
    uint32_t *changed = &p.ids[250], former, value = 0;
    int32_t code = BEI_TOKEN_OUT_OF_RANGE;
    const char *text = "";
    switch (way) {
    case 0:
      value = 30522, text = "input_ids[250] is 30522, the limit is 30521";
      break;
    case 1:
      value = UINT32_MAX, text = "input_ids[250] is 4294967295";
      break;
    case 2:
      changed = &types[399], value = 2, text = "token_type_ids[399] is 2, the limit is 1";
      break;
    case 3:
      changed = &positions[200], value = UINT32_MAX, text = "position_ids[200] is 4294967295";
      break;
    case 4:
      value = 20001, code = BEI_NON_FINITE, text = "NaN";
      break;
    case 5:
      value = 20002, code = BEI_INFERENCE, text = "token 20002";
      break;
    case 6:
      value = *changed, code = BEI_TOO_LONG, text = "257 tokens, the limit is 256";
      batch.cumulative_seq_lengths = longest;
      break;
    }
    former = *changed;
    *changed = value;
    int32_t status[4];
    bei_result result = 0;
    for (size_t i = 0; i < 4 * D; i++)
      rows[i] = 7;
    OK(bei_embed(backend, &batch, NULL, rows, 4 * D, status, 4, &result));
    for (int i = 0; i < 4; i++)
      CHECK_EQUAL(status[i], i == 1 ? code : BEI_OK);
    CHECK(memcmp(rows, good, D * sizeof *rows) == 0 && memcmp(rows + 3 * D, good + 3 * D, D * sizeof *rows) == 0);
    for (size_t i = D; i < 2 * D; i++)
      CHECK(rows[i] == 7);
    if (strstr(bei_result_item_message(result, 1), text) == NULL)
      fail(__FILE__, __LINE__, "item 1 says \"%s\", want \"%s\"", bei_result_item_message(result, 1), text);
    CHECK(bei_result_item_message(result, 1) == bei_result_item_message(result, 1));
    CHECK_TEXT(bei_result_item_message(result, 0), "");
    bei_result_free(result);
    FAILS_WITH(bei_embed(backend, &batch, NULL, rows, 4 * D, NULL, 0, NULL), code, "item 1");
    *changed = former;
  }
  int32_t status[4];
  p.batch.pooled_indices = two, p.batch.num_pooled = 2;
  OK(bei_embed(backend, &p.batch, NULL, rows, 4 * D, status, 4, NULL));
  CHECK(status[0] == BEI_OK && status[1] == BEI_INVALID_ARGUMENT && status[2] == BEI_INVALID_ARGUMENT &&
        status[3] == BEI_OK);
  free(types);
  free(positions);
  packed_free(&p);
  OK(bei_shutdown(backend, 1000));
}

/* Runs 1 and 2 are the warm-up; run 3 fails in the way of the fault, and the engine is asked again afterwards. */
static void failing_runs(void) {
  static const struct {
    const char *kind;
    int32_t code;
    int lasting;
  } cases[] = {
      {"error", BEI_INFERENCE, 0}, {"lost", BEI_UNHEALTHY, 1}, {"panic", BEI_INTERNAL, 0}, {"nan", BEI_NON_FINITE, 0}};
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    char more[200];
    snprintf(more, sizeof more, "\"mock\": {\"faults\": [{\"kind\": \"%s\", \"from\": 3, \"count\": 5}]}",
             cases[c].kind);
    bei_handle backend = open_mock(more);
    packed p = packed_new(1, 4);
    float rows[D];
    int32_t status[1] = {99};
    FAILS(bei_embed(backend, &p.batch, NULL, rows, D, NULL, 0, NULL), cases[c].code);
    bei_error *error = bei_embed(backend, &p.batch, NULL, rows, D, status, 1, NULL);
    CHECK((error == NULL ? status[0] : bei_error_code(error)) == cases[c].code);
    bei_error_free(error);
    for (int i = 0; i < 8; i++)
      bei_error_free(bei_embed(backend, &p.batch, NULL, rows, D, NULL, 0, NULL));
    FAILS(bei_embed(backend, &p.batch, NULL, rows, D, NULL, 0, NULL), cases[c].lasting ? cases[c].code : BEI_OK);
    packed_free(&p);
    OK(bei_shutdown(backend, 1000));
  }
}

static void predict(void) {
  bei_handle embedder = open_mock(""), classifier = open_mock("\"mock\": {\"kind\": \"classifier\", \"labels\": 3}"),
             tokens = open_mock("\"mock\": {\"kind\": \"token_classifier\", \"labels\": 9}");
  packed p = packed_new(4, 6);
  float rows[4 * D];
  int32_t status[4];
  bei_result result = 0;
  FAILS_WITH(bei_predict(embedder, &p.batch, NULL, rows, 4 * D, status, 4, &result), BEI_UNSUPPORTED, "classifier");
  FAILS(bei_predict_tokens(embedder, &p.batch, NULL, status, 4, &result), BEI_UNSUPPORTED);
  FAILS(bei_embed(classifier, &p.batch, NULL, rows, 4 * D, status, 4, &result), BEI_UNSUPPORTED);
  FAILS(bei_predict(tokens, &p.batch, NULL, rows, 4 * D, status, 4, &result), BEI_UNSUPPORTED);

  OK(bei_predict(classifier, &p.batch, NULL, rows, 12, status, 4, &result));
  CHECK_EQUAL(status[3], BEI_OK);
  CHECK_EQUAL(bei_result_count(result), 4);
  bei_result_free(result);
  OK(bei_predict(classifier, &p.batch, NULL, rows, 12, NULL, 0, NULL));
  FAILS(bei_predict(classifier, &p.batch, NULL, rows, 11, NULL, 0, NULL), BEI_BUFFER_TOO_SMALL);
  FAILS_WITH(bei_predict(classifier, &p.batch, NULL, NULL, 3, NULL, 0, NULL), BEI_INVALID_ARGUMENT,
             "logits is NULL, but logits_size is 3");
  bei_call_options options = BEI_CALL_OPTIONS_INIT;
  options.dimensions = 2;
  FAILS(bei_predict(classifier, &p.batch, &options, rows, 12, NULL, 0, NULL), BEI_INVALID_ARGUMENT);
  p.batch.raw_indices = p.items, p.batch.num_raw = 1;
  FAILS_WITH(bei_predict(classifier, &p.batch, NULL, rows, 12, NULL, 0, &result), BEI_INVALID_ARGUMENT,
             "token vectors");

  p.batch.num_pooled = 0, p.batch.num_raw = 4;
  size_t n = 0, labels = 0;
  OK(bei_predict_tokens(tokens, &p.batch, NULL, status, 4, &result));
  CHECK(bei_result_token_vectors(result, 3, &n, &labels) != NULL && n == 6 && labels == 9);
  bei_result_free(result);
  FAILS_WITH(bei_predict_tokens(tokens, &p.batch, NULL, status, 4, NULL), BEI_INVALID_ARGUMENT, "result");
  FAILS(bei_predict_tokens(tokens, &p.batch, NULL, status, 2, &result), BEI_BUFFER_TOO_SMALL);
  packed_free(&p);
  OK(bei_shutdown(embedder, 1000));
  OK(bei_shutdown(classifier, 1000));
  OK(bei_shutdown(tokens, 1000));
}

/* The start-up of the text-embeddings-inference router: a health batch of id 0, then a warm-up of zeros in full items. */
static void router_start(void) {
  bei_handle backend = open_mock("");
  packed health = packed_new(1, 1), warm = packed_new(64, 256);
  health.ids[0] = 0;
  memset(warm.ids, 0, 64 * 256 * sizeof *warm.ids);
  uint32_t *zeros = calloc(64 * 256, sizeof *zeros), *positions = malloc(64 * 256 * sizeof *positions);
  for (uint32_t i = 0; i < 64 * 256; i++)
    positions[i] = i % 256;
  warm.batch.token_type_ids = zeros, warm.batch.position_ids = positions, warm.batch.max_length = 256;
  float *rows = malloc(64 * D * sizeof *rows);
  OK(bei_embed(backend, &health.batch, NULL, rows, D, NULL, 0, NULL));
  OK(bei_embed(backend, &warm.batch, NULL, rows, 64 * D, NULL, 0, NULL));
  free(rows);
  free(zeros);
  free(positions);
  packed_free(&health);
  packed_free(&warm);
  OK(bei_shutdown(backend, 1000));
}

const test batch_tests[] = {{"embed", embed},
                            {"mixed_outputs", mixed_outputs},
                            {"sizes", sizes},
                            {"bad_items", bad_items},
                            {"failing_runs", failing_runs},
                            {"predict", predict},
                            {"router_start", router_start},
                            {NULL, NULL}};
