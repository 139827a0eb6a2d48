#include <malloc.h>
#include <stdio.h>

#include "cuda_kernels.h"
#include "session.h"

// ---- Tensors ----

void bei_ort_tensors_free(tensors *t) {
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
    return bei_ort_no_memory();
  t->names = names;
  OrtValue **values = realloc(t->values, room * sizeof(*values));
  if (values == NULL)
    return bei_ort_no_memory();
  t->values = values;
  t->room = room;
  return NULL;
}

char *bei_ort_tensors_append(tensors *t, const char *name, OrtValue *value) {
  char *error = t->count == t->room ? tensors_grow(t) : NULL;
  char *copy = error == NULL ? strdup(name) : NULL;
  if (copy == NULL) {
    bei_ort_api->ReleaseValue(value);
    return error != NULL ? error : bei_ort_no_memory();
  }
  t->names[t->count] = copy;
  t->values[t->count++] = value;
  return NULL;
}

static char *tensors_add(tensors *t, const char *name, int32_t type, const int64_t *dims, size_t rank, const void *data,
                         size_t bytes) {
  OrtValue *value;
  TRY(CreateTensorWithDataAsOrtValue(bei_ort_cpu, (void *)data, bytes, dims, rank, type, &value)); // never written to
  return bei_ort_tensors_append(t, name, value);
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
    return bei_ort_no_memory();
  builder->device = -1;
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

static void free_stream(int32_t device, bei_cuda_stream stream) {
  const bei_cuda_driver *driver;
  if (stream == NULL)
    return;
  char *error = bei_cuda_enter(device, &driver);
  if (error == NULL) {
    driver->stream_free(stream);
    bei_cuda_leave();
  }
  free(error); // the context is gone, and the stream with it
}

void bei_ort_builder_free(bei_ort_builder *builder) {
  bei_exit_inside inside;
  if (builder == NULL || !bei_exit_enter(&inside, NULL, NULL))
    return; // a process that exits frees it all
  bei_ort_tensors_free(&builder->constants);
  bei_ort_tensors_free(&builder->bound);
  if (builder->options != NULL)
    bei_ort_api->ReleaseSessionOptions(builder->options);
  bei_ops_free(builder->ops);
  free_stream(builder->device, builder->stream);
  bei_exit_leave(&inside);
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

char *bei_ort_builder_share(bei_ort_builder *builder, const bei_ort_weights *weights, const char *folder) {
  builder->shared = weights;
  TRY(AddSessionConfigEntry(builder->options, "session.model_external_initializers_file_folder_path", folder));
  return NULL;
}

char *bei_ort_has_provider(const char *name, int32_t *out) {
  char **names;
  int count;
  TRY(GetAvailableProviders(&names, &count));
  *out = 0;
  for (int i = 0; i < count; i++)
    if (strcmp(names[i], name) == 0)
      *out = 1;
  return bei_ort_error(bei_ort_api->ReleaseAvailableProviders(names, count));
}

static char *add_provider(bei_ort_builder *builder, const bei_cuda_driver *driver, const char *const *keys,
                          const char *const *values, size_t count) {
  char *error =
      bei_cuda_failed("creating a stream", driver->stream_new(&builder->stream, BEI_CUDA_STREAM_NON_BLOCKING));
  if (error != NULL)
    return error;
  OrtCUDAProviderOptionsV2 *options;
  TRY(CreateCUDAProviderOptions(&options));
  // Once: each call sets what it is not given to its default.
  OrtStatus *status = bei_ort_api->UpdateCUDAProviderOptions(options, keys, values, count);
  if (status == NULL)
    status = bei_ort_api->UpdateCUDAProviderOptionsWithValue(options, "user_compute_stream", builder->stream);
  if (status == NULL) // allocates memory for a moment, on the current device
    status = bei_ort_api->SessionOptionsAppendExecutionProvider_CUDA_V2(builder->options, options);
  bei_ort_api->ReleaseCUDAProviderOptions(options);
  return bei_ort_error(status);
}

char *bei_ort_builder_cuda(bei_ort_builder *builder, int32_t device, const char *const *keys, const char *const *values,
                           size_t count) {
  const bei_cuda_driver *driver;
  bei_exit_inside inside;
  if (!bei_exit_enter(&inside, NULL, NULL))
    return strdup(BEI_EXITING);
  char *error = bei_cuda_enter(device, &driver);
  if (error == NULL) {
    builder->device = device;
    error = add_provider(builder, driver, keys, values, count);
    bei_cuda_leave();
  }
  bei_exit_leave(&inside);
  return error;
}

char *bei_ort_builder_cuda_operators(bei_ort_builder *builder, int32_t device) {
  return bei_ort_error(bei_ops_register_cuda(builder->ops, builder->options, device));
}

char *bei_ort_cuda_kernels(const char *ptx) { return bei_cuda_load(ptx); }

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
  const tensors *shared = builder->shared != NULL ? &builder->shared->values : NULL;
  for (size_t i = 0; shared != NULL && i < shared->count; i++)
    TRY(AddInitializer(builder->options, shared->names[i], shared->values[i]));
  if (shared == NULL && t->count > 0) {
    TRY(AddExternalInitializers(builder->options, (const char *const *)t->names, (const OrtValue *const *)t->values,
                                t->count));
  }
  float_mode mode = flush_subnormals(); // set_denormal_as_zero changes this thread's mode, too
  OrtStatus *status = bei_ops_make_session(builder->ops, model, bytes, builder->options, out);
  restore_mode(mode);
  trim();
  return bei_ort_error(status);
}

static char *open_session(bei_ort_builder *builder, const void *model, size_t bytes, bei_ort_session *session) {
  char *error = bei_ort_enter_device(builder->device);
  if (error != NULL)
    return error;
  error = create(builder, model, bytes, &session->session);
  if (error == NULL && builder->device >= 0) {
    error = bei_ort_error(bei_ort_host_open(session->session, builder->device, &session->host));
    if (error != NULL)
      bei_ort_api->ReleaseSession(session->session);
  }
  bei_ort_leave_device(builder->device);
  return error;
}

char *bei_ort_session_new(bei_ort_builder *builder, const void *model, size_t bytes, bei_ort_session **out) {
  bei_ort_session *session = calloc(1, sizeof *session);
  if (session == NULL)
    return bei_ort_no_memory();
  bei_exit_inside inside;
  char *error;
  if (bei_exit_enter(&inside, NULL, NULL)) {
    error = open_session(builder, model, bytes, session);
    bei_exit_leave(&inside);
  } else {
    error = strdup(BEI_EXITING);
  }
  if (error != NULL) {
    free(session);
    return error;
  }
  bei_exit_watch();
  session->device = builder->device;
  session->stream = builder->stream;
  builder->stream = NULL;
  session->ops = builder->ops;
  session->bound = builder->bound;
  builder->ops = NULL;
  builder->bound = (tensors){0};
  *out = session;
  return NULL;
}

void bei_ort_session_trim(const bei_ort_session *session) {
  const bei_cuda_driver *driver;
  bei_exit_inside inside;
  int device;
  if (!bei_exit_enter(&inside, NULL, NULL))
    return; // a process that exits frees it all
  char *error = bei_cuda_enter(session->device, &driver);
  if (error == NULL) {
    if (driver->device_get(&device, session->device) == 0)
      driver->graph_trim(device);
    bei_cuda_leave();
  }
  free(error); // the context is gone, and the memory with it
  bei_exit_leave(&inside);
}

void bei_ort_session_free(bei_ort_session *session) {
  bei_exit_inside inside;
  if (session == NULL || !bei_exit_enter(&inside, NULL, NULL))
    return; // a process that exits frees it all
  char *error = bei_ort_enter_device(session->device);
  bei_ort_host_close(&session->host);
  bei_ort_api->ReleaseSession(session->session);
  if (error == NULL)
    bei_ort_leave_device(session->device);
  free(error); // the device is lost
  free_stream(session->device, session->stream);
  bei_exit_leave(&inside);
  bei_ops_free(session->ops);
  bei_ort_tensors_free(&session->bound);
  free(session);
  trim();
}
