// The CPU kernels as tables of functions, one table per instruction set, chosen at run time.
#pragma once
#include "../shared/arguments.h"

namespace sparse4d {

// Works on tasks [begin, end); tasks are independent of each other.
using RangeKernel = void (*)(const Arguments&, int64_t begin, int64_t end);

struct CpuKernels {
  const char* name;
  // [FeatureType: Float32, Float64, BFloat16][0: locations given, 1: projected here]
  RangeKernel forward[3][2];        // tasks: batch x anchors
  RangeKernel backward_rows[3][2];  // tasks: batch x anchors
  RangeKernel backward_maps[3][2];  // tasks: batch x cameras x levels x arguments.channel_blocks
};

const CpuKernels& cpu_kernels_generic();
const CpuKernels& cpu_kernels_avx2();
const CpuKernels& cpu_kernels_avx512();

// The best table that this processor can run.
const CpuKernels& cpu_kernels();

}  // namespace sparse4d
