// The CUDA kernels' headers compiled for the host; called through ctypes by cuda_on_host.py.
#include "cuda_on_host.h"

#define SPARSE4D_TARGET cuda
#include "cuda/atomic_forward.cuh"
#include "cuda/kernels.h"

// backward: 0 or 1; type: FeatureType; arguments: the bytes of an Arguments; seed: of the order of the threads.
extern "C" void run_on_host(int backward, int type, int fused, const void* arguments, uint64_t seed) {
  using namespace sparse4d;
  cuda_on_host::machine().random = seed * 2654435761u + 1;
  Arguments a;
  memcpy(&a, arguments, sizeof(a));
  cuda::launch(backward ? cuda::Direction::Backward : cuda::Direction::Forward, FeatureType(type), fused != 0, a,
               [](auto kernel, int64_t blocks, const Arguments& args, const cuda::LevelMaps& maps) {
                 cuda_on_host::run_grid(blocks, cuda::kThreads, [&] { kernel(args, maps); });
               });
}

extern "C" void run_atomic_forward(const void* arguments) {
  using namespace sparse4d;
  Arguments a;
  memcpy(&a, arguments, sizeof(a));
  cuda::LevelMaps maps{};
  for (int64_t i = 0; i < a.sizes.cameras * a.sizes.levels; ++i) maps.map[i] = a.maps[i];
  cuda_on_host::run_grid(cuda::atomic_forward_blocks(a.sizes), cuda::kThreads,
                         [&] { cuda::atomic_forward_kernel(a, maps); });
}

extern "C" int64_t size_of_arguments() { return int64_t(sizeof(sparse4d::Arguments)); }

// From here on the barrier in that line does nothing.
extern "C" void skip_barrier(const char* file, int line) {
  cuda_on_host::machine().skipped_file = file;
  cuda_on_host::machine().skipped_line = line;
}
