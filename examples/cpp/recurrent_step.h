// An AOTInductor package with its manifest, frame after frame: the memory stays here, between the calls.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/version.h>

#include <map>
#include <memory>
#include <optional>

#include "frames.h"

constexpr float kFirstFrame = 1e6;  // seconds since a frame that never was: the graph then forgets its memory
constexpr int kManifestVersion = 1;

class RecurrentStep {
 public:
  using Tensors = std::map<std::string, at::Tensor>;

  // folder: of `python -m sparse4d_core.export --format aoti`; library: of our operator, empty where none is called.
  RecurrentStep(const std::string& folder, const std::string& library)
      : manifest_(Json::read(folder + "/manifest.json")) {
    check(folder, library);
    if (!library.empty() && dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      throw std::runtime_error("operator library: " + std::string(dlerror()));
    }
    for (const Json& input : manifest_.at("inputs").array()) {
      const std::string name = input.at("name").text();
      if (name.starts_with("memory_")) memory_[name] = at::zeros(shape(input), type(input));
    }
    loader_ = std::make_unique<torch::inductor::AOTIModelPackageLoader>(folder + "/step.aoti.pt2");
  }

  // One frame: the outputs by name. A pause, or a jump back in time, is a new scene.
  Tensors run(const Frame& frame) {
    if (before_ && frame.seconds < before_->seconds) forget();
    Tensors inputs = memory_;
    inputs["images"] = images(frame);
    inputs["projection"] = floats(frame.projection, {1, int64_t(frame.images.size()), 4, 4});
    const Pose T = before_ ? relative(frame.T_global_from_model, before_->T_global_from_model) : identity();
    inputs["T_now_from_memory"] = floats({T.begin(), T.end()}, {1, 4, 4});
    inputs["interval"] = floats({before_ ? frame.seconds - before_->seconds : kFirstFrame}, {1});
    std::vector<at::Tensor> arguments;
    for (const Json& input : manifest_.at("inputs").array()) arguments.push_back(inputs.at(input.at("name").text()));
    const std::vector<at::Tensor> results = loader_->run(arguments);
    Tensors found;
    for (size_t i = 0; i < results.size(); ++i)
      found[manifest_.at("outputs").array().at(i).at("name").text()] = results[i];
    for (auto& [name, tensor] : memory_) tensor = found.at("new_" + name);
    before_ = {frame.seconds, frame.T_global_from_model};
    return found;
  }

  const Json& config() const { return manifest_.at("config"); }

 private:
  struct Moment {
    double seconds;
    Pose T_global_from_model;
  };

  void check(const std::string& folder, const std::string& library) const {
    const auto refuse = [&](const std::string& what) { throw std::runtime_error(folder + ": " + what); };
    if (manifest_.at("version").number() != kManifestVersion)
      refuse("its manifest is of another version; export it again");
    if (manifest_.at("format").text() != "aoti") {
      refuse("expected a package of the format aoti, got " + manifest_.at("format").text());
    }
    const std::string built_with = manifest_.at("built_with").at("torch").text();
    if (built_with.substr(0, built_with.find('+')) !=
        std::string(TORCH_VERSION).substr(0, std::string(TORCH_VERSION).find('+'))) {
      refuse("built with torch " + built_with + ", this program with " + TORCH_VERSION + "; export it with this one");
    }
    if (manifest_.at("operator").text() == "native" && library.empty()) {
      refuse(
          "it calls our operator: name the library that `python -m cuda_ops.build` prints, or export it with "
          "--operator portable");
    }
  }

  // Ids go on counting: no number is given twice.
  void forget() {
    before_.reset();
    for (auto& [name, tensor] : memory_) {
      if (name != "memory_ids_given") tensor = at::zeros(tensor.sizes(), tensor.options());
    }
  }

  // As the graph takes them: [1, N, 3, H, W] normalised, or [1, N, H, W, 3] grey levels, blue green red.
  at::Tensor images(const Frame& frame) const {
    const std::vector<double> size = config().at("image").at("input_wh").numbers();
    const int64_t width = int64_t(size.at(0)), height = int64_t(size.at(1)), cameras = int64_t(frame.images.size());
    const int64_t wanted = int64_t(manifest_.at("cameras").number());  // 0: any number
    if (wanted != 0 && wanted != cameras) {
      throw std::runtime_error("images: made for " + std::to_string(wanted) + " cameras, got " +
                               std::to_string(cameras));
    }
    const bool raw = manifest_.at("images").text() == "uint8";
    at::Tensor tensor =
        raw ? at::empty({cameras, height, width, 3}, at::kByte) : at::empty({cameras, 3, height, width}, at::kFloat);
    for (int64_t camera = 0; camera < cameras; ++camera) {
      const Picture& picture = frame.images[size_t(camera)];
      if (picture.width != width || picture.height != height) {
        throw std::runtime_error("images: expected " + std::to_string(width) + "x" + std::to_string(height) + ", got " +
                                 std::to_string(picture.width) + "x" + std::to_string(picture.height));
      }
      const int64_t first = camera * 3 * width * height;
      if (raw) write_levels(picture, tensor.mutable_data_ptr<uint8_t>() + first);
      if (!raw) write_planes(picture, tensor.mutable_data_ptr<float>() + first);
    }
    return tensor.unsqueeze(0);
  }

  static void write_levels(const Picture& picture, uint8_t* out) {
    for (size_t i = 0; i < picture.rgb.size(); ++i) out[i] = picture.rgb[i / 3 * 3 + (2 - i % 3)];
  }

  void write_planes(const Picture& picture, float* out) const {
    const Json& image = config().at("image");
    const std::vector<double> mean = image.at("mean").numbers(), std = image.at("std").numbers();
    const bool rgb = image.at("to_rgb").boolean();
    for (size_t channel = 0; channel < 3; ++channel) {
      const size_t source = rgb ? channel : 2 - channel;
      for (size_t i = source; i < picture.rgb.size(); i += 3) {
        *out++ = float((picture.rgb[i] - mean[channel]) / std[channel]);
      }
    }
  }

  static at::Tensor floats(const std::vector<double>& values, at::IntArrayRef shape) {
    at::Tensor tensor = at::empty(shape, at::kFloat);
    float* out = tensor.mutable_data_ptr<float>();
    for (size_t i = 0; i < values.size(); ++i) out[i] = float(values[i]);
    return tensor;
  }

  static Pose identity() {
    Pose T{};
    for (size_t i = 0; i < 16; i += 5) T[i] = 1;
    return T;
  }

  static std::vector<int64_t> shape(const Json& spec) {
    std::vector<int64_t> sizes;
    for (double size : spec.at("shape").numbers()) sizes.push_back(int64_t(size));
    return sizes;
  }

  static at::ScalarType type(const Json& spec) { return spec.at("dtype").text() == "int64" ? at::kLong : at::kFloat; }

  Json manifest_;
  Tensors memory_;
  std::optional<Moment> before_;  // of the frame in memory
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
};
