#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

static void versions(void) {
  CHECK_EQUAL(bei_api_version(), BEI_API_VERSION);
  CHECK(strlen(bei_version()) >= 5 && strchr(bei_version(), '.') != NULL);
  CHECK(bei_version() == bei_version());
  CHECK(bei_options_schema() == bei_options_schema());
  CHECK(strstr(bei_options_schema(), "2020-12") != NULL);
  CHECK(strstr(bei_options_schema(), "\"model\"") != NULL);
}

static void status_names(void) {
#define NAMED(name) CHECK_TEXT(bei_status_name(BEI_##name), #name)
  NAMED(OK);
  NAMED(INVALID_ARGUMENT);
  NAMED(INVALID_HANDLE);
  NAMED(UNSUPPORTED);
  NAMED(NO_BACKEND);
  NAMED(START);
  NAMED(WEIGHTS_NOT_FOUND);
  NAMED(INFERENCE);
  NAMED(UNHEALTHY);
  NAMED(OVERLOADED);
  NAMED(TIMEOUT);
  NAMED(CANCELLED);
  NAMED(SHUT_DOWN);
  NAMED(FORKED);
  NAMED(INTERNAL);
  NAMED(BUFFER_TOO_SMALL);
  NAMED(EMPTY);
  NAMED(TOO_LONG);
  NAMED(INVALID_UTF8);
  NAMED(TOKEN_OUT_OF_RANGE);
  NAMED(NON_FINITE);
  NAMED(TOKENIZATION);
  NAMED(NUL_BYTE);
  const int32_t unknown[] = {-1, 16, 31, 39, INT32_MAX, INT32_MIN};
  for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
    CHECK_TEXT(bei_status_name(unknown[i]), "UNKNOWN");
}

static void null_errors(void) {
  CHECK_EQUAL(bei_error_code(NULL), BEI_OK);
  CHECK_TEXT(bei_error_message(NULL), "");
  bei_error_free(NULL);
}

/* What a forked child must see. The child leaves by _exit, so that nothing of the parent's runs twice. */
static void in_child(bei_handle backend, bei_result result, bei_cancel cancel, bei_error *error) {
  alarm(10);
  bei_handle handle = 77;
  packed p = packed_new(1, 4);
  bei_text text = text_of("x");
  float rows[D];
  int32_t status[1] = {55};
  uint32_t lengths[2] = {0, 1};
  bei_info info = BEI_INFO_INIT;
  bei_tokens tokens = BEI_TOKENS_INIT;
  bei_stats stats = BEI_STATS_INIT;
  bei_result out = 66;
#define FORKED(call) FAILS_WITH(call, BEI_FORKED, "fork")
  for (int twice = 0; twice < 2; twice++) {
    FORKED(bei_init("{}", 2, &handle));
    FORKED(bei_shutdown(backend, 0));
    FORKED(bei_get_info(backend, &info));
    FORKED(bei_info_json(backend, &out));
    FORKED(bei_health(backend, 1, NULL));
    FORKED(bei_metrics(backend, &out));
    FORKED(bei_embed(backend, &p.batch, NULL, rows, D, status, 1, &out));
    FORKED(bei_predict(backend, &p.batch, NULL, rows, D, status, 1, &out));
    FORKED(bei_predict_tokens(backend, &p.batch, NULL, status, 1, &out));
    FORKED(bei_embed_texts(backend, &text, 1, NULL, rows, D, status, 1, &out));
    FORKED(bei_predict_texts(backend, &text, 1, NULL, rows, D, status, 1, &out));
    FORKED(bei_predict_tokens_texts(backend, &text, 1, NULL, status, 1, &out));
    FORKED(bei_tokenize(backend, &text, 1, NULL, status, 1, &out));
    FORKED(bei_decode(backend, p.ids, 1, lengths, 1, NULL, status, 1, &out));
    FORKED(bei_result_tokens(result, 0, &tokens));
    FORKED(bei_result_stats(result, &stats));
    FORKED(bei_cancel_new(&handle));
    FORKED(bei_cancel_trigger(cancel));
    FORKED(bei_set_log_callback(NULL, NULL));
  }
  size_t count = 5;
  const uint32_t *ids = p.ids;
  CHECK_EQUAL(bei_result_count(result), 0);
  CHECK(bei_result_item_message(result, 0) == NULL);
  CHECK(bei_result_token_vectors(result, 0, &count, NULL) == NULL && count == 0);
  CHECK(bei_result_sparse(result, 0, &ids, &count) == NULL && ids == NULL);
  CHECK(bei_result_entities(result, 0, &count) == NULL);
  CHECK(bei_result_text(result, 0, &count) == NULL);
  bei_result_free(result);
  bei_cancel_free(cancel);
  CHECK(handle == 77 && out == 66 && status[0] == 55);
  /* These work without Go. */
  CHECK_EQUAL(bei_api_version(), BEI_API_VERSION);
  CHECK(bei_version()[0] != '\0');
  CHECK(bei_options_schema()[0] == '{');
  CHECK_TEXT(bei_status_name(BEI_FORKED), "FORKED");
  CHECK_EQUAL(bei_error_code(error), BEI_INVALID_ARGUMENT);
  CHECK(bei_error_message(error)[0] != '\0');
  bei_error_free(error);
  packed_free(&p);
  _exit(0);
}

static int exit_status(pid_t child) {
  int state = 0;
  CHECK_EQUAL(waitpid(child, &state, 0), child);
  return WIFEXITED(state) ? WEXITSTATUS(state) : 1000 + WTERMSIG(state);
}

static void forked_child(void) {
  bei_handle backend = open_mock("");
  bei_result result = 0;
  bei_cancel cancel = 0;
  OK(bei_metrics(backend, &result));
  OK(bei_cancel_new(&cancel));
  bei_error *error = bei_init("{", 1, &backend);
  for (int i = 0; i < 3; i++) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
      in_child(backend, result, cancel, error);
    CHECK_EQUAL(exit_status(child), 0);
    OK(bei_health(backend, 1, NULL)); /* the parent is not touched */
  }
  bei_error_free(error);
  bei_cancel_free(cancel);
  bei_result_free(result);
  OK(bei_shutdown(backend, 1000));
}

/* A fork at any moment of the library's start. */
static void forked_early(void) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(10);
    bei_handle handle = 0;
    FAILS(bei_init("{}", 2, &handle), BEI_FORKED);
    (void)bei_version();
    (void)bei_options_schema();
    _exit(0);
  }
  CHECK_EQUAL(exit_status(child), 0);
}

static void forked_exec(void) {
  bei_handle backend = open_mock("");
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    execl("/proc/self/exe", "ctest", "versions", (char *)NULL);
    _exit(9);
  }
  CHECK_EQUAL(exit_status(child), 0);
  CHECK_EQUAL(system("exit 3") >> 8, 3);
  OK(bei_shutdown(backend, 1000));
}

static void never_unloaded(void) {
  bei_handle backend = open_mock("");
  void *library = dlopen("libbei.so", RTLD_NOW);
  CHECK(library != NULL);
  for (int i = 0; i < 5; i++)
    dlclose(library);
  OK(bei_health(backend, 1, NULL));
  OK(bei_shutdown(backend, 1000));
}

const test library_tests[] = {{"versions", versions},
                              {"status_names", status_names},
                              {"null_errors", null_errors},
                              {"forked_child", forked_child},
                              {"forked_early", forked_early},
                              {"forked_exec", forked_exec},
                              {"never_unloaded", never_unloaded},
                              {NULL, NULL}};
