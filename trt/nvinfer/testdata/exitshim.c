/*
 * A libbei_trt_*.so for exit_test.go. Like TensorRT it makes statics as late as in its first run, and their destructor runs at exit.
 * Its second run lasts until the file of $BEI_TEST_EXIT_RELEASE is there, and device_count has a thread of its own call exit().
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../shim.h"

static void say(const char *text) {
  if (write(STDOUT_FILENO, text, strlen(text)) < 0)
    abort();
}

static void destroy(void) { say("destroyed\n"); }

static void *leave(void *unused) {
  (void)unused;
  exit(7);
}

static int32_t device_count(bei_trt_library *l, int32_t *count, bei_trt_error *e) {
  (void)l, (void)e;
  pthread_t thread;
  *count = 1;
  return pthread_create(&thread, NULL, leave, NULL);
}

static int32_t program_new(bei_trt_library *l, const void *plan, size_t size, const bei_trt_program_options *o,
                           bei_trt_program **p, bei_trt_error *e) {
  (void)l, (void)plan, (void)size, (void)o, (void)p, (void)e;
  return 0;
}

static int32_t lane_new(bei_trt_program *p, bei_trt_binding *b, int32_t count, bei_trt_lane **l, bei_trt_error *e) {
  (void)p, (void)b, (void)count, (void)l, (void)e;
  return 0;
}

static int32_t lane_wait(bei_trt_lane *l, bei_trt_error *e) {
  static int runs;
  (void)l;
  if (runs++ == 0)
    return atexit(destroy);
  say("inside\n");
  while (access(getenv("BEI_TEST_EXIT_RELEASE"), F_OK) != 0)
    usleep(1000);
  say("left\n");
  strcpy(e->text, "the driver is shutting down");
  return BEI_TRT_LOST;
}

int32_t bei_trt_open(uint32_t abi, const char *path, bei_trt_log log, void *log_context, int32_t log_info,
                     bei_trt_library **library, bei_trt_api *api, bei_trt_error *e) {
  (void)abi, (void)path, (void)log, (void)log_context, (void)log_info, (void)library, (void)e;
  *api = (bei_trt_api){.flavour = "fake",
                       .version = "1",
                       .path = "",
                       .device_count = device_count,
                       .program_new = program_new,
                       .lane_new = lane_new,
                       .lane_wait = lane_wait};
  return 0;
}
