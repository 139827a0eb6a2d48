#include "session.h"

// ---- Memory of inputs and outputs ----

char *bei_ort_host_new(bei_ort_session *session, size_t bytes, void **out) {
  bei_exit_inside inside;
  if (!bei_exit_enter(&inside, NULL, NULL))
    return strdup(BEI_EXITING);
  void *data = NULL;
  char *error = bei_ort_enter_device(session->device);
  if (error == NULL) {
    if (session->host.allocator != NULL)
      error = bei_ort_error(bei_ort_api->AllocatorAlloc(session->host.allocator, bytes, &data));
    else
      data = malloc(bytes);
    bei_ort_leave_device(session->device);
  }
  bei_exit_leave(&inside);
  if (error == NULL && data == NULL)
    error = bei_ort_no_memory();
  if (error == NULL)
    *out = data;
  return error;
}

void bei_ort_host_free(bei_ort_session *session, void *data) {
  bei_exit_inside inside;
  if (data == NULL || !bei_exit_enter(&inside, NULL, NULL))
    return; // a process that exits frees it all
  char *error = bei_ort_enter_device(session->device);
  if (session->host.allocator != NULL)
    free(bei_ort_error(bei_ort_api->AllocatorFree(session->host.allocator, data)));
  else
    free(data);
  if (error == NULL)
    bei_ort_leave_device(session->device);
  free(error); // the device is lost
  bei_exit_leave(&inside);
}

// ---- Run ----

static char *run_options(bei_ort_run *run) {
  TRY(CreateRunOptions(&run->options));
  TRY(CreateRunOptions(&run->shrinking));
  TRY(AddRunConfigEntry(run->shrinking, "memory.enable_memory_arena_shrinkage", "cpu:0"));
  TRY(CreateRunOptions(&run->capturing));
  TRY(AddRunConfigEntry(run->capturing, "disable_synchronize_execution_providers", "1"));
  return NULL;
}

char *bei_ort_run_new(bei_ort_run **out) {
  bei_ort_run *run = calloc(1, sizeof *run);
  if (run == NULL)
    return bei_ort_no_memory();
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
  if (run->capturing != NULL)
    bei_ort_api->ReleaseRunOptions(run->capturing);
  free(run);
}

// Setting a flag does not fail; the statuses are released all the same.
void bei_ort_run_terminate(bei_ort_run *run) {
  free(bei_ort_error(bei_ort_api->RunOptionsSetTerminate(run->options)));
  free(bei_ort_error(bei_ort_api->RunOptionsSetTerminate(run->shrinking)));
}

void bei_ort_run_stop(void *run) { bei_ort_run_terminate(run); }

void bei_ort_run_reset(bei_ort_run *run) {
  free(bei_ort_error(bei_ort_api->RunOptionsUnsetTerminate(run->options)));
  free(bei_ort_error(bei_ort_api->RunOptionsUnsetTerminate(run->shrinking)));
}

// The device is current meanwhile: ONNX Runtime gives cuDNN its stream before it chooses the device, and cuDNN would make a context of 500 MB on
// the first one.
static char *compute(bei_ort_session *session, const OrtRunOptions *options, const char *const *input_names,
                     OrtValue *const *inputs, size_t input_count, const char *const *output_names, size_t output_count,
                     OrtValue **outputs) {
  char *error = bei_ort_enter_device(session->device);
  if (error != NULL)
    return error;
  float_mode mode = flush_subnormals();
  OrtStatus *status = bei_ort_api->Run(session->session, options, input_names, (const OrtValue *const *)inputs,
                                       input_count, output_names, output_count, outputs);
  restore_mode(mode);
  bei_ort_leave_device(session->device);
  return bei_ort_error(status);
}

// What became of a run, with its error: exit() stops runs, which then say that they were told to end.
static char *left(bei_exit_inside *inside, char *error) {
  if (!bei_exit_leave(inside) || error == NULL)
    return error;
  free(error);
  return strdup(BEI_EXITING);
}

enum { PACKED = 5, INPUTS = PACKED + BEI_ORT_MAX_BOUND, OUTPUTS = 4 };

char *bei_ort_run_packed(bei_ort_session *session, bei_ort_run *run, const int32_t *input_ids, const int32_t *type_ids,
                         const int32_t *position_ids, const int32_t *cu_seqlens, const int32_t *pool_skip,
                         int64_t tokens, int64_t sequences, float *pooled, int64_t pooled_width, float *token_vectors,
                         int64_t token_width, float *sparse, int64_t sparse_width, float *maxima, int64_t maxima_width,
                         int32_t shrink) {
  bei_exit_inside inside;
  if (!bei_exit_enter(&inside, bei_ort_run_stop, run))
    return strdup(BEI_EXITING);
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
                       {"sparse", sparse, {sequences, sparse_width}},
                       {"maxima", maxima, {1, maxima_width}}};
  for (int i = 0; i < OUTPUTS && status == NULL; i++) {
    if (wanted[i].data == NULL)
      continue;
    status = bei_ort_api->CreateTensorWithDataAsOrtValue(
        bei_ort_cpu, wanted[i].data, (size_t)wanted[i].dims[0] * (size_t)wanted[i].dims[1] * sizeof(float),
        wanted[i].dims, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &outputs[fetched]);
    output_names[fetched++] = wanted[i].name;
  }
  char *error = bei_ort_error(status);
  if (error == NULL)
    error = compute(session, shrink ? run->shrinking : run->options, input_names, inputs, PACKED + bound->count,
                    output_names, fetched, outputs);
  for (int i = 0; i < PACKED; i++)
    bei_ort_api->ReleaseValue(inputs[i]);
  for (int i = 0; i < OUTPUTS; i++)
    bei_ort_api->ReleaseValue(outputs[i]);
  error = left(&inside, error);
  if (error == NULL && !atomic_exchange(&session->ran, true))
    bei_exit_watch();
  return error;
}

char *bei_ort_run_tensors(bei_ort_session *session, bei_ort_run *run, const bei_ort_tensor *inputs, size_t input_count,
                          const bei_ort_tensor *outputs, size_t output_count) {
  size_t count = input_count + output_count;
  if (count > BEI_ORT_MAX_TENSORS)
    return strdup("too many tensors");
  bei_exit_inside inside;
  if (!bei_exit_enter(&inside, bei_ort_run_stop, run))
    return strdup(BEI_EXITING);
  const char *names[BEI_ORT_MAX_TENSORS];
  OrtValue *values[BEI_ORT_MAX_TENSORS] = {NULL};
  OrtStatus *status = NULL;
  for (size_t i = 0; i < count && status == NULL; i++) {
    const bei_ort_tensor *t = i < input_count ? &inputs[i] : &outputs[i - input_count];
    names[i] = t->name;
    status = bei_ort_api->CreateTensorWithDataAsOrtValue(bei_ort_cpu, t->data, t->bytes, t->dims, t->rank,
                                                         (ONNXTensorElementDataType)t->type, &values[i]);
  }
  char *error = bei_ort_error(status);
  if (error == NULL)
    error = compute(session, run->options, names, values, input_count, names + input_count, output_count,
                    values + input_count);
  for (size_t i = 0; i < count; i++)
    bei_ort_api->ReleaseValue(values[i]);
  error = left(&inside, error);
  if (error == NULL && !atomic_exchange(&session->ran, true))
    bei_exit_watch();
  return error;
}
