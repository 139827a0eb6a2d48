// What the C files of package ort share.
#ifndef BEI_ORT_INTERNAL_H
#define BEI_ORT_INTERNAL_H

#include <onnxruntime_c_api.h>
#include <stdbool.h>

#include "../../../exiting/exiting.h"
#include "shim.h"

// Set by bei_ort_load, constant afterwards.
extern const OrtApi *bei_ort_api;
extern OrtEnv *bei_ort_env;
extern OrtMemoryInfo *bei_ort_cpu; // CPU memory, for tensors

// Turns a status into an error text and releases it: the one place that does. NULL stays NULL.
char *bei_ort_error(OrtStatus *status);

// bei_ort_run_terminate, for bei_exit_enter.
void bei_ort_run_stop(void *run);

// Where a session's host memory comes from.
typedef struct {
  OrtMemoryInfo *info;
  OrtAllocator *allocator; // NULL: malloc
} bei_ort_host;
// Opens that of a CUDA device: page-locked memory. The tensors over it are plain CPU memory to ONNX Runtime; CUDA sees by
// the address what it is.
OrtStatus *bei_ort_host_open(OrtSession *session, int32_t device, bei_ort_host *out);
void bei_ort_host_close(bei_ort_host *host);

// Our custom operators, for one session.
typedef struct bei_ops bei_ops;
// Registers the domain "bei" with the options. threads: of the session's pool. The operators must outlive the session.
OrtStatus *bei_ops_register(OrtSessionOptions *options, int32_t threads, bei_ops **out);
// Registers the domains bei.float32, bei.float16 and bei.bfloat16, whose operators run on a CUDA device, too. Once.
OrtStatus *bei_ops_register_cuda(bei_ops *ops, OrtSessionOptions *options, int32_t device);
// A session of options that ops is registered with, which sees to it that no other is made beside the first with a domain.
OrtStatus *bei_ops_make_session(const bei_ops *ops, const void *model, size_t bytes, const OrtSessionOptions *options,
                                OrtSession **out);
void bei_ops_free(bei_ops *ops); // NULL is allowed

#endif
