// The checked inputs of one call, of the plain or the fused operator, and their description for the kernels. Every
// message names the argument, what was expected and what came.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "../shared/arguments.h"

namespace sparse4d {

inline std::string describe(at::IntArrayRef shape) {
  std::ostringstream text;
  text << '[';
  for (size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "") << shape[i];
  text << ']';
  return text.str();
}

// Shape with -1 for sizes that are not fixed by other arguments.
inline void check_tensor(const char* name, const at::Tensor& tensor, std::vector<int64_t> expected, const char* meaning,
                         at::ScalarType dtype, at::Device device) {
  bool same = tensor.dim() == int64_t(expected.size());
  for (int64_t i = 0; same && i < tensor.dim(); ++i) same = expected[i] < 0 || expected[i] == tensor.size(i);
  TORCH_CHECK_VALUE(same, name, ": expected shape ", meaning, " = ", describe(expected), " (-1 = any), got ",
                    describe(tensor.sizes()));
  TORCH_CHECK_TYPE(tensor.scalar_type() == dtype, name, ": expected dtype ", dtype, ", got ", tensor.scalar_type(),
                   "; convert it with .to(...)");
  TORCH_CHECK_VALUE(tensor.device() == device, name, ": expected device ", device, " (that of features), got ",
                    tensor.device());
  TORCH_CHECK_VALUE(tensor.is_contiguous(), name, ": expected a contiguous tensor, got strides ",
                    describe(tensor.strides()), "; call .contiguous()");
}

inline FeatureType feature_type(const at::Tensor& features) {
  switch (features.scalar_type()) {
    case at::kFloat:
      return FeatureType::Float32;
    case at::kDouble:
      return FeatureType::Float64;
    case at::kBFloat16:
      return FeatureType::BFloat16;
    case at::kHalf:
      TORCH_CHECK_TYPE(features.is_cuda(), "features: float16 is supported on CUDA only; use bfloat16 or float32");
      return FeatureType::Float16;
    default:
      TORCH_CHECK_TYPE(false, "features: expected float32, float64, bfloat16 or (CUDA) float16, got ",
                       features.scalar_type());
  }
}

// Coordinates and weights: float32, with float64 features float64.
inline at::ScalarType coordinate_type(const at::Tensor& features) {
  return features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// The tables describe memory, so they are checked before a kernel sees them. `shapes`: height, width of each camera's
// each level; `starts`: its first row.
inline std::vector<LevelMap> level_maps(at::IntArrayRef shapes, at::IntArrayRef starts, int64_t cameras, int64_t levels,
                                        int64_t pixels) {
  TORCH_CHECK_VALUE(int64_t(shapes.size()) == cameras * levels * 2,
                    "spatial_shapes: expected cameras x levels x 2 = ", describe({cameras, levels, 2}),
                    " integers as weights has, got ", shapes.size());
  TORCH_CHECK_VALUE(int64_t(starts.size()) == cameras * levels,
                    "scale_start_index: expected cameras x levels = ", describe({cameras, levels}),
                    " integers as weights has, got ", starts.size());
  std::vector<LevelMap> maps(size_t(cameras * levels));
  for (size_t i = 0; i < maps.size(); ++i) {
    const int64_t height = shapes[2 * i], width = shapes[2 * i + 1], start = starts[i];
    maps[i] = {start, height, width};
    const int64_t limit = int64_t(1) << 31;
    TORCH_CHECK_VALUE(height > 0 && width > 0 && height < limit && width < limit,
                      "spatial_shapes: expected positive heights and widths, got ", height, " x ", width,
                      " for camera ", int64_t(i) / levels, ", level ", int64_t(i) % levels);
    TORCH_CHECK_VALUE(start >= 0 && start <= pixels && height * width <= pixels - start, "scale_start_index: camera ",
                      int64_t(i) / levels, ", level ", int64_t(i) % levels, " needs rows [", start, ", ",
                      start + height * width, "), but features has ", pixels);
  }
  std::vector<LevelMap> sorted = maps;
  std::sort(sorted.begin(), sorted.end(), [](const LevelMap& a, const LevelMap& b) { return a.start < b.start; });
  for (size_t i = 1; i < sorted.size(); ++i) {
    const int64_t end = sorted[i - 1].start + sorted[i - 1].height * sorted[i - 1].width;
    TORCH_CHECK_VALUE(end <= sorted[i].start, "scale_start_index: the maps starting at rows ", sorted[i - 1].start,
                      " and ", sorted[i].start, " overlap; every (camera, level) needs rows of its own");
  }
  return maps;
}

inline bool covers_all_rows(const std::vector<LevelMap>& maps, int64_t pixels) {
  int64_t rows = 0;
  for (const LevelMap& map : maps) rows += map.height * map.width;
  return rows == pixels;
}

// What says where to sample: locations, or key points with the cameras that see them.
struct SamplingSource {
  at::Tensor location;                          // plain: [B, A, P, N, 2]
  at::Tensor key_points, projection, image_wh;  // fused: [B, A, P, 3], [B, N, 4, 4], [B, N, 2]
  bool fused() const { return !location.defined(); }
  const at::Tensor& differentiable() const { return fused() ? key_points : location; }
};

struct Operands {
  at::Tensor features, weights;
  SamplingSource source;
  std::vector<LevelMap> maps;
  Arguments arguments{};
  FeatureType type;
};

inline void check_groups(const Sizes& size) {
  TORCH_CHECK_VALUE(size.groups > 0 && size.channels % size.groups == 0, "weights: ", size.groups,
                    " groups do not divide the ", size.channels, " channels of features");
}

// Weights [B, A, P, N, L, G] with locations, [B, A, N, L, P, G] in the fused operator.
inline Sizes read_sizes(const at::Tensor& features, const at::Tensor& weights, bool fused) {
  TORCH_CHECK_VALUE(features.dim() == 3, "features: expected [batch, pixels, channels], got ",
                    describe(features.sizes()));
  TORCH_CHECK_VALUE(
      weights.dim() == 6, "weights: expected ",
      fused ? "[batch, anchors, cameras, levels, points, groups]" : "[batch, anchors, points, cameras, levels, groups]",
      ", got ", describe(weights.sizes()));
  Sizes size{};
  size.batch = features.size(0);
  size.pixels = features.size(1);
  size.channels = features.size(2);
  size.anchors = weights.size(1);
  size.points = weights.size(fused ? 4 : 2);
  size.cameras = weights.size(fused ? 2 : 3);
  size.levels = weights.size(fused ? 3 : 4);
  size.groups = weights.size(5);
  check_groups(size);
  return size;
}

inline Operands operands(const at::Tensor& features, at::IntArrayRef shapes, at::IntArrayRef starts,
                         const SamplingSource& source, const at::Tensor& weights) {
  Operands o;
  o.features = features;
  o.weights = weights;
  o.source = source;
  o.type = feature_type(features);
  const bool fused = source.fused();
  const Sizes size = o.arguments.sizes = read_sizes(features, weights, fused);
  const at::ScalarType coordinates = coordinate_type(features);
  const at::Device device = features.device();
  check_tensor("features", features, {size.batch, size.pixels, size.channels}, "[batch, pixels, channels]",
               features.scalar_type(), device);
  check_tensor("weights", weights, {size.batch, -1, -1, -1, -1, -1}, "[batch, ...]", coordinates, device);
  if (fused) {
    check_tensor("key_points", source.key_points, {size.batch, size.anchors, size.points, 3},
                 "[batch, anchors, points, 3]", coordinates, device);
    check_tensor("projection", source.projection, {size.batch, size.cameras, 4, 4}, "[batch, cameras, 4, 4]",
                 coordinates, device);
    check_tensor("image_wh", source.image_wh, {size.batch, size.cameras, 2}, "[batch, cameras, 2]", coordinates,
                 device);
    o.arguments.key_points = source.key_points.const_data_ptr();
    o.arguments.projection = source.projection.const_data_ptr();
    o.arguments.image_wh = source.image_wh.const_data_ptr();
  } else {
    check_tensor("sampling_location", source.location, {size.batch, size.anchors, size.points, size.cameras, 2},
                 "[batch, anchors, points, cameras, 2]", coordinates, device);
    o.arguments.location = source.location.const_data_ptr();
  }
  o.maps = level_maps(shapes, starts, size.cameras, size.levels, size.pixels);
  o.arguments.maps = o.maps.data();
  const int64_t g = size.groups, l = size.levels, n = size.cameras, p = size.points;
  o.arguments.weight_strides = fused ? WeightStrides{size.anchors * n * l * p * g, n * l * p * g, g, l * p * g, p * g}
                                     : WeightStrides{size.anchors * p * n * l * g, p * n * l * g, n * l * g, l * g, g};
  o.arguments.features = features.const_data_ptr();
  o.arguments.weights = weights.const_data_ptr();
  return o;
}

}  // namespace sparse4d
