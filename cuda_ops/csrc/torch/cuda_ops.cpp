// The operators on CUDA.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../cuda/kernels.h"
#include "device_ops.h"

namespace sparse4d {
namespace {

void check_launch(const Sizes& size) {
  TORCH_CHECK_VALUE(size.cameras * size.levels <= kMaxCudaMaps, "spatial_shapes: expected at most ", kMaxCudaMaps,
                    " maps (cameras x levels) on CUDA, got ", size.cameras * size.levels);
  TORCH_CHECK_VALUE(size.batch * size.anchors < (int64_t(1) << 31),
                    "weights: expected fewer than 2^31 output rows (batch x anchors), got ", size.batch * size.anchors);
  constexpr int64_t kMost = (int64_t(1) << 31) - 1;
  const int64_t weights = size.points * size.cameras * size.levels * size.groups;
  TORCH_CHECK_VALUE(weights <= kMost && size.channels <= kMost,
                    "weights: expected fewer than 2^31 weights and channels of one anchor on CUDA, got ", weights,
                    " and ", size.channels);
}

at::Tensor forward_cuda(Operands o) {
  const Sizes& size = o.arguments.sizes;
  check_launch(size);
  const c10::cuda::CUDAGuard guard(o.features.device());
  at::Tensor output = at::empty({size.batch, size.anchors, size.channels}, o.features.options());
  o.arguments.output = output.mutable_data_ptr();
  const int error = launch_forward(o.type, o.source.fused(), o.arguments, c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_CHECK(cudaError_t(error));
  return output;
}

Gradients backward_cuda(Operands o, const at::Tensor& grad_output, std::array<bool, 3> wanted) {
  check_launch(o.arguments.sizes);
  const c10::cuda::CUDAGuard guard(o.features.device());
  const auto compute = o.weights.options();  // sums of lower precision features are float32, rounded once
  at::Tensor features = wanted[0] ? at::zeros(o.features.sizes(), compute) : at::empty({0}, compute);
  at::Tensor source = wanted[1] ? at::zeros_like(o.source.differentiable()) : at::empty({0}, compute);
  at::Tensor weights = wanted[2] ? at::zeros_like(o.weights) : at::empty({0}, compute);
  o.arguments.grad_output = grad_output.const_data_ptr();
  o.arguments.grad_features = wanted[0] ? features.mutable_data_ptr() : nullptr;
  o.arguments.grad_location = wanted[1] ? source.mutable_data_ptr() : nullptr;
  o.arguments.grad_weights = wanted[2] ? weights.mutable_data_ptr() : nullptr;
  const int error = launch_backward(o.type, o.source.fused(), o.arguments, c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_CHECK(cudaError_t(error));
  return {features.to(o.features.scalar_type()), source, weights};
}

}  // namespace

TORCH_LIBRARY_IMPL(sparse4d, CUDA, m) { DeviceOperators<forward_cuda, backward_cuda>::add_to(m); }

}  // namespace sparse4d
