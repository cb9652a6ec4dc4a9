// The few pieces of CUDA that the kernels use, for one block at a time on the host: every CUDA thread is a fiber. Which
// fiber runs next is drawn at random, at barriers and before accesses to shared memory, and shared memory starts out as
// NaN: an access that a barrier should have ordered gives another result sooner or later. The kernels' headers compile
// unchanged.
#pragma once
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

namespace cuda_on_host {

constexpr int kMaxThreads = 256, kStack = 64 * 1024, kWarpSize = 32;
constexpr int kSwitchEvery = 8;  // accesses to shared memory, on average

struct Index {
  unsigned x = 0;
};

struct SharedMemory {
  void* start;
  size_t bytes;
};

struct Machine {
  Index block;
  Index thread;  // of the running fiber
  int threads = 0;
  ucontext_t scheduler;
  ucontext_t fiber[kMaxThreads];
  std::vector<std::unique_ptr<char[]>> stacks;
  std::function<void()> body;
  std::vector<int> ready;  // fibers that may run
  bool finished = false;   // the fiber that ran last came to its end
  bool waits = false;      // it waits at a barrier
  std::vector<int> at_block_barrier, at_warp_barrier[kMaxThreads / kWarpSize];
  double exchange[kMaxThreads];
  std::vector<SharedMemory> shared;
  uint64_t random = 1;
  std::string skipped_file;  // its barrier in skipped_line does nothing
  int skipped_line = 0;
};

inline Machine& machine() {
  static Machine instance;
  return instance;
}

inline unsigned draw(unsigned below) {
  uint64_t& x = machine().random;  // xorshift64
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return unsigned((x >> 32) % below);
}

inline void let_others_run() {
  Machine& m = machine();
  swapcontext(&m.fiber[m.thread.x], &m.scheduler);
}

inline void wait(std::vector<int>& waiting, int expected) {
  Machine& m = machine();
  if (int(waiting.size()) + 1 == expected) {
    m.ready.insert(m.ready.end(), waiting.begin(), waiting.end());
    waiting.clear();
    return;
  }
  waiting.push_back(int(m.thread.x));
  m.waits = true;
  let_others_run();
}

inline void wait_for_warp() { wait(machine().at_warp_barrier[machine().thread.x / kWarpSize], kWarpSize); }

inline void synchronize(const char* file, int line) {
  Machine& m = machine();
  if (line == m.skipped_line && strstr(file, m.skipped_file.c_str()) != nullptr) return;
  wait(m.at_block_barrier, m.threads);
}

inline void run_fiber() {
  Machine& m = machine();
  m.body();
  m.finished = true;
  swapcontext(&m.fiber[m.thread.x], &m.scheduler);
}

inline void start_block(int threads) {
  Machine& m = machine();
  for (const SharedMemory& memory : m.shared) memset(memory.start, 0xff, memory.bytes);  // NaN, and -1
  m.ready.clear();
  for (int t = 0; t < threads; ++t) {
    getcontext(&m.fiber[t]);
    m.fiber[t].uc_stack = {m.stacks[t].get(), 0, kStack};
    m.fiber[t].uc_link = nullptr;
    makecontext(&m.fiber[t], run_fiber, 0);
    m.ready.push_back(t);
  }
}

// Runs `body` as every thread of every block; aborts where threads wait for others that have ended (a deadlock).
inline void run_grid(int64_t blocks, int threads, std::function<void()> body) {
  Machine& m = machine();
  m.threads = threads;
  m.body = std::move(body);
  while (int(m.stacks.size()) < threads) m.stacks.push_back(std::make_unique<char[]>(kStack));
  for (int64_t block = 0; block < blocks; ++block) {
    m.block.x = unsigned(block);
    start_block(threads);
    for (int left = threads; left > 0; left -= m.finished) {
      if (m.ready.empty()) {
        fprintf(stderr, "cuda_on_host: %d threads of block %u wait for ever\n", left, m.block.x);
        std::abort();
      }
      const unsigned drawn = draw(unsigned(m.ready.size()));
      const int t = m.ready[drawn];
      m.ready[drawn] = m.ready.back();
      m.ready.pop_back();
      m.thread.x = unsigned(t);
      m.finished = m.waits = false;
      swapcontext(&m.scheduler, &m.fiber[t]);
      if (!m.finished && !m.waits) m.ready.push_back(t);
    }
  }
}

// An array in shared memory.
template <typename T, int kCount>
class SharedArray {
 public:
  SharedArray() {
    memset(static_cast<void*>(value_), 0xff, sizeof(value_));
    machine().shared.push_back({value_, sizeof(value_)});
  }
  T get(int i) const {
    maybe_switch();
    return value_[i];
  }
  void set(int i, T to) {
    maybe_switch();
    value_[i] = to;
  }
  void add(int i, T more) {  // atomic: nothing comes between
    maybe_switch();
    value_[i] += more;
  }

 private:
  static void maybe_switch() {
    if (draw(kSwitchEvery) == 0) let_others_run();
  }
  T value_[kCount];
};

}  // namespace cuda_on_host

#define threadIdx (cuda_on_host::machine().thread)
#define blockIdx (cuda_on_host::machine().block)
#define __syncthreads() cuda_on_host::synchronize(__FILE__, __LINE__)

inline unsigned __ballot_sync(unsigned, bool predicate) {
  auto& m = cuda_on_host::machine();
  const unsigned self = m.thread.x, first = self / 32 * 32;
  m.exchange[self] = predicate;
  cuda_on_host::wait_for_warp();
  unsigned mask = 0;
  for (unsigned lane = 0; lane < 32; ++lane) mask |= unsigned(m.exchange[first + lane] != 0) << lane;
  cuda_on_host::wait_for_warp();
  return mask;
}

template <typename S>
S __shfl_xor_sync(unsigned, S value, int offset) {
  auto& m = cuda_on_host::machine();
  const unsigned self = m.thread.x;
  m.exchange[self] = double(value);
  cuda_on_host::wait_for_warp();
  const S other = S(m.exchange[self ^ unsigned(offset)]);
  cuda_on_host::wait_for_warp();
  return other;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

template <typename S>
void atomicAdd(S* target, S value) {
  *target += value;  // fibers do not change in between
}

struct float4 {
  float x, y, z, w;
};

inline void atomicAdd(float4* target, float4 value) {
  if (reinterpret_cast<uintptr_t>(target) % 16 != 0) std::abort();  // as the device would
  target->x += value.x;
  target->y += value.y;
  target->z += value.z;
  target->w += value.w;
}
