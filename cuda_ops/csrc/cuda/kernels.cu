// All CUDA kernels; needs nvcc, not torch.
#define SPARSE4D_TARGET cuda
#include "kernels.h"

namespace sparse4d {
namespace {

int run(cuda::Direction direction, FeatureType type, bool fused, const Arguments& arguments, void* stream) {
  static_assert(kMaxCudaMaps == cuda::kMaxMaps, "one limit");
  cuda::launch(direction, type, fused, arguments,
               [&](auto kernel, int64_t blocks, const Arguments& a, const cuda::LevelMaps& maps) {
                 kernel<<<dim3(unsigned(blocks)), cuda::kThreads, 0, cudaStream_t(stream)>>>(a, maps);
               });
  return int(cudaGetLastError());
}

}  // namespace

int launch_forward(FeatureType type, bool fused, const Arguments& arguments, void* stream) {
  return run(cuda::Direction::Forward, type, fused, arguments, stream);
}

int launch_backward(FeatureType type, bool fused, const Arguments& arguments, void* stream) {
  return run(cuda::Direction::Backward, type, fused, arguments, stream);
}

}  // namespace sparse4d
