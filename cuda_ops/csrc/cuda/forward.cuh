// Forward on CUDA: one block owns one output row, so nothing is added atomically and the result is deterministic.
#pragma once
#include "common.cuh"

namespace sparse4d {
namespace SPARSE4D_TARGET {

// One sample in one map: total += weight x interpolated pack.
template <typename T, int kWidth, typename S = Compute<T>>
SPARSE4D_DEVICE void add_sample(S* total, const T* channels, int64_t stride, const Corners<S>& at, S weight) {
  S corner[4][kWidth];
#pragma unroll
  for (int k = 0; k < 4; ++k) load_pack<T, kWidth>(corner[k], channels + at.row[k] * stride);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const S factor = at.weight[k] * weight;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) total[i] += factor * corner[k][i];
  }
}

// Sums the slices' totals and writes the row's packs.
template <typename T, int kWidth, typename S = Compute<T>>
SPARSE4D_DEVICE void write_row(T* output, const S* total, S* shared, const Division& division, bool active) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) shared[threadIdx.x * kWidth + i] = total[i];
  __syncthreads();
  if (division.slice == 0 && active) {
    Pack<T, kWidth> pack;
    for (int i = 0; i < kWidth; ++i) {
      S sum = 0;
      for (int slice = 0; slice < division.slices; ++slice) {
        sum += shared[(slice * division.lanes + division.lane) * kWidth + i];
      }
      store_one(&pack.value[i], sum);
    }
    *reinterpret_cast<Pack<T, kWidth>*>(output) = pack;
  }
  __syncthreads();
}

// grid: batch x anchors blocks of kThreads.
template <typename T, typename Locations, int kWidth>
__global__ void __launch_bounds__(kThreads) forward_kernel(const Arguments a, const LevelMaps maps) {
  using S = Compute<T>;
  __shared__ SharedVisits<S> visits;
  __shared__ S sums[kThreads * kWidth];
  const Sizes& size = a.sizes;
  const Locations locations(a);
  const int64_t row = blockIdx.x, sample = row / size.anchors, anchor = row % size.anchors;
  const int64_t packs = size.channels / kWidth, group_packs = packs / size.groups;
  const Division division(packs);
  const T* features = static_cast<const T*>(a.features) + sample * size.pixels * size.channels;
  const S* weights = static_cast<const S*>(a.weights);

  for (int64_t first_pack = 0; first_pack < packs; first_pack += division.lanes) {
    const int64_t pack = first_pack + division.lane;
    const bool active = pack < packs && division.slice < division.slices;
    S total[kWidth] = {};
    for (int64_t first = 0; first < size.points * size.cameras; first += kThreads) {
      const int count = list_visits(locations, size, row, first, visits);
      const int samples = active ? count * int(size.levels) : 0;
      for (int i = division.slice; i < samples; i += division.slices) {
        const int visit = i / int(size.levels), level = i % int(size.levels), camera = visits.camera[visit];
        const int64_t offset = weight_offset(a.weight_strides, sample, anchor, visits.point[visit], camera);
        const S weight = weights[offset + level * a.weight_strides.level + pack / group_packs];
        const Corners<S> at = corners(visits.x[visit], visits.y[visit], maps.map[camera * size.levels + level]);
        add_sample<T, kWidth>(total, features + pack * kWidth, size.channels, at, weight);
      }
      __syncthreads();  // the list is read to its end before it is overwritten
    }
    write_row<T, kWidth>(static_cast<T*>(a.output) + row * size.channels + pack * kWidth, total, sums, division,
                         active);
  }
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
