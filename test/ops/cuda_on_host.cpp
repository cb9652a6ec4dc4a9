// The CUDA kernels' headers compiled for the host; called through ctypes by cuda_on_host.py.
#include "cuda_on_host.h"

#include "cuda/launch.cuh"

// backward: 0 or 1; type: FeatureType; arguments: the bytes of an Arguments.
extern "C" void run_on_host(int backward, int type, int fused, const void* arguments) {
  using namespace sparse4d;
  Arguments a;
  memcpy(&a, arguments, sizeof(a));
  generic::launch(backward ? generic::Direction::Backward : generic::Direction::Forward, FeatureType(type), fused != 0,
                  a, [](auto kernel, int64_t blocks, const Arguments& args, const generic::LevelMaps& maps) {
                    cuda_on_host::run_grid(blocks, generic::kThreads, [&] { kernel(args, maps); });
                  });
}

extern "C" int64_t size_of_arguments() { return int64_t(sizeof(sparse4d::Arguments)); }
