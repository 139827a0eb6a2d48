#include "check.h"

static bei_handle first, second;
static float expected[8][D];
static packed inputs[8];

/* Mixed calls whose answers are known; each thread also makes, uses and frees its own results and tokens. */
static void mixed(int number) {
  bei_text texts[3] = {text_of("alpha"), text_of("beta gamma"), {"\xff", 1, NULL, 0, 0, 0}};
  bei_cancel token = 0;
  OK(bei_cancel_new(&token));
  bei_call_options options = BEI_CALL_OPTIONS_INIT;
  options.cancel = token;
  options.priority = number % 3 - 1;
  bei_call_options in_this_thread = BEI_CALL_OPTIONS_INIT;
  in_this_thread.caller_runs = BEI_ON;
  in_this_thread.dynamic_batching = number % 4 < 2 ? BEI_OFF : BEI_ON;
  for (int k = 0; k < 30; k++) {
    bei_handle backend = (number + k) % 2 ? first : second;
    int which = (number * 7 + k) % 8;
    float rows[3 * D];
    int32_t status[3];
    bei_result result = 0;
    const bei_call_options *how = k % 2 ? &options : &in_this_thread;
    OK(bei_embed(backend, &inputs[which].batch, how, rows, D, status, 3, k % 3 ? &result : NULL));
    CHECK(memcmp(rows, expected[which], sizeof expected[which]) == 0);
    bei_result_free(result);
    OK(bei_embed_texts(backend, texts, 3, &options, rows, 3 * D, status, 3, &result));
    CHECK(status[0] == BEI_OK && status[1] == BEI_OK && status[2] == BEI_INVALID_UTF8);
    CHECK(bei_result_item_message(result, 2)[0] != '\0');
    bei_result_free(result);
    OK(bei_tokenize(backend, texts, 2, &options, NULL, 0, &result));
    bei_tokens tokens = BEI_TOKENS_INIT;
    OK(bei_result_tokens(result, 1, &tokens));
    CHECK(tokens.count == 4 && tokens.ids[0] == 101);
    bei_result_free(result);
    FAILS(bei_embed(backend, &inputs[which].batch, &options, rows, D - 1, NULL, 0, NULL), BEI_BUFFER_TOO_SMALL);
    if (k % 10 == 0) {
      OK(bei_health(backend, 1, &options));
      OK(bei_metrics(backend, &result));
      CHECK(bei_result_text(result, 0, NULL) != NULL);
      bei_result_free(result);
    }
  }
  OK(bei_cancel_trigger(token));
  float rows[D];
  FAILS(bei_embed(first, &inputs[0].batch, &options, rows, D, NULL, 0, NULL), BEI_CANCELLED);
  bei_cancel_free(token);
}

static void mixed_calls(void) {
  first = open_mock_texts("\"slots\": 2");
  second = open_mock_texts("\"slots\": 1, \"max_tokens\": 512, \"best_tokens\": 64");
  for (int i = 0; i < 8; i++) {
    inputs[i] = packed_new(1, (uint32_t)(i * 9 + 1));
    OK(bei_embed(first, &inputs[i].batch, NULL, expected[i], D, NULL, 0, NULL));
  }
  run_threads(64, mixed);
  for (int i = 0; i < 8; i++)
    packed_free(&inputs[i]);
  OK(bei_shutdown(first, 5000));
  OK(bei_shutdown(second, 5000));
}

static bei_result shared;

static void read_shared(int number) {
  const char *former = NULL;
  for (int k = 0; k < 200; k++) {
    size_t n = 0;
    const char *text = bei_result_text(shared, 0, &n);
    CHECK(text != NULL && strlen(text) == n && (former == NULL || former == text));
    former = text;
    CHECK_TEXT(bei_result_item_message(shared, 0), "");
  }
  if (number == 0)
    sleep_ms(1);
}

static void free_shared(int number) {
  (void)number;
  bei_result_free(shared);
}

/* A result that was made on one thread is read on others; of many that free it, one does. */
static void shared_result(void) {
  bei_handle backend = open_mock("");
  OK(bei_metrics(backend, &shared));
  run_threads(32, read_shared);
  run_threads(32, free_shared);
  CHECK_EQUAL(bei_result_count(shared), 0);
  OK(bei_shutdown(backend, 1000));
}

static void one_call(int number) {
  packed p = packed_new(1, 3);
  float rows[D];
  for (int k = 0; k < 3; k++)
    OK(bei_embed(first, &p.batch, NULL, rows, D, NULL, 0, NULL));
  packed_free(&p);
  (void)number;
}

/* Threads that come and go. */
static void short_threads(void) {
  first = open_mock("");
  for (int k = 0; k < 20; k++)
    run_threads(50, one_call);
  OK(bei_shutdown(first, 1000));
}

static void open_and_close(int number) {
  for (int k = 0; k < 2; k++) {
    bei_handle backend = open_mock(number % 2 ? "\"slots\": 2" : "");
    OK(bei_health(backend, 1, NULL));
    OK(bei_shutdown(backend, 1000));
  }
}

static void many_backends(void) { run_threads(16, open_and_close); }

const test thread_tests[] = {{"mixed_calls", mixed_calls},
                             {"shared_result", shared_result},
                             {"short_threads", short_threads},
                             {"many_backends", many_backends},
                             {NULL, NULL}};
