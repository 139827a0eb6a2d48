/* NULL and absurd values for each parameter and field of the calls that compute. Nothing may be written. */
#include "check.h"

#define ODD(pointer) ((void *)((char *)(pointer) + 1)) /* misaligned */
#define WILD(type) ((type *)(uintptr_t)8)              /* never mapped */
#define HUGE_COUNT ((size_t)1 << 40)

static bei_handle backend;
static packed p;
static bei_batch batch;
static bei_call_options options;
static float rows[4 * D + 1];
static int32_t status[5];
static bei_result result;

static void start(const char *more) {
  backend = more == NULL ? open_mock_texts("") : open_mock(more);
  p = packed_new(4, 6);
  batch = p.batch;
  options = (bei_call_options)BEI_CALL_OPTIONS_INIT;
  for (size_t i = 0; i < 4 * D + 1; i++)
    rows[i] = 7;
  for (size_t i = 0; i < 5; i++)
    status[i] = 99;
  result = 1234;
}

static void end(void) {
  for (size_t i = 0; i < 4 * D + 1; i++)
    CHECK(rows[i] == 7);
  for (size_t i = 0; i < 5; i++)
    CHECK_EQUAL(status[i], 99);
  CHECK_EQUAL(result, 1234);
  packed_free(&p);
  OK(bei_shutdown(backend, 1000));
}

static bei_error *embed(void) { return bei_embed(backend, &batch, &options, rows, 4 * D, status, 4, &result); }

/* Sets a field of the batch, wants the refusal, and sets it back. */
#define REFUSES(field, value, code, text)                                                                              \
  do {                                                                                                                 \
    batch.field = (value);                                                                                             \
    FAILS_WITH(embed(), code, text);                                                                                   \
    batch = p.batch;                                                                                                   \
  } while (0)

static void batch_fields(void) {
  start("");
  FAILS_WITH(bei_embed(0, &batch, &options, rows, 4 * D, status, 4, &result), BEI_INVALID_HANDLE, "0");
  FAILS_WITH(bei_embed(backend, NULL, &options, rows, 4 * D, status, 4, &result), BEI_INVALID_ARGUMENT,
             "batch is NULL");
  FAILS_WITH(bei_embed(backend, WILD(bei_batch), &options, rows, 4 * D, status, 4, &result), BEI_INVALID_ARGUMENT,
             "batch is 0x8");
  FAILS_WITH(bei_embed(backend, ODD(&batch), &options, rows, 4 * D, status, 4, &result), BEI_INVALID_ARGUMENT,
             "aligned to 8");
  REFUSES(struct_size, 0, BEI_INVALID_ARGUMENT, "batch.struct_size is 0, not 112");
  REFUSES(struct_size, 111, BEI_INVALID_ARGUMENT, "batch.struct_size is 111");
  REFUSES(struct_size, SIZE_MAX, BEI_INVALID_ARGUMENT, "batch.struct_size is 18446744073709551615");
  REFUSES(reserved, 1, BEI_INVALID_ARGUMENT, "batch.reserved is 1");
  REFUSES(input_ids, NULL, BEI_INVALID_ARGUMENT, "batch.input_ids is NULL, but batch.total_tokens is 24");
  REFUSES(input_ids, ODD(p.ids), BEI_INVALID_ARGUMENT, "batch.input_ids is 0x");
  REFUSES(input_ids, WILD(uint32_t), BEI_INVALID_ARGUMENT, "batch.input_ids is 0x8");
  REFUSES(input_ids, (uint32_t *)(UINTPTR_MAX - 3), BEI_INVALID_ARGUMENT, "no address of 96 bytes");
  REFUSES(token_type_ids, ODD(p.ids), BEI_INVALID_ARGUMENT, "batch.token_type_ids");
  REFUSES(token_type_ids, WILD(uint32_t), BEI_INVALID_ARGUMENT, "batch.token_type_ids");
  REFUSES(position_ids, ODD(p.ids), BEI_INVALID_ARGUMENT, "batch.position_ids");
  REFUSES(total_tokens, 23, BEI_INVALID_ARGUMENT, "total_tokens is 23");
  REFUSES(total_tokens, 0, BEI_INVALID_ARGUMENT, "total_tokens is 0");
  REFUSES(total_tokens, ((size_t)1 << 31) + 1, BEI_INVALID_ARGUMENT,
          "batch.total_tokens is 2147483649, the limit is 2147483648");
  REFUSES(total_tokens, SIZE_MAX, BEI_INVALID_ARGUMENT, "batch.total_tokens is 18446744073709551615");
  REFUSES(cumulative_seq_lengths, NULL, BEI_INVALID_ARGUMENT, "batch.cumulative_seq_lengths is NULL");
  REFUSES(cumulative_seq_lengths, ODD(p.lengths), BEI_INVALID_ARGUMENT, "batch.cumulative_seq_lengths");
  REFUSES(num_sequences, HUGE_COUNT, BEI_INVALID_ARGUMENT, "batch.num_sequences is 1099511627776");
  REFUSES(num_sequences, SIZE_MAX, BEI_INVALID_ARGUMENT, "batch.num_sequences is 18446744073709551615");
  REFUSES(num_sequences, 3, BEI_INVALID_ARGUMENT, "cumulative_seq_lengths[3] is 18");
  REFUSES(pooled_indices, NULL, BEI_INVALID_ARGUMENT, "batch.pooled_indices is NULL, but batch.num_pooled is 4");
  REFUSES(pooled_indices, ODD(p.items), BEI_INVALID_ARGUMENT, "batch.pooled_indices");
  REFUSES(num_pooled, SIZE_MAX, BEI_INVALID_ARGUMENT, "batch.num_pooled");
  REFUSES(num_raw, 1, BEI_INVALID_ARGUMENT, "batch.raw_indices is NULL");
  REFUSES(num_raw, SIZE_MAX / 2, BEI_INVALID_ARGUMENT, "batch.num_raw");
  REFUSES(num_sparse, 4, BEI_INVALID_ARGUMENT, "batch.sparse_indices is NULL");
  REFUSES(num_sparse, HUGE_COUNT, BEI_INVALID_ARGUMENT, "batch.num_sparse");
  REFUSES(max_length, 5, BEI_INVALID_ARGUMENT, "max_length is 5, but the longest item has 6");
  REFUSES(max_length, UINT32_MAX, BEI_INVALID_ARGUMENT, "max_length is 4294967295");
  end();
}

static void batch_values(void) {
  start("");
  struct {
    uint32_t values[5];
    const char *text;
  } lengths[] = {
      {{1, 6, 12, 18, 24}, "cumulative_seq_lengths[0] is 1"},
      {{0, 6, 5, 18, 24}, "cumulative_seq_lengths[2] is 5, below the value before it, 6"},
      {{0, 6, 12, 18, 23}, "cumulative_seq_lengths[4] is 23"},
      {{0, 6, 12, 18, 25}, "cumulative_seq_lengths[4] is 25"},
      {{0, 6, 12, UINT32_MAX, 24}, "cumulative_seq_lengths[4] is 24, below"},
      {{0, 24, 24, 24, 0}, "cumulative_seq_lengths[4] is 0, below"},
  };
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
    REFUSES(cumulative_seq_lengths, lengths[i].values, BEI_INVALID_ARGUMENT, lengths[i].text);
  struct {
    uint32_t values[4];
    size_t n;
    const char *text;
  } lists[] = {
      {{0, 1, 3, 2}, 4, "[3] is 2, not above the value before it, 3"},
      {{0, 1, 1, 2}, 4, "[2] is 1, not above"},
      {{0, 1, 2, 4}, 4, "[3] is 4, but the batch has 4 items"},
      {{UINT32_MAX, 0, 0, 0}, 1, "[0] is 4294967295"},
      {{3, 2, 1, 0}, 4, "[1] is 2, not above"},
  };
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
    batch.num_pooled = lists[i].n;
    REFUSES(pooled_indices, lists[i].values, BEI_INVALID_ARGUMENT, lists[i].text);
    batch.num_raw = lists[i].n;
    REFUSES(raw_indices, lists[i].values, BEI_INVALID_ARGUMENT, lists[i].text);
    batch.num_sparse = lists[i].n;
    REFUSES(sparse_indices, lists[i].values, BEI_INVALID_ARGUMENT, lists[i].text);
  }
  end();
}

static void outputs(void) {
  start("");
  FAILS_WITH(bei_embed(backend, &batch, &options, NULL, 0, status, 4, &result), BEI_BUFFER_TOO_SMALL, "1536");
  FAILS_WITH(bei_embed(backend, &batch, &options, NULL, 9, status, 4, &result), BEI_INVALID_ARGUMENT,
             "pooled is NULL, but pooled_size is 9");
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, 4 * D - 1, status, 4, &result), BEI_BUFFER_TOO_SMALL, "1536");
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, 0, status, 4, &result), BEI_BUFFER_TOO_SMALL, "0 floats");
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, SIZE_MAX, status, 4, &result), BEI_INVALID_ARGUMENT,
             "pooled_size");
  FAILS_WITH(bei_embed(backend, &batch, &options, ODD(rows), 4 * D, status, 4, &result), BEI_INVALID_ARGUMENT,
             "pooled is 0x");
  FAILS_WITH(bei_embed(backend, &batch, &options, WILD(float), 4 * D, status, 4, &result), BEI_INVALID_ARGUMENT,
             "pooled is 0x8");
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, 4 * D, NULL, 4, &result), BEI_INVALID_ARGUMENT,
             "item_status is NULL, but item_status_size is 4");
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, 4 * D, status, 3, &result), BEI_BUFFER_TOO_SMALL,
             "item_status has room for 3");
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, 4 * D, status, 0, &result), BEI_BUFFER_TOO_SMALL,
             "item_status has room for 0");
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, 4 * D, status, SIZE_MAX, &result), BEI_INVALID_ARGUMENT,
             "item_status_size");
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, 4 * D, ODD(status), 4, &result), BEI_INVALID_ARGUMENT,
             "item_status is 0x");
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, 4 * D, status, 4, WILD(bei_result)), BEI_INVALID_ARGUMENT,
             "result is 0x8");
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, 4 * D, status, 4, ODD(&result)), BEI_INVALID_ARGUMENT,
             "result is 0x");
  batch.raw_indices = p.items, batch.num_raw = 1;
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, 4 * D, status, 4, NULL), BEI_INVALID_ARGUMENT, "result");
  batch = p.batch, batch.sparse_indices = p.items, batch.num_sparse = 4;
  FAILS_WITH(bei_embed(backend, &batch, &options, rows, 4 * D, status, 4, NULL), BEI_INVALID_ARGUMENT, "result");
  end();
}

static void option_fields(void) {
  start("");
#define OPTION(field, value, text)                                                                                     \
  do {                                                                                                                 \
    options.field = (value);                                                                                           \
    FAILS_WITH(embed(), BEI_INVALID_ARGUMENT, text);                                                                   \
    options = (bei_call_options)BEI_CALL_OPTIONS_INIT;                                                                 \
  } while (0)
  OPTION(struct_size, 0, "options.struct_size is 0, not 80");
  OPTION(struct_size, 71, "options.struct_size is 71");
  OPTION(struct_size, SIZE_MAX, "options.struct_size");
  OPTION(prompt_name_size, 3, "options.prompt_name is NULL, but options.prompt_name_size is 3");
  options.prompt_name = "x";
  OPTION(prompt_name_size, SIZE_MAX, "options.prompt_name_size is 18446744073709551615");
  OPTION(truncate, 3, "options.truncate is 3");
  OPTION(truncate, -1, "options.truncate is -1");
  OPTION(truncation_side, 3, "options.truncation_side is 3");
  OPTION(dimensions, D + 1, "dimensions is 385, the limit is 384");
  OPTION(dimensions, UINT32_MAX, "dimensions is 4294967295");
  OPTION(normalize, 3, "options.normalize is 3");
  OPTION(priority, 2, "options.priority is 2, the limits are -1 and 1");
  OPTION(priority, INT32_MIN, "options.priority");
  OPTION(add_special_tokens, 3, "options.add_special_tokens");
  OPTION(skip_special_tokens, -1, "options.skip_special_tokens");
  OPTION(aggregation, 5, "options.aggregation is 5");
  OPTION(dynamic_batching, 3, "options.dynamic_batching is 3");
  OPTION(caller_runs, 3, "options.caller_runs is 3");
  FAILS_WITH(bei_embed(backend, &batch, ODD(&options), rows, 4 * D, status, 4, &result), BEI_INVALID_ARGUMENT,
             "options is 0x");
  FAILS_WITH(bei_embed(backend, &batch, WILD(bei_call_options), rows, 4 * D, status, 4, &result), BEI_INVALID_ARGUMENT,
             "options is 0x8");
  options.cancel = 5;
  FAILS_WITH(embed(), BEI_INVALID_HANDLE, "cancel token");
  options.cancel = backend;
  FAILS_WITH(embed(), BEI_INVALID_HANDLE, "is a backend, not a cancel token");
  FAILS(bei_health(backend, 1, &options), BEI_INVALID_HANDLE);
  end();
}

static void text_fields(void) {
  start(NULL);
  bei_text texts[4] = {text_of("a"), text_of("b"), text_of("c"), text_of("d")};
  bei_text good = texts[2];
#define EMBED(array, n) bei_embed_texts(backend, array, n, &options, rows, 4 * D, status, 4, &result)
  FAILS_WITH(EMBED(NULL, 4), BEI_INVALID_ARGUMENT, "texts is NULL, but n is 4");
  FAILS_WITH(EMBED(texts, SIZE_MAX), BEI_INVALID_ARGUMENT, "n is 18446744073709551615");
  FAILS_WITH(EMBED(texts, HUGE_COUNT), BEI_INVALID_ARGUMENT, "n is 1099511627776");
  /* More than the array has: none of it may be read. */
  FAILS_WITH(EMBED(texts, (size_t)1 << 30), BEI_INVALID_ARGUMENT, "1073741824 items are more than one call may have");
  FAILS_WITH(EMBED(ODD(texts), 4), BEI_INVALID_ARGUMENT, "texts is 0x");
  FAILS_WITH(EMBED(WILD(bei_text), 4), BEI_INVALID_ARGUMENT, "texts is 0x8");
#define TEXT(field, value, message)                                                                                    \
  do {                                                                                                                 \
    texts[2].field = (value);                                                                                          \
    FAILS_WITH(EMBED(texts, 4), BEI_INVALID_ARGUMENT, message);                                                        \
    texts[2] = good;                                                                                                   \
  } while (0)
  TEXT(text, NULL, "texts[2].text is NULL, but text_size is 1");
  TEXT(text, WILD(char), "texts[2].text is 0x8");
  TEXT(text_size, SIZE_MAX, "texts[2].text_size is 18446744073709551615");
  TEXT(pair_size, 4, "texts[2].pair is NULL, but pair_size is 4");
  texts[2].pair = "x";
  TEXT(pair_size, SIZE_MAX, "texts[2].pair_size");
  TEXT(outputs, 16, "texts[2].outputs is 0x10");
  TEXT(outputs, UINT32_MAX, "texts[2].outputs");
  TEXT(reserved, 1, "texts[2].reserved is 1");
  options.prompt_name = "query", options.prompt_name_size = 5;
  FAILS_WITH(EMBED(texts, 4), BEI_INVALID_ARGUMENT, "query");
  options = (bei_call_options)BEI_CALL_OPTIONS_INIT;
  FAILS_WITH(bei_embed_texts(backend, texts, 4, &options, rows, 4 * D - 1, status, 4, &result), BEI_BUFFER_TOO_SMALL,
             "1536");
  FAILS_WITH(bei_tokenize(backend, texts, 4, &options, status, 4, NULL), BEI_INVALID_ARGUMENT, "result is NULL");
  FAILS_WITH(bei_tokenize(backend, NULL, 1, &options, status, 4, &result), BEI_INVALID_ARGUMENT, "texts is NULL");
  FAILS_WITH(bei_tokenize(backend, texts, 4, &options, status, 3, &result), BEI_BUFFER_TOO_SMALL, "item_status");
  FAILS_WITH(bei_predict_tokens_texts(backend, texts, 4, &options, status, 4, NULL), BEI_INVALID_ARGUMENT,
             "result is NULL");
  texts[1].outputs = BEI_OUTPUT_TOKENS | BEI_OUTPUT_POOLED;
  FAILS_WITH(bei_embed_texts(backend, texts, 4, &options, rows, 4 * D, status, 4, NULL), BEI_INVALID_ARGUMENT,
             "result");

  uint32_t ids[3] = {7592, 2088, 999}, lengths[3] = {0, 1, 3}, falling[3] = {0, 4, 3}, shifted[3] = {1, 2, 3};
#define DECODE(ids, size, lengths, n) bei_decode(backend, ids, size, lengths, n, &options, status, 4, &result)
  FAILS_WITH(DECODE(NULL, 3, lengths, 2), BEI_INVALID_ARGUMENT, "ids is NULL, but ids_size is 3");
  FAILS_WITH(DECODE(ids, SIZE_MAX, lengths, 2), BEI_INVALID_ARGUMENT, "ids_size");
  FAILS_WITH(DECODE(ids, 3, NULL, 2), BEI_INVALID_ARGUMENT, "cumulative_lengths is NULL");
  FAILS_WITH(DECODE(ids, 3, lengths, SIZE_MAX), BEI_INVALID_ARGUMENT, "n is 18446744073709551615");
  FAILS_WITH(DECODE(ids, 3, lengths, (size_t)1 << 30), BEI_INVALID_ARGUMENT, "1073741824 items");
  FAILS_WITH(DECODE(ids, 2, lengths, 2), BEI_INVALID_ARGUMENT, "ids_size, 2");
  FAILS_WITH(DECODE(ids, 3, lengths, 1), BEI_INVALID_ARGUMENT, "ids_size, 3");
  FAILS_WITH(DECODE(ids, 3, falling, 2), BEI_INVALID_ARGUMENT, "cumulative_lengths[2] is 3, below");
  FAILS_WITH(DECODE(ids, 3, shifted, 2), BEI_INVALID_ARGUMENT, "begin with 0");
  FAILS_WITH(bei_decode(backend, ids, 3, lengths, 2, &options, status, 1, &result), BEI_BUFFER_TOO_SMALL,
             "item_status");
  FAILS_WITH(bei_decode(backend, ids, 3, lengths, 2, &options, status, 4, NULL), BEI_INVALID_ARGUMENT,
             "result is NULL");
  end();
}

/* A newer caller's structs: larger, with a tail that is zero or not. */
static void newer_callers(void) {
  backend = open_mock("");
  p = packed_new(1, 3);
  struct {
    bei_batch known;
    uint64_t later[2];
  } newer_batch = {p.batch, {0, 0}};
  struct {
    bei_call_options known;
    uint32_t later;
  } newer_options = {BEI_CALL_OPTIONS_INIT, 0};
  newer_batch.known.struct_size = sizeof newer_batch;
  newer_options.known.struct_size = sizeof newer_options;
  float out[D];
  OK(bei_embed(backend, &newer_batch.known, &newer_options.known, out, D, NULL, 0, NULL));
  newer_batch.later[1] = 1;
  FAILS_WITH(bei_embed(backend, &newer_batch.known, NULL, out, D, NULL, 0, NULL), BEI_INVALID_ARGUMENT,
             "byte 8 after them is not zero");
  newer_options.later = 1;
  FAILS_WITH(bei_embed(backend, &p.batch, &newer_options.known, out, D, NULL, 0, NULL), BEI_INVALID_ARGUMENT,
             "options.struct_size is 88, this library knows 80");
  packed_free(&p);
  OK(bei_shutdown(backend, 1000));
}

static void cancel_arguments(void) {
  FAILS_WITH(bei_cancel_new(NULL), BEI_INVALID_ARGUMENT, "cancel is NULL");
  FAILS_WITH(bei_cancel_new(WILD(bei_cancel)), BEI_INVALID_ARGUMENT, "cancel is 0x8");
  FAILS_WITH(bei_cancel_trigger(0), BEI_INVALID_HANDLE, "the cancel token handle is 0");
  FAILS(bei_cancel_trigger(UINT64_MAX), BEI_INVALID_HANDLE);
  bei_cancel_free(0);
  bei_cancel_free(UINT64_MAX);
  bei_cancel token = 0;
  OK(bei_cancel_new(&token));
  bei_cancel_free(token);
  bei_cancel_free(token);
  FAILS_WITH(bei_cancel_trigger(token), BEI_INVALID_HANDLE, "stale");
}

const test argument_tests[] = {{"batch_fields", batch_fields},
                               {"batch_values", batch_values},
                               {"outputs", outputs},
                               {"option_fields", option_fields},
                               {"text_fields", text_fields},
                               {"newer_callers", newer_callers},
                               {"cancel_arguments", cancel_arguments},
                               {NULL, NULL}};
