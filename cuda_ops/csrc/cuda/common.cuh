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

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMaxMaps = 128;  // cameras x levels; travel as a kernel argument, so no copy and no synchronisation

struct LevelMaps {
  LevelMap map[kMaxMaps];
};

#if defined(__CUDACC__)
SPARSE4D_DEVICE float load_one(const Half* p) { return __half2float(__ushort_as_half(p->bits)); }
SPARSE4D_DEVICE void store_one(Half* p, float value) { p->bits = __half_as_ushort(__float2half_rn(value)); }
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
#endif

// kWidth channels next to each other; 16 bytes where the channels of a group allow it.
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
  S x[kThreads], y[kThreads];
  int point[kThreads], camera[kThreads];
  int warp_count[kThreads / kWarp];
};

// Tests the (point, camera) pairs [first, first + kThreads) and lists the visible ones in order. Returns their number;
// all threads of the block take part, and may read the list afterwards.
template <typename S, typename Locations>
SPARSE4D_DEVICE int list_visits(const Locations& locations, const Sizes& size, int64_t row, int64_t first,
                                SharedVisits<S>& visits) {
  const int64_t pair = first + threadIdx.x;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  S x = 0, y = 0;
  const bool visible =
      pair < size.points * size.cameras && locations.locate(row, pair / size.cameras, pair % size.cameras, x, y);
  const unsigned mask = __ballot_sync(kAllLanes, visible);
  if (lane == 0) visits.warp_count[warp] = __popc(mask);
  __syncthreads();
  int place = __popc(mask & ((1u << lane) - 1u)), total = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) {
    if (w < warp) place += visits.warp_count[w];
    total += visits.warp_count[w];
  }
  if (visible) {
    visits.x[place] = x;
    visits.y[place] = y;
    visits.point[place] = int(pair / size.cameras);
    visits.camera[place] = int(pair % size.cameras);
  }
  __syncthreads();
  return total;
}

// How the threads of a block share the channels of a row: `slices` groups of `lanes` threads (whole warps), each lane
// holding one pack; the slices take turns at the samples.
struct Division {
  int lanes, slices;
  int slice, lane;

  SPARSE4D_DEVICE explicit Division(int64_t packs) {
    const int64_t whole_warps = (packs + kWarp - 1) / kWarp * kWarp;
    lanes = whole_warps < kThreads ? int(whole_warps) : kThreads;
    slices = kThreads / lanes;
    slice = int(threadIdx.x) / lanes;
    lane = int(threadIdx.x) % lanes;
  }
};

SPARSE4D_DEVICE int64_t weight_offset(const WeightStrides& stride, int64_t sample, int64_t anchor, int point,
                                      int camera) {
  return sample * stride.batch + anchor * stride.anchor + point * stride.point + camera * stride.camera;
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
