/*
 * cgo cannot call function pointers: one caller for each function of the interface. None goes into the library once the process
 * exits (backend/exiting): then they fail with CALL_EXITING, and what is to be freed is left to the system.
 */
#ifndef BEI_TRT_CALL_H
#define BEI_TRT_CALL_H

#include <string.h>

#include "../../backend/exiting/exiting.h"
#include "../shim.h"

enum { CALL_EXITING = -1 }; /* beside the codes of shim.h */

static inline int32_t call_refused(bei_trt_error *e) {
  strcpy(e->text, BEI_EXITING);
  return e->code = CALL_EXITING;
}

/* What came of a call: what fails while the process exits may fail for that. */
static inline int32_t call_left(bei_exit_inside *inside, int32_t code, bei_trt_error *e) {
  return bei_exit_leave(inside) && code != 0 ? call_refused(e) : code;
}

#define CALL(call)                                                                                                     \
  bei_exit_inside inside;                                                                                              \
  if (!bei_exit_enter(&inside, NULL, NULL))                                                                            \
    return call_refused(e);                                                                                            \
  return call_left(&inside, call, e)

#define CALL_FREE(call)                                                                                                \
  bei_exit_inside inside;                                                                                              \
  if (!bei_exit_enter(&inside, NULL, NULL))                                                                            \
    return;                                                                                                            \
  call;                                                                                                                \
  bei_exit_leave(&inside)

/* Opens the library at shim (with "/": that file only) and TensorRT at path through it. */
int32_t bei_trt_load(const char *shim, const char *path, int32_t log_info, bei_trt_library **library, bei_trt_api *api,
                     bei_trt_error *error);

static inline int32_t call_network_new(const bei_trt_api *a, bei_trt_library *l, bei_trt_network **n,
                                       bei_trt_error *e) {
  CALL(a->network_new(l, n, e));
}
static inline int32_t call_network_input(const bei_trt_api *a, bei_trt_network *n, const char *name, int32_t dtype,
                                         const bei_trt_dims *d, int32_t *t, bei_trt_error *e) {
  CALL(a->network_input(n, name, dtype, d, t, e));
}
static inline int32_t call_network_dimension(const bei_trt_api *a, bei_trt_network *n, int32_t t, int32_t axis,
                                             const char *name, bei_trt_error *e) {
  CALL(a->network_dimension(n, t, axis, name, e));
}
static inline int32_t call_network_add(const bei_trt_api *a, bei_trt_network *n, const bei_trt_node *node, int32_t *t,
                                       bei_trt_error *e) {
  CALL(a->network_add(n, node, t, e));
}
static inline int32_t call_network_output(const bei_trt_api *a, bei_trt_network *n, int32_t t, const char *name,
                                          bei_trt_error *e) {
  CALL(a->network_output(n, t, name, e));
}
static inline int32_t call_network_tensor(const bei_trt_api *a, bei_trt_network *n, int32_t t, int32_t *dtype,
                                          bei_trt_dims *d, bei_trt_error *e) {
  CALL(a->network_tensor(n, t, dtype, d, e));
}
static inline int32_t call_network_tensors(const bei_trt_api *a, bei_trt_network *n, bei_trt_tensor_info *t,
                                           int32_t room, int32_t *count, bei_trt_error *e) {
  CALL(a->network_tensors(n, t, room, count, e));
}
int32_t call_network_build(const bei_trt_api *a, bei_trt_network *n, const bei_trt_build_options *o, bei_trt_blob **b,
                           bei_trt_error *e);
static inline void call_network_free(const bei_trt_api *a, bei_trt_network *n) { CALL_FREE(a->network_free(n)); }
static inline const void *call_blob_data(const bei_trt_api *a, const bei_trt_blob *b, size_t *size) {
  return a->blob_data(b, size);
}
static inline void call_blob_free(const bei_trt_api *a, bei_trt_blob *b) { CALL_FREE(a->blob_free(b)); }
static inline int32_t call_device_count(const bei_trt_api *a, bei_trt_library *l, int32_t *count, bei_trt_error *e) {
  CALL(a->device_count(l, count, e));
}
static inline int32_t call_device_get(const bei_trt_api *a, bei_trt_library *l, int32_t i, bei_trt_device *d,
                                      bei_trt_error *e) {
  CALL(a->device_get(l, i, d, e));
}
int32_t call_program_new(const bei_trt_api *a, bei_trt_library *l, const void *plan, size_t size,
                         const bei_trt_program_options *o, bei_trt_program **p, bei_trt_error *e);
static inline int32_t call_program_tensors(const bei_trt_api *a, bei_trt_program *p, bei_trt_tensor_info *t,
                                           int32_t room, int32_t *count, bei_trt_error *e) {
  CALL(a->program_tensors(p, t, room, count, e));
}
static inline int32_t call_program_memory(const bei_trt_api *a, bei_trt_program *p, bei_trt_program_memory *m,
                                          bei_trt_error *e) {
  CALL(a->program_memory(p, m, e));
}
static inline int32_t call_program_cache(const bei_trt_api *a, bei_trt_program *p, bei_trt_blob **b, bei_trt_error *e) {
  CALL(a->program_cache(p, b, e));
}
static inline void call_program_free(const bei_trt_api *a, bei_trt_program *p) { CALL_FREE(a->program_free(p)); }
static inline int32_t call_lane_new(const bei_trt_api *a, bei_trt_program *p, bei_trt_binding *b, int32_t count,
                                    bei_trt_lane **l, bei_trt_error *e) {
  CALL(a->lane_new(p, b, count, l, e));
}
static inline int32_t call_lane_needs(const bei_trt_api *a, bei_trt_lane *l, const bei_trt_dims *d, uint64_t *bytes,
                                      bei_trt_error *e) {
  CALL(a->lane_needs(l, d, bytes, e));
}
static inline int32_t call_lane_reserve(const bei_trt_api *a, bei_trt_lane *l, const bei_trt_dims *d,
                                        bei_trt_error *e) {
  CALL(a->lane_reserve(l, d, e));
}
static inline int32_t call_lane_host(const bei_trt_api *a, bei_trt_lane *l, int32_t binding, size_t bytes, void **host,
                                     bei_trt_error *e) {
  CALL(a->lane_host(l, binding, bytes, host, e));
}
static inline int32_t call_lane_enqueue(const bei_trt_api *a, bei_trt_lane *l, const bei_trt_launch *launch,
                                        int32_t *captured, bei_trt_error *e) {
  CALL(a->lane_enqueue(l, launch, captured, e));
}
int32_t call_lane_wait(const bei_trt_api *a, bei_trt_lane *l, bei_trt_error *e);
static inline void call_lane_free(const bei_trt_api *a, bei_trt_lane *l) { CALL_FREE(a->lane_free(l)); }

#endif
