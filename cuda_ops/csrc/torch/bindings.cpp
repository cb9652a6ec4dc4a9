// Schemas, and per dispatch key: CPU, CUDA, Meta (fake tensors), Autograd and Autocast.
#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "device_ops.h"

namespace sparse4d {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// ---- the device's implementation behind both operators -------------------------------------------------------------

Tensor run_forward(Operands o) {
#ifdef SPARSE4D_CUDA
  if (o.features.is_cuda()) return forward_cuda(std::move(o));
#endif
  return forward_cpu(std::move(o));
}

Gradients run_backward(Operands o, const Tensor& grad_output, std::array<bool, 3> wanted) {
  const Sizes& size = o.arguments.sizes;
  check_tensor("grad_output", grad_output, {size.batch, size.anchors, size.channels}, "[batch, anchors, channels]",
               o.features.scalar_type(), o.features.device());
#ifdef SPARSE4D_CUDA
  if (o.features.is_cuda()) return backward_cuda(std::move(o), grad_output, wanted);
#endif
  return backward_cpu(std::move(o), grad_output, wanted);
}

Tensor forward(const Tensor& features, const Tensor& shapes, const Tensor& starts, const Tensor& location,
               const Tensor& weights) {
  return run_forward(operands(features, shapes, starts, {location, {}, {}, {}}, weights));
}

Gradients backward(const Tensor& grad_output, const Tensor& features, const Tensor& shapes, const Tensor& starts,
                   const Tensor& location, const Tensor& weights, std::array<bool, 3> wanted) {
  return run_backward(operands(features, shapes, starts, {location, {}, {}, {}}, weights), grad_output, wanted);
}

Tensor fused_forward(const Tensor& features, const Tensor& shapes, const Tensor& starts, const Tensor& key_points,
                     const Tensor& projection, const Tensor& image_wh, const Tensor& weights) {
  return run_forward(operands(features, shapes, starts, {{}, key_points, projection, image_wh}, weights));
}

Gradients fused_backward(const Tensor& grad_output, const Tensor& features, const Tensor& shapes, const Tensor& starts,
                         const Tensor& key_points, const Tensor& projection, const Tensor& image_wh,
                         const Tensor& weights, std::array<bool, 3> wanted) {
  return run_backward(operands(features, shapes, starts, {{}, key_points, projection, image_wh}, weights), grad_output,
                      wanted);
}

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

Tensor forward_meta(const Tensor& features, const Tensor&, const Tensor&, const Tensor&, const Tensor& weights) {
  return meta_output(features, weights);
}

Gradients backward_meta(const Tensor&, const Tensor& features, const Tensor&, const Tensor&, const Tensor& location,
                        const Tensor& weights, std::array<bool, 3> wanted) {
  return meta_gradients(features, location, weights, wanted);
}

Tensor fused_forward_meta(const Tensor& features, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                          const Tensor&, const Tensor& weights) {
  return meta_output(features, weights);
}

Gradients fused_backward_meta(const Tensor&, const Tensor& features, const Tensor&, const Tensor&,
                              const Tensor& key_points, const Tensor&, const Tensor&, const Tensor& weights,
                              std::array<bool, 3> wanted) {
  return meta_gradients(features, key_points, weights, wanted);
}

// ---- calls through the dispatcher ----------------------------------------------------------------------------------

Tensor call_forward(const Tensor& features, const Tensor& shapes, const Tensor& starts, const Tensor& location,
                    const Tensor& weights) {
  static auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("sparse4d::deformable_aggregation", "").typed<decltype(forward)>();
  return op.call(features, shapes, starts, location, weights);
}

Gradients call_backward(const Tensor& grad_output, const Tensor& features, const Tensor& shapes, const Tensor& starts,
                        const Tensor& location, const Tensor& weights, std::array<bool, 3> wanted) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("sparse4d::deformable_aggregation_backward", "")
                       .typed<decltype(backward)>();
  return op.call(grad_output, features, shapes, starts, location, weights, wanted);
}

Tensor call_fused_forward(const Tensor& features, const Tensor& shapes, const Tensor& starts, const Tensor& key_points,
                          const Tensor& projection, const Tensor& image_wh, const Tensor& weights) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("sparse4d::fused_deformable_aggregation", "")
                       .typed<decltype(fused_forward)>();
  return op.call(features, shapes, starts, key_points, projection, image_wh, weights);
}

Gradients call_fused_backward(const Tensor& grad_output, const Tensor& features, const Tensor& shapes,
                              const Tensor& starts, const Tensor& key_points, const Tensor& projection,
                              const Tensor& image_wh, const Tensor& weights, std::array<bool, 3> wanted) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("sparse4d::fused_deformable_aggregation_backward", "")
                       .typed<decltype(fused_backward)>();
  return op.call(grad_output, features, shapes, starts, key_points, projection, image_wh, weights, wanted);
}

// ---- autograd ------------------------------------------------------------------------------------------------------

Tensor only_if(bool wanted, const Tensor& gradient) { return wanted ? gradient : Tensor(); }

struct Aggregation : torch::autograd::Function<Aggregation> {
  static Tensor forward(AutogradContext* context, const Tensor& features, const Tensor& shapes, const Tensor& starts,
                        const Tensor& location, const Tensor& weights) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({features, shapes, starts, location, weights});
    return call_forward(features, shapes, starts, location, weights);
  }

  static variable_list backward(AutogradContext* context, variable_list grad) {
    const auto s = context->get_saved_variables();
    const std::array<bool, 3> wanted = {context->needs_input_grad(0), context->needs_input_grad(3),
                                        context->needs_input_grad(4)};
    auto [features, location, weights] = call_backward(grad[0].contiguous(), s[0], s[1], s[2], s[3], s[4], wanted);
    return {only_if(wanted[0], features), Tensor(), Tensor(), only_if(wanted[1], location),
            only_if(wanted[2], weights)};
  }
};

struct FusedAggregation : torch::autograd::Function<FusedAggregation> {
  static Tensor forward(AutogradContext* context, const Tensor& features, const Tensor& shapes, const Tensor& starts,
                        const Tensor& key_points, const Tensor& projection, const Tensor& image_wh,
                        const Tensor& weights) {
    TORCH_CHECK_VALUE(!projection.requires_grad() && !image_wh.requires_grad(),
                      "projection, image_wh: the fused operator gives them no gradient; detach() them or use "
                      "deformable_aggregation");
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({features, shapes, starts, key_points, projection, image_wh, weights});
    return call_fused_forward(features, shapes, starts, key_points, projection, image_wh, weights);
  }

  static variable_list backward(AutogradContext* context, variable_list grad) {
    const auto s = context->get_saved_variables();
    const std::array<bool, 3> wanted = {context->needs_input_grad(0), context->needs_input_grad(3),
                                        context->needs_input_grad(6)};
    auto [features, key_points, weights] =
        call_fused_backward(grad[0].contiguous(), s[0], s[1], s[2], s[3], s[4], s[5], s[6], wanted);
    return {only_if(wanted[0], features), Tensor(), Tensor(), only_if(wanted[1], key_points), Tensor(), Tensor(),
            only_if(wanted[2], weights)};
  }
};

Tensor forward_autograd(const Tensor& features, const Tensor& shapes, const Tensor& starts, const Tensor& location,
                        const Tensor& weights) {
  return Aggregation::apply(features, shapes, starts, location, weights);
}

Tensor fused_forward_autograd(const Tensor& features, const Tensor& shapes, const Tensor& starts,
                              const Tensor& key_points, const Tensor& projection, const Tensor& image_wh,
                              const Tensor& weights) {
  return FusedAggregation::apply(features, shapes, starts, key_points, projection, image_wh, weights);
}

// ---- autocast: features in the lower precision, everything that is a coordinate or a weight in float32
// ---------------

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
Tensor forward_autocast(const Tensor& features, const Tensor& shapes, const Tensor& starts, const Tensor& location,
                        const Tensor& weights) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  return call_forward(low<device>(features), shapes, starts, full<device>(location), full<device>(weights));
}

template <c10::DeviceType device, c10::DispatchKey key>
Tensor fused_forward_autocast(const Tensor& features, const Tensor& shapes, const Tensor& starts,
                              const Tensor& key_points, const Tensor& projection, const Tensor& image_wh,
                              const Tensor& weights) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  return call_fused_forward(low<device>(features), shapes, starts, full<device>(key_points), full<device>(projection),
                            full<device>(image_wh), full<device>(weights));
}

constexpr auto kCPU = c10::DeviceType::CPU;
constexpr auto kCUDA = c10::DeviceType::CUDA;

}  // namespace

TORCH_LIBRARY(sparse4d, m) {
  m.def(
      "deformable_aggregation(Tensor features, Tensor spatial_shapes, Tensor scale_start_index, "
      "Tensor sampling_location, Tensor weights) -> Tensor");
  m.def(
      "deformable_aggregation_backward(Tensor grad_output, Tensor features, Tensor spatial_shapes, "
      "Tensor scale_start_index, Tensor sampling_location, Tensor weights, bool[3] wanted) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "fused_deformable_aggregation(Tensor features, Tensor spatial_shapes, Tensor scale_start_index, "
      "Tensor key_points, Tensor projection, Tensor image_wh, Tensor weights) -> Tensor");
  m.def(
      "fused_deformable_aggregation_backward(Tensor grad_output, Tensor features, Tensor spatial_shapes, "
      "Tensor scale_start_index, Tensor key_points, Tensor projection, Tensor image_wh, Tensor weights, "
      "bool[3] wanted) -> (Tensor, Tensor, Tensor)");
}

#define SPARSE4D_REGISTER(key)                                       \
  TORCH_LIBRARY_IMPL(sparse4d, key, m) {                             \
    m.impl("deformable_aggregation", forward);                       \
    m.impl("deformable_aggregation_backward", backward);             \
    m.impl("fused_deformable_aggregation", fused_forward);           \
    m.impl("fused_deformable_aggregation_backward", fused_backward); \
  }
SPARSE4D_REGISTER(CPU)
#ifdef SPARSE4D_CUDA
SPARSE4D_REGISTER(CUDA)
#endif

TORCH_LIBRARY_IMPL(sparse4d, Meta, m) {
  m.impl("deformable_aggregation", forward_meta);
  m.impl("deformable_aggregation_backward", backward_meta);
  m.impl("fused_deformable_aggregation", fused_forward_meta);
  m.impl("fused_deformable_aggregation_backward", fused_backward_meta);
}

TORCH_LIBRARY_IMPL(sparse4d, Autograd, m) {
  m.impl("deformable_aggregation", forward_autograd);
  m.impl("fused_deformable_aggregation", fused_forward_autograd);
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
