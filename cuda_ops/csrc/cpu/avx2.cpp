// Kernels for x86-64 processors with AVX2 and FMA; called only where the processor has them.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#elif defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")
#endif
#define SPARSE4D_TARGET avx2
#define SPARSE4D_VECTOR_BYTES 32
#include "kernels.h"

namespace sparse4d {

const CpuKernels& cpu_kernels_avx2() { return avx2::table("avx2"); }

}  // namespace sparse4d

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute pop
#endif
