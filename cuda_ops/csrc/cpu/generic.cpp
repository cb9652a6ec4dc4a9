// Kernels for any processor, and the choice between the tables.
#define SPARSE4D_TARGET generic
#include "kernels.h"

namespace sparse4d {

const CpuKernels& cpu_kernels_generic() { return generic::table("generic"); }

const CpuKernels& cpu_kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    return cpu_kernels_avx512();
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return cpu_kernels_avx2();
#endif
  return cpu_kernels_generic();
}

}  // namespace sparse4d
