// CUDA's words for the kernels on a CPU: a block is so many threads of the operating system, one block runs at a time, and what is
// __shared__ is static.
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

struct half;
struct bfloat;

#define DEVICE static inline
#define __global__
#define __launch_bounds__(threads)
#define __shared__ static
#define alignas(n) // vectors of memory that no allocator has aligned

struct dim {
  unsigned x;
};
static thread_local dim threadIdx, blockIdx;
static dim blockDim;

using barrier = std::barrier<>;
static std::unique_ptr<barrier> block_barrier;
static std::vector<std::unique_ptr<barrier>> warp_barriers;
static std::vector<float> lanes;

static void __syncthreads() { block_barrier->arrive_and_wait(); }

static float xor_lane(float x, int mask) {
  barrier &warp = *warp_barriers[threadIdx.x >> 5];
  lanes[threadIdx.x] = x;
  warp.arrive_and_wait();
  float other = lanes[threadIdx.x ^ mask];
  warp.arrive_and_wait();
  return other;
}

// What the kernels have in PTX.
#define EMULATED_NUMBERS                                                                                               \
  static float to_float(half h) {                                                                                      \
    _Float16 f;                                                                                                        \
    memcpy(&f, &h, sizeof f);                                                                                          \
    return (float)f;                                                                                                   \
  }                                                                                                                    \
  static void from_float(float f, half &h) {                                                                           \
    _Float16 g = (_Float16)f;                                                                                          \
    memcpy(&h, &g, sizeof g);                                                                                          \
  }                                                                                                                    \
  static float to_float(bfloat b) {                                                                                    \
    uint32_t bits = (uint32_t)b.bits << 16;                                                                            \
    float f;                                                                                                           \
    memcpy(&f, &bits, sizeof f);                                                                                       \
    return f;                                                                                                          \
  }                                                                                                                    \
  static void from_float(float f, bfloat &b) {                                                                         \
    uint32_t bits;                                                                                                     \
    memcpy(&bits, &f, sizeof f);                                                                                       \
    b.bits = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to nearest, ties to even; no NaN comes here */   \
  }

// Runs a kernel, block after block.
static void launch(unsigned blocks, unsigned threads, const std::function<void()> &kernel) {
  blockDim.x = threads;
  lanes.assign(threads, 0);
  for (unsigned block = 0; block < blocks; block++) {
    block_barrier = std::make_unique<barrier>(threads);
    warp_barriers.clear();
    for (unsigned warp = 0; warp < threads / 32; warp++)
      warp_barriers.push_back(std::make_unique<barrier>(32));
    std::vector<std::thread> running;
    for (unsigned thread = 0; thread < threads; thread++)
      running.emplace_back([&, thread] {
        threadIdx.x = thread;
        blockIdx.x = block;
        kernel();
        warp_barriers[thread >> 5]->arrive_and_drop();
        block_barrier->arrive_and_drop();
      });
    for (std::thread &thread : running)
      thread.join();
  }
}
