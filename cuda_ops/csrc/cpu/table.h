// Instantiates the kernels for the instruction set SPARSE4D_ISA; included once per translation unit.
#pragma once
#include "backward.h"
#include "forward.h"
#include "kernels.h"

namespace sparse4d {
namespace SPARSE4D_ISA {

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

}  // namespace SPARSE4D_ISA
}  // namespace sparse4d
