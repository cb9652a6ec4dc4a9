// Stands in for TensorRT around its plugin: finds the creator, makes the plugin of a node's attributes, asks all that a
// builder asks, makes it again of what it serializes, and lets it run. Called through ctypes by test_plugins.py.
#include <NvInferRuntime.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

using namespace nvinfer1;

extern "C" IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(ILoggerFinder* finder);

namespace {

struct Log final : ILogger {
  std::string text;
  void log(Severity, const char* message) noexcept override { text += message; }
};

struct Finder final : ILoggerFinder {
  Log logger;
  ILogger* findLogger() override { return &logger; }
};

// A plain cast between a plugin and its capabilities is not possible: they are of several bases.
template <typename Capability>
Capability* as(IPluginV3* plugin, PluginCapabilityType type) {
  return static_cast<Capability*>(plugin->getCapabilityInterface(type));
}

template <typename Named>
std::string identity(Named* named) {
  return std::string(named->getPluginName()) + " " + named->getPluginVersion() + " " + named->getPluginNamespace();
}

}  // namespace

// What a network knows of a tensor.
struct Tensor {
  int32_t rank, type;
  int64_t size[8];
  void* data;
};

// tensors: the five inputs and the output. Returns the step that failed, 0 for none; `message` gets what was logged.
extern "C" int run_plugin(PluginField* attributes, int32_t count, Tensor* tensors, char* message, int32_t length) {
  static Finder finder;
  finder.logger.text.clear();
  setLoggerFinder(&finder);
  const auto ends = [&](int step) {
    std::snprintf(message, size_t(length), "%s", finder.logger.text.c_str());
    return step;
  };
  int32_t creators = 0;
  auto* const creator = static_cast<IPluginCreatorV3One*>(getCreators(creators)[0]);
  const PluginFieldCollection given{count, attributes};
  const std::unique_ptr<IPluginV3> built(creator->createPlugin("node", &given, TensorRTPhase::kBUILD));
  if (creators != 1 || built == nullptr) return ends(1);

  // By name, version and namespace a parser finds the creator; an engine finds it by those of the plugin.
  const std::string name = identity(creator);
  if (identity(as<IPluginV3OneCore>(built.get(), PluginCapabilityType::kCORE)) != name) return ends(2);

  DynamicPluginTensorDesc dynamic[6]{};
  PluginTensorDesc fixed[6]{};
  for (int i = 0; i < 6; ++i) {
    fixed[i].dims.nbDims = tensors[i].rank;
    for (int d = 0; d < tensors[i].rank; ++d) fixed[i].dims.d[d] = tensors[i].size[d];
    fixed[i].type = DataType(tensors[i].type);
    fixed[i].format = TensorFormat::kLINEAR;
    dynamic[i].desc = fixed[i];
  }
  auto* const build = as<IPluginV3OneBuild>(built.get(), PluginCapabilityType::kBUILD);
  for (int place = 0; place < 6; ++place) {
    if (!build->supportsFormatCombination(place, dynamic, 5, build->getNbOutputs())) return ends(10 + place);
  }
  DataType types[5], result;
  for (int i = 0; i < 5; ++i) types[i] = fixed[i].type;
  if (build->getOutputDataTypes(&result, 1, types, 5) != 0 || result != fixed[5].type) return ends(3);
  DimsExprs shapes[5], given_shape;
  for (int i = 0; i < 5; ++i) {
    shapes[i].nbDims = tensors[i].rank;
    for (int d = 0; d < tensors[i].rank; ++d) shapes[i].d[d] = reinterpret_cast<IDimensionExpr*>(&tensors[i].size[d]);
  }
  struct NoArithmetic : IExprBuilder {
  } builder;  // the sizes of the output are sizes of the inputs
  if (build->getOutputShapes(shapes, 5, nullptr, 0, &given_shape, 1, builder) != 0) return ends(8);
  if (given_shape.nbDims != tensors[5].rank) return ends(8);
  for (int d = 0; d < tensors[5].rank; ++d) {
    if (*reinterpret_cast<const int64_t*>(given_shape.d[d]) != tensors[5].size[d]) return ends(8);
  }
  if (build->configurePlugin(dynamic, 5, dynamic + 5, 1) != 0) return ends(4);

  auto* const before = as<IPluginV3OneRuntime>(built.get(), PluginCapabilityType::kRUNTIME);
  const PluginFieldCollection* const kept = before->getFieldsToSerialize();
  const std::unique_ptr<IPluginV3> read(creator->createPlugin("node", kept, TensorRTPhase::kRUNTIME));
  if (read == nullptr) return ends(5);
  if (identity(as<IPluginV3OneCore>(read.get(), PluginCapabilityType::kCORE)) != name) return ends(2);
  const std::unique_ptr<IPluginV3> attached(
      as<IPluginV3OneRuntime>(read.get(), PluginCapabilityType::kRUNTIME)->attachToContext(nullptr));
  if (attached == nullptr) return ends(9);
  auto* const runtime = as<IPluginV3OneRuntime>(attached.get(), PluginCapabilityType::kRUNTIME);
  if (runtime->onShapeChange(fixed, 5, fixed + 5, 1) != 0) return ends(6);
  const void* inputs[5];
  for (int i = 0; i < 5; ++i) inputs[i] = tensors[i].data;
  void* outputs[] = {tensors[5].data};
  if (runtime->enqueue(fixed, fixed + 5, inputs, outputs, nullptr, nullptr) != 0) return ends(7);
  return ends(0);
}

// Name, version and namespace, as the node of a graph must give them.
extern "C" const char* plugin_identity() {
  int32_t creators = 0;
  static const std::string name = identity(static_cast<IPluginCreatorV3One*>(getCreators(creators)[0]));
  return name.c_str();
}
