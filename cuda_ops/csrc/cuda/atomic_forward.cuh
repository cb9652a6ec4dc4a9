// For comparison only: the forward in the design that was published with Sparse4D v2 (arXiv 2305.14018). One thread
// takes one channel of one sample and adds its share to the output row atomically.
#pragma once
#include "common.cuh"

namespace sparse4d {
namespace SPARSE4D_TARGET {

// grid: one thread for every (batch, anchor, point, camera, level, channel), in this order; float32, locations given.
// The output starts as zeros.
__global__ void atomic_forward_kernel(const Arguments a, const LevelMaps maps) {
  const Sizes& size = a.sizes;
  int64_t rest = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t channel = rest % size.channels;
  rest /= size.channels;
  const int64_t level = rest % size.levels;
  rest /= size.levels;
  const int64_t camera = rest % size.cameras;
  rest /= size.cameras;
  const int64_t point = rest % size.points, row = rest / size.points;
  if (row >= size.batch * size.anchors) return;
  float x, y;
  if (!GivenLocations<float>(a).locate(row, point, camera, x, y)) return;
  const WeightStrides& stride = a.weight_strides;
  const int64_t sample = row / size.anchors, group = channel / (size.channels / size.groups);
  const float weight = static_cast<const float*>(
      a.weights)[sample * stride.batch + row % size.anchors * stride.anchor + point * stride.point +
                 camera * stride.camera + level * stride.level + group];
  const float* features = static_cast<const float*>(a.features) + sample * size.pixels * size.channels + channel;
  const Corners<float> at = corners(x, y, maps.map[camera * size.levels + level]);
  float value = 0;
  for (int k = 0; k < 4; ++k) value += at.weight[k] * features[at.row[k] * size.channels];
  atomicAdd(static_cast<float*>(a.output) + row * size.channels + channel, value * weight);
}

inline int64_t atomic_forward_blocks(const Sizes& size) {
  const int64_t threads = size.batch * size.anchors * size.points * size.cameras * size.levels * size.channels;
  return (threads + kThreads - 1) / kThreads;
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
