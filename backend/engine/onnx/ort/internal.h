// What the C files of package ort share.
#ifndef BEI_ORT_INTERNAL_H
#define BEI_ORT_INTERNAL_H

#include <onnxruntime_c_api.h>

#include "shim.h"

// Set by bei_ort_load, constant afterwards.
extern const OrtApi *bei_ort_api;
extern OrtEnv *bei_ort_env;
extern OrtMemoryInfo *bei_ort_cpu; // CPU memory, for tensors

// Turns a status into an error text and releases it: the one place that does. NULL stays NULL.
char *bei_ort_error(OrtStatus *status);

// Our custom operators, for one session.
typedef struct bei_ops bei_ops;
// Registers the domain "bei" with the options. threads: of the session's pool. The operators must outlive the session.
OrtStatus *bei_ops_register(OrtSessionOptions *options, int32_t threads, bei_ops **out);
void bei_ops_free(bei_ops *ops); // NULL is allowed

#endif
