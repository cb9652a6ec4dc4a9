// The CPU kernels as a custom operator of onnxruntime: SessionOptions.register_custom_ops_library loads the library.
#include <algorithm>

#include "../cpu/kernels.h"
#include "../node/node.h"
#include "half.h"
#include "interface.h"

namespace sparse4d {
namespace {

using ort::ElementType;

constexpr int64_t kRowsAtOnce = 128;  // output rows of one task

// A status as an exception, within this file.
struct Refused {
  ort::Status* status;
};

void check(ort::Status* status) {
  if (status != nullptr) throw Refused{status};
}

struct Kernel {
  ort::Api api;
  AggregationNode node;
  bool half;  // features and output are float16
};

Shape64 attribute(const ort::Api& api, const ort::KernelInfo* info, const char* name) {
  size_t count = 0;
  check(api.attribute(info, name, nullptr, &count));
  Shape64 values(count);
  check(api.attribute(info, name, values.data(), &count));
  return values;
}

Shape64 shape_of(const ort::Api& api, const ort::Value* value) {
  ort::ShapeInfo* info = nullptr;
  check(api.shape_info(value, &info));
  size_t rank = 0;
  ort::Status* status = api.rank(info, &rank);
  Shape64 shape(rank);
  if (status == nullptr) status = api.shape(info, shape.data(), rank);
  api.release(info);
  check(status);
  return shape;
}

// Output rows in tasks, on onnxruntime's threads.
void run_rows(const Kernel& kernel, const ort::KernelContext* context, const Arguments& arguments) {
  struct Work {
    const Arguments& arguments;
    RangeKernel run;
    int64_t rows;
    bool failed = false;
  } work{arguments, cpu_kernels()[0]->forward[int(FeatureType::Float32)][1],
         arguments.sizes.batch * arguments.sizes.anchors};
  const auto task = [](void* data, size_t index) {
    Work& all = *static_cast<Work*>(data);
    const int64_t begin = int64_t(index) * kRowsAtOnce;
    try {
      all.run(all.arguments, begin, std::min(begin + kRowsAtOnce, all.rows));
    } catch (const std::bad_alloc&) {
      all.failed = true;
    }
  };
  const int64_t tasks = (work.rows + kRowsAtOnce - 1) / kRowsAtOnce;
  check(kernel.api.parallel_for(context, task, size_t(tasks), 0, &work));
  if (work.failed) throw std::runtime_error("not enough memory for the kernels' working memory");
}

// The CPU has no kernels for float16: its features are widened, and the sums rounded once.
void run_half(const Kernel& kernel, const ort::KernelContext* context, Arguments arguments) {
  const Sizes& size = arguments.sizes;
  const auto* features = static_cast<const uint16_t*>(arguments.features);
  auto* output = static_cast<uint16_t*>(arguments.output);
  std::vector<float> wide(size_t(size.batch * size.pixels * size.channels));
  std::transform(features, features + wide.size(), wide.begin(), widen_half);
  std::vector<float> sums(size_t(size.batch * size.anchors * size.channels));
  arguments.features = wide.data();
  arguments.output = sums.data();
  run_rows(kernel, context, arguments);
  std::transform(sums.begin(), sums.end(), output, narrow_half);
}

void compute(const Kernel& kernel, ort::KernelContext* context) {
  Shape64 shapes[kNodeInputs];
  const void* inputs[kNodeInputs];
  for (int i = 0; i < kNodeInputs; ++i) {
    const ort::Value* value = nullptr;
    check(kernel.api.input(context, size_t(i), &value));
    shapes[i] = shape_of(kernel.api, value);
    void* data = nullptr;
    check(kernel.api.data(const_cast<ort::Value*>(value), &data));
    inputs[i] = data;
  }
  Arguments arguments = kernel.node.arguments(shapes);
  const int64_t shape[] = {arguments.sizes.batch, arguments.sizes.anchors, arguments.sizes.channels};
  ort::Value* value = nullptr;
  void* output = nullptr;
  check(kernel.api.output(context, 0, shape, 3, &value));
  check(kernel.api.data(value, &output));
  AggregationNode::set_tensors(arguments, inputs, output);
  kernel.half ? run_half(kernel, context, arguments) : run_rows(kernel, context, arguments);
}

// What `work` throws, as a status.
template <typename Work>
ort::Status* guarded(const ort::Api& api, const Work& work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const Refused& refused) {
    return refused.status;
  } catch (const std::exception& error) {
    return api.create_status(ort::kFail, (std::string(kNodeName) + ": " + error.what()).c_str());
  }
}

// The operator for one type of features.
struct Aggregation : ort::CustomOp {
  ElementType type;

  explicit Aggregation(ElementType features) : type(features) {
    name = [](const CustomOp*) { return kNodeName; };
    execution_provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU's
    input_count = [](const CustomOp*) { return size_t(kNodeInputs); };
    input_type = [](const CustomOp* op, size_t index) {
      return index == size_t(kFeatures) ? static_cast<const Aggregation*>(op)->type : ElementType::kFloat32;
    };
    output_count = [](const CustomOp*) { return size_t(1); };
    output_type = [](const CustomOp* op, size_t) { return static_cast<const Aggregation*>(op)->type; };
    input_characteristic = [](const CustomOp*, size_t) { return ort::kRequired; };
    output_characteristic = [](const CustomOp*, size_t) { return ort::kRequired; };
    input_memory = [](const CustomOp*, size_t) { return ort::kDefaultMemory; };
    start_version = [](const CustomOp*) { return 1; };
    end_version = [](const CustomOp*) { return 1; };
    create_kernel_v2 = [](const CustomOp* op, const void* table, const ort::KernelInfo* info, void** kernel) {
      const ort::Api api(table);
      return guarded(api, [&] {
        const AggregationNode node(attribute(api, info, kShapesAttribute), attribute(api, info, kStartsAttribute));
        *kernel = new Kernel{api, node, static_cast<const Aggregation*>(op)->type == ElementType::kFloat16};
      });
    };
    compute_v2 = [](void* kernel, ort::KernelContext* context) {
      const Kernel& own = *static_cast<Kernel*>(kernel);
      return guarded(own.api, [&] { compute(own, context); });
    };
    destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
};

}  // namespace
}  // namespace sparse4d

// The function that SessionOptions.register_custom_ops_library calls.
extern "C" __attribute__((visibility("default"))) sparse4d::ort::Status* RegisterCustomOps(
    sparse4d::ort::SessionOptions* options, const sparse4d::ort::ApiBase* base) {
  using namespace sparse4d;
  static const Aggregation operators[] = {Aggregation(ElementType::kFloat32), Aggregation(ElementType::kFloat16)};
  const void* table = base->api(ort::kVersion);
  if (table == nullptr) return nullptr;  // onnxruntime itself has printed that it is too old
  const ort::Api api(table);
  ort::Domain* domain = nullptr;  // the session keeps it
  ort::Status* status = api.create_domain(kNodeDomain, &domain);
  for (const Aggregation& op : operators) {
    if (status == nullptr) status = api.add_operator(domain, &op);
  }
  return status == nullptr ? api.add_domain(options, domain) : status;
}
