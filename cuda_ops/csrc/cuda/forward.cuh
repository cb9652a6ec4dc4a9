// Forward on CUDA: one block owns one output row, so nothing is added atomically and the result is deterministic.
//
//   list the visible (point, camera) pairs ─► per tile: one thread finds each sample's corners, once for the block
//                                          ─► every lane reads them and adds its channels ─► sum over the slices
#pragma once
#include "common.cuh"

namespace sparse4d {
namespace SPARSE4D_TARGET {

// A sample as all lanes read it.
template <typename S>
struct alignas(16) ForwardSample {
  int64_t byte[4];  // from the first channel of the batch sample's features to that of the corner
  S weight[4];
};

// One sample in one map: total += weight x interpolated pack.
template <typename T, int kWidth, typename S = Compute<T>>
SPARSE4D_DEVICE void add_sample(S* total, const char* channels, const ForwardSample<S>& at, S weight) {
  S corner[4][kWidth];
#pragma unroll
  for (int k = 0; k < 4; ++k) load_pack<T, kWidth>(corner[k], reinterpret_cast<const T*>(channels + at.byte[k]));
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const S factor = at.weight[k] * weight;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) total[i] += factor * corner[k][i];
  }
}

// Sums the slices' totals and writes the row's packs.
template <typename T, int kWidth, typename S = Compute<T>>
SPARSE4D_DEVICE void write_row(T* output, const S* total, SharedArray<S, kThreads * kWidth>& shared,
                               const Division& division, bool active) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) shared.set(threadIdx.x * kWidth + i, total[i]);
  __syncthreads();
  if (division.slice == 0 && active) {
    Pack<T, kWidth> pack;
    for (int i = 0; i < kWidth; ++i) {
      S sum = 0;
      for (int slice = 0; slice < division.slices; ++slice) {
        sum += shared.get((slice * division.lanes + division.lane) * kWidth + i);
      }
      store_one(&pack.value[i], sum);
    }
    *reinterpret_cast<Pack<T, kWidth>*>(output) = pack;
  }
}

// grid: batch x anchors blocks of kThreads. Four samples at a time keep 16 reads of 16 bytes under way in each thread,
// for which the bounds leave 128 registers; none is spilled on any architecture, which test_cuda_listing.py reads off.
template <typename T, typename Locations, int kWidth>
__global__ void __launch_bounds__(kThreads, 4) forward_kernel(const Arguments a, const LevelMaps maps) {
  using S = Compute<T>;
  __shared__ SharedVisits<S> visits;
  __shared__ SharedArray<ForwardSample<S>, kTile> samples;
  __shared__ SharedArray<int, kTile> weight_offsets;
  __shared__ SharedArray<S, kThreads * kWidth> sums;
  const Sizes& size = a.sizes;
  const Locations locations(a);
  const int64_t row = blockIdx.x, sample = row / size.anchors, anchor = row % size.anchors;
  const Shape shape(size, kWidth);
  const Division division(shape.packs);
  const T* features = static_cast<const T*>(a.features) + sample * size.pixels * size.channels;
  const S* weights =
      static_cast<const S*>(a.weights) + sample * a.weight_strides.batch + anchor * a.weight_strides.anchor;

  for (int first_pack = 0; first_pack < shape.packs; first_pack += division.lanes) {
    const int pack = first_pack + division.lane;
    const bool active = pack < shape.packs && division.slice < division.slices;
    const char* channels = reinterpret_cast<const char*>(features + (active ? pack * kWidth : 0));
    const S* group_weights = weights + (active ? pack / shape.group_packs : 0);
    S total[kWidth] = {};
    for (int first = 0; first < shape.pairs; first += kThreads) {
      const int count = list_visits(locations, shape, row, first, visits);
      for (int tile = 0; tile < count; tile += shape.visits_at_once) {
        const int here = count - tile < shape.visits_at_once ? count - tile : shape.visits_at_once;
        if (int(threadIdx.x) < here * shape.levels) {
          int offset;
          const Corners<S> at = find_sample(visits, shape, maps, a.weight_strides, tile, int(threadIdx.x), offset);
          ForwardSample<S> found;
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            found.byte[k] = at.row[k] * size.channels * int64_t(sizeof(T));
            found.weight[k] = at.weight[k];
          }
          samples.set(int(threadIdx.x), found);
          weight_offsets.set(int(threadIdx.x), offset);
        }
        __syncthreads();
        // A slice takes whole visits, so that every slice has its share of the large maps.
        for (int visit = active ? division.slice : here; visit < here; visit += division.slices) {
#pragma unroll 4
          for (int i = visit * shape.levels; i < (visit + 1) * shape.levels; ++i) {
            add_sample<T, kWidth>(total, channels, samples.get(i), group_weights[weight_offsets.get(i)]);
          }
        }
        __syncthreads();  // tile and list are read to their end before they are overwritten
      }
    }
    // Where there is more than one round of packs, there is one slice, and every thread reads its own sums alone.
    write_row<T, kWidth>(static_cast<T*>(a.output) + row * size.channels + pack * kWidth, total, sums, division,
                         active);
  }
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
