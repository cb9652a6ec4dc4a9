// Plain descriptions handed from the torch bindings to the kernels. No torch, no CUDA, no inline functions:
// the same bytes are read by translation units that are compiled for different instruction sets.
#pragma once
#include <cstdint>

namespace sparse4d {

enum class FeatureType : int { Float32 = 0, Float64 = 1, BFloat16 = 2, Float16 = 3 };

struct Sizes {
  int64_t batch, anchors, points, cameras, levels, groups, channels;
  int64_t pixels;  // rows of `features` per sample
};

// The feature map of one (camera, level): `height * width` rows from row `start` on.
struct LevelMap {
  int64_t start;
  int64_t height, width;
};

// Elements between neighbours of `weights`; its groups are contiguous.
struct WeightStrides {
  int64_t batch, anchor, point, camera, level;
};

// Scalar S is float, or double where the features are double. Every tensor is contiguous.
struct Arguments {
  Sizes sizes;
  const LevelMap* maps;  // [cameras, levels]
  WeightStrides weight_strides;

  const void* features;  // [B, pixels, C], FeatureType
  const void* weights;   // S, order given by weight_strides
  // Either locations, or what they are computed from (fused path).
  const void* location;    // S [B, A, P, N, 2]; null in the fused path
  const void* key_points;  // S [B, A, P, 3]
  const void* projection;  // S [B, N, 4, 4]
  const void* image_wh;    // S [B, N, 2]

  void* output;  // [B, A, C], FeatureType

  const void* grad_output;  // [B, A, C], FeatureType
  void* grad_features;      // like features
  int64_t channel_blocks;   // parts into which the work on each map's gradient is split
  void* grad_weights;       // like weights; null = not wanted
  void* grad_location;      // like location, fused: like key_points; null = not wanted
};

}  // namespace sparse4d
