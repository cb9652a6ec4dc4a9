// The few pieces of CUDA that the kernels use, for one block at a time on the host: every CUDA thread is a fiber, and
// barriers, ballots and shuffles let the others run until all have arrived. The kernels' headers compile unchanged.
#pragma once
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__ static

namespace cuda_on_host {

constexpr int kMaxThreads = 256, kStack = 64 * 1024, kWarpSize = 32;

struct Index {
  unsigned x = 0;
};

struct Barrier {
  int waiting = 0;
  long generation = 0;
};

struct Machine {
  Index block;
  Index thread;  // of the running fiber
  int threads = 0;
  ucontext_t scheduler;
  ucontext_t fiber[kMaxThreads];
  bool finished[kMaxThreads];
  std::vector<std::unique_ptr<char[]>> stacks;
  std::function<void()> body;
  Barrier block_barrier, warp_barrier[kMaxThreads / kWarpSize];
  double exchange[kMaxThreads];
};

inline Machine& machine() {
  static Machine instance;
  return instance;
}

inline void let_others_run() {
  Machine& m = machine();
  const unsigned self = m.thread.x;
  swapcontext(&m.fiber[self], &m.scheduler);
  m.thread.x = self;
}

inline void wait(Barrier& barrier, int expected) {
  const long generation = barrier.generation;
  if (++barrier.waiting == expected) {
    barrier.waiting = 0;
    ++barrier.generation;
    return;
  }
  while (barrier.generation == generation) let_others_run();
}

inline void wait_for_warp() { wait(machine().warp_barrier[machine().thread.x / kWarpSize], kWarpSize); }

inline void run_fiber() {
  Machine& m = machine();
  m.body();
  m.finished[m.thread.x] = true;
  swapcontext(&m.fiber[m.thread.x], &m.scheduler);
}

// Runs `body` as every thread of every block; aborts where threads wait for others that have ended (a deadlock).
inline void run_grid(int64_t blocks, int threads, std::function<void()> body) {
  Machine& m = machine();
  m.threads = threads;
  m.body = std::move(body);
  while (int(m.stacks.size()) < threads) m.stacks.push_back(std::make_unique<char[]>(kStack));
  for (int64_t block = 0; block < blocks; ++block) {
    m.block.x = unsigned(block);
    for (int t = 0; t < threads; ++t) {
      m.finished[t] = false;
      getcontext(&m.fiber[t]);
      m.fiber[t].uc_stack = {m.stacks[t].get(), 0, kStack};
      m.fiber[t].uc_link = nullptr;
      makecontext(&m.fiber[t], run_fiber, 0);
    }
    for (int left = threads, rounds = 0; left > 0; ++rounds) {
      if (rounds > 10000000) std::abort();
      left = 0;
      for (int t = 0; t < threads; ++t) {
        if (m.finished[t]) continue;
        m.thread.x = unsigned(t);
        swapcontext(&m.scheduler, &m.fiber[t]);
        left += !m.finished[t];
      }
    }
  }
}

}  // namespace cuda_on_host

#define threadIdx (cuda_on_host::machine().thread)
#define blockIdx (cuda_on_host::machine().block)

inline void __syncthreads() {
  cuda_on_host::wait(cuda_on_host::machine().block_barrier, cuda_on_host::machine().threads);
}

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
  *target += value;  // fibers only change at barriers
}
