// Forward on the CPU: one task owns a block of anchors, whose sums stay in the cache while it goes through the cameras
// and, for each, through the visible key points in the order of the image. Sampled features are never written.
#pragma once
#include "visits.h"

namespace sparse4d {
namespace SPARSE4D_ISA {

// total += group weight x interpolated feature, for the channels of all groups.
template <typename T, typename S = Compute<T>>
SPARSE4D_INLINE void accumulate(S* total, const T* const corner[4], const S corner_weight[4], const S* group_weight,
                                int64_t groups, int64_t group_channels) {
  for (int64_t group = 0; group < groups; ++group) {
    const S w0 = corner_weight[0] * group_weight[group], w1 = corner_weight[1] * group_weight[group];
    const S w2 = corner_weight[2] * group_weight[group], w3 = corner_weight[3] * group_weight[group];
    int64_t c = group * group_channels;
    const int64_t end = c + group_channels;
    for (; c + kLanes<S> <= end; c += kLanes<S>) {
      const Vector<S> upper = load(corner[0] + c) * w0 + load(corner[1] + c) * w1;
      const Vector<S> lower = load(corner[2] + c) * w2 + load(corner[3] + c) * w3;
      store(total + c, load(total + c) + (upper + lower));
    }
    for (; c < end; ++c) {
      total[c] += load_one(corner[0] + c) * w0 + load_one(corner[1] + c) * w1 + load_one(corner[2] + c) * w2 +
                  load_one(corner[3] + c) * w3;
    }
  }
}

// Adds what one camera sees of a block of anchors to their sums, [rows, C].
template <typename T, typename S = Compute<T>>
SPARSE4D_INLINE void add_camera(const Arguments& a, const Visits<S>& visits, int64_t first_row, int64_t camera,
                                S* totals) {
  const Sizes& size = a.sizes;
  const int64_t group_channels = size.channels / size.groups, sample = first_row / size.anchors;
  const T* features = static_cast<const T*>(a.features) + sample * size.pixels * size.channels;
  const S* weights = static_cast<const S*>(a.weights) + sample * a.weight_strides.batch +
                     first_row % size.anchors * a.weight_strides.anchor + camera * a.weight_strides.camera;
  for (const Visit<S>& visit : visits) {
    const S* group_weight = weights + visit.anchor * a.weight_strides.anchor + visit.point * a.weight_strides.point;
    for (int64_t level = 0; level < size.levels; ++level, group_weight += a.weight_strides.level) {
      const Corners<S> at = corners(visit.x, visit.y, a.maps[camera * size.levels + level]);
      const T* const corner[4] = {features + at.row[0] * size.channels, features + at.row[1] * size.channels,
                                  features + at.row[2] * size.channels, features + at.row[3] * size.channels};
      accumulate(totals + visit.anchor * size.channels, corner, at.weight, group_weight, size.groups, group_channels);
    }
  }
}

// Output rows [begin, end) of batch x anchors.
template <typename T, typename Locations>
void forward_rows(const Arguments& a, int64_t begin, int64_t end) {
  using S = Compute<T>;
  constexpr bool in_place = sizeof(T) == sizeof(S);  // sums of lower precision features need float32 rows of their own
  const Sizes& size = a.sizes;
  const Locations locations(a);
  Visits<S> visits(block_rows(size) * size.points);
  Scratch<S> scratch(in_place ? 0 : block_rows(size) * size.channels);
  for_blocks(size, begin, end, [&](int64_t first_row, int64_t rows, int64_t) {
    T* output = static_cast<T*>(a.output) + first_row * size.channels;
    S* totals = in_place ? reinterpret_cast<S*>(output) : scratch.get();
    std::memset(totals, 0, size_t(rows * size.channels) * sizeof(S));
    for (int64_t camera = 0; camera < size.cameras; ++camera) {
      visits.collect(locations, first_row, rows, size.points, camera);
      add_camera<T>(a, visits, first_row, camera, totals);
    }
    if constexpr (!in_place) {
      for (int64_t i = 0; i < rows * size.channels; ++i) store_one(output + i, totals[i]);
    }
  });
}

}  // namespace SPARSE4D_ISA
}  // namespace sparse4d
