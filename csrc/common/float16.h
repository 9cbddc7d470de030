// IEEE half precision in memory, read as float. On the host by hand: CUDA's header is not always there.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

#include "common/storage.h"

namespace FRCN_ISA {

struct float16 {
  uint16_t bits;
};

template <class A>
FRCN_HD A load(const float16& value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t magnitude = value.bits & 0x7fffu, sign = (value.bits & 0x8000u) << 16;
  const float small = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // subnormal: units of 2^-24
  uint32_t word;
  std::memcpy(&word, &small, sizeof word);
  if (magnitude >= 0x400u) word = (magnitude << 13) + ((magnitude >= 0x7c00u ? 224u : 112u) << 23);
  return math::from_bits(static_cast<int32_t>(word | sign));
#endif
}

FRCN_HD void store(float16& target, float value) {
#if defined(__CUDA_ARCH__)
  target.bits = __half_as_ushort(__float2half_rn(value));
#else
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  const uint32_t sign = (word >> 16) & 0x8000u;
  word &= 0x7fffffffu;
  uint32_t bits;
  if (word > 0x7f800000u) {
    bits = 0x7fffu;
  } else if (word >= 0x477ff000u) {  // from 65520 on
    bits = 0x7c00u;
  } else if (word < 0x38800000u) {
    // Below 2^-14: added to 0.5, whose last bit is 2^-24, it is rounded to the units of a subnormal.
    const float sum = math::from_bits(static_cast<int32_t>(word)) + 0.5f;
    std::memcpy(&bits, &sum, sizeof bits);
    bits -= 0x3f000000u;
  } else {
    bits = ((word + 0xfffu + ((word >> 13) & 1u)) >> 13) - (112u << 10);
  }
  target.bits = static_cast<uint16_t>(bits | sign);
#endif
}

}  // namespace FRCN_ISA
