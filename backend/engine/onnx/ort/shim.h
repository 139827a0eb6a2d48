// The C side of package ort: a thin layer over OrtApi. It holds no policy: the Go side decides, this file calls.
//
// Errors: functions that can fail return NULL for success, else a text that the caller frees with free(). Nothing is
// written to the out-parameters of a call that failed.
#ifndef BEI_ORT_SHIM_H
#define BEI_ORT_SHIM_H

#include <stddef.h>
#include <stdint.h>

// The oldest minor version of ONNX Runtime 1.x that has the API this code is compiled against.
int32_t bei_ort_min_minor(void);

// ---- The library: one for each process, never unloaded ----------------------------------------------------------

// Opens the shared library, takes its API and creates the process's OrtEnv, whose messages (warnings and worse) go to
// the exported Go function beiOrtLog. `version` receives a static string. Not to be called again once it has succeeded,
// nor from two threads at once.
char *bei_ort_load(const char *path, const char **version);

// ---- Sessions -----------------------------------------------------------------------------------------------------

typedef struct bei_ort_builder bei_ort_builder; // collects what a session needs
typedef struct bei_ort_session bei_ort_session;
typedef struct bei_ort_run bei_ort_run; // one run at a time

char *bei_ort_builder_new(int32_t threads, bei_ort_builder **out);
void bei_ort_builder_free(bei_ort_builder *builder);

// Whether the loaded library was built with an execution provider ("CUDAExecutionProvider").
char *bei_ort_has_provider(const char *name, int32_t *out);
// Makes the session run on a CUDA device, with options of OrtCUDAProviderOptionsV2, its device_id among them: count keys and values.
char *bei_ort_builder_cuda(bei_ort_builder *builder, int32_t device, const char *const *keys, const char *const *values,
                           size_t count);

// Declares our operators on CUDA to the session, which has them where it is made on that device. Once for a builder.
char *bei_ort_builder_cuda_operators(bei_ort_builder *builder, int32_t device);
// Loads their kernels: PTX that ends with NUL. Once for the process; later calls do nothing.
char *bei_ort_cuda_kernels(const char *ptx);

// The UUID of a CUDA device, after a session was created on it.
char *bei_ort_cuda_uuid(int32_t device, unsigned char uuid[16]);

// Gives an external initializer of the model its numbers. type: an ONNXTensorElementDataType. data must stay readable
// until the session is created, which copies or packs it; not longer.
char *bei_ort_builder_add(bei_ort_builder *builder, const char *name, int32_t type, const int64_t *dims, size_t rank,
                          const void *data, size_t bytes);

// The external initializers of a builder on its device, for several sessions: a CUDA graph keeps the addresses of activations, which is safe
// where a session has one stream. The numbers that the builder was given are not read any more afterwards.
typedef struct bei_ort_weights bei_ort_weights;
char *bei_ort_weights_new(const bei_ort_builder *from, bei_ort_weights **out);
void bei_ort_weights_free(bei_ort_weights *weights); // after the sessions that have them; NULL is allowed
// Makes weights, instead of bei_ort_builder_add, the external initializers. folder: one with a file of the name that the model gives as the
// place of external numbers, which may be empty: ONNX Runtime looks for it and does not read it.
char *bei_ort_builder_share(bei_ort_builder *builder, const bei_ort_weights *weights, const char *folder);

// Binds an input of the model to memory that every run reads in place. At most BEI_ORT_MAX_BOUND. data must stay
// readable until the session is freed.
enum { BEI_ORT_MAX_BOUND = 8 };
char *bei_ort_builder_bind(bei_ort_builder *builder, const char *name, int32_t type, const int64_t *dims, size_t rank,
                           const void *data, size_t bytes);

// Creates the session from a serialised ModelProto, which it does not keep. The builder can only be freed afterwards.
char *bei_ort_session_new(bei_ort_builder *builder, const void *model, size_t bytes, bei_ort_session **out);
void bei_ort_session_free(bei_ort_session *session); // no run may be in progress; NULL is allowed

// Allocates memory that copies to and from the session's device are fastest with: page-locked for CUDA. It lives until
// it is freed, which must come before bei_ort_session_free.
char *bei_ort_host_new(bei_ort_session *session, size_t bytes, void **out);
void bei_ort_host_free(bei_ort_session *session, void *data); // NULL is allowed

char *bei_ort_run_new(bei_ort_run **out);
void bei_ort_run_free(bei_ort_run *run);
// Makes the run in progress, or else the next one, end with an error between two nodes. From any thread.
void bei_ort_run_terminate(bei_ort_run *run);
// Takes bei_ort_run_terminate back. No run may be in progress.
void bei_ort_run_reset(bei_ort_run *run);

// Runs a model whose inputs are the bound ones and input_ids, type_ids, position_ids [tokens], cu_seqlens [sequences +
// 1] and pool_skip [sequences], all int32, and outputs pooled [sequences, pooled_width], token_vectors [tokens,
// token_width], sparse [sequences, sparse_width] and maxima [1, maxima_width], float32, written in place; a NULL output
// is not fetched. shrink: give the memory that this run needed beyond earlier ones back.
char *bei_ort_run_packed(bei_ort_session *session, bei_ort_run *run, const int32_t *input_ids, const int32_t *type_ids,
                         const int32_t *position_ids, const int32_t *cu_seqlens, const int32_t *pool_skip,
                         int64_t tokens, int64_t sequences, float *pooled, int64_t pooled_width, float *token_vectors,
                         int64_t token_width, float *sparse, int64_t sparse_width, float *maxima, int64_t maxima_width,
                         int32_t shrink);

// A tensor over memory of bei_ort_host_new.
enum { BEI_ORT_MAX_RANK = 4, BEI_ORT_MAX_TENSORS = 40 };
typedef struct {
  const char *name;
  void *data;
  size_t bytes, rank;
  int64_t dims[BEI_ORT_MAX_RANK];
  int32_t type; // an ONNXTensorElementDataType
} bei_ort_tensor;

// Runs a model without bound inputs: copies inputs to the device, computes, copies outputs back and waits for them. At
// most BEI_ORT_MAX_TENSORS of both together. The tensors are read during the call only.
char *bei_ort_run_tensors(bei_ort_session *session, bei_ort_run *run, const bei_ort_tensor *inputs, size_t input_count,
                          const bei_ort_tensor *outputs, size_t output_count);

// ---- CUDA graphs ------------------------------------------------------------------------------------------------------

typedef struct bei_ort_graph bei_ort_graph;

// Captures a run of such tensors as a CUDA graph: copying inputs to the device, computing, copying outputs back. Their memory must stay
// until the graph is freed; inputs should lie side by side there, and so should outputs, since all between the first and the last is copied.
// What an input that is read on the CPU says now is what every launch reads. The calling thread has run the session before; launches may
// come from any, while nothing else runs in the session. bei_ort_graph_free comes before bei_ort_session_free.
char *bei_ort_graph_new(bei_ort_session *session, bei_ort_run *run, const bei_ort_tensor *inputs, size_t input_count,
                        const bei_ort_tensor *outputs, size_t output_count, bei_ort_graph **out);
char *bei_ort_graph_launch(bei_ort_graph *graph); // and waits
void bei_ort_graph_free(bei_ort_graph *graph);    // NULL is allowed

// Gives back to the device what graphs allocated as they ran, and what is kept for the next ones, after they were freed. The session is on CUDA.
void bei_ort_session_trim(const bei_ort_session *session);

#endif
