// The CUDA kernels as seen by the torch bindings.
#pragma once
#include "../shared/arguments.h"

namespace sparse4d {

constexpr int kMaxCudaMaps = 128;  // cameras x levels

// Start on `stream` (a cudaStream_t); return a cudaError_t. See backward.cuh for what must be zero before.
int launch_forward(FeatureType type, bool fused, const Arguments& arguments, void* stream);
int launch_backward(FeatureType type, bool fused, const Arguments& arguments, void* stream);

}  // namespace sparse4d

// What follows chooses the kernel for a problem: feature type, locations given or projected, channels per load. It is
// for the translation unit that holds the kernels.
#if defined(SPARSE4D_TARGET)
#include "backward.cuh"
#include "forward.cuh"

namespace sparse4d {
namespace SPARSE4D_TARGET {

enum class Direction { Forward, Backward };

template <typename T, typename Locations, int kWidth, typename Launcher>
void launch_kernel(Direction direction, const Arguments& a, const LevelMaps& maps, const Launcher& launcher) {
  const int64_t blocks = a.sizes.batch * a.sizes.anchors;
  if (direction == Direction::Forward) {
    launcher(forward_kernel<T, Locations, kWidth>, blocks, a, maps);
  } else {
    launcher(backward_kernel<T, Locations, kWidth>, blocks, a, maps);
  }
}

// Whether everything that is read or written a pack at a time starts at a multiple of 16 bytes. A view may not.
inline bool aligned(const Arguments& a) {
  const void* packed[] = {a.features, a.output, a.grad_output, a.grad_features};
  for (const void* start : packed) {
    if (reinterpret_cast<uintptr_t>(start) % 16 != 0) return false;
  }
  return true;
}

template <typename T, typename Launcher>
void launch_type(Direction direction, bool fused, const Arguments& a, const LevelMaps& maps, const Launcher& launcher) {
  using S = Compute<T>;
  constexpr int kWide = 16 / int(sizeof(T));
  const bool wide = a.sizes.channels / a.sizes.groups % kWide == 0 && aligned(a);
  if (fused && wide) launch_kernel<T, ProjectedPoints<S>, kWide>(direction, a, maps, launcher);
  if (fused && !wide) launch_kernel<T, ProjectedPoints<S>, 1>(direction, a, maps, launcher);
  if (!fused && wide) launch_kernel<T, GivenLocations<S>, kWide>(direction, a, maps, launcher);
  if (!fused && !wide) launch_kernel<T, GivenLocations<S>, 1>(direction, a, maps, launcher);
}

// launcher(kernel, blocks, arguments, maps) starts `blocks` blocks of kThreads threads.
template <typename Launcher>
void launch(Direction direction, FeatureType type, bool fused, const Arguments& a, const Launcher& launcher) {
  if (a.sizes.batch * a.sizes.anchors == 0) return;
  LevelMaps maps{};
  for (int64_t i = 0; i < a.sizes.cameras * a.sizes.levels; ++i) maps.map[i] = a.maps[i];
  if (type == FeatureType::Float32) launch_type<float>(direction, fused, a, maps, launcher);
  if (type == FeatureType::Float64) launch_type<double>(direction, fused, a, maps, launcher);
  if (type == FeatureType::BFloat16) launch_type<BFloat16>(direction, fused, a, maps, launcher);
  if (type == FeatureType::Float16) launch_type<Half>(direction, fused, a, maps, launcher);
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
#endif
