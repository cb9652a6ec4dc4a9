// The checked inputs of one call, of the plain or the fused operator, and their description for the kernels.
#pragma once
#include "checks.h"

namespace sparse4d {

// What says where to sample: locations, or key points with the cameras that see them.
struct Where {
  at::Tensor location;                          // plain: [B, A, P, N, 2]
  at::Tensor key_points, projection, image_wh;  // fused: [B, A, P, 3], [B, N, 4, 4], [B, N, 2]
  bool fused() const { return !location.defined(); }
  const at::Tensor& differentiable() const { return fused() ? key_points : location; }
};

struct Operands {
  at::Tensor features, weights;
  Where where;
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

inline Operands operands(const at::Tensor& features, const at::Tensor& shapes, const at::Tensor& starts,
                         const Where& where, const at::Tensor& weights) {
  Operands o;
  o.features = features;
  o.weights = weights;
  o.where = where;
  o.type = feature_type(features);
  const bool fused = where.fused();
  const Sizes size = o.arguments.sizes = read_sizes(features, weights, fused);
  const at::ScalarType coordinates = coordinate_type(features);
  const at::Device device = features.device();
  check_tensor("features", features, {size.batch, size.pixels, size.channels}, "[batch, pixels, channels]",
               features.scalar_type(), device);
  check_tensor("weights", weights, {size.batch, -1, -1, -1, -1, -1}, "[batch, ...]", coordinates, device);
  if (fused) {
    check_tensor("key_points", where.key_points, {size.batch, size.anchors, size.points, 3},
                 "[batch, anchors, points, 3]", coordinates, device);
    check_tensor("projection", where.projection, {size.batch, size.cameras, 4, 4}, "[batch, cameras, 4, 4]",
                 coordinates, device);
    check_tensor("image_wh", where.image_wh, {size.batch, size.cameras, 2}, "[batch, cameras, 2]", coordinates, device);
    o.arguments.key_points = where.key_points.const_data_ptr();
    o.arguments.projection = where.projection.const_data_ptr();
    o.arguments.image_wh = where.image_wh.const_data_ptr();
  } else {
    check_tensor("sampling_location", where.location, {size.batch, size.anchors, size.points, size.cameras, 2},
                 "[batch, anchors, points, cameras, 2]", coordinates, device);
    o.arguments.location = where.location.const_data_ptr();
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
