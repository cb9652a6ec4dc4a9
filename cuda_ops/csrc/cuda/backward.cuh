// Backward on CUDA: one block owns one output row. Gradients of weights and locations are sums within the block and are
// written once; only the gradient of the features, to which many rows contribute, needs atomic additions (one per
// corner and pack, 16 bytes wide where the device can).
#pragma once
#include "common.cuh"

namespace sparse4d {
namespace SPARSE4D_TARGET {

template <int kWidth, typename S>
SPARSE4D_DEVICE void atomic_add_pack(S* to, const S* values) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (sizeof(S) == 4 && kWidth % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kWidth; i += 4) {
      atomicAdd(reinterpret_cast<float4*>(to + i), make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]));
    }
    return;
  }
#endif
#pragma unroll
  for (int i = 0; i < kWidth; ++i) atomicAdd(to + i, values[i]);
}

// Sum over `width` neighbouring lanes (a power of two up to a warp); every lane gets it.
template <typename S>
SPARSE4D_DEVICE S sum_lanes(S value, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

template <typename S>
struct SampleGradient {
  S weight, x, y;  // of the group's weight (this pack's part), of x and y in pixels of the map
};

// One sample in one map, for one pack of channels. Adds to `grad_features` (row 0 of the pack's channels) if not null.
template <typename T, int kWidth, typename S = Compute<T>>
SPARSE4D_DEVICE SampleGradient<S> backward_pack(const S* grad_output, const T* channels, S* grad_features,
                                                int64_t stride, const Corners<S>& at, S weight) {
  SampleGradient<S> gradient = {0, 0, 0};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    S corner[kWidth], dot = 0;
    load_pack<T, kWidth>(corner, channels + at.row[k] * stride);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) dot += corner[i] * grad_output[i];
    gradient.weight += at.weight[k] * dot;
    gradient.x += at.weight_dx[k] * weight * dot;
    gradient.y += at.weight_dy[k] * weight * dot;
    if (grad_features != nullptr && at.weight[k] != S(0)) {
      S scaled[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) scaled[i] = at.weight[k] * weight * grad_output[i];
      atomic_add_pack<kWidth>(grad_features + at.row[k] * stride, scaled);
    }
  }
  return gradient;
}

// Adds the part of one group's weight gradient that this lane's pack holds to the sum in memory.
template <typename S>
SPARSE4D_DEVICE void add_weight_gradient(S* target, S part, int64_t group_packs, int64_t pack, bool active) {
  const bool within_warp = group_packs <= kWarp && (group_packs & (group_packs - 1)) == 0;
  if (within_warp) {  // one lane owns the group: no atomics
    const S sum = sum_lanes(part, int(group_packs));
    if (active && pack % group_packs == 0) *target = sum;
  } else if (active) {
    atomicAdd(target, part);
  }
}

// grid: batch x anchors blocks of kThreads. grad_weights and grad_location start as zeros; grad_features, zeros of the
// compute type, may be null.
template <typename T, typename Locations, int kWidth>
__global__ void __launch_bounds__(kThreads) backward_kernel(const Arguments a, const LevelMaps maps) {
  using S = Compute<T>;
  __shared__ SharedVisits<S> visits;
  __shared__ S grad_x[kThreads], grad_y[kThreads];
  const Sizes& size = a.sizes;
  const Locations locations(a);
  const int64_t row = blockIdx.x, sample = row / size.anchors, anchor = row % size.anchors;
  const int64_t packs = size.channels / kWidth, group_packs = packs / size.groups;
  const Division division(packs);
  const int64_t sample_start = sample * size.pixels * size.channels;
  const S* weights = static_cast<const S*>(a.weights);
  S *grad_weights = static_cast<S*>(a.grad_weights), *grad_features = static_cast<S*>(a.grad_features);

  for (int64_t first_pack = 0; first_pack < packs; first_pack += division.lanes) {
    const int64_t pack = first_pack + division.lane;
    const bool active = pack < packs && division.slice < division.slices;
    const int64_t channel = active ? pack * kWidth : 0, group = active ? pack / group_packs : 0;
    S grad_output[kWidth] = {};
    if (active) load_pack<T, kWidth>(grad_output, static_cast<const T*>(a.grad_output) + row * size.channels + channel);
    const T* features = static_cast<const T*>(a.features) + sample_start + channel;
    S* feature_gradient = grad_features == nullptr || !active ? nullptr : grad_features + sample_start + channel;

    for (int64_t first = 0; first < size.points * size.cameras; first += kThreads) {
      const int count = list_visits(locations, size, row, first, visits);
      grad_x[threadIdx.x] = grad_y[threadIdx.x] = 0;
      __syncthreads();
      // Whole warps go through the same visits, so that their lanes can exchange values.
      for (int visit = division.slice; division.slice < division.slices && visit < count; visit += division.slices) {
        const int camera = visits.camera[visit];
        int64_t offset = weight_offset(a.weight_strides, sample, anchor, visits.point[visit], camera) + group;
        S dx = 0, dy = 0;
        for (int64_t level = 0; level < size.levels; ++level, offset += a.weight_strides.level) {
          const LevelMap& map = maps.map[camera * size.levels + level];
          const Corners<S> at = corners(visits.x[visit], visits.y[visit], map);
          // Idle lanes (grad_output zero) compute along and add zeros.
          const SampleGradient<S> g =
              backward_pack<T, kWidth>(grad_output, features, feature_gradient, size.channels, at, weights[offset]);
          dx += g.x * S(map.width);
          dy += g.y * S(map.height);
          if (grad_weights != nullptr) add_weight_gradient(grad_weights + offset, g.weight, group_packs, pack, active);
        }
        dx = sum_lanes(dx, kWarp);
        dy = sum_lanes(dy, kWarp);
        if (threadIdx.x % kWarp == 0) {
          atomicAdd(&grad_x[visit], dx);  // shared memory; the slice's few warps
          atomicAdd(&grad_y[visit], dy);
        }
      }
      __syncthreads();
      if (locations.gradient != nullptr) {  // one thread owns a key point
        for (int64_t point = threadIdx.x; point < size.points; point += kThreads) {
          for (int visit = 0; visit < count; ++visit) {
            if (visits.point[visit] != point) continue;
            locations.add_gradient(row, point, visits.camera[visit], grad_x[visit], grad_y[visit]);
          }
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
