/* Tiny models of testdata/models on ONNX Runtime, from text, against what transformers gives: logits and entities. */
#include "check.h"

#include <math.h>

/* What capi/golden_test.go writes: 32-bit numbers, and texts behind their sizes. */
static char *data, *next, *end;

static void load(const char *file) {
  size_t size;
  data = next = read_file(file, &size);
  end = data + size;
}

static const void *take(size_t size) {
  CHECK(size <= (size_t)(end - next));
  next += size;
  return next - size;
}

static uint32_t number(void) {
  uint32_t value;
  memcpy(&value, take(sizeof value), sizeof value);
  return value;
}

static float real(void) {
  float value;
  memcpy(&value, take(sizeof value), sizeof value);
  return value;
}

static const char *text(size_t *size) {
  *size = number();
  return take(*size);
}

static bei_handle next_model(char *folder, size_t capacity) {
  size_t size;
  const char *path = text(&size);
  CHECK(size < capacity);
  memcpy(folder, path, size);
  folder[size] = '\0';
  return open_model(folder, "\"threads\": 1");
}

/* info's JSON holds what the file has next. */
static void check_labels(bei_handle backend) {
  size_t size;
  char want[256];
  const char *labels = text(&size);
  CHECK(size < sizeof want);
  memcpy(want, labels, size);
  want[size] = '\0';
  bei_result json;
  OK(bei_info_json(backend, &json));
  const char *got = bei_result_text(json, 0, NULL);
  if (strstr(got, want) == NULL)
    fail(__FILE__, __LINE__, "%s does not hold %s", got, want);
  bei_result_free(json);
}

/* The logits of a text's tokens. */
static void predict_tokens_of(bei_handle backend, const bei_text *item, bei_call_options options, float *logits) {
  bei_result result;
  bei_tokens t = BEI_TOKENS_INIT;
  options.truncate = BEI_ON;
  OK(bei_tokenize(backend, item, 1, &options, NULL, 0, &result));
  OK(bei_result_tokens(result, 0, &t));
  uint32_t lengths[2] = {0, (uint32_t)t.count}, all[1] = {0};
  bei_batch batch = BEI_BATCH_INIT;
  batch.input_ids = t.ids, batch.token_type_ids = t.type_ids, batch.total_tokens = t.count;
  batch.cumulative_seq_lengths = lengths, batch.num_sequences = 1;
  batch.pooled_indices = all, batch.num_pooled = 1;
  OK(bei_predict(backend, &batch, NULL, logits, 8, NULL, 0, NULL));
  bei_result_free(result);
}

static void golden_predictions(void) {
  load(setting("BEI_TEST_PREDICTIONS"));
  for (uint32_t model = 0, models = number(); model < models; model++) {
    char folder[1024];
    bei_handle backend = next_model(folder, sizeof folder);
    bei_info info = BEI_INFO_INIT;
    OK(bei_get_info(backend, &info));
    check_labels(backend);
    uint32_t labels = number();
    CHECK_EQUAL(info.model_type, BEI_MODEL_CLASSIFIER);
    CHECK_EQUAL(info.labels, labels);
    for (uint32_t i = 0, items = number(); i < items; i++) {
      bei_text item = {0};
      bei_call_options options = BEI_CALL_OPTIONS_INIT;
      float logits[8], of_tokens[8];
      item.text = text(&item.text_size);
      item.pair = text(&item.pair_size);
      if (item.pair_size == 0)
        item.pair = NULL;
      options.prompt_name = text(&options.prompt_name_size);
      OK(bei_predict_texts(backend, &item, 1, &options, logits, 8, NULL, 0, NULL));
      predict_tokens_of(backend, &item, options, of_tokens);
      for (uint32_t k = 0; k < labels; k++) {
        float want = real();
        if (!(fabsf(logits[k] - want) < 1e-4f) || !(fabsf(of_tokens[k] - want) < 1e-4f))
          fail(__FILE__, __LINE__, "%s, item %u, label %u: %g, of its tokens %g, want %g", folder, i, k, logits[k],
               of_tokens[k], want);
      }
    }
    OK(bei_shutdown(backend, 1000));
  }
  CHECK(next == end);
  free(data);
}

/* Reads the entities of one item and aggregation and compares. */
static void check_entities(const char *folder, bei_result result, int32_t aggregation) {
  size_t count, tokens;
  const bei_entity *entities = bei_result_entities(result, 0, &count);
  CHECK_EQUAL(count, number());
  bei_tokens t = BEI_TOKENS_INIT;
  OK(bei_result_tokens(result, 0, &t));
  CHECK(bei_result_token_vectors(result, 0, &tokens, NULL) != NULL && tokens == t.count);
  for (size_t k = 0; k < count; k++) {
    size_t size;
    text(&size); /* the names of labels are in info's JSON, which the Go and Rust tests read */
    float score = real();
    uint32_t first = number(), last = number();
    const bei_entity *e = &entities[k];
    if (e->start != first || e->end != last || !(fabsf(e->score - score) < 1e-4f) || e->reserved != 0)
      fail(__FILE__, __LINE__, "%s, aggregation %d, entity %zu: %u to %u, score %g; want %u to %u, %g", folder,
           aggregation, k, e->start, e->end, e->score, first, last, score);
    CHECK(e->token < t.count && t.starts[e->token] == first);
  }
}

static void golden_entities(void) {
  load(setting("BEI_TEST_ENTITIES"));
  for (uint32_t model = 0, models = number(); model < models; model++) {
    char folder[1024];
    bei_handle backend = next_model(folder, sizeof folder);
    for (uint32_t i = 0, items = number(); i < items; i++) {
      bei_text item = {0};
      bei_call_options options = BEI_CALL_OPTIONS_INIT;
      bei_result result;
      item.text = text(&item.text_size);
      options.truncation_side = (int32_t)number();
      for (options.aggregation = BEI_AGGREGATE_NONE; options.aggregation <= BEI_AGGREGATE_MAX; options.aggregation++) {
        OK(bei_predict_tokens_texts(backend, &item, 1, &options, NULL, 0, &result));
        check_entities(folder, result, options.aggregation);
        bei_result_free(result);
      }
    }
    bei_text pair = {"a", 1, "b", 1, 0, 0};
    bei_result result;
    FAILS_WITH(bei_predict_tokens_texts(backend, &pair, 1, NULL, NULL, 0, &result), BEI_INVALID_ARGUMENT, "is a pair");
    OK(bei_shutdown(backend, 1000));
  }
  CHECK(next == end);
  free(data);
}

const test golden_tests[] = {
    {"golden_predictions", golden_predictions}, {"golden_entities", golden_entities}, {NULL, NULL}};
