#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "internal.h"

// Named tensors over memory of others.
typedef struct {
  char **names;      // [count]
  OrtValue **values; // [count]
  size_t count, room;
} tensors;

struct bei_ort_builder {
  OrtSessionOptions *options;
  bei_ops *ops;
  tensors constants, bound;
};

struct bei_ort_session {
  OrtSession *session;
  bei_ops *ops;
  tensors bound;
  atomic_bool ran; // at least once
};

struct bei_ort_run {
  OrtRunOptions *options;
  OrtRunOptions *shrinking; // the same, and gives memory back at the end
};

#define TRY(call)                                                                                                      \
  do {                                                                                                                 \
    char *error_ = bei_ort_error(bei_ort_api->call);                                                                   \
    if (error_ != NULL)                                                                                                \
      return error_;                                                                                                   \
  } while (0)

static char *out_of_memory(void) { return strdup("out of memory"); }

// Subnormal numbers make products many times slower and carry nothing here. ONNX Runtime can flush them on its pool's
// threads, for good; on a thread that is lent to us the mode is set for the call and put back.
#if defined(__SSE__)
typedef unsigned int float_mode;
static float_mode flush_subnormals(void) {
  float_mode before = _mm_getcsr();
  _mm_setcsr(before | 0x8040); // flush to zero, subnormals are zeros
  return before;
}
static void restore_mode(float_mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
typedef uint64_t float_mode;
static void restore_mode(float_mode mode) { __asm__ volatile("msr fpcr, %0" ::"r"(mode)); }
static float_mode flush_subnormals(void) {
  float_mode before;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  restore_mode(before | (UINT64_C(1) << 24)); // FZ
  return before;
}
#else
typedef int float_mode;
static float_mode flush_subnormals(void) { return 0; }
static void restore_mode(float_mode mode) { (void)mode; }
#endif

// ---- Tensors ----

static void tensors_free(tensors *t) {
  for (size_t i = 0; i < t->count; i++) {
    free(t->names[i]);
    bei_ort_api->ReleaseValue(t->values[i]);
  }
  free(t->names);
  free(t->values);
  *t = (tensors){0};
}

static char *tensors_grow(tensors *t) {
  size_t room = t->room == 0 ? 16 : 2 * t->room;
  char **names = realloc(t->names, room * sizeof *names);
  if (names == NULL)
    return out_of_memory();
  t->names = names;
  OrtValue **values = realloc(t->values, room * sizeof(*values));
  if (values == NULL)
    return out_of_memory();
  t->values = values;
  t->room = room;
  return NULL;
}

static char *tensors_add(tensors *t, const char *name, int32_t type, const int64_t *dims, size_t rank, const void *data,
                         size_t bytes) {
  char *error = t->count == t->room ? tensors_grow(t) : NULL;
  if (error != NULL)
    return error;
  OrtValue *value;
  TRY(CreateTensorWithDataAsOrtValue(bei_ort_cpu, (void *)data, bytes, dims, rank, type, &value)); // never written to
  char *copy = strdup(name);
  if (copy == NULL) {
    bei_ort_api->ReleaseValue(value);
    return out_of_memory();
  }
  t->names[t->count] = copy;
  t->values[t->count++] = value;
  return NULL;
}

// ---- Builder ----

static char *configure(bei_ort_builder *builder, int32_t threads) {
  OrtSessionOptions *options = builder->options;
  TRY(SetIntraOpNumThreads(options, threads));
  TRY(SetInterOpNumThreads(options, 1));
  TRY(SetSessionExecutionMode(options, ORT_SEQUENTIAL));
  // The graph is written as it should run; the optimizer could only undo choices.
  TRY(SetSessionGraphOptimizationLevel(options, ORT_DISABLE_ALL));
  // Patterns are kept for each shape that was ever seen: with packed rows, one for nearly every run, for ever.
  TRY(DisableMemPattern(options));
  const char *entries[][2] = {
      // Idle threads spin for a moment between the steps of a run, since waking one costs 20 % of a short run, and never
      // between runs. Measured: as fast as spinning without end, nearly as cheap as none where cores are contended for.
      {"session.intra_op.allow_spinning", "1"},
      {"session.intra_op.spin_duration_us", "50"},
      {"session.force_spinning_stop", "1"},
      {"session.inter_op.allow_spinning", "0"},
      {"session.set_denormal_as_zero", "1"},
      // Packed weights are for ever and exact in size: they do not belong in an arena that doubles.
      {"session.use_device_allocator_for_initializers", "1"},
  };
  for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
    TRY(AddSessionConfigEntry(options, entries[i][0], entries[i][1]));
  }
  return bei_ort_error(bei_ops_register(options, threads, &builder->ops));
}

char *bei_ort_builder_new(int32_t threads, bei_ort_builder **out) {
  bei_ort_builder *builder = calloc(1, sizeof *builder);
  if (builder == NULL)
    return out_of_memory();
  char *error = bei_ort_error(bei_ort_api->CreateSessionOptions(&builder->options));
  if (error == NULL)
    error = configure(builder, threads);
  if (error != NULL) {
    bei_ort_builder_free(builder);
    return error;
  }
  *out = builder;
  return NULL;
}

void bei_ort_builder_free(bei_ort_builder *builder) {
  if (builder == NULL)
    return;
  tensors_free(&builder->constants);
  tensors_free(&builder->bound);
  if (builder->options != NULL)
    bei_ort_api->ReleaseSessionOptions(builder->options);
  bei_ops_free(builder->ops);
  free(builder);
}

char *bei_ort_builder_add(bei_ort_builder *builder, const char *name, int32_t type, const int64_t *dims, size_t rank,
                          const void *data, size_t bytes) {
  return tensors_add(&builder->constants, name, type, dims, rank, data, bytes);
}

char *bei_ort_builder_bind(bei_ort_builder *builder, const char *name, int32_t type, const int64_t *dims, size_t rank,
                           const void *data, size_t bytes) {
  if (builder->bound.count == BEI_ORT_MAX_BOUND)
    return strdup("too many bound inputs");
  return tensors_add(&builder->bound, name, type, dims, rank, data, bytes);
}

// ---- Session ----

// Weights are allocated and freed on whatever thread came by, in blocks that glibc keeps in the heap of that thread:
// without this, the copies of a session's making, and all of a closed one, stay resident.
static void trim(void) {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

static char *create(bei_ort_builder *builder, const void *model, size_t bytes, OrtSession **out) {
  const tensors *t = &builder->constants;
  if (t->count > 0) {
    TRY(AddExternalInitializers(builder->options, (const char *const *)t->names, (const OrtValue *const *)t->values,
                                t->count));
  }
  float_mode mode = flush_subnormals(); // set_denormal_as_zero changes this thread's mode, too
  OrtStatus *status = bei_ort_api->CreateSessionFromArray(bei_ort_env, model, bytes, builder->options, out);
  restore_mode(mode);
  trim();
  return bei_ort_error(status);
}

char *bei_ort_session_new(bei_ort_builder *builder, const void *model, size_t bytes, bei_ort_session **out) {
  bei_ort_session *session = calloc(1, sizeof *session);
  if (session == NULL)
    return out_of_memory();
  bei_ort_inside inside;
  char *error;
  if (bei_ort_enter(&inside, NULL)) {
    error = create(builder, model, bytes, &session->session);
    bei_ort_leave(&inside);
  } else {
    error = strdup(BEI_ORT_EXITING);
  }
  if (error != NULL) {
    free(session);
    return error;
  }
  bei_ort_watch_exit();
  session->ops = builder->ops;
  session->bound = builder->bound;
  builder->ops = NULL;
  builder->bound = (tensors){0};
  *out = session;
  return NULL;
}

void bei_ort_session_free(bei_ort_session *session) {
  bei_ort_inside inside;
  if (session == NULL || !bei_ort_enter(&inside, NULL))
    return; // a process that exits frees it all
  bei_ort_api->ReleaseSession(session->session);
  bei_ort_leave(&inside);
  bei_ops_free(session->ops);
  tensors_free(&session->bound);
  free(session);
  trim();
}

// ---- Run ----

static char *run_options(bei_ort_run *run) {
  TRY(CreateRunOptions(&run->options));
  TRY(CreateRunOptions(&run->shrinking));
  TRY(AddRunConfigEntry(run->shrinking, "memory.enable_memory_arena_shrinkage", "cpu:0"));
  return NULL;
}

char *bei_ort_run_new(bei_ort_run **out) {
  bei_ort_run *run = calloc(1, sizeof *run);
  if (run == NULL)
    return out_of_memory();
  char *error = run_options(run);
  if (error != NULL) {
    bei_ort_run_free(run);
    return error;
  }
  *out = run;
  return NULL;
}

void bei_ort_run_free(bei_ort_run *run) {
  if (run == NULL)
    return;
  if (run->options != NULL)
    bei_ort_api->ReleaseRunOptions(run->options);
  if (run->shrinking != NULL)
    bei_ort_api->ReleaseRunOptions(run->shrinking);
  free(run);
}

// Setting a flag does not fail; the statuses are released all the same.
void bei_ort_run_terminate(bei_ort_run *run) {
  free(bei_ort_error(bei_ort_api->RunOptionsSetTerminate(run->options)));
  free(bei_ort_error(bei_ort_api->RunOptionsSetTerminate(run->shrinking)));
}

void bei_ort_run_reset(bei_ort_run *run) {
  free(bei_ort_error(bei_ort_api->RunOptionsUnsetTerminate(run->options)));
  free(bei_ort_error(bei_ort_api->RunOptionsUnsetTerminate(run->shrinking)));
}

enum { PACKED = 5, INPUTS = PACKED + BEI_ORT_MAX_BOUND, OUTPUTS = 3 };

char *bei_ort_run_packed(bei_ort_session *session, bei_ort_run *run, const int32_t *input_ids, const int32_t *type_ids,
                         const int32_t *position_ids, const int32_t *cu_seqlens, const int32_t *pool_skip,
                         int64_t tokens, int64_t sequences, float *pooled, int64_t pooled_width, float *token_vectors,
                         int64_t token_width, float *maxima, int64_t maxima_width, int32_t shrink) {
  bei_ort_inside inside;
  if (!bei_ort_enter(&inside, run))
    return strdup(BEI_ORT_EXITING);
  const char *input_names[INPUTS] = {"input_ids", "type_ids", "position_ids", "cu_seqlens", "pool_skip"};
  const int32_t *const data[PACKED] = {input_ids, type_ids, position_ids, cu_seqlens, pool_skip};
  const int64_t sizes[PACKED] = {tokens, tokens, tokens, sequences + 1, sequences};
  const char *output_names[OUTPUTS];
  OrtValue *inputs[INPUTS] = {NULL}, *outputs[OUTPUTS] = {NULL};
  size_t fetched = 0;
  OrtStatus *status = NULL;
  for (int i = 0; i < PACKED && status == NULL; i++) {
    const int64_t *dims = &sizes[i];
    status =
        bei_ort_api->CreateTensorWithDataAsOrtValue(bei_ort_cpu, (void *)data[i], (size_t)dims[0] * sizeof(int32_t),
                                                    dims, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, &inputs[i]);
  }
  const tensors *bound = &session->bound;
  for (size_t i = 0; i < bound->count; i++) {
    input_names[PACKED + i] = bound->names[i];
    inputs[PACKED + i] = bound->values[i];
  }
  const struct {
    const char *name;
    float *data;
    int64_t dims[2];
  } wanted[OUTPUTS] = {{"pooled", pooled, {sequences, pooled_width}},
                       {"token_vectors", token_vectors, {tokens, token_width}},
                       {"maxima", maxima, {1, maxima_width}}};
  for (int i = 0; i < OUTPUTS && status == NULL; i++) {
    if (wanted[i].data == NULL)
      continue;
    status = bei_ort_api->CreateTensorWithDataAsOrtValue(
        bei_ort_cpu, wanted[i].data, (size_t)wanted[i].dims[0] * (size_t)wanted[i].dims[1] * sizeof(float),
        wanted[i].dims, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &outputs[fetched]);
    output_names[fetched++] = wanted[i].name;
  }
  if (status == NULL) {
    float_mode mode = flush_subnormals();
    status = bei_ort_api->Run(session->session, shrink ? run->shrinking : run->options, input_names,
                              (const OrtValue *const *)inputs, PACKED + bound->count, output_names, fetched, outputs);
    restore_mode(mode);
  }
  for (int i = 0; i < PACKED; i++)
    bei_ort_api->ReleaseValue(inputs[i]);
  for (int i = 0; i < OUTPUTS; i++)
    bei_ort_api->ReleaseValue(outputs[i]);
  char *error = bei_ort_error(status);
  bei_ort_leave(&inside);
  if (error == NULL && !atomic_exchange(&session->ran, true))
    bei_ort_watch_exit();
  return error;
}
