// The CPU kernels as a custom operator of onnxruntime: SessionOptions.register_custom_ops_library loads the library.
// By onnxruntime's C interface alone, of which every later version keeps what an earlier one had.
#include <onnxruntime_c_api.h>

#include <cstring>

#include "../cpu/kernels.h"
#include "../node/node.h"
#include "half.h"

namespace sparse4d {
namespace {

constexpr uint32_t kApiVersion = 17;  // the oldest that divides work among onnxruntime's threads
constexpr int64_t kRowsAtOnce = 128;  // output rows of one task
constexpr ONNXTensorElementDataType kFloat32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ONNXTensorElementDataType kFloat16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;

// A status as an exception, within this file.
struct Refused {
  OrtStatus* status;
};

struct Kernel {
  const OrtApi* api;
  AggregationNode node;
  bool half;  // features and output are float16

  void check(OrtStatus* status) const {
    if (status != nullptr) throw Refused{status};
  }
};

Shape64 attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  size_t count = 0;
  if (OrtStatus* status = api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &count)) throw Refused{status};
  Shape64 values(count);
  if (OrtStatus* status = api->KernelInfoGetAttributeArray_int64(info, name, values.data(), &count)) {
    throw Refused{status};
  }
  return values;
}

Shape64 shape_of(const Kernel& kernel, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  kernel.check(kernel.api->GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  OrtStatus* status = kernel.api->GetDimensionsCount(info, &rank);
  Shape64 shape(rank);
  if (status == nullptr) status = kernel.api->GetDimensions(info, shape.data(), rank);
  kernel.api->ReleaseTensorTypeAndShapeInfo(info);
  kernel.check(status);
  return shape;
}

// Output rows in tasks, on onnxruntime's threads.
void run_rows(const Kernel& kernel, const OrtKernelContext* context, const Arguments& arguments) {
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
  kernel.check(kernel.api->KernelContext_ParallelFor(context, task, size_t(tasks), 0, &work));
  if (work.failed) throw std::runtime_error("not enough memory for the kernels' working memory");
}

// The CPU has no kernels for float16: its features are widened, and the sums rounded once.
void run_half(const Kernel& kernel, const OrtKernelContext* context, Arguments arguments) {
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

void compute(const Kernel& kernel, OrtKernelContext* context) {
  Shape64 shapes[kNodeInputs];
  const void* inputs[kNodeInputs];
  for (int i = 0; i < kNodeInputs; ++i) {
    const OrtValue* value = nullptr;
    kernel.check(kernel.api->KernelContext_GetInput(context, size_t(i), &value));
    shapes[i] = shape_of(kernel, value);
    void* data = nullptr;
    kernel.check(kernel.api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    inputs[i] = data;
  }
  Arguments arguments = kernel.node.arguments(shapes);
  const int64_t shape[] = {arguments.sizes.batch, arguments.sizes.anchors, arguments.sizes.channels};
  OrtValue* value = nullptr;
  void* output = nullptr;
  kernel.check(kernel.api->KernelContext_GetOutput(context, 0, shape, 3, &value));
  kernel.check(kernel.api->GetTensorMutableData(value, &output));
  AggregationNode::set_tensors(arguments, inputs, output);
  kernel.half ? run_half(kernel, context, arguments) : run_rows(kernel, context, arguments);
}

// What `work` throws, as a status.
template <typename Work>
OrtStatus* guarded(const OrtApi* api, const Work& work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const Refused& refused) {
    return refused.status;
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, (std::string(kNodeName) + ": " + error.what()).c_str());
  }
}

// The operator for one type of features.
struct CustomOp : OrtCustomOp {
  ONNXTensorElementDataType type;

  explicit CustomOp(ONNXTensorElementDataType features) : OrtCustomOp{}, type(features) {
    version = kApiVersion;
    GetName = [](const OrtCustomOp*) { return kNodeName; };
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // the CPU's
    GetInputTypeCount = [](const OrtCustomOp*) { return size_t(kNodeInputs); };
    GetInputType = [](const OrtCustomOp* op, size_t index) {
      return index == size_t(kFeatures) ? static_cast<const CustomOp*>(op)->type : kFloat32;
    };
    GetOutputTypeCount = [](const OrtCustomOp*) { return size_t(1); };
    GetOutputType = [](const OrtCustomOp* op, size_t) { return static_cast<const CustomOp*>(op)->type; };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
      return guarded(api, [&] {
        const AggregationNode node(attribute(api, info, kShapesAttribute), attribute(api, info, kStartsAttribute));
        *kernel = new Kernel{api, node, static_cast<const CustomOp*>(op)->type == kFloat16};
      });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const Kernel& own = *static_cast<Kernel*>(kernel);
      return guarded(own.api, [&] { compute(own, context); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
};

}  // namespace
}  // namespace sparse4d

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                            const OrtApiBase* base) {
  using namespace sparse4d;
  static const CustomOp operators[] = {CustomOp(kFloat32), CustomOp(kFloat16)};
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) return nullptr;   // onnxruntime itself has printed that it is too old
  OrtCustomOpDomain* domain = nullptr;  // the session keeps it
  OrtStatus* status = api->CreateCustomOpDomain(kNodeDomain, &domain);
  for (const CustomOp& op : operators) {
    if (status == nullptr) status = api->CustomOpDomain_Add(domain, &op);
  }
  return status == nullptr ? api->AddCustomOpDomain(options, domain) : status;
}
