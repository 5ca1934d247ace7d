// fp16 in software. Internal linkage: see linear_output.h.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

inline float float_from_half(uint16_t half) {
  // Moved into place, a half reads as a float 2^112 too small, subnormal numbers included.
  const uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  value *= 5.192296858534828e33f;  // 2^112
  return half & 0x8000 ? -value : value;
}

// Rounds to nearest even; beyond the largest half, that one.
inline uint16_t half_from_float(float value) {
  const uint16_t sign = value < 0 ? 0x8000 : 0;
  float magnitude = value < 0 ? -value : value;
  if (!(magnitude < 65504.0f)) return sign | 0x7bff;
  if (magnitude < 6.103515625e-05f) {
    // Below 2^-14 halves are whole multiples of 2^-24: adding 2^23 of those leaves their number.
    magnitude = magnitude * 16777216.0f + 8388608.0f;
    uint32_t bits;
    std::memcpy(&bits, &magnitude, sizeof bits);
    return sign | static_cast<uint16_t>(bits & 0x7fff);
  }
  uint32_t bits;
  std::memcpy(&bits, &magnitude, sizeof bits);
  bits += 0xfff + ((bits >> 13) & 1);
  return sign | static_cast<uint16_t>((bits >> 13) - (112 << 10));
}

}  // namespace
