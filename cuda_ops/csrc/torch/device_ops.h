// What each device implements.
#pragma once
#include <array>
#include <tuple>

#include "operands.h"

namespace sparse4d {

// Of features, of the locations (fused: key points), of the weights; empty where not wanted.
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

at::Tensor forward_cpu(Operands operands);
Gradients backward_cpu(Operands operands, const at::Tensor& grad_output, std::array<bool, 3> wanted);

#ifdef SPARSE4D_CUDA
at::Tensor forward_cuda(Operands operands);
Gradients backward_cuda(Operands operands, const at::Tensor& grad_output, std::array<bool, 3> wanted);
#endif

}  // namespace sparse4d
