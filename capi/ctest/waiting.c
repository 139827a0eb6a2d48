/* Timeouts, cancel tokens, a full queue, and shutting down while calls wait. Runs 1 and 2 of a backend are its warm-up. */
#include "check.h"

#include <pthread.h>

#define HUNG "\"mock\": {\"faults\": [{\"kind\": \"hung\", \"from\": 3, \"count\": 1000}]}"
/* Well before a hung run is given up, which is after a minute. */
#define SOON_MS 30000

static bei_handle backend;
static bei_call_options options;

/* A call on a thread of its own. */
typedef struct {
  pthread_t thread;
  size_t n;
  int32_t code;
  int32_t status[8];
  char message[200];
  double took_ms;
} caller;

static void *call(void *argument) {
  caller *c = argument;
  packed p = packed_new(c->n, 4);
  float *rows = malloc(c->n * D * sizeof *rows);
  memset(c->status, 0x55, sizeof c->status);
  double start = now_ms();
  bei_error *error =
      bei_embed(backend, &p.batch, &options, rows, c->n * D, c->n <= 8 ? c->status : NULL, c->n <= 8 ? c->n : 0, NULL);
  c->took_ms = now_ms() - start;
  c->code = bei_error_code(error);
  snprintf(c->message, sizeof c->message, "%s", bei_error_message(error));
  bei_error_free(error);
  free(rows);
  packed_free(&p);
  return NULL;
}

static void begin(caller *c, size_t n) {
  c->n = n;
  CHECK_EQUAL(pthread_create(&c->thread, NULL, call, c), 0);
}

static void join(caller *c, int32_t code) {
  pthread_join(c->thread, NULL);
  if (c->code != code)
    fail(__FILE__, __LINE__, "the call gave %s \"%s\" (item 0: %s), want %s", bei_status_name(c->code), c->message,
         bei_status_name(c->status[0]), bei_status_name(code));
}

static void start(const char *more) {
  backend = open_mock(more);
  options = (bei_call_options)BEI_CALL_OPTIONS_INIT;
}

/* Runs are held until release_runs(). */
static void start_held(const char *more) {
  char text[2048];
  snprintf(text, sizeof text, "%s\"mock\": {\"faults\": [%s]}", more, held_fault("slow", 0));
  start(text);
}

static void timeouts(void) {
  start(HUNG);
  caller c;
  options.timeout_us = 1000000; /* time enough for a run to begin: else it is BEI_OVERLOADED */
  begin(&c, 2);
  join(&c, BEI_TIMEOUT);
  CHECK(c.took_ms >= 999 && c.took_ms < SOON_MS);
  bei_error *error = bei_health(backend, 1, &options); /* the slot may still be with the run that was left */
  CHECK(bei_error_code(error) == BEI_TIMEOUT || bei_error_code(error) == BEI_OVERLOADED);
  bei_error_free(error);
  OK(bei_shutdown(backend, 5000));

  /* The backend's own timeout; and the longest there is, which must not overflow. */
  start_held("\"queue\": {\"timeout_ms\": 1000}, ");
  begin(&c, 1);
  join(&c, BEI_TIMEOUT);
  options.timeout_us = UINT64_MAX;
  begin(&c, 1);
  await(backend, "bei_admitted_items", 1);
  release_runs();
  join(&c, BEI_OK);
  OK(bei_shutdown(backend, 5000));

  /* Some items in time, others not: the call succeeds, and the late ones carry the code. */
  start("\"max_sequences\": 1, \"mock\": {\"faults\": [{\"kind\": \"hung\", \"from\": 4}]}");
  options.timeout_us = 1000000;
  begin(&c, 5);
  join(&c, BEI_OK);
  CHECK_EQUAL(c.status[0], BEI_OK);
  for (int i = 1; i < 5; i++)
    CHECK_EQUAL(c.status[i], BEI_TIMEOUT);
  OK(bei_shutdown(backend, 5000));
}

static void cancels(void) {
  start(HUNG);
  bei_cancel token = 0;
  OK(bei_cancel_new(&token));
  options.cancel = token;
  caller c[3];
  for (int i = 0; i < 3; i++)
    begin(&c[i], 1);
  await(backend, "bei_admitted_items", 3);
  await(backend, "bei_slots_busy", 1);
  OK(bei_cancel_trigger(token)); /* while calls wait */
  for (int i = 0; i < 3; i++) {
    join(&c[i], BEI_CANCELLED);
    CHECK(strstr(c[i].message, "cancel token") != NULL && c[i].took_ms < SOON_MS);
  }
  OK(bei_cancel_trigger(token));
  begin(&c[0], 1);
  join(&c[0], BEI_CANCELLED); /* triggered before */
  FAILS(bei_health(backend, 1, &options), BEI_CANCELLED);
  bei_cancel_free(token);
  begin(&c[0], 1);
  join(&c[0], BEI_INVALID_HANDLE);
  OK(bei_shutdown(backend, 5000));

  start_held("");
  OK(bei_cancel_new(&token));
  options.cancel = token;
  begin(&c[0], 1);
  await(backend, "bei_slots_busy", 1);
  bei_cancel_free(token); /* the call goes on */
  release_runs();
  join(&c[0], BEI_OK);
  OK(bei_cancel_new(&token));
  options.cancel = token;
  begin(&c[0], 1);
  join(&c[0], BEI_OK);
  OK(bei_cancel_trigger(token)); /* after the call */
  bei_cancel_free(token);
  OK(bei_shutdown(backend, 5000));
}

static void overload(void) {
  start_held("\"queue\": {\"max_items\": 4}, ");
  caller first, second;
  begin(&first, 3);
  await(backend, "bei_admitted_items", 3);
  begin(&second, 2);
  join(&second, BEI_OVERLOADED);
  CHECK(strstr(second.message, "max_items") != NULL);
  begin(&second, 5);
  join(&second, BEI_INVALID_ARGUMENT);
  release_runs();
  join(&first, BEI_OK);
  OK(bei_shutdown(backend, 5000));

  /* No slot within the timeout, and nothing begun. */
  start_held("");
  begin(&first, 1);
  await(backend, "bei_slots_busy", 1);
  options.timeout_us = 500000;
  begin(&second, 1);
  join(&second, BEI_OVERLOADED);
  CHECK(strstr(second.message, "no slot came free") != NULL);
  release_runs();
  join(&first, BEI_OK);
  OK(bei_shutdown(backend, 5000));
}

static void *release_when_shut(void *unused) {
  (void)unused;
  for (int32_t code = BEI_OK; code == BEI_OK; sleep_ms(1)) {
    bei_error *error = bei_health(backend, 0, NULL);
    code = bei_error_code(error);
    bei_error_free(error);
  }
  release_runs();
  return NULL;
}

static void shutdown_busy(void) {
  caller c[4];
  /* Time enough: all calls finish. */
  start_held("");
  for (int i = 0; i < 4; i++)
    begin(&c[i], 1);
  await(backend, "bei_admitted_items", 4);
  pthread_t releaser;
  CHECK_EQUAL(pthread_create(&releaser, NULL, release_when_shut, NULL), 0);
  OK(bei_shutdown(backend, PATIENCE_MS));
  pthread_join(releaser, NULL);
  for (int i = 0; i < 4; i++)
    join(&c[i], BEI_OK);
  /* No time: calls are cut off. */
  for (uint64_t timeout = 0; timeout <= 100; timeout += 100) {
    start(HUNG);
    for (int i = 0; i < 4; i++)
      begin(&c[i], 2);
    await(backend, "bei_admitted_items", 8);
    bei_handle former = backend;
    double before = now_ms();
    FAILS_WITH(bei_shutdown(former, timeout), BEI_TIMEOUT, "cut off");
    CHECK(now_ms() - before < SOON_MS);
    FAILS(bei_health(former, 0, NULL), BEI_INVALID_HANDLE);
    for (int i = 0; i < 4; i++)
      join(&c[i], BEI_SHUT_DOWN);
  }
}

static void all_calls(int number) {
  bei_call_options none = BEI_CALL_OPTIONS_INIT;
  bei_info info = BEI_INFO_INIT;
  bei_text text = text_of("some words");
  uint32_t ids[] = {7592}, lengths[] = {0, 1};
  packed p = packed_new(2, 5);
  float rows[2 * D];
  for (int k = 0;; k++) {
    bei_result result = 0;
    bei_error *error = NULL;
    switch ((k + number) % 7) {
    case 0:
      error = bei_embed(backend, &p.batch, &none, rows, 2 * D, NULL, 0, &result);
      break;
    case 1:
      error = bei_embed_texts(backend, &text, 1, &none, rows, D, NULL, 0, &result);
      break;
    case 2:
      error = bei_tokenize(backend, &text, 1, &none, NULL, 0, &result);
      break;
    case 3:
      error = bei_decode(backend, ids, 1, lengths, 1, &none, NULL, 0, &result);
      break;
    case 4:
      error = bei_metrics(backend, &result);
      break;
    case 5:
      error = bei_info_json(backend, &result);
      break;
    case 6:
      error = (k & 1) ? bei_health(backend, 1, &none) : bei_get_info(backend, &info);
      break;
    }
    int32_t code = bei_error_code(error);
    if (code != BEI_OK && code != BEI_SHUT_DOWN && code != BEI_INVALID_HANDLE)
      fail(__FILE__, __LINE__, "call %d: %s %s", (k + number) % 7, bei_status_name(code), bei_error_message(error));
    bei_error_free(error);
    bei_result_free(result);
    if (code == BEI_INVALID_HANDLE)
      break;
  }
  packed_free(&p);
}

static void *shut_later(void *unused) {
  (void)unused;
  sleep_ms(300);
  OK(bei_shutdown(backend, PATIENCE_MS));
  return NULL;
}

/* Every kind of call, from many threads, over the moment of the shutdown. */
static void shutdown_race(void) {
  for (int round = 0; round < 3; round++) {
    backend = open_mock_texts("");
    pthread_t shutter;
    CHECK_EQUAL(pthread_create(&shutter, NULL, shut_later, NULL), 0);
    run_threads(16, all_calls);
    pthread_join(shutter, NULL);
  }
}

const test waiting_tests[] = {{"timeouts", timeouts},           {"cancels", cancels},
                              {"overload", overload},           {"shutdown_busy", shutdown_busy},
                              {"shutdown_race", shutdown_race}, {NULL, NULL}};
