/*
 * The bei_* functions: each forwards to the Go function of its name. Here is only what must work without Go: errors, what
 * follows fork(), and calls from inside a log callback. Pointers go to Go as numbers, because a wild pointer in a pointer
 * variable can stop Go's garbage collector; memory.go checks each one before it is used.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bei.h"

#include "_cgo_export.h"

#define ADDRESS(pointer) ((GoUintptr)(uintptr_t)(pointer))

/* ---- Errors ---- */

struct bei_error {
  int32_t code;
  int32_t is_static; /* never freed */
  const char *message;
};

static bei_error forked_error = {
    BEI_FORKED, 1,
    "called in a forked child: the library's threads are the parent's; use fork() with exec, or load it after fork()"};
static bei_error callback_error = {BEI_INVALID_ARGUMENT, 1,
                                   "called from inside a log callback, which must not call the library"};
static bei_error memory_error = {BEI_INTERNAL, 1, "out of memory while making an error"};

bei_error *capi_error_new(int32_t code, const char *message, size_t size) {
  bei_error *error = malloc(sizeof *error + size + 1);
  if (error == NULL)
    return &memory_error;
  char *text = (char *)(error + 1);
  if (size > 0)
    memcpy(text, message, size);
  text[size] = '\0';
  error->code = code;
  error->is_static = 0;
  error->message = text;
  return error;
}

int32_t bei_error_code(const bei_error *error) { return error == NULL ? BEI_OK : error->code; }

const char *bei_error_message(const bei_error *error) { return error == NULL ? "" : error->message; }

void bei_error_free(bei_error *error) {
  if (error != NULL && !error->is_static)
    free(error);
}

/* ---- Fork and callbacks ---- */

static volatile sig_atomic_t forked;
static _Thread_local int in_log_callback;

static void child_forked(void) { forked = 1; }

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, child_forked); }

void capi_call_log(uintptr_t fn, uintptr_t user, int32_t level, const char *line, size_t size) {
  in_log_callback = 1;
  ((bei_log_fn)fn)((void *)user, level, line, size);
  in_log_callback = 0;
}

/* Why Go must not be entered now; NULL when it may be. */
static bei_error *refusal(void) {
  if (forked)
    return &forked_error;
  return in_log_callback ? &callback_error : NULL;
}

/* Out-pointers of accessors may be NULL; one that cannot be valid is treated alike. */
#define CLEAR(pointer)                                                                                                 \
  do {                                                                                                                 \
    if ((uintptr_t)(pointer) >= 4096 && (uintptr_t)(pointer) % _Alignof(size_t) == 0)                                  \
      *(pointer) = 0;                                                                                                  \
  } while (0)

#define RETURN_IF_REFUSED()                                                                                            \
  do {                                                                                                                 \
    bei_error *refused = refusal();                                                                                    \
    if (refused != NULL)                                                                                               \
      return refused;                                                                                                  \
  } while (0)

/* ---- Library ---- */

/* Set by Go's start, which may still be under way when main() begins. */
static _Atomic(const char *) version_text, schema_text;

void capi_set_texts(const char *version, const char *schema) {
  atomic_store(&version_text, version);
  atomic_store(&schema_text, schema);
}

/* A child that was forked before Go had started gets "". */
static const char *static_text(_Atomic(const char *) *text) {
  if (atomic_load(text) == NULL && !forked)
    goWaitForStart();
  const char *value = atomic_load(text);
  return value == NULL ? "" : value;
}

uint32_t bei_api_version(void) { return BEI_API_VERSION; }

const char *bei_version(void) { return static_text(&version_text); }

const char *bei_options_schema(void) { return static_text(&schema_text); }

const char *bei_status_name(int32_t status) {
#define NAME(name)                                                                                                     \
  case BEI_##name:                                                                                                     \
    return #name
  switch (status) {
    NAME(OK);
    NAME(INVALID_ARGUMENT);
    NAME(INVALID_HANDLE);
    NAME(UNSUPPORTED);
    NAME(NO_BACKEND);
    NAME(START);
    NAME(WEIGHTS_NOT_FOUND);
    NAME(INFERENCE);
    NAME(UNHEALTHY);
    NAME(OVERLOADED);
    NAME(TIMEOUT);
    NAME(CANCELLED);
    NAME(SHUT_DOWN);
    NAME(FORKED);
    NAME(INTERNAL);
    NAME(BUFFER_TOO_SMALL);
    NAME(EMPTY);
    NAME(TOO_LONG);
    NAME(INVALID_UTF8);
    NAME(TOKEN_OUT_OF_RANGE);
    NAME(NON_FINITE);
    NAME(TOKENIZATION);
    NAME(NUL_BYTE);
  default:
    return "UNKNOWN";
  }
#undef NAME
}

bei_error *bei_set_log_callback(bei_log_fn fn, void *user) {
  RETURN_IF_REFUSED();
  return goSetLogCallback(ADDRESS(fn), ADDRESS(user));
}

/* ---- Backends ---- */

bei_error *bei_init(const char *options, size_t options_size, bei_handle *backend) {
  RETURN_IF_REFUSED();
  return goInit(ADDRESS(options), options_size, ADDRESS(backend));
}

bei_error *bei_shutdown(bei_handle backend, uint64_t timeout_ms) {
  RETURN_IF_REFUSED();
  return goShutdown(backend, timeout_ms);
}

bei_error *bei_get_info(bei_handle backend, bei_info *info) {
  RETURN_IF_REFUSED();
  return goGetInfo(backend, ADDRESS(info));
}

bei_error *bei_info_json(bei_handle backend, bei_result *result) {
  RETURN_IF_REFUSED();
  return goInfoJSON(backend, ADDRESS(result));
}

bei_error *bei_health(bei_handle backend, int32_t deep, const bei_call_options *options) {
  RETURN_IF_REFUSED();
  return goHealth(backend, deep, ADDRESS(options));
}

bei_error *bei_metrics(bei_handle backend, bei_result *result) {
  RETURN_IF_REFUSED();
  return goMetrics(backend, ADDRESS(result));
}

/* ---- Token batches ---- */

bei_error *bei_embed(bei_handle backend, const bei_batch *batch, const bei_call_options *options, float *pooled,
                     size_t pooled_size, int32_t *item_status, size_t item_status_size, bei_result *result) {
  RETURN_IF_REFUSED();
  return goEmbed(backend, ADDRESS(batch), ADDRESS(options), ADDRESS(pooled), pooled_size, ADDRESS(item_status),
                 item_status_size, ADDRESS(result));
}

bei_error *bei_predict(bei_handle backend, const bei_batch *batch, const bei_call_options *options, float *logits,
                       size_t logits_size, int32_t *item_status, size_t item_status_size, bei_result *result) {
  RETURN_IF_REFUSED();
  return goPredict(backend, ADDRESS(batch), ADDRESS(options), ADDRESS(logits), logits_size, ADDRESS(item_status),
                   item_status_size, ADDRESS(result));
}

bei_error *bei_predict_tokens(bei_handle backend, const bei_batch *batch, const bei_call_options *options,
                              int32_t *item_status, size_t item_status_size, bei_result *result) {
  RETURN_IF_REFUSED();
  return goPredictTokens(backend, ADDRESS(batch), ADDRESS(options), ADDRESS(item_status), item_status_size,
                         ADDRESS(result));
}

/* ---- Texts ---- */

bei_error *bei_embed_texts(bei_handle backend, const bei_text *texts, size_t n, const bei_call_options *options,
                           float *pooled, size_t pooled_size, int32_t *item_status, size_t item_status_size,
                           bei_result *result) {
  RETURN_IF_REFUSED();
  return goEmbedTexts(backend, ADDRESS(texts), n, ADDRESS(options), ADDRESS(pooled), pooled_size, ADDRESS(item_status),
                      item_status_size, ADDRESS(result));
}

bei_error *bei_embed_spans(bei_handle backend, const bei_text *texts, size_t n, const bei_span *spans, size_t num_spans,
                           const uint32_t *cumulative_spans, const bei_call_options *options, float *vectors,
                           size_t vectors_size, int32_t *item_status, size_t item_status_size, bei_result *result) {
  RETURN_IF_REFUSED();
  return goEmbedSpans(backend, ADDRESS(texts), n, ADDRESS(spans), num_spans, ADDRESS(cumulative_spans),
                      ADDRESS(options), ADDRESS(vectors), vectors_size, ADDRESS(item_status), item_status_size,
                      ADDRESS(result));
}

bei_error *bei_predict_texts(bei_handle backend, const bei_text *texts, size_t n, const bei_call_options *options,
                             float *logits, size_t logits_size, int32_t *item_status, size_t item_status_size,
                             bei_result *result) {
  RETURN_IF_REFUSED();
  return goPredictTexts(backend, ADDRESS(texts), n, ADDRESS(options), ADDRESS(logits), logits_size,
                        ADDRESS(item_status), item_status_size, ADDRESS(result));
}

bei_error *bei_predict_tokens_texts(bei_handle backend, const bei_text *texts, size_t n,
                                    const bei_call_options *options, int32_t *item_status, size_t item_status_size,
                                    bei_result *result) {
  RETURN_IF_REFUSED();
  return goPredictTokensTexts(backend, ADDRESS(texts), n, ADDRESS(options), ADDRESS(item_status), item_status_size,
                              ADDRESS(result));
}

bei_error *bei_tokenize(bei_handle backend, const bei_text *texts, size_t n, const bei_call_options *options,
                        int32_t *item_status, size_t item_status_size, bei_result *result) {
  RETURN_IF_REFUSED();
  return goTokenize(backend, ADDRESS(texts), n, ADDRESS(options), ADDRESS(item_status), item_status_size,
                    ADDRESS(result));
}

bei_error *bei_decode(bei_handle backend, const uint32_t *ids, size_t ids_size, const uint32_t *cumulative_lengths,
                      size_t n, const bei_call_options *options, int32_t *item_status, size_t item_status_size,
                      bei_result *result) {
  RETURN_IF_REFUSED();
  return goDecode(backend, ADDRESS(ids), ids_size, ADDRESS(cumulative_lengths), n, ADDRESS(options),
                  ADDRESS(item_status), item_status_size, ADDRESS(result));
}

/* ---- Results ---- */

size_t bei_result_count(bei_result result) { return refusal() != NULL ? 0 : goResultCount(result); }

const char *bei_result_item_message(bei_result result, size_t i) {
  return refusal() != NULL ? NULL : (const char *)goResultItemMessage(result, i);
}

const float *bei_result_token_vectors(bei_result result, size_t i, size_t *rows, size_t *columns) {
  CLEAR(rows);
  CLEAR(columns);
  return refusal() != NULL ? NULL : (const float *)goResultTokenVectors(result, i, ADDRESS(rows), ADDRESS(columns));
}

const float *bei_result_sparse(bei_result result, size_t i, const uint32_t **ids, size_t *count) {
  CLEAR(ids);
  CLEAR(count);
  return refusal() != NULL ? NULL : (const float *)goResultSparse(result, i, ADDRESS(ids), ADDRESS(count));
}

bei_error *bei_result_tokens(bei_result result, size_t i, bei_tokens *tokens) {
  RETURN_IF_REFUSED();
  return goResultTokens(result, i, ADDRESS(tokens));
}

const bei_entity *bei_result_entities(bei_result result, size_t i, size_t *count) {
  CLEAR(count);
  return refusal() != NULL ? NULL : (const bei_entity *)goResultEntities(result, i, ADDRESS(count));
}

const char *bei_result_text(bei_result result, size_t i, size_t *size) {
  CLEAR(size);
  return refusal() != NULL ? NULL : (const char *)goResultText(result, i, ADDRESS(size));
}

bei_error *bei_result_stats(bei_result result, bei_stats *stats) {
  RETURN_IF_REFUSED();
  return goResultStats(result, ADDRESS(stats));
}

/* Frees are let through inside a callback: they wait for nothing, and a refused one would be a leak. */
void bei_result_free(bei_result result) {
  if (!forked)
    goResultFree(result);
}

/* ---- Cancelling ---- */

bei_error *bei_cancel_new(bei_cancel *cancel) {
  RETURN_IF_REFUSED();
  return goCancelNew(ADDRESS(cancel));
}

bei_error *bei_cancel_trigger(bei_cancel cancel) {
  RETURN_IF_REFUSED();
  return goCancelTrigger(cancel);
}

void bei_cancel_free(bei_cancel cancel) {
  if (!forked)
    goCancelFree(cancel);
}
