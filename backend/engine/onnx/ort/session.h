// What session.c and run.c share.
#ifndef BEI_ORT_SESSION_H
#define BEI_ORT_SESSION_H

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "driver.h"
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
  const bei_ort_weights *shared; // NULL: constants
  int32_t device;                // of CUDA; -1: the CPU
  bei_cuda_stream stream;        // of the session on CUDA
};

struct bei_ort_session {
  OrtSession *session;
  bei_ops *ops;
  tensors bound;
  bei_ort_host host;
  atomic_bool ran; // at least once
  int32_t device;  // as the builder's
  bei_cuda_stream stream;
};

struct bei_ort_weights {
  tensors values;
  int32_t device;
  bei_cuda_address memory; // of all of them
  void *host;              // the same on the CPU
};

struct bei_ort_run {
  OrtRunOptions *options;
  OrtRunOptions *shrinking; // the same, and gives memory back at the end
  OrtRunOptions *capturing; // the same, and does not wait for the device
};

void bei_ort_tensors_free(tensors *t);
// value: owned from now on, also where this fails.
char *bei_ort_tensors_append(tensors *t, const char *name, OrtValue *value);

#define TRY(call)                                                                                                      \
  do {                                                                                                                 \
    char *error_ = bei_ort_error(bei_ort_api->call);                                                                   \
    if (error_ != NULL)                                                                                                \
      return error_;                                                                                                   \
  } while (0)

// Calls of CUDA by ONNX Runtime go to the device that is current in their thread, until it chooses one: without this the first one, on which
// they make a context of 500 MB where there is none. device: -1: the CPU.
static inline char *bei_ort_enter_device(int32_t device) {
  const bei_cuda_driver *driver;
  return device < 0 ? NULL : bei_cuda_enter(device, &driver);
}
static inline void bei_ort_leave_device(int32_t device) {
  if (device >= 0)
    bei_cuda_leave();
}

static inline char *bei_ort_no_memory(void) { return strdup("out of memory"); }

// Subnormal numbers make products many times slower and carry nothing here. ONNX Runtime can flush them on its pool's
// threads, for good; on a thread that is lent to us the mode is set for the call and put back.
#if defined(__SSE__)
typedef unsigned int float_mode;
static inline float_mode flush_subnormals(void) {
  float_mode before = _mm_getcsr();
  _mm_setcsr(before | 0x8040); // flush to zero, subnormals are zeros
  return before;
}
static inline void restore_mode(float_mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
typedef uint64_t float_mode;
static inline void restore_mode(float_mode mode) { __asm__ volatile("msr fpcr, %0" ::"r"(mode)); }
static inline float_mode flush_subnormals(void) {
  float_mode before;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  restore_mode(before | (UINT64_C(1) << 24)); // FZ
  return before;
}
#else
typedef int float_mode;
static inline float_mode flush_subnormals(void) { return 0; }
static inline void restore_mode(float_mode mode) { (void)mode; }
#endif

#endif
