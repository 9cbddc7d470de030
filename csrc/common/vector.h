// Vectors of the instruction set being compiled, of values and of whole numbers as wide, and their way from and to
// memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "common/storage.h"

namespace FRCN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class F>
constexpr int kLanes = kVectorBytes / sizeof(F);

template <class F>
struct Vector {
  typedef F Type __attribute__((vector_size(kVectorBytes)));
};

// Whole numbers as wide as F: comparisons of vectors of F give vectors of these, all bits set where true.
template <class F>
using Whole = std::conditional_t<sizeof(F) == 8, int64_t, int32_t>;

template <class T, int Count>
struct Packed {
  typedef T Type __attribute__((vector_size(Count * sizeof(T))));
};

template <class V>
FRCN_HD V load_as(const void* from) {
  V found;
  std::memcpy(&found, from, sizeof found);
  return found;
}

template <class A>
FRCN_HD typename Vector<A>::Type load_vector(const A* from) {
  return load_as<typename Vector<A>::Type>(from);
}

template <class A>
FRCN_HD void store_vector(A* to, typename Vector<A>::Type value) {
  std::memcpy(to, &value, sizeof value);
}

// `count` values at most, zeros behind them.
template <class A>
FRCN_HD typename Vector<A>::Type load_some(const A* from, int64_t count) {
  if (count >= kLanes<A>) return load_vector(from);
  typename Vector<A>::Type found{};
  for (int64_t k = 0; k < count; ++k) found[k] = from[k];
  return found;
}

template <class A>
FRCN_HD void store_some(A* to, typename Vector<A>::Type values, int64_t count) {
  if (count >= kLanes<A>) return store_vector(to, values);
  for (int64_t k = 0; k < count; ++k) to[k] = values[k];
}

template <class A>
FRCN_HD typename Vector<A>::Type load_vector(const bfloat16* from) {
  typename Packed<uint16_t, kLanes<A>>::Type bits;
  std::memcpy(&bits, from, sizeof bits);
  const auto wide = __builtin_convertvector(bits, typename Packed<uint32_t, kLanes<A>>::Type) << 16;
  typename Vector<A>::Type found;
  std::memcpy(&found, &wide, sizeof found);
  return found;
}

inline void store_vector(bfloat16* to, Vector<float>::Type value) {
#if defined(__AVX512BF16__)
  const auto narrow = _mm512_cvtneps_pbh((__m512)value);
#else
  Packed<uint32_t, kLanes<float>>::Type bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const auto found = value == value ? rounded : (bits >> 16) | 0x40u;
  const auto narrow = __builtin_convertvector(found, Packed<uint16_t, kLanes<float>>::Type);
#endif
  std::memcpy(to, &narrow, sizeof narrow);
}

// Bytes as whole numbers, and back.
template <class A>
FRCN_HD typename Vector<Whole<A>>::Type load_bytes(const uint8_t* from) {
  typename Packed<uint8_t, kLanes<A>>::Type bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, typename Vector<Whole<A>>::Type);
}

template <class A>
FRCN_HD void store_bytes(uint8_t* to, typename Vector<Whole<A>>::Type value) {
  const auto bytes = __builtin_convertvector(value, typename Packed<uint8_t, kLanes<A>>::Type);
  std::memcpy(to, &bytes, sizeof bytes);
}

template <class V, class F>
FRCN_HD V all(F value) {
  return V{} + value;
}

}  // namespace FRCN_ISA
