/* Checks and helpers of the C tests. Each test runs in a process of its own: `ctest NAME`. */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bei.h"

/* Ends the process with the place and what was wrong. May be called from any thread. */
_Noreturn void fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition))                                                                                                  \
      fail(__FILE__, __LINE__, "not so: %s", #condition);                                                              \
  } while (0)

#define CHECK_EQUAL(got, want)                                                                                         \
  do {                                                                                                                 \
    long long got_ = (long long)(got), want_ = (long long)(want);                                                      \
    if (got_ != want_)                                                                                                 \
      fail(__FILE__, __LINE__, "%s is %lld, want %lld", #got, got_, want_);                                            \
  } while (0)

#define CHECK_TEXT(got, want) check_text(__FILE__, __LINE__, #got, got, want)

/* Frees the error of a call, which must be NULL; have the code; have the code and a message that holds text. */
#define OK(call) check_error(__FILE__, __LINE__, #call, call, BEI_OK, "")
#define FAILS(call, code) check_error(__FILE__, __LINE__, #call, call, code, "")
#define FAILS_WITH(call, code, text) check_error(__FILE__, __LINE__, #call, call, code, text)

void check_text(const char *file, int line, const char *what, const char *got, const char *want);
void check_error(const char *file, int line, const char *what, bei_error *error, int32_t code, const char *text);

/* The value of an environment variable that capi's Go tests set. */
const char *setting(const char *name);

/* Opens the mock engine without a tokenizer; more is further JSON keys, such as "\"slots\": 2", or "". */
bei_handle open_mock(const char *more);
/* The same with the tokenizer of all-MiniLM-L6-v2. */
bei_handle open_mock_texts(const char *more);
/* A model on ONNX Runtime: of a folder, and all-MiniLM-L6-v2. */
bei_handle open_model(const char *folder, const char *more);
bei_handle open_minilm(const char *more);

/* All bytes of a file, which the caller frees. */
char *read_file(const char *path, size_t *size);

/* A batch of n items of length tokens each, with all lists of its own; index lists are of all items. */
typedef struct {
  bei_batch batch; /* all items pooled */
  uint32_t *ids, *lengths, *items;
} packed;
packed packed_new(size_t n, uint32_t length);
void packed_free(packed *p);

bei_text text_of(const char *text);

/* A fault of the mock: runs after the warm-up's, count of them or all (0), last until release_runs(). */
const char *held_fault(const char *kind, int count);
void release_runs(void);
/* Waits until a gauge of the backend's metrics is at least this, for a minute at most. */
void await(bei_handle backend, const char *gauge, double least);

enum { PATIENCE_MS = 60000 };
void sleep_ms(int ms);
double now_ms(void);
size_t resident_bytes(void);

/* Runs work(0 .. n-1) on n threads at once and waits for all. */
void run_threads(int n, void (*work)(int));

enum { D = 384 }; /* dimensions of the mock and of MiniLM */

typedef struct {
  const char *name;
  void (*run)(void);
} test;
extern const test library_tests[], backend_tests[], argument_tests[], batch_tests[], text_tests[], result_tests[],
    waiting_tests[], thread_tests[], log_tests[], minilm_tests[], golden_tests[], output_tests[], leak_tests[];

#endif /* CHECK_H */
