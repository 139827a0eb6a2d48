// The kernels of ../cuda/kernels.cu on a device.
#ifndef BEI_ORT_CUDA_KERNELS_H
#define BEI_ORT_CUDA_KERNELS_H

#include "driver.h"

// Loads the kernels' PTX, text that ends with NUL: once for the process, for good. The driver compiles it when a session is made.
// Returns NULL, or a text that the caller frees.
char *bei_cuda_load(const char *ptx);

// A kernel on a device, after bei_cuda_load. It lives as long as the device's primary context.
char *bei_cuda_find(int32_t device, const char *name, bei_cuda_function **out);

// Launches a kernel of that many blocks of that many threads. arguments: pointers to each. The calling thread's context is that of
// the stream and of the function. Returns CUDA's result: 0 is success.
int bei_cuda_launch(bei_cuda_function *function, uint32_t blocks, uint32_t threads, void *stream, void **arguments);

#endif
