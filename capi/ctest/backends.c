#include "check.h"

#define INIT(options) bei_init(options, strlen(options), &handle)

static void init_refused(void) {
  bei_handle handle = 7;
  FAILS_WITH(bei_init(NULL, 0, &handle), BEI_INVALID_ARGUMENT, "options");
  FAILS_WITH(bei_init(NULL, 5, &handle), BEI_INVALID_ARGUMENT, "options is NULL, but options_size is 5");
  FAILS_WITH(bei_init("{}", SIZE_MAX, &handle), BEI_INVALID_ARGUMENT,
             "options_size is 18446744073709551615, the limit is");
  FAILS_WITH(bei_init("{}", 2, NULL), BEI_INVALID_ARGUMENT, "backend is NULL");
  FAILS_WITH(bei_init("{}", 2, (bei_handle *)3), BEI_INVALID_ARGUMENT, "backend is 0x3");
  FAILS_WITH(bei_init((char *)9, 2, &handle), BEI_INVALID_ARGUMENT, "options is 0x9");
  FAILS_WITH(INIT("{}"), BEI_INVALID_ARGUMENT, "model");
  FAILS_WITH(INIT("{\"engine\": \"mock\""), BEI_INVALID_ARGUMENT, "JSON");
  FAILS_WITH(INIT("{} {}"), BEI_INVALID_ARGUMENT, "JSON");
  FAILS_WITH(INIT("[]"), BEI_INVALID_ARGUMENT, "object");
  FAILS_WITH(INIT("{\"engine\": \"mock\", \"enginee\": 1}"), BEI_INVALID_ARGUMENT, "enginee");
  FAILS_WITH(INIT("{\"engine\": \"mock\", \"slots\": -1}"), BEI_INVALID_ARGUMENT, "slots");
  FAILS_WITH(INIT("{\"engine\": \"mock\", \"slots\": \"2\"}"), BEI_INVALID_ARGUMENT, "slots");
  FAILS_WITH(INIT("{\"engine\": \"cuda12\"}"), BEI_INVALID_ARGUMENT, "engine");
  FAILS_WITH(INIT("{\"engine\": \"mock\", \"queue\": {\"max_items\": 1e99}}"), BEI_INVALID_ARGUMENT, "queue.max_items");
  FAILS_WITH(INIT("{\"engine\": \"mock\", \"max_length\": 50, \"max_tokens\": 20}"), BEI_INVALID_ARGUMENT,
             "max_tokens 20");
  FAILS(bei_init("{\"engine\": \"mo\xff\"}", 17, &handle), BEI_INVALID_ARGUMENT);
  FAILS(bei_init("{\"engine\":\0\"mock\"}", 18, &handle), BEI_INVALID_ARGUMENT);
  CHECK_EQUAL(handle, 7);
}

/* Each folder is made by capi's Go test and wrong in one way. */
static void init_folders(void) {
  static const struct {
    const char *folder;
    int32_t code;
    const char *text;
  } cases[] = {
      {"missing", BEI_START, "missing"},
      {"empty", BEI_START, "tokenizer.json"},
      {"no_config", BEI_START, "config.json"},
      {"no_weights", BEI_WEIGHTS_NOT_FOUND, "model.safetensors"},
      {"cut_weights", BEI_START, "model.safetensors"},
      {"hostile_weights", BEI_START, "model.safetensors"},
      {"no_tensor", BEI_WEIGHTS_NOT_FOUND, "word_embeddings"},
      {"bad_config", BEI_START, "config.json"},
      {"other_family", BEI_UNSUPPORTED, "gpt2"},
      {"bad_tokenizer", BEI_START, "tokenizer.json"},
  };
  bei_handle handle = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char options[2048];
    int size = snprintf(options, sizeof options, "{\"model\": \"%s/%s\", \"log\": {\"level\": \"off\"}}",
                        setting("BEI_TEST_FOLDERS"), cases[i].folder);
    check_error(__FILE__, __LINE__, cases[i].folder, bei_init(options, (size_t)size, &handle), cases[i].code,
                cases[i].text);
  }
  char options[2048];
  snprintf(options, sizeof options,
           "{\"model\": \"%s\", \"log\": {\"level\": \"off\"}, \"onnxruntime\": {\"library\": "
           "\"/nowhere/libonnxruntime.so.1\"}}",
           setting("BEI_TEST_MODEL"));
  FAILS_WITH(INIT(options), BEI_NO_BACKEND, "/nowhere/libonnxruntime.so.1");
  snprintf(options, sizeof options, "{\"model\": \"%s\", \"log\": {\"level\": \"off\"}, \"engine\": \"tensorrt\"}",
           setting("BEI_TEST_MODEL"));
  FAILS_WITH(INIT(options), BEI_NO_BACKEND, "libbei_trt_rtx1.so: no such file");
  snprintf(options, sizeof options, "{\"model\": \"%s\", \"log\": {\"level\": \"off\"}, \"device\": \"cuda\"}",
           setting("BEI_TEST_MODEL"));
  FAILS_WITH(INIT(options), BEI_NO_BACKEND, "no engine opens on a GPU");
  CHECK_EQUAL(handle, 0);
}

static void info(void) {
  bei_handle backend =
      open_mock("\"slots\": 3, \"max_length\": 100, \"max_tokens\": 2000, \"max_sequences\": 50, \"best_tokens\": 700");
  bei_info info = BEI_INFO_INIT;
  OK(bei_get_info(backend, &info));
  CHECK_EQUAL(info.struct_size, sizeof info);
  CHECK_EQUAL(info.api_version, BEI_API_VERSION);
  CHECK_EQUAL(info.model_type, BEI_MODEL_EMBEDDING);
  CHECK_EQUAL(info.pooling, BEI_POOLING_MEAN);
  CHECK_EQUAL(info.dimensions, D);
  CHECK_EQUAL(info.token_dimensions, D);
  CHECK_EQUAL(info.labels, 0);
  CHECK_EQUAL(info.vocab_size, 30522);
  CHECK_EQUAL(info.type_vocab_size, 2);
  CHECK_EQUAL(info.position_offset, 0);
  CHECK_EQUAL(info.max_length, 100);
  CHECK_EQUAL(info.max_tokens, 2000);
  CHECK_EQUAL(info.max_sequences, 50);
  CHECK_EQUAL(info.best_tokens, 700);
  CHECK_EQUAL(info.slots, 3);
  CHECK_EQUAL(info.is_padded, 0);
  CHECK_EQUAL(info.has_tokenizer, 0);
  CHECK_EQUAL(info.normalizes, 1);
  CHECK_EQUAL(info.reserved, 0);

  /* A newer caller: its unknown tail is zero, or refused. */
  struct {
    bei_info known;
    uint64_t later;
  } newer = {BEI_INFO_INIT, 0};
  newer.known.struct_size = sizeof newer;
  OK(bei_get_info(backend, &newer.known));
  CHECK_EQUAL(newer.known.struct_size, sizeof newer);
  CHECK_EQUAL(newer.known.dimensions, D);
  newer.later = 1;
  FAILS_WITH(bei_get_info(backend, &newer.known), BEI_INVALID_ARGUMENT, "info.struct_size is 88");

  static const size_t wrong[] = {0, 1, 79, 4097, SIZE_MAX};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    info.struct_size = wrong[i];
    FAILS_WITH(bei_get_info(backend, &info), BEI_INVALID_ARGUMENT, "info.struct_size is ");
  }
  FAILS_WITH(bei_get_info(backend, NULL), BEI_INVALID_ARGUMENT, "info is NULL");
  FAILS_WITH(bei_get_info(backend, (bei_info *)((char *)&info + 1)), BEI_INVALID_ARGUMENT, "aligned");

  bei_result result = 0;
  size_t size = 0;
  OK(bei_info_json(backend, &result));
  const char *text = bei_result_text(result, 0, &size);
  CHECK(text != NULL && strlen(text) == size && text[0] == '{' && text[size - 1] == '}');
  CHECK(strstr(text, "\"engine\":\"mock\"") != NULL);
  CHECK_EQUAL(bei_result_count(result), 1);
  OK(bei_shutdown(backend, 1000));
  CHECK(bei_result_text(result, 0, NULL) == text); /* results outlive the backend */
  bei_result_free(result);

  backend = open_mock("\"mock\": {\"kind\": \"classifier\", \"labels\": 5, \"padded\": true}");
  info.struct_size = sizeof info;
  OK(bei_get_info(backend, &info));
  CHECK_EQUAL(info.model_type, BEI_MODEL_CLASSIFIER);
  CHECK_EQUAL(info.labels, 5);
  CHECK_EQUAL(info.dimensions, 0);
  CHECK_EQUAL(info.is_padded, 1);
  CHECK_EQUAL(info.pooling, BEI_POOLING_NONE);
  OK(bei_shutdown(backend, 1000));
}

static void metrics(void) {
  bei_handle backend = open_mock("");
  bei_result result = 0, second = 0;
  size_t size = 0;
  packed p = packed_new(3, 5);
  float rows[3 * D];
  OK(bei_embed(backend, &p.batch, NULL, rows, 3 * D, NULL, 0, NULL));
  OK(bei_metrics(backend, &result));
  OK(bei_metrics(backend, &second));
  CHECK(result != second);
  const char *text = bei_result_text(result, 0, &size);
  CHECK(text != NULL && strlen(text) == size);
  CHECK(strstr(text, "bei_calls_total{call=\"embed\",status=\"OK\"} 1\n") != NULL);
  CHECK(strstr(text, "# TYPE bei_call_seconds histogram") != NULL);
  CHECK(strstr(text, "bei_log_dropped_total 0\n") != NULL);
  FAILS_WITH(bei_metrics(backend, NULL), BEI_INVALID_ARGUMENT, "result is NULL");
  FAILS_WITH(bei_info_json(backend, NULL), BEI_INVALID_ARGUMENT, "result is NULL");
  bei_result_free(result);
  bei_result_free(second);
  packed_free(&p);
  OK(bei_shutdown(backend, 1000));
}

static void health(void) {
  bei_handle backend = open_mock("");
  bei_call_options options = BEI_CALL_OPTIONS_INIT;
  OK(bei_health(backend, 0, NULL));
  OK(bei_health(backend, 1, NULL));
  OK(bei_health(backend, 1, &options));
  FAILS_WITH(bei_health(backend, 2, NULL), BEI_INVALID_ARGUMENT, "deep is 2");
  FAILS_WITH(bei_health(backend, -1, NULL), BEI_INVALID_ARGUMENT, "deep is -1");
  OK(bei_shutdown(backend, 1000));
  FAILS(bei_health(backend, 0, NULL), BEI_INVALID_HANDLE);

  /* Runs 1 and 2 are the warm-up. */
  backend = open_mock("\"mock\": {\"faults\": [{\"kind\": \"lost\", \"from\": 3, \"count\": 1}]}");
  OK(bei_health(backend, 0, NULL));
  FAILS_WITH(bei_health(backend, 1, NULL), BEI_UNHEALTHY, "lost");
  FAILS_WITH(bei_health(backend, 0, NULL), BEI_UNHEALTHY, "lost");
  OK(bei_shutdown(backend, 1000));

  char more[2048];
  snprintf(more, sizeof more, "\"run_timeout_ms\": 500, \"mock\": {\"faults\": [%s]}", held_fault("stuck", 1));
  backend = open_mock(more);
  FAILS_WITH(bei_health(backend, 1, NULL), BEI_UNHEALTHY, "hung");
  FAILS_WITH(bei_health(backend, 0, NULL), BEI_UNHEALTHY, "hung");
  release_runs();
  for (double end = now_ms() + PATIENCE_MS;;) {
    bei_error *error = bei_health(backend, 1, NULL);
    if (error == NULL)
      break;
    if (now_ms() > end)
      fail(__FILE__, __LINE__, "the run has returned, but: %s", bei_error_message(error));
    bei_error_free(error);
    sleep_ms(1);
  }
  OK(bei_shutdown(backend, 1000));
}

static void handles(void) {
  bei_handle first = open_mock(""), second = open_mock("");
  bei_cancel cancel = 0;
  bei_result result = 0;
  OK(bei_cancel_new(&cancel));
  OK(bei_metrics(first, &result));
  CHECK(first != second && first != 0 && second != 0);
  bei_info info = BEI_INFO_INIT;
  const bei_handle wrong[] = {0, 1, 42, UINT64_MAX, first + 1000, cancel, result, INT64_MAX};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    FAILS(bei_get_info(wrong[i], &info), BEI_INVALID_HANDLE);
    FAILS(bei_shutdown(wrong[i], 0), BEI_INVALID_HANDLE);
  }
  FAILS_WITH(bei_health(0, 0, NULL), BEI_INVALID_HANDLE, "the backend handle is 0");
  FAILS_WITH(bei_health(cancel, 0, NULL), BEI_INVALID_HANDLE, "is a cancel token, not a backend");
  FAILS_WITH(bei_health(result, 0, NULL), BEI_INVALID_HANDLE, "is a result, not a backend");
  FAILS(bei_cancel_trigger(first), BEI_INVALID_HANDLE);
  CHECK_EQUAL(bei_result_count(first), 0);
  bei_result_free(first);
  bei_cancel_free(first);
  OK(bei_health(first, 1, NULL));

  OK(bei_shutdown(first, 1000));
  FAILS_WITH(bei_shutdown(first, 1000), BEI_INVALID_HANDLE, "stale");
  FAILS(bei_get_info(first, &info), BEI_INVALID_HANDLE);
  OK(bei_health(second, 1, NULL));
  bei_handle third = open_mock("");
  CHECK(third != first && third != second);
  OK(bei_shutdown(second, UINT64_MAX));
  OK(bei_shutdown(third, 0));
  bei_cancel_free(cancel);
  bei_result_free(result);
}

const test backend_tests[] = {{"init_refused", init_refused},
                              {"init_folders", init_folders},
                              {"info", info},
                              {"metrics", metrics},
                              {"health", health},
                              {"handles", handles},
                              {NULL, NULL}};
