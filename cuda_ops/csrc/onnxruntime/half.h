// IEEE binary16 on processors and compilers that may know nothing of it.
#pragma once
#include <cstdint>
#include <cstring>

namespace sparse4d {

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float widen_half(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 1023u;
  if (exponent == 0) return float_of(bits_of(float(fraction) * 0x1p-24f) | sign);  // zero, or less than normal
  const uint32_t rebased = exponent == 31 ? 255u : exponent + 112u;                // infinity and NaN stay such
  return float_of(sign | rebased << 23 | fraction << 13);
}

// Round to nearest even.
inline uint16_t narrow_half(float value) {
  const uint32_t bits = bits_of(value), size = bits & 0x7fffffffu;
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
  if (size > 0x7f800000u) return sign | 0x7e00u;         // NaN
  if (size >= bits_of(65520.0f)) return sign | 0x7c00u;  // rounds to infinity
  if (size < bits_of(0x1p-14f)) {                        // less than normal: a half's step is that of 0.5f
    return sign | uint16_t(bits_of(float_of(size) + 0.5f) - bits_of(0.5f));
  }
  const uint32_t rounded = size + 0xfffu + ((size >> 13) & 1u);
  return sign | uint16_t((rounded - (112u << 23)) >> 13);
}

}  // namespace sparse4d
