// Kernels for x86-64 processors with AVX-512; called only where the processor has them.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#elif defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define SPARSE4D_TARGET avx512
#define SPARSE4D_VECTOR_BYTES 64
#include "kernels.h"

namespace sparse4d {

const CpuKernels& cpu_kernels_avx512() { return avx512::table("avx512"); }

}  // namespace sparse4d

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute pop
#endif
