// The CUDA kernels' headers compiled for the host; called through ctypes by cuda_on_host.py.
#include "cuda_on_host.h"

#define SPARSE4D_TARGET cuda
#include "cuda/kernels.h"

// backward: 0 or 1; type: FeatureType; arguments: the bytes of an Arguments.
extern "C" void run_on_host(int backward, int type, int fused, const void* arguments) {
  using namespace sparse4d;
  Arguments a;
  memcpy(&a, arguments, sizeof(a));
  cuda::launch(backward ? cuda::Direction::Backward : cuda::Direction::Forward, FeatureType(type), fused != 0, a,
               [](auto kernel, int64_t blocks, const Arguments& args, const cuda::LevelMaps& maps) {
                 cuda_on_host::run_grid(blocks, cuda::kThreads, [&] { kernel(args, maps); });
               });
}

extern "C" int64_t size_of_arguments() { return int64_t(sizeof(sparse4d::Arguments)); }
