/* Calls that take texts, with the tokenizer of all-MiniLM-L6-v2 before the mock engine. */
#include "check.h"

static bei_handle backend;
static bei_result result;

static bei_tokens tokens_of(size_t i) {
  bei_tokens t = BEI_TOKENS_INIT;
  OK(bei_result_tokens(result, i, &t));
  return t;
}

static void check_ids(bei_tokens t, const uint32_t *want, size_t n) {
  CHECK_EQUAL(t.count, n);
  for (size_t k = 0; k < n; k++)
    CHECK_EQUAL(t.ids[k], want[k]);
}

static void check_piece(bei_tokens t, size_t k, const char *want) {
  size_t size = t.piece_offsets[k + 1] - t.piece_offsets[k];
  CHECK_EQUAL(size, strlen(want));
  CHECK(memcmp(t.pieces + t.piece_offsets[k], want, size) == 0);
}

static void tokenize(void) {
  backend = open_mock_texts("");
  bei_text texts[] = {text_of("Hello world"), text_of("\xc3\xa9, ok"), text_of("")};
  texts[1].pair = "two", texts[1].pair_size = 3;
  int32_t status[3];
  OK(bei_tokenize(backend, texts, 3, NULL, status, 3, &result));
  CHECK(status[0] == BEI_OK && status[1] == BEI_OK && status[2] == BEI_EMPTY);
  bei_tokens t = tokens_of(0);
  CHECK_EQUAL(t.struct_size, sizeof t);
  check_ids(t, (uint32_t[]){101, 7592, 2088, 102}, 4);
  check_piece(t, 0, "[CLS]");
  check_piece(t, 1, "hello");
  check_piece(t, 2, "world");
  CHECK(t.special[0] == 1 && t.special[1] == 0 && t.special[3] == 1);
  CHECK(t.sequence[0] == 255 && t.sequence[1] == 0 && t.sequence[3] == 255);
  CHECK(t.starts[1] == 0 && t.ends[1] == 5 && t.starts[2] == 6 && t.ends[2] == 11);
  CHECK(t.starts[0] == 0 && t.ends[0] == 0 && t.starts[3] == 0 && t.ends[3] == 0);
  bei_tokens again = tokens_of(0);
  CHECK(memcmp(&t, &again, sizeof t) == 0);
  t = tokens_of(1);
  size_t second = t.count - 2; /* "two" [SEP] */
  CHECK(t.sequence[second] == 1 && t.type_ids[second] == 1 && t.type_ids[1] == 0 && t.starts[second] == 0 &&
        t.ends[second] == 3);
  CHECK(t.starts[1] == 0 && t.ends[1] == 1 && t.starts[2] == 1 && t.ends[2] == 2 && t.starts[3] == 3); /* code points */
  FAILS_WITH(bei_result_tokens(result, 2, &t), BEI_INVALID_ARGUMENT, "item 2 has no tokens");
  CHECK(t.struct_size == sizeof t && t.count == 0 && t.ids == NULL && t.piece_offsets == NULL);
  CHECK(bei_result_text(result, 0, NULL) == NULL);
  bei_result_free(result);

  bei_call_options options = BEI_CALL_OPTIONS_INIT;
  options.add_special_tokens = BEI_OFF;
  OK(bei_tokenize(backend, texts, 1, &options, NULL, 0, &result));
  check_ids(tokens_of(0), (uint32_t[]){7592, 2088}, 2);
  bei_result_free(result);
  FAILS_WITH(bei_tokenize(backend, texts, 3, NULL, NULL, 0, &result), BEI_EMPTY, "item 2");
  OK(bei_tokenize(backend, NULL, 0, NULL, NULL, 0, &result));
  CHECK_EQUAL(bei_result_count(result), 0);
  bei_result_free(result);
  OK(bei_shutdown(backend, 1000));
}

static void embed_texts(void) {
  backend = open_mock_texts("");
  bei_text texts[] = {text_of("one"), text_of("two words"), text_of("three more words")};
  float rows[3 * D], from_tokens[D];
  int32_t status[3];
  texts[1].outputs = BEI_OUTPUT_POOLED | BEI_OUTPUT_TOKEN_VECTORS | BEI_OUTPUT_TOKENS | BEI_OUTPUT_SPARSE;
  texts[2].outputs = BEI_OUTPUT_TOKEN_VECTORS;
  OK(bei_embed_texts(backend, texts, 3, NULL, rows, 3 * D, status, 3, &result));
  CHECK(status[0] == BEI_OK && status[1] == BEI_OK && status[2] == BEI_OK);
  size_t n = 0, columns = 0, count = 0;
  CHECK(bei_result_token_vectors(result, 0, &n, NULL) == NULL && n == 0);
  CHECK(bei_result_token_vectors(result, 1, &n, &columns) != NULL && n == 4 && columns == D);
  CHECK(bei_result_token_vectors(result, 2, &n, &columns) != NULL && n == 5);
  CHECK(bei_result_sparse(result, 1, NULL, &count) != NULL && count > 0);
  bei_tokens t = tokens_of(1);
  CHECK_EQUAL(t.count, 4);
  /* The same vector from its tokens. */
  uint32_t lengths[2] = {0, (uint32_t)t.count}, items[1] = {0};
  bei_batch batch = BEI_BATCH_INIT;
  batch.input_ids = t.ids, batch.total_tokens = t.count, batch.cumulative_seq_lengths = lengths,
  batch.num_sequences = 1;
  batch.pooled_indices = items, batch.num_pooled = 1;
  OK(bei_embed(backend, &batch, NULL, from_tokens, D, NULL, 0, NULL));
  CHECK(memcmp(from_tokens, rows + D, sizeof from_tokens) == 0);
  bei_stats stats = BEI_STATS_INIT;
  OK(bei_result_stats(result, &stats));
  CHECK_EQUAL(stats.tokens, 3 + 4 + 5);
  CHECK(stats.total_ns > 0 && stats.tokenization_ns > 0 && stats.runs >= 1);
  bei_result_free(result);
  texts[1].outputs = texts[2].outputs = 0;
  OK(bei_embed_texts(backend, texts, 3, NULL, rows, 3 * D, NULL, 0, NULL));
  OK(bei_embed_texts(backend, NULL, 0, NULL, NULL, 0, NULL, 0, NULL));
  bei_span spans[] = {{0, 3}, {0, 3}, {4, 9}};
  uint32_t cumulative[] = {0, 1, 3};
  OK(bei_embed_spans(backend, texts, 2, spans, 3, cumulative, NULL, rows, 3 * D, status, 2, NULL));
  CHECK(status[0] == BEI_OK && status[1] == BEI_OK && memcmp(rows + D, rows + 2 * D, sizeof from_tokens) != 0);
  FAILS(bei_predict_texts(backend, texts, 3, NULL, rows, 3 * D, status, 3, NULL), BEI_UNSUPPORTED);
  FAILS(bei_predict_tokens_texts(backend, texts, 3, NULL, status, 3, &result), BEI_UNSUPPORTED);
  OK(bei_shutdown(backend, 1000));

  bei_handle bare = open_mock("");
  uint32_t ids[] = {7592};
  FAILS_WITH(bei_embed_texts(bare, texts, 3, NULL, rows, 3 * D, NULL, 0, NULL), BEI_UNSUPPORTED, "tokenizer");
  FAILS_WITH(bei_tokenize(bare, texts, 3, NULL, NULL, 0, &result), BEI_UNSUPPORTED, "tokenizer");
  FAILS_WITH(bei_decode(bare, ids, 1, lengths, 0, NULL, NULL, 0, &result), BEI_INVALID_ARGUMENT, "ids_size");
  lengths[1] = 1;
  FAILS_WITH(bei_decode(bare, ids, 1, lengths, 1, NULL, NULL, 0, &result), BEI_UNSUPPORTED, "tokenizer");
  OK(bei_shutdown(bare, 1000));

  backend = open_mock_texts("\"mock\": {\"kind\": \"classifier\", \"labels\": 1}");
  texts[0].pair = "its pair", texts[0].pair_size = 8;
  texts[1].pair = "", texts[1].pair_size = 0;
  OK(bei_predict_texts(backend, texts, 3, NULL, rows, 3, status, 3, &result));
  CHECK(status[0] == BEI_OK && status[1] == BEI_OK && status[2] == BEI_OK);
  bei_result_free(result);
  OK(bei_shutdown(backend, 1000));

  backend = open_mock_texts("\"mock\": {\"kind\": \"token_classifier\", \"labels\": 4}");
  texts[0].pair = NULL, texts[0].pair_size = 0;
  OK(bei_predict_tokens_texts(backend, texts, 1, NULL, status, 3, &result));
  CHECK_EQUAL(status[0], BEI_OK);
  size_t entities = 0;
  const bei_entity *e = bei_result_entities(result, 0, &entities);
  CHECK(entities == 1 && e->start == 0 && e->end == 3 && e->token == 1 && e->label < 4 && e->score > 0);
  CHECK(bei_result_token_vectors(result, 0, &n, &columns) != NULL && n == 3 && columns == 4);
  CHECK_EQUAL(tokens_of(0).count, 3);
  CHECK(bei_result_entities(result, 1, &entities) == NULL && entities == 0);
  bei_result_free(result);
  OK(bei_shutdown(backend, 1000));
}

static void bad_texts(void) {
  backend = open_mock_texts("");
  enum { BIG = 10 << 20 };
  char *big = malloc(BIG);
  for (size_t i = 0; i < BIG; i++)
    big[i] = i % 5 == 4 ? ' ' : 'a';
  static const char nul[] = "before\0after", cut[] = "abc\xe2\x82", overlong[] = "\xc0\xaf",
                    surrogate[] = "x\xed\xa0\x80", stray[] = "\x80";
  struct {
    const char *text;
    size_t size;
    int32_t code;
    const char *message;
  } cases[] = {
      {"", 0, BEI_EMPTY, ""},
      {NULL, 0, BEI_EMPTY, ""},
      {nul, 12, BEI_NUL_BYTE, "6"},
      {cut, 5, BEI_INVALID_UTF8, "3"},
      {overlong, 2, BEI_INVALID_UTF8, "0"},
      {surrogate, 4, BEI_INVALID_UTF8, "1"},
      {stray, 1, BEI_INVALID_UTF8, "0"},
      {big, BIG, BEI_TOO_LONG, ""},
  };
  enum { N = sizeof cases / sizeof *cases };
  bei_text texts[N + 2];
  float *rows = malloc((N + 2) * D * sizeof *rows);
  int32_t status[N + 2];
  texts[0] = texts[N + 1] = text_of("a good one");
  for (size_t i = 0; i < N; i++)
    texts[i + 1] = (bei_text){cases[i].text, cases[i].size, NULL, 0, 0, 0};
  bei_call_options options = BEI_CALL_OPTIONS_INIT;
  options.truncate = BEI_OFF;
  for (int call = 0; call < 2; call++) {
    if (call == 0)
      OK(bei_embed_texts(backend, texts, N + 2, &options, rows, (N + 2) * D, status, N + 2, &result));
    else
      OK(bei_tokenize(backend, texts, N + 1, &options, status, N + 2,
                      &result)); /* no limit of length there but N + 1st */
    CHECK_EQUAL(status[0], BEI_OK);
    for (size_t i = 0; i < N - (size_t)call; i++) {
      const char *message = bei_result_item_message(result, i + 1);
      if (status[i + 1] != cases[i].code || strstr(message, cases[i].message) == NULL || message[0] == '\0')
        fail(__FILE__, __LINE__, "case %zu: %s \"%s\"", i, bei_status_name(status[i + 1]), message);
    }
    bei_result_free(result);
  }
  OK(bei_embed_texts(backend, texts, N + 2, &options, rows, (N + 2) * D, status, N + 2, NULL));
  CHECK_EQUAL(status[N + 1], BEI_OK);
  for (size_t i = 0; i < N; i++)
    FAILS_WITH(bei_embed_texts(backend, texts + i + 1, 1, &options, rows, D, NULL, 0, NULL), cases[i].code, "item 0");
  /* Cut, the long one is fine, and the same as its beginning; the pair of a text is checked too. */
  OK(bei_embed_texts(backend, &texts[N], 1, NULL, rows, D, NULL, 0, NULL));
  bei_text beginning = {big, 2000, NULL, 0, 0, 0};
  OK(bei_embed_texts(backend, &beginning, 1, NULL, rows + D, D, NULL, 0, NULL));
  CHECK(memcmp(rows, rows + D, D * sizeof *rows) == 0);
  /* Cut on the left, the end is what counts. */
  options.truncate = BEI_ON, options.truncation_side = BEI_SIDE_LEFT;
  beginning.text_size = 100000;
  OK(bei_embed_texts(backend, &beginning, 1, &options, rows + D, D, NULL, 0, NULL));
  memcpy(big, "zebra", 5);
  OK(bei_embed_texts(backend, &beginning, 1, &options, rows, D, NULL, 0, NULL));
  CHECK(memcmp(rows, rows + D, D * sizeof *rows) == 0);
  OK(bei_embed_texts(backend, &beginning, 1, NULL, rows, D, NULL, 0, NULL));
  CHECK(memcmp(rows, rows + D, D * sizeof *rows) != 0);
  texts[0] = (bei_text){"x", 1, stray, 1, 0, 0};
  FAILS(bei_embed_texts(backend, texts, 1, NULL, rows, D, NULL, 0, NULL), BEI_INVALID_UTF8);
  free(big);
  free(rows);
  OK(bei_shutdown(backend, 1000));
}

static void many_texts(void) {
  backend = open_mock_texts("");
  enum { N = 100000 };
  bei_text *texts = malloc(N * sizeof *texts);
  for (size_t i = 0; i < N; i++)
    texts[i] = text_of("x");
  float *rows = malloc((size_t)N * D * sizeof *rows);
  FAILS_WITH(bei_embed_texts(backend, texts, N, NULL, rows, (size_t)N * D, NULL, 0, NULL), BEI_INVALID_ARGUMENT,
             "100000 items");
  OK(bei_embed_texts(backend, texts, 2000, NULL, rows, (size_t)N * D, NULL, 0, NULL));
  OK(bei_shutdown(backend, 1000));
  backend = open_mock_texts("\"queue\": {\"max_items\": 100000}");
  int32_t *status = malloc(N * sizeof *status);
  OK(bei_embed_texts(backend, texts, N, NULL, rows, (size_t)N * D, status, N, NULL));
  for (size_t i = 0; i < N; i++)
    CHECK_EQUAL(status[i], BEI_OK);
  CHECK(memcmp(rows, rows + (size_t)(N - 1) * D, D * sizeof *rows) == 0);
  OK(bei_shutdown(backend, 1000));
  free(texts);
  free(rows);
  free(status);
}

static void decode(void) {
  backend = open_mock_texts("");
  uint32_t ids[] = {101, 7592, 2088, 102, 2028, 30522, 7592}, lengths[] = {0, 4, 4, 5, 6, 7};
  int32_t status[5];
  size_t size = 9;
  OK(bei_decode(backend, ids, 7, lengths, 5, NULL, status, 5, &result));
  CHECK_EQUAL(bei_result_count(result), 5);
  CHECK_TEXT(bei_result_text(result, 0, &size), "hello world");
  CHECK_EQUAL(size, 11);
  CHECK(bei_result_text(result, 0, NULL) == bei_result_text(result, 0, &size));
  CHECK_TEXT(bei_result_text(result, 1, &size), "");
  CHECK(size == 0 && status[1] == BEI_OK);
  CHECK_TEXT(bei_result_text(result, 2, &size), "one");
  CHECK_EQUAL(status[3], BEI_TOKEN_OUT_OF_RANGE);
  CHECK(bei_result_text(result, 3, &size) == NULL && size == 0);
  CHECK(strstr(bei_result_item_message(result, 3), "30522") != NULL);
  CHECK_EQUAL(status[4], BEI_OK);
  CHECK(bei_result_text(result, 5, &size) == NULL);
  bei_result_free(result);
  bei_call_options options = BEI_CALL_OPTIONS_INIT;
  options.skip_special_tokens = BEI_OFF;
  OK(bei_decode(backend, ids, 4, lengths, 1, &options, NULL, 0, &result));
  CHECK(strstr(bei_result_text(result, 0, NULL), "[CLS]") != NULL);
  bei_result_free(result);
  FAILS_WITH(bei_decode(backend, ids, 7, lengths, 5, NULL, NULL, 0, &result), BEI_TOKEN_OUT_OF_RANGE, "item 3");
  OK(bei_decode(backend, NULL, 0, lengths, 0, NULL, NULL, 0, &result));
  CHECK_EQUAL(bei_result_count(result), 0);
  bei_result_free(result);
  OK(bei_shutdown(backend, 1000));
}

/* A word-level tokenizer without an unknown token fails on words that it does not have. */
static void untokenizable(void) {
  char options[2048];
  snprintf(options, sizeof options,
           "{\"engine\": \"mock\", \"log\": {\"level\": \"off\"}, \"model\": \"%s/word_level\"}",
           setting("BEI_TEST_FOLDERS"));
  OK(bei_init(options, strlen(options), &backend));
  bei_text texts[] = {text_of("known"), text_of("strange")};
  float rows[2 * D];
  int32_t status[2];
  OK(bei_embed_texts(backend, texts, 2, NULL, rows, 2 * D, status, 2, NULL));
  CHECK_EQUAL(status[0], BEI_OK);
  CHECK_EQUAL(status[1], BEI_TOKENIZATION);
  OK(bei_shutdown(backend, 1000));
}

const test text_tests[] = {{"tokenize", tokenize},
                           {"embed_texts", embed_texts},
                           {"bad_texts", bad_texts},
                           {"many_texts", many_texts},
                           {"decode", decode},
                           {"untokenizable", untokenizable},
                           {NULL, NULL}};
