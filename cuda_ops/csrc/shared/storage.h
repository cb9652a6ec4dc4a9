// Feature types as they lie in memory, and the type in which each is computed with. No torch includes.
#pragma once
#include <cstring>

#include "sampling.h"

namespace sparse4d {
namespace SPARSE4D_TARGET {

struct BFloat16 {
  uint16_t bits;
};
struct Half {  // IEEE binary16, CUDA only
  uint16_t bits;
};

template <typename T>
struct ComputeType {
  using type = T;
};
template <>
struct ComputeType<BFloat16> {
  using type = float;
};
template <>
struct ComputeType<Half> {
  using type = float;
};
template <typename T>
using Compute = typename ComputeType<T>::type;

template <typename S>
SPARSE4D_INLINE S load_one(const S* p) {
  return *p;
}

SPARSE4D_INLINE float load_one(const BFloat16* p) {
  const uint32_t word = uint32_t(p->bits) << 16;
  float value;
  memcpy(&value, &word, sizeof(value));
  return value;
}

template <typename S>
SPARSE4D_INLINE void store_one(S* p, S value) {
  *p = value;
}

// Round to nearest even; NaN stays NaN.
SPARSE4D_INLINE void store_one(BFloat16* p, float value) {
  uint32_t word;
  memcpy(&word, &value, sizeof(word));
  const uint32_t rounded = word + 0x7fffu + ((word >> 16) & 1u);
  p->bits = value != value ? uint16_t(0x7fc0) : uint16_t(rounded >> 16);
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
