// What each device implements, and its registration under the device's dispatch key.
#pragma once
#include <torch/library.h>

#include <array>
#include <tuple>

#include "operands.h"

namespace sparse4d {

// Of features, of the locations (fused: key points), of the weights; empty where not wanted.
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Forward = at::Tensor(Operands);
using Backward = Gradients(Operands, const at::Tensor& grad_output, std::array<bool, 3> wanted);

// The plain and the fused operator of a device, from one function for each direction.
template <Forward* run_forward, Backward* run_backward>
struct DeviceOperators {
  static at::Tensor forward(const at::Tensor& features, at::IntArrayRef shapes, at::IntArrayRef starts,
                            const at::Tensor& location, const at::Tensor& weights) {
    return run_forward(operands(features, shapes, starts, {location, {}, {}, {}}, weights));
  }

  static Gradients backward(const at::Tensor& grad_output, const at::Tensor& features, at::IntArrayRef shapes,
                            at::IntArrayRef starts, const at::Tensor& location, const at::Tensor& weights,
                            std::array<bool, 3> wanted) {
    return checked_backward(operands(features, shapes, starts, {location, {}, {}, {}}, weights), grad_output, wanted);
  }

  static at::Tensor fused_forward(const at::Tensor& features, at::IntArrayRef shapes, at::IntArrayRef starts,
                                  const at::Tensor& key_points, const at::Tensor& projection,
                                  const at::Tensor& image_wh, const at::Tensor& weights) {
    return run_forward(operands(features, shapes, starts, {{}, key_points, projection, image_wh}, weights));
  }

  static Gradients fused_backward(const at::Tensor& grad_output, const at::Tensor& features, at::IntArrayRef shapes,
                                  at::IntArrayRef starts, const at::Tensor& key_points, const at::Tensor& projection,
                                  const at::Tensor& image_wh, const at::Tensor& weights, std::array<bool, 3> wanted) {
    return checked_backward(operands(features, shapes, starts, {{}, key_points, projection, image_wh}, weights),
                            grad_output, wanted);
  }

  static Gradients checked_backward(Operands o, const at::Tensor& grad_output, std::array<bool, 3> wanted) {
    const Sizes& size = o.arguments.sizes;
    check_tensor("grad_output", grad_output, {size.batch, size.anchors, size.channels}, "[batch, anchors, channels]",
                 o.features.scalar_type(), o.features.device());
    return run_backward(std::move(o), grad_output, wanted);
  }

  static void add_to(torch::Library& library) {
    library.impl("deformable_aggregation", forward);
    library.impl("deformable_aggregation_backward", backward);
    library.impl("fused_deformable_aggregation", fused_forward);
    library.impl("fused_deformable_aggregation_backward", fused_backward);
  }
};

}  // namespace sparse4d
