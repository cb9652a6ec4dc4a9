// The operators on the CPU: torch's threads run the kernels of one instruction set.
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "../cpu/kernels.h"
#include "device_ops.h"

namespace sparse4d {
namespace {

// ---- which instruction set -----------------------------------------------------------------------------------------

constexpr char kVariable[] = "SPARSE4D_CPU_KERNELS";

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const CpuKernels* const* kernels = cpu_kernels(); *kernels != nullptr; ++kernels)
    all.push_back((*kernels)->name);
  return all;
}

const CpuKernels* named(const std::string& name) {
  for (const CpuKernels* const* kernels = cpu_kernels(); *kernels != nullptr; ++kernels) {
    if (name == (*kernels)->name) return *kernels;
  }
  return nullptr;
}

const CpuKernels* from_environment() {
  const CpuKernels* const best = cpu_kernels()[0];
  const char* const name = std::getenv(kVariable);
  if (name == nullptr || *name == '\0') return best;
  const CpuKernels* const wanted = named(name);
  if (wanted == nullptr) {
    TORCH_WARN(kVariable, ": expected one that this processor runs (", c10::Join(", ", names()), "), got '", name,
               "'; using ", best->name);
  }
  return wanted == nullptr ? best : wanted;
}

std::atomic<const CpuKernels*>& chosen() {
  static std::atomic<const CpuKernels*> kernels{from_environment()};
  return kernels;
}

// Returns the name of those used until now.
std::string use_cpu_kernels(const std::string& name) {
  const CpuKernels* const wanted = named(name);
  TORCH_CHECK_VALUE(wanted != nullptr, "name: expected one that this processor runs (", c10::Join(", ", names()),
                    "), got '", name, "'");
  return chosen().exchange(wanted)->name;
}

// ---- their work, divided among threads -----------------------------------------------------------------------------

// Through an iterator, whose loop is compiled into torch: at::parallel_for would be compiled here, with an OpenMP that
// this compiler may lack, or that is another one than torch's and knows nothing of its number of threads.
void run(RangeKernel kernel, const Arguments& arguments, int64_t tasks, int64_t grain) {
  if (tasks == 0) return;
  at::Tensor place = at::empty({tasks}, at::kByte);  // the address of a task's byte is its number
  const char* const first = static_cast<const char*>(place.const_data_ptr());
  auto iterator = at::TensorIterator::borrowing_nullary_op(place);
  try {
    iterator.for_each(
        [&](char** data, const int64_t*, int64_t count) {
          const int64_t begin = data[0] - first;
          kernel(arguments, begin, begin + count);
        },
        grain);
  } catch (const std::bad_alloc&) {
    TORCH_CHECK_WITH(OutOfMemoryError, false,
                     "deformable_aggregation: not enough memory for the kernels' working memory; use fewer threads "
                     "(torch.set_num_threads), smaller maps or a smaller batch");
  }
}

// Enough tasks to keep all threads busy to the end, in blocks of at least 64 channels. Features in lower precision are
// summed in a float32 copy of the task's part of the map, which stays small in the smallest blocks.
int64_t channel_blocks(int64_t maps, const at::Tensor& features) {
  const int64_t most = std::max<int64_t>(features.size(2) / 64, 1);
  if (maps == 0 || features.scalar_type() == at::kBFloat16) return most;
  const int64_t wanted = (4 * int64_t(at::get_num_threads()) + maps - 1) / maps;
  return std::min(most, wanted);
}

at::Tensor forward_cpu(Operands o) {
  const Sizes& size = o.arguments.sizes;
  at::Tensor output = at::empty({size.batch, size.anchors, size.channels}, o.features.options());
  o.arguments.output = output.mutable_data_ptr();
  run(chosen().load()->forward[int(o.type)][o.source.fused()], o.arguments, size.batch * size.anchors, 4);
  return output;
}

Gradients backward_cpu(Operands o, const at::Tensor& grad_output, std::array<bool, 3> wanted) {
  const Sizes& size = o.arguments.sizes;
  const CpuKernels& kernels = *chosen().load();
  const int type = int(o.type), fused = o.source.fused();
  o.arguments.grad_output = grad_output.const_data_ptr();
  at::Tensor features = at::empty({0}, o.features.options()), none = at::empty({0}, o.weights.options());
  at::Tensor source = wanted[1] ? at::empty_like(o.source.differentiable()) : none;
  at::Tensor weights = wanted[2] ? at::empty_like(o.weights) : at::empty_like(none);
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

}  // namespace

TORCH_LIBRARY_FRAGMENT(sparse4d, m) {
  m.def("cpu_kernels() -> str[]", names);  // that this processor runs, best first
  m.def("cpu_kernels_in_use() -> str", [] { return std::string(chosen().load()->name); });
  m.def("use_cpu_kernels(str name) -> str", use_cpu_kernels);
}

TORCH_LIBRARY_IMPL(sparse4d, CPU, m) { DeviceOperators<forward_cpu, backward_cpu>::add_to(m); }

}  // namespace sparse4d
