// launch_forward of cuda/kernels.h on the host, as cuda_on_host.cpp runs the kernels: what TensorRT's plugin calls.
#include "cuda_on_host.h"

#define SPARSE4D_TARGET cuda
#include "cuda/kernels.h"

namespace sparse4d {

int launch_forward(FeatureType type, bool fused, const Arguments& arguments, void*) {
  cuda::launch(cuda::Direction::Forward, type, fused, arguments,
               [](auto kernel, int64_t blocks, const Arguments& a, const cuda::LevelMaps& maps) {
                 cuda_on_host::run_grid(blocks, cuda::kThreads, [&] { kernel(a, maps); });
               });
  return 0;
}

}  // namespace sparse4d
