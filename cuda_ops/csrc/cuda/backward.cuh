// Backward on CUDA: one block owns one output row. Gradients of weights and locations are sums within the block and are
// written once; only the gradient of the features, to which many rows contribute, needs atomic additions.
#pragma once
#include "common.cuh"

// Additions of 16 bytes at a time exist from compute capability 9.0 and CUDA 12.1 on. Below, lanes take neighbouring
// channels, so that the additions of a warp fill whole sectors of memory.
#if !defined(SPARSE4D_VECTOR_ATOMICS)
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1201
#define SPARSE4D_VECTOR_ATOMICS 1
#else
#define SPARSE4D_VECTOR_ATOMICS 0
#endif
#endif

namespace sparse4d {
namespace SPARSE4D_TARGET {

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

// Gradients of one sample's weight and location, for one pack of channels.
template <typename T, int kWidth, typename S = Compute<T>>
SPARSE4D_DEVICE SampleGradient<S> sample_gradient(const S* grad_output, const T* channels, int64_t stride,
                                                  const Corners<S>& at, S weight) {
  S corner[4][kWidth];
#pragma unroll
  for (int k = 0; k < 4; ++k) load_pack<T, kWidth>(corner[k], channels + at.row[k] * stride);
  SampleGradient<S> gradient = {0, 0, 0};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    S dot = 0;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) dot += corner[k][i] * grad_output[i];
    gradient.weight += at.weight[k] * dot;
    gradient.x += at.weight_dx[k] * weight * dot;
    gradient.y += at.weight_dy[k] * weight * dot;
  }
  return gradient;
}

// Adds to the gradient of the features. A lane's share are the channels of its pack, or every 32nd channel of those of
// its warp: then lanes without a pack may have a share, too.
template <typename S, int kWidth>
struct FeatureGradient {
  static constexpr bool kPacks = SPARSE4D_VECTOR_ATOMICS && sizeof(S) == 4 && kWidth % 4 == 0;
  S* target;  // of the batch sample; null = not wanted
  int channels, group_channels, first;
  S grad_output[kWidth];

  template <typename T>
  SPARSE4D_DEVICE FeatureGradient(S* target, const T* row_gradient, const Sizes& size, int pack)
      : target(target), channels(int(size.channels)), group_channels(int(size.channels / size.groups)) {
    const int lane = int(threadIdx.x) % kWarp;
    first = kPacks ? pack * kWidth : (pack - lane) * kWidth + lane;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) grad_output[i] = mine(i) ? S(load_one(row_gradient + channel(i))) : S(0);
  }

  SPARSE4D_DEVICE int channel(int i) const { return kPacks ? first + i : first + i * kWarp; }
  SPARSE4D_DEVICE bool mine(int i) const { return channel(i) < channels; }

  // weights: of the sample, group after group.
  SPARSE4D_DEVICE void add(const Corners<S>& at, const S* weights) const {
    if (target == nullptr) return;
    S scaled[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) scaled[i] = mine(i) ? weights[channel(i) / group_channels] * grad_output[i] : S(0);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (at.weight[k] != S(0)) add_corner(target + at.row[k] * channels, at.weight[k], scaled);
    }
  }

  SPARSE4D_DEVICE void add_corner(S* row, S weight, const S* scaled) const {
    if constexpr (kPacks) {
#if SPARSE4D_VECTOR_ATOMICS
#pragma unroll
      for (int i = 0; i < kWidth; i += 4) {
        const float4 four = {weight * scaled[i], weight * scaled[i + 1], weight * scaled[i + 2],
                             weight * scaled[i + 3]};
        if (mine(i)) atomicAdd(reinterpret_cast<float4*>(row + channel(i)), four);
      }
#endif
    } else {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        if (mine(i)) atomicAdd(row + channel(i), weight * scaled[i]);
      }
    }
  }
};

// Adds the part of one group's weight gradient that this lane's pack holds to the sum in memory.
template <typename S>
SPARSE4D_DEVICE void add_weight_gradient(S* target, S part, int group_packs, int pack, bool active) {
  const bool within_warp = group_packs <= kWarp && (group_packs & (group_packs - 1)) == 0;
  if (within_warp) {  // one lane owns the group: no atomics
    const S sum = sum_lanes(part, group_packs);
    if (active && pack % group_packs == 0) *target = sum;
  } else if (active) {
    atomicAdd(target, part);
  }
}

// grid: batch x anchors blocks of kThreads. grad_weights and grad_location start as zeros; grad_features, zeros of the
// compute type, may be null.
template <typename T, typename Locations, int kWidth>
__global__ void __launch_bounds__(kThreads, 4) backward_kernel(const Arguments a, const LevelMaps maps) {
  using S = Compute<T>;
  __shared__ SharedVisits<S> visits;
  __shared__ SharedArray<Corners<S>, kTile> samples;
  __shared__ SharedArray<int, kTile> weight_offsets;
  __shared__ SharedArray<S, kThreads> grad_x, grad_y;
  const Sizes& size = a.sizes;
  const Locations locations(a);
  const int64_t row = blockIdx.x, sample = row / size.anchors, anchor = row % size.anchors;
  const Shape shape(size, kWidth);
  const Division division(shape.packs);
  const int64_t sample_start = sample * size.pixels * size.channels;
  const int64_t first_weight = sample * a.weight_strides.batch + anchor * a.weight_strides.anchor;
  const T* row_gradient = static_cast<const T*>(a.grad_output) + row * size.channels;
  const S* weights = static_cast<const S*>(a.weights) + first_weight;
  S* grad_weights = a.grad_weights == nullptr ? nullptr : static_cast<S*>(a.grad_weights) + first_weight;
  S* grad_features = a.grad_features == nullptr ? nullptr : static_cast<S*>(a.grad_features) + sample_start;

  for (int first_pack = 0; first_pack < shape.packs; first_pack += division.lanes) {
    const int pack = first_pack + division.lane;
    const bool active = pack < shape.packs && division.slice < division.slices;
    const int channel = active ? pack * kWidth : 0, group = active ? pack / shape.group_packs : 0;
    S grad_output[kWidth] = {};
    if (active) load_pack<T, kWidth>(grad_output, row_gradient + channel);
    const T* features = static_cast<const T*>(a.features) + sample_start + channel;
    const FeatureGradient<S, kWidth> feature_gradient(grad_features, row_gradient, size, pack);

    for (int first = 0; first < shape.pairs; first += kThreads) {
      const int count = list_visits(locations, shape, row, first, visits);
      grad_x.set(int(threadIdx.x), 0);
      grad_y.set(int(threadIdx.x), 0);
      for (int tile = 0; tile < count; tile += shape.visits_at_once) {
        const int here = count - tile < shape.visits_at_once ? count - tile : shape.visits_at_once;
        if (int(threadIdx.x) < here * shape.levels) {
          int offset;
          samples.set(int(threadIdx.x),
                      find_sample(visits, shape, maps, a.weight_strides, tile, int(threadIdx.x), offset));
          weight_offsets.set(int(threadIdx.x), offset);
        }
        __syncthreads();
        // Whole warps go through the same visits, so that their lanes can exchange values. Idle lanes (grad_output
        // zero) compute along and add zeros.
        for (int visit = division.slice; division.slice < division.slices && visit < here; visit += division.slices) {
          const int camera = visits.camera.get(tile + visit);
          S dx = 0, dy = 0;
          for (int level = 0; level < shape.levels; ++level) {
            const Corners<S> at = samples.get(visit * shape.levels + level);
            const int offset = weight_offsets.get(visit * shape.levels + level);
            const SampleGradient<S> g =
                sample_gradient<T, kWidth>(grad_output, features, size.channels, at, weights[offset + group]);
            feature_gradient.add(at, weights + offset);
            const LevelMap& map = maps.map[camera * shape.levels + level];
            dx += g.x * S(map.width);
            dy += g.y * S(map.height);
            if (grad_weights != nullptr) {
              add_weight_gradient(grad_weights + offset + group, g.weight, shape.group_packs, pack, active);
            }
          }
          dx = sum_lanes(dx, kWarp);
          dy = sum_lanes(dy, kWarp);
          if (threadIdx.x % kWarp == 0) {  // the slice's few warps
            grad_x.add(tile + visit, dx);
            grad_y.add(tile + visit, dy);
          }
        }
        __syncthreads();  // the tile is read to its end before it is overwritten; the sums are complete
      }
      if (locations.gradient != nullptr) {  // one thread owns a key point
        for (int point = int(threadIdx.x); point < shape.points; point += kThreads) {
          for (int visit = 0; visit < count; ++visit) {
            if (visits.point.get(visit) != point) continue;
            locations.add_gradient(row, point, visits.camera.get(visit), grad_x.get(visit), grad_y.get(visit));
          }
        }
      }  // list_visits waits before it overwrites what is read here
    }
  }
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
