// The CUDA kernels as seen by the torch bindings.
#pragma once
#include "../shared/arguments.h"

namespace sparse4d {

constexpr int kMaxCudaMaps = 128;  // cameras x levels

// Start on `stream` (a cudaStream_t); return a cudaError_t. See backward.cuh for what must be zero before.
int launch_forward(FeatureType type, bool fused, const Arguments& arguments, void* stream);
int launch_backward(FeatureType type, bool fused, const Arguments& arguments, void* stream);

}  // namespace sparse4d
