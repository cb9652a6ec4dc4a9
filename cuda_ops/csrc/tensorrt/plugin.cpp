// The CUDA kernels as a plugin of TensorRT 10 and later (IPluginV3): trtexec --dynamicPlugins=FILE, or
// IPluginRegistry::loadLibrary. Features in float32, float16 or bfloat16, everything else float32; no int8: the maps
// are read once a sample, and rounding them costs boxes.
//
// TensorRT's parser makes it of the node csrc/node/node.h. It depends on nothing of TensorRT but its headers.
#include <NvInferRuntime.h>

#include <iostream>
#include <memory>
#include <optional>

#include "../cuda/kernels.h"
#include "../node/node.h"

namespace sparse4d {
namespace {

using namespace nvinfer1;

ILoggerFinder* logger_finder = nullptr;

void report(const std::string& what) noexcept {
  const std::string text = std::string(kNodeName) + ": " + what;
  ILogger* const logger = logger_finder != nullptr ? logger_finder->findLogger() : nullptr;
  if (logger != nullptr) {
    logger->log(ILogger::Severity::kERROR, text.c_str());
  } else {
    std::cerr << text << '\n';
  }
}

// The result of `work`, or `otherwise` for what it throws, which is reported: TensorRT takes no exceptions.
template <typename Result, typename Work>
Result guarded(Result otherwise, const Work& work) noexcept {
  try {
    return work();
  } catch (const std::exception& error) {
    report(error.what());
    return otherwise;
  }
}

std::optional<FeatureType> feature_type(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return FeatureType::Float32;
    case DataType::kHALF:
      return FeatureType::Float16;
    case DataType::kBF16:
      return FeatureType::BFloat16;
    default:
      return std::nullopt;
  }
}

Shape64 shape_of(const Dims& dims) { return {dims.d, dims.d + dims.nbDims}; }

class AggregationPlugin final : public IPluginV3,
                                public IPluginV3OneCore,
                                public IPluginV3OneBuild,
                                public IPluginV3OneRuntime {
 public:
  AggregationPlugin(std::vector<int32_t> shapes, std::vector<int32_t> starts)
      : shapes_(std::move(shapes)),
        starts_(std::move(starts)),
        node_({shapes_.begin(), shapes_.end()}, {starts_.begin(), starts_.end()}) {
    if (node_.maps().size() > size_t(kMaxCudaMaps)) {
      throw std::invalid_argument("spatial_shapes: expected at most " + std::to_string(kMaxCudaMaps) + " maps, got " +
                                  std::to_string(node_.maps().size()));
    }
  }

  // ---- what it is
  // ----------------------------------------------------------------------------------------------------

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE:
        return static_cast<IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD:
        return static_cast<IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME:
        return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  IPluginV3* clone() noexcept override {
    return guarded<IPluginV3*>(nullptr, [&] { return new AggregationPlugin(shapes_, starts_); });
  }
  AsciiChar const* getPluginName() const noexcept override { return kNodeName; }
  AsciiChar const* getPluginVersion() const noexcept override { return kNodeVersion; }
  AsciiChar const* getPluginNamespace() const noexcept override { return kNodeDomain; }

  // ---- while an engine is built
  // --------------------------------------------------------------------------------------

  int32_t getNbOutputs() const noexcept override { return 1; }

  int32_t getOutputDataTypes(DataType* outputs, int32_t, const DataType* inputs, int32_t) const noexcept override {
    outputs[0] = inputs[kFeatures];
    return 0;
  }

  int32_t getOutputShapes(DimsExprs const* inputs, int32_t count, DimsExprs const*, int32_t, DimsExprs* outputs,
                          int32_t, IExprBuilder&) noexcept override {
    if (count != kNodeInputs || inputs[kFeatures].nbDims != 3 || inputs[kWeights].nbDims != 6) {
      report("expected 5 inputs, features of 3 and weights of 6 dimensions");
      return -1;
    }
    outputs[0].nbDims = 3;
    outputs[0].d[0] = inputs[kFeatures].d[0];
    outputs[0].d[1] = inputs[kWeights].d[1];
    outputs[0].d[2] = inputs[kFeatures].d[2];
    return 0;
  }

  bool supportsFormatCombination(int32_t place, DynamicPluginTensorDesc const* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override {
    if (inputs != kNodeInputs || outputs != 1 || tensors[place].desc.format != TensorFormat::kLINEAR) return false;
    const DataType type = tensors[place].desc.type;
    if (place == kFeatures) return feature_type(type).has_value();
    return type == (place < inputs ? DataType::kFLOAT : tensors[kFeatures].desc.type);
  }

  int32_t configurePlugin(DynamicPluginTensorDesc const*, int32_t, DynamicPluginTensorDesc const*,
                          int32_t) noexcept override {
    return 0;
  }

  // ---- while it runs
  // -------------------------------------------------------------------------------------------------

  int32_t onShapeChange(PluginTensorDesc const* inputs, int32_t count, PluginTensorDesc const*,
                        int32_t) noexcept override {
    return guarded<int32_t>(-1, [&] {
      if (count != kNodeInputs) throw std::invalid_argument("expected 5 inputs, got " + std::to_string(count));
      arguments(inputs);
      return 0;
    });
  }

  int32_t enqueue(PluginTensorDesc const* descriptions, PluginTensorDesc const*, void const* const* inputs,
                  void* const* outputs, void*, cudaStream_t stream) noexcept override {
    return guarded<int32_t>(-1, [&] {
      Arguments a = arguments(descriptions);
      AggregationNode::set_tensors(a, inputs, outputs[0]);
      const std::optional<FeatureType> type = feature_type(descriptions[kFeatures].type);
      if (!type) throw std::invalid_argument("features: expected float32, float16 or bfloat16");
      const int error = launch_forward(*type, true, a, stream);
      if (error != 0) throw std::runtime_error("the kernel did not start, CUDA error " + std::to_string(error));
      return 0;
    });
  }

  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }

  // The attributes, from which the creator makes the same plugin when an engine is read.
  PluginFieldCollection const* getFieldsToSerialize() noexcept override {
    fields_[0] = {kShapesAttribute, shapes_.data(), PluginFieldType::kINT32, int32_t(shapes_.size())};
    fields_[1] = {kStartsAttribute, starts_.data(), PluginFieldType::kINT32, int32_t(starts_.size())};
    collection_ = {2, fields_};
    return &collection_;
  }

 private:
  Arguments arguments(PluginTensorDesc const* inputs) const {
    Shape64 shapes[kNodeInputs];
    for (int i = 0; i < kNodeInputs; ++i) shapes[i] = shape_of(inputs[i].dims);
    return node_.arguments(shapes);
  }

  std::vector<int32_t> shapes_, starts_;
  AggregationNode node_;
  PluginField fields_[2];
  PluginFieldCollection collection_{};
};

class AggregationCreator final : public IPluginCreatorV3One {
 public:
  IPluginV3* createPlugin(AsciiChar const*, PluginFieldCollection const* fields, TensorRTPhase) noexcept override {
    return guarded<IPluginV3*>(nullptr, [&] {
      return new AggregationPlugin(integers(*fields, kShapesAttribute), integers(*fields, kStartsAttribute));
    });
  }
  PluginFieldCollection const* getFieldNames() noexcept override { return &collection_; }
  AsciiChar const* getPluginName() const noexcept override { return kNodeName; }
  AsciiChar const* getPluginVersion() const noexcept override { return kNodeVersion; }
  AsciiChar const* getPluginNamespace() const noexcept override { return kNodeDomain; }

 private:
  static std::vector<int32_t> integers(PluginFieldCollection const& fields, const std::string& name) {
    for (int32_t i = 0; i < fields.nbFields; ++i) {
      const PluginField& field = fields.fields[i];
      if (field.name != name) continue;
      if (field.type == PluginFieldType::kINT64) {  // parsers differ in what they make of an attribute
        const auto* values = static_cast<const int64_t*>(field.data);
        return {values, values + field.length};
      }
      if (field.type != PluginFieldType::kINT32) throw std::invalid_argument(name + ": expected integers");
      const auto* values = static_cast<const int32_t*>(field.data);
      return {values, values + field.length};
    }
    throw std::invalid_argument(name + ": the node has no such attribute");
  }

  PluginField names_[2] = {{kShapesAttribute, nullptr, PluginFieldType::kINT32, 0},
                           {kStartsAttribute, nullptr, PluginFieldType::kINT32, 0}};
  PluginFieldCollection collection_{2, names_};
};

}  // namespace
}  // namespace sparse4d

// What TensorRT looks for in a library of plugins.
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  sparse4d::logger_finder = finder;
}

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    int32_t& count) {
  static sparse4d::AggregationCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}
