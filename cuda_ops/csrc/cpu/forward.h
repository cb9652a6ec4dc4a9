// Forward on the CPU: one task owns a block of anchors, whose sums stay in the cache while it goes through the cameras
// and, for each, through the visible key points in the order of the image. Sampled features are never written.
// What a visit reads is asked for two visits ahead: the order of the image is a random order of the anchors and their
// weights, and large maps come from memory.
#pragma once
#include "visits.h"

namespace sparse4d {
namespace SPARSE4D_TARGET {

// What a visit reads of one level: four pixels and their weights.
template <typename T, typename S = Compute<T>>
struct Footprint {
  const T* pixel[4];  // all channels of the neighbours (y0 x0), (y0 x1), (y1 x0), (y1 x1)
  S weight[4];
};

constexpr int64_t kAhead = 2, kRing = 4;         // visits prepared before their turn; slots for them, a power of two
constexpr int kUnrolled = 128 / kVectorBytes;    // vectors of sums kept in registers: two cache lines
constexpr int64_t kLargeMap = int64_t(1) << 20;  // bytes: smaller maps stay in the second-level cache

// Asks the memory for the pixels: they lie side by side in each of the two rows.
template <typename T>
SPARSE4D_INLINE void prefetch(const Footprint<T>& footprint, int64_t channels) {
  for (int row = 0; row < 4; row += 2) {
    const char* const end = reinterpret_cast<const char*>(footprint.pixel[row + 1] + channels);
    for (const char* line = reinterpret_cast<const char*>(footprint.pixel[row]); line < end; line += 64) {
      __builtin_prefetch(line);
    }
  }
}

// total[c, c + kVectors x lanes) += sum over levels of group weight x interpolated feature, all in registers.
template <int kVectors, typename T, typename S = Compute<T>>
SPARSE4D_INLINE void add_channels(S* total, const Footprint<T>* footprints, int64_t levels, int64_t c,
                                  const S* group_weight, int64_t level_stride) {
  Vector<S> sum[kVectors];
  for (int v = 0; v < kVectors; ++v) sum[v] = load(total + c + v * kLanes<S>);
  for (int64_t level = 0; level < levels; ++level) {
    const Footprint<T>& at = footprints[level];
    const S scale = group_weight[level * level_stride];
    for (int k = 0; k < 4; ++k) {
      const S weight = at.weight[k] * scale;
      for (int v = 0; v < kVectors; ++v) sum[v] += load(at.pixel[k] + c + v * kLanes<S>) * weight;
    }
  }
  for (int v = 0; v < kVectors; ++v) store(total + c + v * kLanes<S>, sum[v]);
}

// The same for one channel, where a group is no multiple of the lanes.
template <typename T, typename S = Compute<T>>
SPARSE4D_INLINE void add_channel(S* total, const Footprint<T>* footprints, int64_t levels, int64_t c,
                                 const S* group_weight, int64_t level_stride) {
  for (int64_t level = 0; level < levels; ++level) {
    const Footprint<T>& at = footprints[level];
    S sampled = 0;
    for (int k = 0; k < 4; ++k) sampled += load_one(at.pixel[k] + c) * at.weight[k];
    total[c] += sampled * group_weight[level * level_stride];
  }
}

// total[all channels] += what one visit sees.
template <typename T, typename S = Compute<T>>
SPARSE4D_INLINE void accumulate(S* total, const Footprint<T>* footprints, const Sizes& size, const S* group_weight,
                                int64_t level_stride) {
  const int64_t group_channels = size.channels / size.groups;
  for (int64_t group = 0; group < size.groups; ++group, ++group_weight) {
    int64_t c = group * group_channels;
    const int64_t end = c + group_channels;
    for (; c + kUnrolled * kLanes<S> <= end; c += kUnrolled * kLanes<S>) {
      add_channels<kUnrolled>(total, footprints, size.levels, c, group_weight, level_stride);
    }
    for (; c + kLanes<S> <= end; c += kLanes<S>) {
      add_channels<1>(total, footprints, size.levels, c, group_weight, level_stride);
    }
    for (; c < end; ++c) add_channel(total, footprints, size.levels, c, group_weight, level_stride);
  }
}

// Adds what one camera sees of a block of anchors to their sums, [rows, C].
template <typename T, typename S = Compute<T>>
SPARSE4D_INLINE void add_camera(const Arguments& a, const Visits<S>& visits, int64_t first_row, int64_t camera,
                                Footprint<T>* ring, S* totals) {
  const Sizes& size = a.sizes;
  const WeightStrides& stride = a.weight_strides;
  const int64_t sample = first_row / size.anchors;
  const T* features = static_cast<const T*>(a.features) + sample * size.pixels * size.channels;
  const S* weights = static_cast<const S*>(a.weights) + sample * stride.batch +
                     first_row % size.anchors * stride.anchor + camera * stride.camera;
  const auto weights_of = [&](const Visit<S>& visit) {
    return weights + visit.anchor * stride.anchor + visit.point * stride.point;
  };
  const auto slot = [&](int64_t i) { return ring + i % kRing * size.levels; };
  const auto prepare = [&](int64_t i) {
    const Visit<S>& visit = visits.begin()[i];
    for (int64_t level = 0; level < size.levels; ++level) {
      const LevelMap& map = a.maps[camera * size.levels + level];
      const Corners<S> at = corners(visit.x, visit.y, map);
      Footprint<T>& footprint = slot(i)[level];
      for (int k = 0; k < 4; ++k) {
        footprint.pixel[k] = features + at.row[k] * size.channels;
        footprint.weight[k] = at.weight[k];
      }
      if (map.height * map.width * size.channels * int64_t(sizeof(T)) > kLargeMap) prefetch(footprint, size.channels);
      __builtin_prefetch(weights_of(visit) + level * stride.level);
    }
  };
  const int64_t count = visits.end() - visits.begin();
  for (int64_t i = 0; i < count + kAhead; ++i) {
    if (i < count) prepare(i);
    if (i < kAhead) continue;
    const Visit<S>& visit = visits.begin()[i - kAhead];
    accumulate(totals + visit.anchor * size.channels, slot(i - kAhead), size, weights_of(visit), stride.level);
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
  Scratch<Footprint<T>> ring(kRing * size.levels);
  Scratch<S> scratch(in_place ? 0 : block_rows(size) * size.channels);
  for_blocks(size, begin, end, [&](int64_t first_row, int64_t rows, int64_t) {
    T* output = static_cast<T*>(a.output) + first_row * size.channels;
    S* totals = in_place ? reinterpret_cast<S*>(output) : scratch.get();
    std::memset(totals, 0, size_t(rows * size.channels) * sizeof(S));
    for (int64_t camera = 0; camera < size.cameras; ++camera) {
      visits.collect(locations, first_row, rows, size.points, camera);
      add_camera<T>(a, visits, first_row, camera, ring.get(), totals);
    }
    if constexpr (!in_place) {
      for (int64_t i = 0; i < rows * size.channels; ++i) store_one(output + i, totals[i]);
    }
  });
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
