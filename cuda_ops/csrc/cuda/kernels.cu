// All CUDA kernels; needs nvcc, not torch.
#include "kernels.h"
#include "launch.cuh"

namespace sparse4d {
namespace {

int run(generic::Direction direction, FeatureType type, bool fused, const Arguments& arguments, void* stream) {
  static_assert(kMaxCudaMaps == generic::kMaxMaps, "one limit");
  generic::launch(direction, type, fused, arguments,
                  [&](auto kernel, int64_t blocks, const Arguments& a, const generic::LevelMaps& maps) {
                    kernel<<<dim3(unsigned(blocks)), generic::kThreads, 0, cudaStream_t(stream)>>>(a, maps);
                  });
  return int(cudaGetLastError());
}

}  // namespace

int launch_forward(FeatureType type, bool fused, const Arguments& arguments, void* stream) {
  return run(generic::Direction::Forward, type, fused, arguments, stream);
}

int launch_backward(FeatureType type, bool fused, const Arguments& arguments, void* stream) {
  return run(generic::Direction::Backward, type, fused, arguments, stream);
}

}  // namespace sparse4d
