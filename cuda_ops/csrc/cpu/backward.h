// Backward on the CPU, in two passes without atomics or copies per thread; results do not depend on the thread count.
//  1. Weights and locations: one task owns an anchor.
//  2. Features: one task owns a block of channels of one (sample, camera, level) map and adds
//     all anchors to it, in the order of the image.
#pragma once
#include "visits.h"

namespace sparse4d {
namespace SPARSE4D_TARGET {

// One sample point in one map: gradient of the group weights (stored) and of x, y in pixels (returned by reference).
template <typename T, typename S = Compute<T>>
SPARSE4D_INLINE void backward_sample(const T* grad_output, const T* const corner[4], const Corners<S>& at,
                                     const S* group_weight, S* grad_group_weight, int64_t groups,
                                     int64_t group_channels, S& grad_x, S& grad_y) {
  Vector<S> dx = {}, dy = {};
  S dx_tail = 0, dy_tail = 0;
  for (int64_t group = 0; group < groups; ++group) {
    Vector<S> dot = {};
    S dot_tail = 0;
    const S w = group_weight[group];
    int64_t c = group * group_channels;
    const int64_t end = c + group_channels;
    for (; c + kLanes<S> <= end; c += kLanes<S>) {
      const Vector<S> f0 = load(corner[0] + c), f1 = load(corner[1] + c);
      const Vector<S> f2 = load(corner[2] + c), f3 = load(corner[3] + c);
      const Vector<S> g = load(grad_output + c), gw = g * w;
      dot += g * (f0 * at.weight[0] + f1 * at.weight[1] + f2 * at.weight[2] + f3 * at.weight[3]);
      dx += gw * (f0 * at.weight_dx[0] + f1 * at.weight_dx[1] + f2 * at.weight_dx[2] + f3 * at.weight_dx[3]);
      dy += gw * (f0 * at.weight_dy[0] + f1 * at.weight_dy[1] + f2 * at.weight_dy[2] + f3 * at.weight_dy[3]);
    }
    for (; c < end; ++c) {
      const S g = load_one(grad_output + c);
      for (int k = 0; k < 4; ++k) {
        const S f = load_one(corner[k] + c) * g;
        dot_tail += f * at.weight[k];
        dx_tail += f * w * at.weight_dx[k];
        dy_tail += f * w * at.weight_dy[k];
      }
    }
    if (grad_group_weight != nullptr) grad_group_weight[group] = sum(dot) + dot_tail;
  }
  grad_x = sum(dx) + dx_tail;
  grad_y = sum(dy) + dy_tail;
}

// What one camera sees of a block of anchors: its part of the gradients of weights and locations.
template <typename T, typename Locations, typename S = Compute<T>>
SPARSE4D_INLINE void backward_camera(const Arguments& a, const Locations& locations, const Visits<S>& visits,
                                     int64_t first_row, int64_t camera) {
  const Sizes& size = a.sizes;
  const int64_t group_channels = size.channels / size.groups, sample = first_row / size.anchors;
  const T* features = static_cast<const T*>(a.features) + sample * size.pixels * size.channels;
  const S* weights = static_cast<const S*>(a.weights);
  S* grad_weights = static_cast<S*>(a.grad_weights);
  const int64_t first_weight = sample * a.weight_strides.batch + first_row % size.anchors * a.weight_strides.anchor +
                               camera * a.weight_strides.camera;
  for (const Visit<S>& visit : visits) {
    const int64_t row = first_row + visit.anchor;
    const T* grad_output = static_cast<const T*>(a.grad_output) + row * size.channels;
    int64_t offset = first_weight + visit.anchor * a.weight_strides.anchor + visit.point * a.weight_strides.point;
    S grad_x = 0, grad_y = 0;
    for (int64_t level = 0; level < size.levels; ++level, offset += a.weight_strides.level) {
      const LevelMap& map = a.maps[camera * size.levels + level];
      const Corners<S> at = corners(visit.x, visit.y, map);
      const T* const corner[4] = {features + at.row[0] * size.channels, features + at.row[1] * size.channels,
                                  features + at.row[2] * size.channels, features + at.row[3] * size.channels};
      S gx, gy;
      backward_sample(grad_output, corner, at, weights + offset,
                      grad_weights == nullptr ? nullptr : grad_weights + offset, size.groups, group_channels, gx, gy);
      grad_x += gx * S(map.width);
      grad_y += gy * S(map.height);
    }
    if (locations.gradient != nullptr) locations.add_gradient(row, visit.point, camera, grad_x, grad_y);
  }
}

// Gradients of weights and locations for rows [begin, end) of batch x anchors.
template <typename T, typename Locations>
void backward_rows(const Arguments& a, int64_t begin, int64_t end) {
  using S = Compute<T>;
  const Sizes& size = a.sizes;
  const Locations locations(a);
  const int64_t row_weights = size.points * size.cameras * size.levels * size.groups;
  const int64_t row_locations = size.points * Locations::gradients_per_point(size.cameras);
  Visits<S> visits(block_rows(size) * size.points);
  for_blocks(size, begin, end, [&](int64_t first_row, int64_t rows, int64_t) {
    S *weights = static_cast<S*>(a.grad_weights), *location = locations.gradient;
    if (weights != nullptr) std::memset(weights + first_row * row_weights, 0, size_t(rows * row_weights) * sizeof(S));
    if (location != nullptr) {
      std::memset(location + first_row * row_locations, 0, size_t(rows * row_locations) * sizeof(S));
    }
    for (int64_t camera = 0; camera < size.cameras; ++camera) {
      visits.collect(locations, first_row, rows, size.points, camera);
      backward_camera<T>(a, locations, visits, first_row, camera);
    }
  });
}

// One task of the second pass: the channels [first, last) of one map.
struct MapTask {
  int64_t sample, camera, level, first, last;

  SPARSE4D_INLINE MapTask(const Arguments& a, int64_t index) {
    const int64_t block = index % a.channel_blocks, map = index / a.channel_blocks;
    level = map % a.sizes.levels;
    camera = map / a.sizes.levels % a.sizes.cameras;
    sample = map / a.sizes.levels / a.sizes.cameras;
    first = a.sizes.channels * block / a.channel_blocks;
    last = a.sizes.channels * (block + 1) / a.channel_blocks;
  }
};

// scaled[i] = grad_output[i] x weight of the group of channel first + i, for the channels [first, last).
template <typename T, typename S = Compute<T>>
SPARSE4D_INLINE void scale_by_group(S* scaled, const T* grad_output, const S* group_weight, int64_t group_channels,
                                    int64_t first, int64_t last) {
  for (int64_t c = first; c < last;) {
    const int64_t group = c / group_channels;
    const int64_t end = (group + 1) * group_channels < last ? (group + 1) * group_channels : last;
    const S w = group_weight[group];
    for (; c + kLanes<S> <= end; c += kLanes<S>) store(scaled + c - first, load(grad_output + c - first) * w);
    for (; c < end; ++c) scaled[c - first] = load_one(grad_output + c - first) * w;
  }
}

template <typename S>
SPARSE4D_INLINE void add_scaled(S* target, const S* values, S factor, int64_t count) {
  int64_t c = 0;
  for (; c + kLanes<S> <= count; c += kLanes<S>) store(target + c, load(target + c) + load(values + c) * factor);
  for (; c < count; ++c) target[c] += values[c] * factor;
}

// Adds the gradients of all visits to the channels [first, last) of one map. `target` is the map's first row.
template <typename T, typename S = Compute<T>>
void scatter_map(const Arguments& a, const Visits<S>& visits, const MapTask& task, S* target, int64_t target_stride) {
  const Sizes& size = a.sizes;
  const int64_t group_channels = size.channels / size.groups, width = task.last - task.first;
  LevelMap map = a.maps[task.camera * size.levels + task.level];
  map.start = 0;
  const T* grad_output = static_cast<const T*>(a.grad_output) + task.sample * size.anchors * size.channels + task.first;
  const S* weights = static_cast<const S*>(a.weights) + task.sample * a.weight_strides.batch +
                     task.camera * a.weight_strides.camera + task.level * a.weight_strides.level;
  Scratch<S> scaled(width);
  for (const Visit<S>& visit : visits) {
    const Corners<S> at = corners(visit.x, visit.y, map);
    const S* group_weight = weights + visit.anchor * a.weight_strides.anchor + visit.point * a.weight_strides.point;
    scale_by_group(scaled.get(), grad_output + visit.anchor * size.channels, group_weight, group_channels, task.first,
                   task.last);
    for (int k = 0; k < 4; ++k) {
      if (at.weight[k] != S(0)) {
        add_scaled(target + at.row[k] * target_stride, scaled.get(), at.weight[k], width);
      }
    }
  }
}

// Gradient of the features for the tasks [begin, end) of batch x cameras x levels x a.channel_blocks. Every map's rows
// are overwritten; maps must not overlap.
template <typename T, typename Locations>
void backward_maps(const Arguments& a, int64_t begin, int64_t end) {
  using S = Compute<T>;
  const Sizes& size = a.sizes;
  const Locations locations(a);
  Visits<S> visits(size.anchors * size.points);
  int64_t collected = -1;  // the (sample, camera) whose visits are at hand
  for (int64_t index = begin; index < end; ++index) {
    const MapTask task(a, index);
    if (collected != task.sample * size.cameras + task.camera) {
      visits.collect(locations, task.sample * size.anchors, size.anchors, size.points, task.camera);
      collected = task.sample * size.cameras + task.camera;
    }
    const LevelMap& map = a.maps[task.camera * size.levels + task.level];
    const int64_t rows = map.height * map.width, width = task.last - task.first;
    T* gradient =
        static_cast<T*>(a.grad_features) + (task.sample * size.pixels + map.start) * size.channels + task.first;
    if constexpr (sizeof(T) == sizeof(S)) {
      for (int64_t r = 0; r < rows; ++r) std::memset(gradient + r * size.channels, 0, size_t(width) * sizeof(S));
      scatter_map<T>(a, visits, task, gradient, size.channels);
    } else {  // sums in float32, rounded once
      Scratch<S> sums(rows * width);
      std::memset(sums.get(), 0, size_t(rows * width) * sizeof(S));
      scatter_map<T>(a, visits, task, sums.get(), width);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < width; ++c) store_one(gradient + r * size.channels + c, sums.get()[r * width + c]);
      }
    }
  }
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
