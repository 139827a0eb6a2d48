#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

static atomic_int lines, running, stopped, held, told_dropped, wrong_calls;
static bei_handle backend;
static packed p;

static void open_and_shut(const char *level) {
  char options[100];
  int size = snprintf(options, sizeof options, "{\"engine\": \"mock\", \"log\": {\"level\": \"%s\"}}", level);
  bei_handle handle = 0;
  OK(bei_init(options, (size_t)size, &handle));
  OK(bei_shutdown(handle, 1000));
}

static void wait_for(atomic_int *value, int least) {
  for (int k = 0; atomic_load(value) < least; k++) {
    CHECK(k < 10000);
    sleep_ms(1);
  }
}

static void count_line(void *user, int32_t level, const char *line, size_t size) {
  CHECK(user == &lines);
  CHECK(level >= BEI_LOG_DEBUG && level <= BEI_LOG_ERROR);
  CHECK(size > 2 && line[0] == '{' && line[size - 1] == '}');
  CHECK(!atomic_load(&stopped));
  CHECK_EQUAL(atomic_fetch_add(&running, 1), 0); /* one at a time */
  sleep_ms(2);
  atomic_fetch_sub(&running, 1);
  atomic_fetch_add(&lines, 1);
}

static void ignore_line(void *user, int32_t level, const char *line, size_t size) {
  (void)user, (void)level, (void)line, (void)size;
}

static void log_lines(void) {
  OK(bei_set_log_callback(count_line, &lines));
  open_and_shut("info");
  wait_for(&lines, 2);
  open_and_shut("off");
  bei_handle handle = 0;
  FAILS(bei_init("{\"model\": \"/nowhere\", \"engine\": \"onnxruntime\"}", 46, &handle), BEI_START);
  int before = atomic_load(&lines);
  wait_for(&lines, before + 1);
  /* When the setter returns, the former callback is at rest for good. */
  for (int k = 0; k < 5; k++)
    open_and_shut("info");
  OK(bei_set_log_callback(ignore_line, (void *)1));
  atomic_store(&stopped, 1);
  CHECK_EQUAL(atomic_load(&running), 0);
  open_and_shut("info");
  OK(bei_set_log_callback(ignore_line, (void *)UINTPTR_MAX));
  open_and_shut("info");
  OK(bei_set_log_callback(NULL, &lines));
  open_and_shut("off");
}

static void hold_line(void *user, int32_t level, const char *line, size_t size) {
  (void)user;
  while (atomic_load(&held))
    sleep_ms(1);
  if (level == BEI_LOG_WARN && size < 1000) {
    char text[1000] = {0};
    memcpy(text, line, size);
    if (strstr(text, "\"dropped\":") != NULL)
      atomic_store(&told_dropped, 1);
  }
  atomic_fetch_add(&lines, 1);
}

/* A callback that does not return holds nothing up; lines over 1024 are dropped and counted. */
static void slow_callback(void) {
  atomic_store(&held, 1);
  OK(bei_set_log_callback(hold_line, NULL));
  double before = now_ms();
  for (int k = 0; k < 400; k++)
    open_and_shut("info");
  CHECK(now_ms() - before < 60000);
  backend = open_mock("");
  bei_result result = 0;
  OK(bei_metrics(backend, &result));
  const char *text = strstr(bei_result_text(result, 0, NULL), "\nbei_log_dropped_total ");
  CHECK(text != NULL);
  long dropped = strtol(strchr(text, ' '), NULL, 10);
  if (dropped < 100 || dropped > 400 * 4 - 1024)
    fail(__FILE__, __LINE__, "%ld lines were dropped", dropped);
  bei_result_free(result);
  atomic_store(&held, 0);
  wait_for(&told_dropped, 1);
  wait_for(&lines, 1024);
  OK(bei_set_log_callback(NULL, NULL));
  OK(bei_shutdown(backend, 1000));
}

#define REFUSED(call)                                                                                                  \
  do {                                                                                                                 \
    bei_error *error = call;                                                                                           \
    if (bei_error_code(error) != BEI_INVALID_ARGUMENT || strstr(bei_error_message(error), "log callback") == NULL)     \
      atomic_fetch_add(&wrong_calls, 1);                                                                               \
    bei_error_free(error);                                                                                             \
  } while (0)

static void call_back(void *user, int32_t level, const char *line, size_t size) {
  (void)user, (void)level, (void)line, (void)size;
  bei_handle handle = 0;
  bei_result result = 0;
  bei_info info = BEI_INFO_INIT;
  float rows[D];
  REFUSED(bei_init("{}", 2, &handle));
  REFUSED(bei_shutdown(backend, 0));
  REFUSED(bei_get_info(backend, &info));
  REFUSED(bei_metrics(backend, &result));
  REFUSED(bei_health(backend, 1, NULL));
  REFUSED(bei_embed(backend, &p.batch, NULL, rows, D, NULL, 0, NULL));
  REFUSED(bei_set_log_callback(NULL, NULL));
  REFUSED(bei_cancel_new(&handle));
  if (bei_result_count(result) != 0 || bei_result_text(result, 0, NULL) != NULL || bei_version()[0] == '\0')
    atomic_fetch_add(&wrong_calls, 1);
  bei_result_free(result);
  bei_cancel_free(handle);
  atomic_fetch_add(&lines, 1);
}

static void callback_calls(void) {
  p = packed_new(1, 3);
  backend = open_mock("");
  OK(bei_set_log_callback(call_back, NULL));
  open_and_shut("info");
  wait_for(&lines, 2);
  OK(bei_set_log_callback(NULL, NULL));
  CHECK_EQUAL(atomic_load(&wrong_calls), 0);
  OK(bei_health(backend, 1, NULL)); /* not shut down, and this thread is free to call */
  OK(bei_shutdown(backend, 1000));
  packed_free(&p);
}

/* A panic inside the library is an error with its stack in the log, and nothing worse. */
static void panic_line(void *user, int32_t level, const char *line, size_t size) {
  (void)user;
  char *text = strndup(line, size);
  if (level == BEI_LOG_ERROR && strstr(text, "scripted panic") != NULL && strstr(text, "goroutine") != NULL)
    atomic_fetch_add(&lines, 1);
  free(text);
}

static void panics(void) {
  OK(bei_set_log_callback(panic_line, NULL));
  const char *options =
      "{\"engine\": \"mock\", \"mock\": {\"faults\": [{\"kind\": \"panic\", \"from\": 3, \"count\": 1}]}}";
  OK(bei_init(options, strlen(options), &backend));
  FAILS_WITH(bei_health(backend, 1, NULL), BEI_UNHEALTHY, "panic");
  wait_for(&lines, 1);
  OK(bei_health(backend, 1, NULL));
  OK(bei_shutdown(backend, 1000));
  OK(bei_set_log_callback(NULL, NULL));
}

const test log_tests[] = {{"log_lines", log_lines},
                          {"slow_callback", slow_callback},
                          {"callback_calls", callback_calls},
                          {"panics", panics},
                          {NULL, NULL}};
