#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

_Noreturn void fail(const char *file, int line, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  flockfile(stderr);
  fprintf(stderr, "%s:%d: ", file, line);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  funlockfile(stderr);
  va_end(arguments);
  _exit(1);
}

void check_text(const char *file, int line, const char *what, const char *got, const char *want) {
  if (got == NULL || strcmp(got, want) != 0)
    fail(file, line, "%s is \"%s\", want \"%s\"", what, got == NULL ? "(NULL)" : got, want);
}

void check_error(const char *file, int line, const char *what, bei_error *error, int32_t code, const char *text) {
  const char *message = bei_error_message(error);
  if (bei_error_code(error) != code || (error == NULL) != (code == BEI_OK))
    fail(file, line, "%s\n  gives %s \"%s\", want %s", what, bei_status_name(bei_error_code(error)), message,
         bei_status_name(code));
  if (strstr(message, text) == NULL)
    fail(file, line, "%s\n  says \"%s\", which lacks \"%s\"", what, message, text);
  if (error != NULL && message[0] == '\0')
    fail(file, line, "%s\n  gives %s without a message", what, bei_status_name(code));
  bei_error_free(error);
}

const char *setting(const char *name) {
  const char *value = getenv(name);
  if (value == NULL)
    fail(__FILE__, __LINE__, "the environment lacks %s; run through `go test ./capi`", name);
  return value;
}

static bei_handle open_with(const char *before, const char *more) {
  char options[2048];
  int size =
      snprintf(options, sizeof options, "{%s, \"log\": {\"level\": \"off\"}%s%s}", before, *more ? ", " : "", more);
  CHECK(size > 0 && (size_t)size < sizeof options);
  bei_handle handle = 0;
  OK(bei_init(options, (size_t)size, &handle));
  CHECK(handle != 0);
  return handle;
}

bei_handle open_mock(const char *more) { return open_with("\"engine\": \"mock\"", more); }

bei_handle open_mock_texts(const char *more) {
  char before[1024];
  snprintf(before, sizeof before, "\"engine\": \"mock\", \"model\": \"%s\"", setting("BEI_TEST_MODEL"));
  return open_with(before, more);
}

bei_handle open_model(const char *folder, const char *more) {
  char before[1024];
  snprintf(before, sizeof before, "\"engine\": \"onnxruntime\", \"model\": \"%s\"", folder);
  return open_with(before, more);
}

bei_handle open_minilm(const char *more) { return open_model(setting("BEI_TEST_MODEL"), more); }

char *read_file(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  CHECK(f != NULL && fseek(f, 0, SEEK_END) == 0);
  *size = (size_t)ftell(f);
  rewind(f);
  char *data = malloc(*size);
  CHECK(data != NULL && fread(data, 1, *size, f) == *size);
  fclose(f);
  return data;
}

packed packed_new(size_t n, uint32_t length) {
  packed p = {BEI_BATCH_INIT, NULL, NULL, NULL};
  size_t total = n * length;
  p.ids = malloc((total + 1) * sizeof *p.ids);
  p.lengths = malloc((n + 1) * sizeof *p.lengths);
  p.items = malloc((n + 1) * sizeof *p.items);
  CHECK(p.ids && p.lengths && p.items);
  for (size_t i = 0; i < total; i++)
    p.ids[i] = (uint32_t)(1000 + i % 20000);
  for (size_t i = 0; i <= n; i++) {
    p.lengths[i] = (uint32_t)(i * length);
    p.items[i] = (uint32_t)i;
  }
  p.batch.input_ids = p.ids;
  p.batch.total_tokens = total;
  p.batch.cumulative_seq_lengths = p.lengths;
  p.batch.num_sequences = n;
  p.batch.pooled_indices = p.items;
  p.batch.num_pooled = n;
  return p;
}

void packed_free(packed *p) {
  free(p->ids);
  free(p->lengths);
  free(p->items);
}

bei_text text_of(const char *text) {
  bei_text t = {text, strlen(text), NULL, 0, 0, 0};
  return t;
}

static char gate[1024];

const char *held_fault(const char *kind, int count) {
  static char fault[2048];
  static int number;
  snprintf(gate, sizeof gate, "%s/gate-%d-%d", setting("BEI_TEST_DIR"), (int)getpid(), number++);
  snprintf(fault, sizeof fault, "{\"kind\": \"%s\", \"from\": 3, \"count\": %d, \"until_file\": \"%s\"}", kind, count,
           gate);
  return fault;
}

void release_runs(void) {
  FILE *f = fopen(gate, "w");
  CHECK(f != NULL);
  fclose(f);
}

void await(bei_handle backend, const char *gauge, double least) {
  char line[100];
  snprintf(line, sizeof line, "\n%s ", gauge);
  for (double end = now_ms() + PATIENCE_MS;;) {
    bei_result result = 0;
    OK(bei_metrics(backend, &result));
    const char *found = strstr(bei_result_text(result, 0, NULL), line);
    CHECK(found != NULL);
    double value = strtod(found + strlen(line), NULL);
    bei_result_free(result);
    if (value >= least)
      return;
    if (now_ms() > end)
      fail(__FILE__, __LINE__, "%s is %g, want %g", gauge, value, least);
    sleep_ms(1);
  }
}

void sleep_ms(int ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
  nanosleep(&t, NULL);
}

double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

size_t resident_bytes(void) {
  unsigned long pages = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  CHECK(f != NULL);
  CHECK_EQUAL(fscanf(f, "%*u %lu", &pages), 1);
  fclose(f);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

typedef struct {
  void (*work)(int);
  int number;
} job;

static void *run_job(void *p) {
  job *j = p;
  j->work(j->number);
  return NULL;
}

void run_threads(int n, void (*work)(int)) {
  pthread_t threads[256];
  job jobs[256];
  CHECK(n <= 256);
  for (int i = 0; i < n; i++) {
    jobs[i] = (job){work, i};
    CHECK_EQUAL(pthread_create(&threads[i], NULL, run_job, &jobs[i]), 0);
  }
  for (int i = 0; i < n; i++)
    pthread_join(threads[i], NULL);
}

int main(int argc, char **argv) {
  const test *const groups[] = {library_tests, backend_tests, argument_tests, batch_tests, text_tests,
                                result_tests,  waiting_tests, thread_tests,   log_tests,   minilm_tests,
                                golden_tests,  output_tests,  leak_tests};
  const char *name = argc == 2 ? argv[1] : "list";
  int listing = strcmp(name, "list") == 0;
  alarm(120);
  for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
    for (const test *t = groups[g]; t->name != NULL; t++) {
      if (listing) {
        puts(t->name);
      } else if (strcmp(t->name, name) == 0) {
        t->run();
        return 0;
      }
    }
  if (listing)
    return 0;
  fprintf(stderr, "no test named %s\n", name);
  return 2;
}
