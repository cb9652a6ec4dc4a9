// Vectors as wide as the registers of the instruction set, by the compilers' vector extension. (GCC keeps wider ones in
// memory: with 64 bytes everywhere the AVX2 kernels took 2.7 times as long.)
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "../shared/storage.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef SPARSE4D_VECTOR_BYTES
#error "define SPARSE4D_VECTOR_BYTES, the width of the registers, before the kernels are included"
#endif

namespace sparse4d {
namespace SPARSE4D_TARGET {

// Bytes of a register: 64 (AVX-512), 32 (AVX2) or 16 (SSE2, NEON).
constexpr int kVectorBytes = SPARSE4D_VECTOR_BYTES;

template <typename S>
struct Simd;
template <>
struct Simd<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
};
template <>
struct Simd<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
};
template <typename S>
using Vector = typename Simd<S>::Vector;
template <typename S>
constexpr int64_t kLanes = kVectorBytes / int64_t(sizeof(S));

// (By the type's own alignment, not by memcpy, which GCC makes of 16-byte pieces: a load of 32 bytes then waits for two
// stores.)
template <typename S>
SPARSE4D_INLINE Vector<S> load(const S* p) {
  return *reinterpret_cast<const Vector<S>*>(p);
}

// The bits of a bfloat16 are the upper half of a float's. (By intrinsics where there are some: GCC converts in halves.)
SPARSE4D_INLINE Vector<float> load(const BFloat16* p) {
#if defined(__x86_64__) && SPARSE4D_VECTOR_BYTES == 64
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return Vector<float>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
#elif defined(__x86_64__) && SPARSE4D_VECTOR_BYTES == 32
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return Vector<float>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
#elif defined(__x86_64__)
  const __m128i halves = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return Vector<float>(_mm_unpacklo_epi16(_mm_setzero_si128(), halves));
#else
  typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
  typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
  return Vector<float>(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16);
#endif
}

template <typename S>
SPARSE4D_INLINE void store(S* p, Vector<S> v) {
  *reinterpret_cast<Vector<S>*>(p) = v;
}

// Sum of the lanes: halves are added until four (of doubles: all) are left, which are added in pairs.
SPARSE4D_INLINE float sum(Vector<float> v) {
  float lanes[kLanes<float>];
  std::memcpy(lanes, &v, sizeof(v));
  for (int64_t half = kLanes<float> / 2; half >= 4; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}
SPARSE4D_INLINE double sum(Vector<double> v) {
  double lanes[kLanes<double>];
  std::memcpy(lanes, &v, sizeof(v));
  for (int64_t step = 1; step < kLanes<double>; step *= 2) {
    for (int64_t i = 0; i < kLanes<double>; i += 2 * step) lanes[i] += lanes[i + step];
  }
  return lanes[0];
}

// Working memory of one task, aligned to a cache line. (std::vector's code would be shared between translation units.)
template <typename S>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<S*>(std::aligned_alloc(64, (size_t(count) * sizeof(S) / 64 + 1) * 64))) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  S* get() const { return data_; }

 private:
  S* data_;
};

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
