// The fused operator as a node of an ONNX graph: its name, inputs and attributes, checked and described for the
// kernels. For onnxruntime's custom operator and TensorRT's plugin; includes nothing of either.
//
//   inputs      features [B, pixels, C], key_points [B, A, P, 3], projection [B, N, 4, 4], image_wh [B, N, 2],
//               weights [B, A, N, L, P, G]; float32, features also float16
//   attributes  spatial_shapes: height, width of each camera's and level's map; scale_start_index: its first row
//   output      [B, A, C], type of the features
#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "../shared/arguments.h"

namespace sparse4d {

constexpr char kNodeDomain[] = "sparse4d";
constexpr char kNodeName[] = "FusedDeformableAggregation";
constexpr char kNodeVersion[] = "1";
constexpr char kShapesAttribute[] = "spatial_shapes", kStartsAttribute[] = "scale_start_index";

enum NodeInput : int { kFeatures, kKeyPoints, kProjection, kImageSize, kWeights, kNodeInputs };
constexpr const char* kNodeInputNames[] = {"features", "key_points", "projection", "image_wh", "weights"};

using Shape64 = std::vector<int64_t>;

inline std::string text_of(const Shape64& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

class AggregationNode {
 public:
  // Throws std::invalid_argument: the tables do not describe maps.
  AggregationNode(const Shape64& spatial_shapes, const Shape64& scale_start_index) {
    if (spatial_shapes.size() != 2 * scale_start_index.size() || scale_start_index.empty()) {
      throw std::invalid_argument(
          "spatial_shapes, scale_start_index: expected two sizes and one start for every map, got " +
          std::to_string(spatial_shapes.size()) + " and " + std::to_string(scale_start_index.size()) + " integers");
    }
    for (size_t i = 0; i < scale_start_index.size(); ++i) {
      const int64_t height = spatial_shapes[2 * i], width = spatial_shapes[2 * i + 1], start = scale_start_index[i];
      constexpr int64_t limit = int64_t(1) << 31;
      if (height <= 0 || width <= 0 || height >= limit || width >= limit || start < 0) {
        throw std::invalid_argument("spatial_shapes: expected positive sizes, got " + text_of({height, width}) +
                                    " from row " + std::to_string(start) + " on");
      }
      maps_.push_back({start, height, width});
      rows_needed_ = std::max(rows_needed_, start + height * width);
    }
  }

  // What the kernels need but for the addresses of the tensors; lives as long as the node.
  // Throws std::invalid_argument: shapes that do not belong together, or maps beyond the features' last row.
  Arguments arguments(const Shape64 (&shape)[kNodeInputs]) const {
    constexpr size_t ranks[] = {3, 4, 4, 3, 6};
    for (int i = 0; i < kNodeInputs; ++i) {
      if (shape[i].size() != ranks[i]) refuse(i, "expected " + std::to_string(ranks[i]) + " dimensions", shape[i]);
    }
    const Shape64 &features = shape[kFeatures], &weights = shape[kWeights];
    Arguments a{};
    a.sizes = {features[0], weights[1], weights[4], weights[2], weights[3], weights[5], features[2], features[1]};
    const int64_t batch = a.sizes.batch, anchors = a.sizes.anchors, points = a.sizes.points, cameras = a.sizes.cameras;
    expect(kWeights, {batch, anchors, cameras, a.sizes.levels, points, a.sizes.groups}, weights);
    expect(kKeyPoints, {batch, anchors, points, 3}, shape[kKeyPoints]);
    expect(kProjection, {batch, cameras, 4, 4}, shape[kProjection]);
    expect(kImageSize, {batch, cameras, 2}, shape[kImageSize]);
    if (a.sizes.groups <= 0 || a.sizes.channels % a.sizes.groups != 0) {
      refuse(kWeights, std::to_string(a.sizes.channels) + " channels are no multiple of its groups", weights);
    }
    if (int64_t(maps_.size()) != cameras * a.sizes.levels) {
      refuse(kWeights, "expected cameras and levels of " + std::to_string(maps_.size()) + " maps", weights);
    }
    if (rows_needed_ > a.sizes.pixels) {
      refuse(kFeatures, "the maps need " + std::to_string(rows_needed_) + " rows", features);
    }
    a.maps = maps_.data();
    const int64_t of_level = points * a.sizes.groups, of_camera = a.sizes.levels * of_level;
    a.weight_strides = {anchors * cameras * of_camera, cameras * of_camera, a.sizes.groups, of_camera, of_level};
    return a;
  }

  // Addresses in the order of the inputs.
  static void set_tensors(Arguments& a, const void* const* inputs, void* output) {
    a.features = inputs[kFeatures];
    a.key_points = inputs[kKeyPoints];
    a.projection = inputs[kProjection];
    a.image_wh = inputs[kImageSize];
    a.weights = inputs[kWeights];
    a.output = output;
  }

  const std::vector<LevelMap>& maps() const { return maps_; }

 private:
  static void expect(int input, const Shape64& wanted, const Shape64& got) {
    if (wanted != got) refuse(input, "expected shape " + text_of(wanted), got);
  }
  [[noreturn]] static void refuse(int input, const std::string& what, const Shape64& got) {
    throw std::invalid_argument(std::string(kNodeInputNames[input]) + ": " + what + ", got " + text_of(got));
  }

  std::vector<LevelMap> maps_;
  int64_t rows_needed_ = 0;
};

}  // namespace sparse4d
