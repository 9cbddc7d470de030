// Functions that cells may use, for values of type float and double, on the host and in CUDA device code.
//
// The host float versions are branch-free polynomials so that loops over channels vectorise:
// exp within 1 ulp, sigmoid and tanh within 3 ulp. They saturate (sigmoid at 6e-39 and 1) and pass NaN on.
// This header is included inside a namespace of the instruction set being compiled: its inline functions
// must not be merged by the linker across instruction sets.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FRCN_HD __host__ __device__ __forceinline__
#elif !defined(FRCN_HD)
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

#if !defined(__CUDA_ARCH__)
// exp(x) = (1 + less_one) * scale for -87 <= x <= 88, where scale is a power of two and less_one relatively accurate.
struct ExpParts {
  float less_one, scale;
};

FRCN_HD ExpParts exp_parts(float x) {
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, found in the last bits.
  const float shifted = x * 1.44269504f + shifter;
  const float n = shifted - shifter;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return {p * (r * r) + r, from_bits(static_cast<int32_t>((bits << 23) + 0x3f800000u))};
}

FRCN_HD float clamp(float x, float lowest, float highest) {
  x = x < lowest ? lowest : x;
  return x > highest ? highest : x;
}
#endif

FRCN_HD double sigmoid(double x) { return 1.0 / (1.0 + ::exp(-x)); }

FRCN_HD float sigmoid(float x) {
#if defined(__CUDA_ARCH__)
  return __fdividef(1.0f, 1.0f + __expf(-x));
#else
  const ExpParts e = exp_parts(clamp(-x, -87.0f, 88.0f));
  return 1.0f / (1.0f + (e.less_one * e.scale + e.scale));
#endif
}

FRCN_HD double tanh(double x) { return ::tanh(x); }

FRCN_HD float tanh(float x) {
#if defined(__CUDA_ARCH__)
  return ::tanhf(x);
#else
  // tanh(x) = m / (m + 2), m = exp(2x) - 1: no cancellation near zero.
  const ExpParts e = exp_parts(clamp(2.0f * x, -30.0f, 30.0f));
  const float m = e.less_one * e.scale + (e.scale - 1.0f);
  return m / (m + 2.0f);
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
