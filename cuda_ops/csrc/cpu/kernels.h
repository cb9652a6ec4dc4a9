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

// The tables that this processor can run, the best first, generic last, then null.
const CpuKernels* const* cpu_kernels();

}  // namespace sparse4d

// What follows makes the table of one instruction set, for the translation unit that is compiled for it.
#if defined(SPARSE4D_TARGET)
#include "backward.h"
#include "forward.h"

namespace sparse4d {
namespace SPARSE4D_TARGET {

#define SPARSE4D_TABLE(function)                                                                 \
  {                                                                                              \
    {function<float, GivenLocations<float>>, function<float, ProjectedPoints<float>>},           \
        {function<double, GivenLocations<double>>, function<double, ProjectedPoints<double>>}, { \
      function<BFloat16, GivenLocations<float>>, function<BFloat16, ProjectedPoints<float>>      \
    }                                                                                            \
  }

inline const CpuKernels& table(const char* name) {
  static const CpuKernels kernels = {name, SPARSE4D_TABLE(forward_rows), SPARSE4D_TABLE(backward_rows),
                                     SPARSE4D_TABLE(backward_maps)};
  return kernels;
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
#endif
