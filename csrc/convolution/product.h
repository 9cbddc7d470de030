// What a kernel multiplies at a time: neighbouring values of one element type, the weights that they meet in a vector
// of outputs, and the sum that takes their products.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/vector.h"

namespace FRCN_ISA {

// The type of sums.
template <class T>
using SumOf = std::conditional_t<std::is_same_v<T, bfloat16>, float, T>;

template <class T, int Lanes = kLanes<SumOf<T>>>
struct Product {
  using V = typename Packed<T, Lanes>::Type;
  static constexpr int kTogether = 1;

  template <bool>
  static FRCN_HD T values(const T* x) {
    return *x;
  }
  static FRCN_HD V weights(const T* w) { return load_as<V>(w); }
  static FRCN_HD V add(V sum, T value, V weights) { return sum + value * weights; }
};

#if defined(__AVX512BF16__)
// Two by two, summed in float.
template <>
struct Product<bfloat16> {
  using V = typename Vector<float>::Type;
  static constexpr int kTogether = 2;

  // `Last`: of an odd number, and zero; what lies behind it is not read.
  template <bool Last>
  static FRCN_HD uint32_t values(const bfloat16* x) {
    uint32_t pair = x->bits;
    if (!Last) std::memcpy(&pair, x, sizeof pair);
    return pair;
  }
  static FRCN_HD __m512i weights(const bfloat16* w) { return _mm512_loadu_si512(w); }
  static FRCN_HD V add(V sum, uint32_t pair, __m512i weights) {
    return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(static_cast<int>(pair)), (__m512bh)weights);
  }
};
#endif

}  // namespace FRCN_ISA
