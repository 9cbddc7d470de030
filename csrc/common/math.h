// Functions that cells may use, for values of type float and double, on the host and in CUDA device code.
//
// The host float versions are branch-free polynomials so that loops over channels vectorise:
// exp within 1 ulp, sigmoid and tanh within 3 ulp. They saturate (sigmoid(-inf) = 0) and pass NaN on.
// This header is included inside a namespace of the instruction set being compiled: its inline functions
// must not be merged by the linker across instruction sets.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FRCN_HD __host__ __device__ __forceinline__
#else
#define FRCN_HD inline __attribute__((always_inline))
#endif

namespace FRCN_ISA {
namespace math {

FRCN_HD float from_bits(int32_t bits) {
#if defined(__CUDA_ARCH__)
  return __int_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

FRCN_HD double exp(double x) { return ::exp(x); }

FRCN_HD float exp(float x) {
#if defined(__CUDA_ARCH__)
  return ::expf(x);
#else
  // exp(x) = 2^n exp(r) with |r| <= ln(2) / 2; 2^n in two factors, so that results near the limits come out.
  constexpr float highest = 88.722839f;
  constexpr float lowest = -103.97208f;
  float clamped = x > highest ? highest : x;
  clamped = clamped < lowest ? lowest : clamped;
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number.
  const float n = (clamped * 1.44269504f + shifter) - shifter;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // The whole part of a NaN is never converted: the product below keeps the NaN of p.
  const int32_t whole = static_cast<int32_t>(n == n ? n : 0.0f);
  const int32_t half = whole >> 1;
  const float result = p * from_bits((half + 127) << 23) * from_bits((whole - half + 127) << 23);
  return x > highest ? HUGE_VALF : result;
#endif
}

FRCN_HD double sigmoid(double x) { return 1.0 / (1.0 + ::exp(-x)); }

FRCN_HD float sigmoid(float x) {
#if defined(__CUDA_ARCH__)
  return __fdividef(1.0f, 1.0f + __expf(-x));
#else
  return 1.0f / (1.0f + exp(-x));
#endif
}

FRCN_HD double tanh(double x) { return ::tanh(x); }

FRCN_HD float tanh(float x) {
#if defined(__CUDA_ARCH__)
  return ::tanhf(x);
#else
  const float magnitude = x < 0.0f ? -x : x;
  const float square = x * x;
  float p = -5.70498872745e-3f;
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const float small = p * square * x + x;
  const float large = 1.0f - 2.0f / (exp(2.0f * magnitude) + 1.0f);
  const float signed_large = x < 0.0f ? -large : large;
  return magnitude < 0.625f ? small : signed_large;
#endif
}

template <class F>
FRCN_HD F relu(F x) {
  return x < F(0) ? F(0) : x;
}

template <class F>
FRCN_HD F positive(F x) {
  return x > F(0) ? F(1) : F(0);
}

}  // namespace math
}  // namespace FRCN_ISA
