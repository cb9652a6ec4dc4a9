// 64-byte vectors by the compiler's vector extension: AVX-512 registers where the translation unit has them,
// pairs of AVX or quadruples of SSE/NEON registers elsewhere.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "../shared/storage.h"

namespace sparse4d {
namespace SPARSE4D_TARGET {

template <typename S>
struct Simd;
template <>
struct Simd<float> {
  typedef float Vector __attribute__((vector_size(64), aligned(4)));
};
template <>
struct Simd<double> {
  typedef double Vector __attribute__((vector_size(64), aligned(8)));
};
template <typename S>
using Vector = typename Simd<S>::Vector;
template <typename S>
constexpr int64_t kLanes = 64 / int64_t(sizeof(S));

template <typename S>
SPARSE4D_INLINE Vector<S> load(const S* p) {
  Vector<S> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

SPARSE4D_INLINE Vector<float> load(const BFloat16* p) {
  typedef uint16_t Half __attribute__((vector_size(32)));
  typedef uint32_t Word __attribute__((vector_size(64)));
  Half half;
  std::memcpy(&half, p, sizeof(half));
  const Word word = __builtin_convertvector(half, Word) << 16;
  Vector<float> v;
  std::memcpy(&v, &word, sizeof(v));
  return v;
}

template <typename S>
SPARSE4D_INLINE void store(S* p, Vector<S> v) {
  std::memcpy(p, &v, sizeof(v));
}

// Sum of the lanes, by halves.
SPARSE4D_INLINE float sum(Vector<float> v) {
  typedef float V8 __attribute__((vector_size(32)));
  typedef float V4 __attribute__((vector_size(16)));
  V8 low, high;
  std::memcpy(&low, &v, 32);
  std::memcpy(&high, reinterpret_cast<const char*>(&v) + 32, 32);
  low += high;
  V4 a, b;
  std::memcpy(&a, &low, 16);
  std::memcpy(&b, reinterpret_cast<const char*>(&low) + 16, 16);
  a += b;
  return (a[0] + a[1]) + (a[2] + a[3]);
}
SPARSE4D_INLINE double sum(Vector<double> v) {
  return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
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
