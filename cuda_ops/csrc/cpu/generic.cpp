// Kernels for any processor, and the choice between the tables.
#define SPARSE4D_TARGET generic
#define SPARSE4D_VECTOR_BYTES 16
#include "kernels.h"

namespace sparse4d {
namespace {

struct Runnable {
  const CpuKernels* tables[4] = {};

  Runnable() {
    const CpuKernels** next = tables;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq")) {
      *next++ = &cpu_kernels_avx512();
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) *next++ = &cpu_kernels_avx2();
#endif
    *next = &cpu_kernels_generic();
  }
};

}  // namespace

const CpuKernels& cpu_kernels_generic() { return generic::table("generic"); }

const CpuKernels* const* cpu_kernels() {
  static const Runnable runnable;
  return runnable.tables;
}

}  // namespace sparse4d
