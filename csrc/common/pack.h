// What CUDA kernels are made of: values side by side that move in one instruction, and division by numbers known at
// launch. All of it runs on the host too.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/float16.h"
#include "common/storage.h"

namespace FRCN_ISA {

// V values side by side. In memory, where one instruction moves them, at most 16 bytes, aligned to their size.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T lanes[V];

  FRCN_HD T& operator[](int64_t lane) { return lanes[lane]; }
  FRCN_HD const T& operator[](int64_t lane) const { return lanes[lane]; }
};

inline bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

#if defined(__CUDA_ARCH__)
template <int kBytes>
struct Word;
template <>
struct Word<1> {
  using Type = unsigned char;
};
template <>
struct Word<2> {
  using Type = unsigned short;
};
template <>
struct Word<4> {
  using Type = unsigned int;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};
#endif

// On a GPU one access of all bytes, as `load` makes it.
template <int V, class T, class Load>
FRCN_HD Pack<T, V> load_pack_by(const T* source, Load load) {
#if defined(__CUDA_ARCH__)
  const auto word = load(reinterpret_cast<const typename Word<sizeof(T) * V>::Type*>(source));
  Pack<T, V> pack;
  memcpy(&pack, &word, sizeof pack);
  return pack;
#else
  return *reinterpret_cast<const Pack<T, V>*>(source);
#endif
}

// Of memory that the kernel does not write.
template <int V, class T>
FRCN_HD Pack<T, V> load_pack(const T* source) {
  return load_pack_by<V>(source, [](auto* word) { return __ldg(word); });
}

// Of memory that the kernel may write too.
template <int V, class T>
FRCN_HD Pack<T, V> load_own_pack(const T* source) {
  return load_pack_by<V>(source, [](auto* word) { return *word; });
}

// Of memory that other blocks may write too: past the first-level cache.
template <int V, class T>
FRCN_HD Pack<T, V> load_others_pack(const T* source) {
  return load_pack_by<V>(source, [](auto* word) { return __ldcg(word); });
}

template <int V, class T>
FRCN_HD void store_pack(T* target, const Pack<T, V>& pack) {
#if defined(__CUDA_ARCH__)
  using Whole = typename Word<sizeof(T) * V>::Type;
  Whole word;
  memcpy(&word, &pack, sizeof word);
  *reinterpret_cast<Whole*>(target) = word;
#else
  *reinterpret_cast<Pack<T, V>*>(target) = pack;
#endif
}

// V coefficients, or as many times `missing` where there are none. In pieces of 16 bytes.
template <int V, class A>
FRCN_HD void load_coefficients(const A* source, int64_t first, A missing, A* target) {
  constexpr int kPiece = V * sizeof(A) < 16 ? V : 16 / sizeof(A);
  if (!source) {
#pragma unroll
    for (int j = 0; j < V; ++j) target[j] = missing;
    return;
  }
#pragma unroll
  for (int part = 0; part < V; part += kPiece) {
    const auto pack = load_pack<kPiece>(source + first + part);
#pragma unroll
    for (int j = 0; j < kPiece; ++j) target[part + j] = pack.lanes[j];
  }
}

// Division of numbers below 2^31 by a constant, as a product (Granlund and Montgomery 1994).
struct Divisor {
  uint32_t value = 1, factor = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t divisor) : value(static_cast<uint32_t>(divisor)) {
    while ((int64_t{1} << shift) < divisor) ++shift;
    factor = static_cast<uint32_t>((uint64_t{1} << 32) * ((uint64_t{1} << shift) - value) / value + 1);
  }

  FRCN_HD uint32_t divide(uint32_t n) const {
#if defined(__CUDA_ARCH__)
    return (__umulhi(n, factor) + n) >> shift;
#else
    return (static_cast<uint32_t>((static_cast<uint64_t>(n) * factor) >> 32) + n) >> shift;
#endif
  }
};

// The same for numbers below 2^63.
struct LongDivisor {
  int64_t value = 1;
  uint64_t factor = 1;
  int shift = 0;

  LongDivisor() = default;
  explicit LongDivisor(int64_t divisor) : value(divisor) {
    using Wide = unsigned __int128;
    while ((Wide{1} << shift) < static_cast<Wide>(divisor)) ++shift;
    factor = static_cast<uint64_t>((Wide{1} << 64) * ((Wide{1} << shift) - divisor) / divisor + 1);
  }

  FRCN_HD int64_t divide(int64_t number) const {
    const auto n = static_cast<uint64_t>(number);
#if defined(__CUDA_ARCH__)
    return static_cast<int64_t>((__umul64hi(n, factor) + n) >> shift);
#else
    return static_cast<int64_t>((static_cast<uint64_t>((static_cast<unsigned __int128>(n) * factor) >> 64) + n) >>
                                shift);
#endif
  }
};

// Takes the last digit of a number in a mixed base.
FRCN_HD int take_digit(uint32_t& number, const Divisor& base) {
  const uint32_t rest = base.divide(number), digit = number - rest * base.value;
  number = rest;
  return static_cast<int>(digit);
}

}  // namespace FRCN_ISA
