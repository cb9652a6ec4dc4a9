// What the CUDA kernels share. No torch includes: nvcc compiles them alone, and a host compiler compiles them for the
// tests, with cuda_on_host.h standing in for the device.
#pragma once
#include "../shared/storage.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

#define SPARSE4D_DEVICE __device__ __forceinline__

namespace sparse4d {
namespace SPARSE4D_TARGET {

constexpr int kThreads = 128;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMaxMaps = 128;  // cameras x levels; travel as a kernel argument, so no copy and no synchronisation
constexpr int kTile = 128;     // samples (a visit in one level) prepared at a time; at least the levels of one visit

struct LevelMaps {
  LevelMap map[kMaxMaps];
};

#if defined(__CUDACC__)
SPARSE4D_DEVICE float load_one(const Half* p) { return __half2float(__ushort_as_half(p->bits)); }
SPARSE4D_DEVICE void store_one(Half* p, float value) { p->bits = __half_as_ushort(__float2half_rn(value)); }

// An array in shared memory. The host has its own, which lets other threads run between any two accesses.
template <typename T, int kCount>
struct SharedArray {
  T value[kCount];
  SPARSE4D_DEVICE T get(int i) const { return value[i]; }
  SPARSE4D_DEVICE void set(int i, T to) { value[i] = to; }
  SPARSE4D_DEVICE void add(int i, T more) { atomicAdd(&value[i], more); }
};
#else
SPARSE4D_DEVICE float load_one(const Half* p) {
  _Float16 half;
  memcpy(&half, p, sizeof(half));
  return float(half);
}
SPARSE4D_DEVICE void store_one(Half* p, float value) {
  const _Float16 half = _Float16(value);
  memcpy(p, &half, sizeof(half));
}

template <typename T, int kCount>
using SharedArray = cuda_on_host::SharedArray<T, kCount>;
#endif

// What a block counts with; numbers of pixels and rows alone may need 64 bits.
struct Shape {
  int pairs;  // points x cameras
  int points, cameras, levels;
  int packs, group_packs;  // of kWidth channels, in a row and in a group
  int visits_at_once;      // whose samples fit into a tile

  SPARSE4D_DEVICE Shape(const Sizes& size, int width)
      : pairs(int(size.points * size.cameras)),
        points(int(size.points)),
        cameras(int(size.cameras)),
        levels(int(size.levels)),
        packs(int(size.channels) / width),
        group_packs(packs / int(size.groups)),
        visits_at_once(kTile / int(size.levels)) {}
};

// kWidth channels next to each other; 16 bytes where channels and addresses allow it.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T value[kWidth];
};

template <typename T, int kWidth>
SPARSE4D_DEVICE void load_pack(Compute<T>* to, const T* from) {
  const Pack<T, kWidth> pack = *reinterpret_cast<const Pack<T, kWidth>*>(from);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) to[i] = load_one(&pack.value[i]);
}

// The key points of one output row that are seen by a camera, up to kThreads of them at a time.
template <typename S>
struct SharedVisits {
  SharedArray<S, kThreads> x, y;
  SharedArray<int, kThreads> point, camera;
  SharedArray<int, kThreads / kWarp> warp_count;
};

// Tests the (point, camera) pairs [first, first + kThreads) and lists the visible ones in order. Returns their number;
// all threads of the block take part, and may read the list afterwards.
template <typename S, typename Locations>
SPARSE4D_DEVICE int list_visits(const Locations& locations, const Shape& shape, int64_t row, int first,
                                SharedVisits<S>& visits) {
  const int pair = first + int(threadIdx.x);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  S x = 0, y = 0;
  const bool visible = pair < shape.pairs && locations.locate(row, pair / shape.cameras, pair % shape.cameras, x, y);
  const unsigned mask = __ballot_sync(kAllLanes, visible);
  if (lane == 0) visits.warp_count.set(warp, __popc(mask));
  __syncthreads();
  int place = __popc(mask & ((1u << lane) - 1u)), total = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) {
    const int count = visits.warp_count.get(w);
    if (w < warp) place += count;
    total += count;
  }
  if (visible) {
    visits.x.set(place, x);
    visits.y.set(place, y);
    visits.point.set(place, pair / shape.cameras);
    visits.camera.set(place, pair % shape.cameras);
  }
  __syncthreads();
  return total;
}

// Corners of the tile's sample `i` (visit after visit, level after level), found by one thread for the whole block, and
// where its weights lie: elements from the row's first weight.
template <typename S>
SPARSE4D_DEVICE Corners<S> find_sample(const SharedVisits<S>& visits, const Shape& shape, const LevelMaps& maps,
                                       const WeightStrides& stride, int first_visit, int i, int& weight_offset) {
  const int visit = first_visit + i / shape.levels, level = i % shape.levels, camera = visits.camera.get(visit);
  weight_offset = visits.point.get(visit) * int(stride.point) + camera * int(stride.camera) + level * int(stride.level);
  return corners(visits.x.get(visit), visits.y.get(visit), maps.map[camera * shape.levels + level]);
}

// How the threads of a block share the channels of a row: `slices` groups of `lanes` threads (whole warps), each lane
// holding one pack; the slices take turns at the visits.
struct Division {
  int lanes, slices;
  int slice, lane;

  SPARSE4D_DEVICE explicit Division(int packs) {
    const int whole_warps = (packs + kWarp - 1) / kWarp * kWarp;
    lanes = whole_warps < kThreads ? whole_warps : kThreads;
    slices = kThreads / lanes;
    slice = int(threadIdx.x) / lanes;
    lane = int(threadIdx.x) % lanes;
  }
};

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
