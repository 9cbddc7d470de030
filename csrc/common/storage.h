// How values lie in memory: float, double, or bfloat16 (rounded to nearest even, NaN kept), read as the
// accumulation type.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/math.h"

namespace FRCN_ISA {

struct bfloat16 {
  uint16_t bits;
};

template <class A>
FRCN_HD A load(const float& value) {
  return static_cast<A>(value);
}

template <class A>
FRCN_HD A load(const double& value) {
  return static_cast<A>(value);
}

template <class A>
FRCN_HD A load(const bfloat16& value) {
  return math::from_bits(static_cast<int32_t>(static_cast<uint32_t>(value.bits) << 16));
}

FRCN_HD void store(float& target, float value) { target = value; }

FRCN_HD void store(double& target, double value) { target = value; }

FRCN_HD void store(bfloat16& target, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  target.bits = static_cast<uint16_t>(value == value ? rounded : nan);
}

}  // namespace FRCN_ISA
