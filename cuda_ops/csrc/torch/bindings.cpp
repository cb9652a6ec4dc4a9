// Schemas, and what does not depend on the device: Meta (fake tensors), Autograd and Autocast. The devices register
// their own implementations (device_ops.h). Tables of the maps are integers, not tensors: a CPU tensor beside CUDA
// features could not be traced.
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "device_ops.h"

namespace sparse4d {
namespace {

using at::IntArrayRef;
using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// ---- shapes without data -------------------------------------------------------------------------------------------

Tensor meta_output(const Tensor& features, const Tensor& weights) {
  TORCH_CHECK_VALUE(features.dim() == 3 && weights.dim() == 6, "features, weights: expected 3 and 6 dimensions, got ",
                    features.dim(), " and ", weights.dim());
  return at::empty_symint({features.sym_size(0), weights.sym_size(1), features.sym_size(2)}, features.options());
}

Gradients meta_gradients(const Tensor& features, const Tensor& source, const Tensor& weights,
                         std::array<bool, 3> wanted) {
  const auto like = [](const Tensor& t, bool want) {
    return want ? at::empty_like(t, t.options(), at::MemoryFormat::Contiguous) : at::empty({0}, t.options());
  };
  return {like(features, wanted[0]), like(source, wanted[1]), like(weights, wanted[2])};
}

Tensor forward_meta(const Tensor& features, IntArrayRef, IntArrayRef, const Tensor&, const Tensor& weights) {
  return meta_output(features, weights);
}

Gradients backward_meta(const Tensor&, const Tensor& features, IntArrayRef, IntArrayRef, const Tensor& location,
                        const Tensor& weights, std::array<bool, 3> wanted) {
  return meta_gradients(features, location, weights, wanted);
}

Tensor fused_forward_meta(const Tensor& features, IntArrayRef, IntArrayRef, const Tensor&, const Tensor&, const Tensor&,
                          const Tensor& weights) {
  return meta_output(features, weights);
}

Gradients fused_backward_meta(const Tensor&, const Tensor& features, IntArrayRef, IntArrayRef, const Tensor& key_points,
                              const Tensor&, const Tensor&, const Tensor& weights, std::array<bool, 3> wanted) {
  return meta_gradients(features, key_points, weights, wanted);
}

// ---- calls through the dispatcher ----------------------------------------------------------------------------------

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name, Signature*) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

Tensor call_forward(const Tensor& features, IntArrayRef shapes, IntArrayRef starts, const Tensor& location,
                    const Tensor& weights) {
  static auto op = find("sparse4d::deformable_aggregation", forward_meta);
  return op.call(features, shapes, starts, location, weights);
}

Gradients call_backward(const Tensor& grad_output, const Tensor& features, IntArrayRef shapes, IntArrayRef starts,
                        const Tensor& location, const Tensor& weights, std::array<bool, 3> wanted) {
  static auto op = find("sparse4d::deformable_aggregation_backward", backward_meta);
  return op.call(grad_output, features, shapes, starts, location, weights, wanted);
}

Tensor call_fused_forward(const Tensor& features, IntArrayRef shapes, IntArrayRef starts, const Tensor& key_points,
                          const Tensor& projection, const Tensor& image_wh, const Tensor& weights) {
  static auto op = find("sparse4d::fused_deformable_aggregation", fused_forward_meta);
  return op.call(features, shapes, starts, key_points, projection, image_wh, weights);
}

Gradients call_fused_backward(const Tensor& grad_output, const Tensor& features, IntArrayRef shapes, IntArrayRef starts,
                              const Tensor& key_points, const Tensor& projection, const Tensor& image_wh,
                              const Tensor& weights, std::array<bool, 3> wanted) {
  static auto op = find("sparse4d::fused_deformable_aggregation_backward", fused_backward_meta);
  return op.call(grad_output, features, shapes, starts, key_points, projection, image_wh, weights, wanted);
}

// ---- autograd ------------------------------------------------------------------------------------------------------

Tensor only_if(bool wanted, const Tensor& gradient) { return wanted ? gradient : Tensor(); }

struct Aggregation : torch::autograd::Function<Aggregation> {
  static Tensor forward(AutogradContext* context, const Tensor& features, IntArrayRef shapes, IntArrayRef starts,
                        const Tensor& location, const Tensor& weights) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->saved_data["shapes"] = shapes;
    context->saved_data["starts"] = starts;
    context->save_for_backward({features, location, weights});
    return call_forward(features, shapes, starts, location, weights);
  }

  static variable_list backward(AutogradContext* context, variable_list grad) {
    const auto s = context->get_saved_variables();
    const auto shapes = context->saved_data["shapes"].toIntVector(),
               starts = context->saved_data["starts"].toIntVector();
    const std::array<bool, 3> wanted = {context->needs_input_grad(0), context->needs_input_grad(1),
                                        context->needs_input_grad(2)};  // counted among the tensors
    auto [features, location, weights] = call_backward(grad[0].contiguous(), s[0], shapes, starts, s[1], s[2], wanted);
    return {only_if(wanted[0], features), Tensor(), Tensor(), only_if(wanted[1], location),
            only_if(wanted[2], weights)};
  }
};

struct FusedAggregation : torch::autograd::Function<FusedAggregation> {
  static Tensor forward(AutogradContext* context, const Tensor& features, IntArrayRef shapes, IntArrayRef starts,
                        const Tensor& key_points, const Tensor& projection, const Tensor& image_wh,
                        const Tensor& weights) {
    TORCH_CHECK_VALUE(!projection.requires_grad() && !image_wh.requires_grad(),
                      "projection, image_wh: the fused operator gives them no gradient; detach() them or use "
                      "deformable_aggregation");
    at::AutoDispatchBelowADInplaceOrView below;
    context->saved_data["shapes"] = shapes;
    context->saved_data["starts"] = starts;
    context->save_for_backward({features, key_points, projection, image_wh, weights});
    return call_fused_forward(features, shapes, starts, key_points, projection, image_wh, weights);
  }

  static variable_list backward(AutogradContext* context, variable_list grad) {
    const auto s = context->get_saved_variables();
    const auto shapes = context->saved_data["shapes"].toIntVector(),
               starts = context->saved_data["starts"].toIntVector();
    const std::array<bool, 3> wanted = {context->needs_input_grad(0), context->needs_input_grad(1),
                                        context->needs_input_grad(4)};
    auto [features, key_points, weights] =
        call_fused_backward(grad[0].contiguous(), s[0], shapes, starts, s[1], s[2], s[3], s[4], wanted);
    return {only_if(wanted[0], features), Tensor(), Tensor(), only_if(wanted[1], key_points), Tensor(), Tensor(),
            only_if(wanted[2], weights)};
  }
};

variable_list no_second_derivative() {
  TORCH_CHECK_NOT_IMPLEMENTED(false,
                              "deformable_aggregation: second derivatives are not implemented; differentiate once, or "
                              "use cuda_ops.reference, which PyTorch differentiates any number of times");
}

struct AggregationBackward : torch::autograd::Function<AggregationBackward> {
  static variable_list forward(AutogradContext*, const Tensor& grad_output, const Tensor& features, IntArrayRef shapes,
                               IntArrayRef starts, const Tensor& location, const Tensor& weights,
                               std::array<bool, 3> wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [a, b, c] = call_backward(grad_output, features, shapes, starts, location, weights, wanted);
    return {a, b, c};
  }
  static variable_list backward(AutogradContext*, variable_list) { return no_second_derivative(); }
};

struct FusedAggregationBackward : torch::autograd::Function<FusedAggregationBackward> {
  static variable_list forward(AutogradContext*, const Tensor& grad_output, const Tensor& features, IntArrayRef shapes,
                               IntArrayRef starts, const Tensor& key_points, const Tensor& projection,
                               const Tensor& image_wh, const Tensor& weights, std::array<bool, 3> wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [a, b, c] =
        call_fused_backward(grad_output, features, shapes, starts, key_points, projection, image_wh, weights, wanted);
    return {a, b, c};
  }
  static variable_list backward(AutogradContext*, variable_list) { return no_second_derivative(); }
};

// On CUDA gradients are added atomically, in any order; also fake tensors of a trace come by here.
void alert_on_cuda(const Tensor& features) {
  if (features.is_cuda()) at::globalContext().alertNotDeterministic("deformable_aggregation_backward_cuda");
}

Tensor forward_autograd(const Tensor& features, IntArrayRef shapes, IntArrayRef starts, const Tensor& location,
                        const Tensor& weights) {
  return Aggregation::apply(features, shapes, starts, location, weights);
}

Gradients backward_autograd(const Tensor& grad_output, const Tensor& features, IntArrayRef shapes, IntArrayRef starts,
                            const Tensor& location, const Tensor& weights, std::array<bool, 3> wanted) {
  alert_on_cuda(features);
  auto g = AggregationBackward::apply(grad_output, features, shapes, starts, location, weights, wanted);
  return {g[0], g[1], g[2]};
}

Tensor fused_forward_autograd(const Tensor& features, IntArrayRef shapes, IntArrayRef starts, const Tensor& key_points,
                              const Tensor& projection, const Tensor& image_wh, const Tensor& weights) {
  return FusedAggregation::apply(features, shapes, starts, key_points, projection, image_wh, weights);
}

Gradients fused_backward_autograd(const Tensor& grad_output, const Tensor& features, IntArrayRef shapes,
                                  IntArrayRef starts, const Tensor& key_points, const Tensor& projection,
                                  const Tensor& image_wh, const Tensor& weights, std::array<bool, 3> wanted) {
  alert_on_cuda(features);
  auto g = FusedAggregationBackward::apply(grad_output, features, shapes, starts, key_points, projection, image_wh,
                                           weights, wanted);
  return {g[0], g[1], g[2]};
}

// ---- autocast: features in the lower precision, coordinates and weights in float32 ----------------------------------

template <c10::DeviceType device>
Tensor low(const Tensor& features) {
  const at::ScalarType dtype = at::autocast::get_lower_precision_fp_from_device_type(device);
  const bool supported = device == c10::DeviceType::CUDA || dtype != at::kHalf;  // no float16 on the CPU
  return at::autocast::cached_cast(supported ? dtype : at::kFloat, features, device);
}

template <c10::DeviceType device>
Tensor full(const Tensor& tensor) {
  return at::autocast::cached_cast(at::kFloat, tensor, device);
}

template <c10::DeviceType device, c10::DispatchKey key>
Tensor forward_autocast(const Tensor& features, IntArrayRef shapes, IntArrayRef starts, const Tensor& location,
                        const Tensor& weights) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  return call_forward(low<device>(features), shapes, starts, full<device>(location), full<device>(weights));
}

template <c10::DeviceType device, c10::DispatchKey key>
Tensor fused_forward_autocast(const Tensor& features, IntArrayRef shapes, IntArrayRef starts, const Tensor& key_points,
                              const Tensor& projection, const Tensor& image_wh, const Tensor& weights) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  return call_fused_forward(low<device>(features), shapes, starts, full<device>(key_points), full<device>(projection),
                            full<device>(image_wh), full<device>(weights));
}

constexpr auto kCPU = c10::DeviceType::CPU;
constexpr auto kCUDA = c10::DeviceType::CUDA;

}  // namespace

TORCH_LIBRARY(sparse4d, m) {
  m.def(
      "deformable_aggregation(Tensor features, int[] spatial_shapes, int[] scale_start_index, "
      "Tensor sampling_location, Tensor weights) -> Tensor");
  m.def(
      "deformable_aggregation_backward(Tensor grad_output, Tensor features, int[] spatial_shapes, "
      "int[] scale_start_index, Tensor sampling_location, Tensor weights, bool[3] wanted) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "fused_deformable_aggregation(Tensor features, int[] spatial_shapes, int[] scale_start_index, "
      "Tensor key_points, Tensor projection, Tensor image_wh, Tensor weights) -> Tensor");
  m.def(
      "fused_deformable_aggregation_backward(Tensor grad_output, Tensor features, int[] spatial_shapes, "
      "int[] scale_start_index, Tensor key_points, Tensor projection, Tensor image_wh, Tensor weights, "
      "bool[3] wanted) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(sparse4d, Meta, m) {
  m.impl("deformable_aggregation", forward_meta);
  m.impl("deformable_aggregation_backward", backward_meta);
  m.impl("fused_deformable_aggregation", fused_forward_meta);
  m.impl("fused_deformable_aggregation_backward", fused_backward_meta);
}

TORCH_LIBRARY_IMPL(sparse4d, Autograd, m) {
  m.impl("deformable_aggregation", forward_autograd);
  m.impl("deformable_aggregation_backward", backward_autograd);
  m.impl("fused_deformable_aggregation", fused_forward_autograd);
  m.impl("fused_deformable_aggregation_backward", fused_backward_autograd);
}

TORCH_LIBRARY_IMPL(sparse4d, AutocastCPU, m) {
  m.impl("deformable_aggregation", forward_autocast<kCPU, c10::DispatchKey::AutocastCPU>);
  m.impl("fused_deformable_aggregation", fused_forward_autocast<kCPU, c10::DispatchKey::AutocastCPU>);
}

TORCH_LIBRARY_IMPL(sparse4d, AutocastCUDA, m) {
  m.impl("deformable_aggregation", forward_autocast<kCUDA, c10::DispatchKey::AutocastCUDA>);
  m.impl("fused_deformable_aggregation", fused_forward_autocast<kCUDA, c10::DispatchKey::AutocastCUDA>);
}

}  // namespace sparse4d
