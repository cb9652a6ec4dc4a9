// The operators on the CPU: torch's thread pool runs the kernels of the best instruction set.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "../cpu/kernels.h"
#include "device_ops.h"

namespace sparse4d {
namespace {

void run(RangeKernel kernel, const Arguments& arguments, int64_t tasks, int64_t grain) {
  at::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) { kernel(arguments, begin, end); });
}

// Enough tasks to keep all threads busy to the end, in blocks of at least 64 channels. Features in lower precision are
// summed in a float32 copy of the task's part of the map, which stays small in the smallest blocks.
int64_t channel_blocks(int64_t maps, const at::Tensor& features) {
  const int64_t most = std::max<int64_t>(features.size(2) / 64, 1);
  if (maps == 0 || features.scalar_type() == at::kBFloat16) return most;
  const int64_t wanted = (4 * int64_t(at::get_num_threads()) + maps - 1) / maps;
  return std::min(most, wanted);
}

}  // namespace

at::Tensor forward_cpu(Operands o) {
  const Sizes& size = o.arguments.sizes;
  at::Tensor output = at::empty({size.batch, size.anchors, size.channels}, o.features.options());
  o.arguments.output = output.mutable_data_ptr();
  run(cpu_kernels().forward[int(o.type)][o.source.fused()], o.arguments, size.batch * size.anchors, 4);
  return output;
}

Gradients backward_cpu(Operands o, const at::Tensor& grad_output, std::array<bool, 3> wanted) {
  const Sizes& size = o.arguments.sizes;
  const CpuKernels& kernels = cpu_kernels();
  const int type = int(o.type), fused = o.source.fused();
  o.arguments.grad_output = grad_output.const_data_ptr();
  at::Tensor features = at::empty({0}, o.features.options()), source = at::empty({0}, o.weights.options());
  at::Tensor weights = source;
  if (wanted[1]) source = at::empty_like(o.source.differentiable());
  if (wanted[2]) weights = at::empty_like(o.weights);
  if (wanted[1] || wanted[2]) {
    o.arguments.grad_location = wanted[1] ? source.mutable_data_ptr() : nullptr;
    o.arguments.grad_weights = wanted[2] ? weights.mutable_data_ptr() : nullptr;
    run(kernels.backward_rows[type][fused], o.arguments, size.batch * size.anchors, 4);
  }
  if (wanted[0]) {
    features = covers_all_rows(o.maps, size.pixels) ? at::empty_like(o.features) : at::zeros_like(o.features);
    o.arguments.grad_features = features.mutable_data_ptr();
    const int64_t maps = size.batch * size.cameras * size.levels;
    o.arguments.channel_blocks = channel_blocks(maps, o.features);
    run(kernels.backward_maps[type][fused], o.arguments, maps * o.arguments.channel_blocks, 1);
  }
  return {features, source, weights};
}

}  // namespace sparse4d
