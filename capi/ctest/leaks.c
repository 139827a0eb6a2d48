/* Memory: that it does not grow, and a program for a leak checker (TestLeaks). */
#include "check.h"

static bei_handle backend;
static packed p;

/* One of each: errors, results that are read and that are not, items with messages, cancel tokens. */
static void one_of_each(void) {
  float rows[4 * D];
  int32_t status[4];
  bei_result result = 0;
  bei_cancel token = 0;
  bei_text texts[2] = {text_of("some words"), {"\xff", 1, NULL, 0, 0, 0}};
  bei_call_options options = BEI_CALL_OPTIONS_INIT;
  OK(bei_cancel_new(&token));
  options.cancel = token;
  OK(bei_embed(backend, &p.batch, &options, rows, 4 * D, status, 4, &result));
  size_t count = 0;
  CHECK(bei_result_token_vectors(result, 3, &count, NULL) != NULL && count == 40);
  bei_result_free(result);
  OK(bei_embed_texts(backend, texts, 2, &options, rows, 4 * D, status, 4, &result));
  CHECK(bei_result_item_message(result, 1)[0] != '\0');
  bei_result_free(result);
  OK(bei_tokenize(backend, texts, 1, NULL, NULL, 0, &result));
  bei_tokens tokens = BEI_TOKENS_INIT;
  OK(bei_result_tokens(result, 0, &tokens));
  bei_result_free(result);
  FAILS(bei_embed(backend, &p.batch, &options, rows, 1, status, 4, &result), BEI_BUFFER_TOO_SMALL);
  FAILS(bei_embed_texts(backend, texts, 2, NULL, rows, 4 * D, NULL, 0, NULL), BEI_INVALID_UTF8);
  OK(bei_cancel_trigger(token));
  FAILS(bei_embed(backend, &p.batch, &options, rows, 4 * D, status, 4, &result), BEI_CANCELLED);
  bei_cancel_free(token);
}

static void start(void) {
  backend = open_mock_texts("");
  p = packed_new(4, 40);
  p.batch.raw_indices = p.items, p.batch.num_raw = 4;
}

static void end(void) {
  packed_free(&p);
  OK(bei_shutdown(backend, 1000));
}

static void growth_loop(int number) {
  (void)number;
  for (int k = 0; k < 500; k++)
    one_of_each();
}

/* 40,000 calls do not grow the process by the size of 100 results; 400 results that are not freed do. */
static void growth(void) {
  start();
  run_threads(4, growth_loop);
  size_t result_bytes = 4 * 40 * D * sizeof(float), before = resident_bytes();
  run_threads(8, growth_loop);
  size_t after = resident_bytes();
  if (after > before + 100 * result_bytes)
    fail(__FILE__, __LINE__, "grew from %zu to %zu KiB", before / 1024, after / 1024);
  bei_result kept[400];
  float rows[4 * D];
  for (int k = 0; k < 400; k++)
    OK(bei_embed(backend, &p.batch, NULL, rows, 4 * D, NULL, 0, &kept[k]));
  CHECK(resident_bytes() > after + 100 * result_bytes);
  for (int k = 0; k < 400; k++)
    bei_result_free(kept[k]);
  end();
}

/* For the leak checker: all is given back, but what LEAK names. */
static void leak_check(void) {
  start();
  for (int k = 0; k < 20; k++)
    one_of_each();
  const char *leak = getenv("LEAK");
  if (leak != NULL && strcmp(leak, "error") == 0)
    CHECK(bei_shutdown(0, 0) != NULL);
  end();
}

const test leak_tests[] = {{"growth", growth}, {"leak_check", leak_check}, {NULL, NULL}};
