// The kernels of convolutions of 1x1x1 over contiguous maps; included once per instruction set.
//
// In the product a block of outputs by a panel of two or three vectors of pixels stays in registers over all inputs. In
// the weight gradient, whose inner dimension are the pixels, vectors hold the sums of every so manieth pixel; their
// values are added up behind each range of pixels.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/vector.h"
#include "convolution/pointwise.h"

namespace FRCN_ISA {

// As many sums as leave registers for the values that they are made of.
constexpr int kPointwiseOutputs = kVectorBytes == 64 ? 8 : 6, kPanelVectors = kVectorBytes == 64 ? 3 : 2;
constexpr int kGradientOutputs = 4, kGradientInputs = kVectorBytes == 64 ? 6 : 3;

namespace pointwise {

using V = Vector<float>::Type;
constexpr int kLanesOf = kLanes<float>;
constexpr int kPanel = kPanelVectors * kLanesOf;
constexpr int kSums = kGradientOutputs * kGradientInputs;
constexpr int kBlockSums = (kSums + kLanesOf - 1) / kLanesOf * kLanesOf;

inline int64_t blocks_of(int64_t count, int block) { return (count + block - 1) / block; }

inline void pack_weight(const frcn::PointwiseArgs& a, int64_t begin, int64_t end, float* packed) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kPointwiseOutputs;
    const float* from = a.weight + first * a.weight_step[0];
    float* to = packed + block * a.inputs * kPointwiseOutputs;
    for (int64_t k = 0; k < a.inputs; ++k)
      for (int n = 0; n < kPointwiseOutputs; ++n)
        *to++ = first + n < a.outputs ? from[n * a.weight_step[0] + k * a.weight_step[1]] : 0.0f;
  }
}

// All inputs of `count` pixels, Vectors vectors of them side by side.
template <int Vectors>
void pack_panel(const float* from, int64_t inputs, int64_t pixels, int64_t count, float* to) {
  for (int64_t k = 0; k < inputs; ++k, from += pixels, to += Vectors * kLanesOf)
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; ++v)
      store_vector(to + v * kLanesOf, load_some(from + v * kLanesOf, count - v * kLanesOf));
}

// One block of outputs of a panel.
template <int Vectors>
void multiply_block(const frcn::PointwiseArgs& a, const float* weight, const float* panel, int64_t first, int64_t count,
                    float* target) {
  V sum[kPointwiseOutputs][Vectors];
  const int64_t outputs = std::min<int64_t>(kPointwiseOutputs, a.outputs - first);
#pragma GCC unroll 8
  for (int n = 0; n < kPointwiseOutputs; ++n)
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; ++v) sum[n][v] = all<V>(a.bias && n < outputs ? a.bias[first + n] : 0.0f);
  for (int64_t k = 0; k < a.inputs; ++k, weight += kPointwiseOutputs, panel += Vectors * kLanesOf) {
    V value[Vectors];
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; ++v) value[v] = load_vector(panel + v * kLanesOf);
#pragma GCC unroll 8
    for (int n = 0; n < kPointwiseOutputs; ++n)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; ++v) sum[n][v] += weight[n] * value[v];
  }
#pragma GCC unroll 8
  for (int n = 0; n < kPointwiseOutputs; ++n) {
    if (n >= outputs) break;
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; ++v)
      store_some(target + (first + n) * a.pixels + v * kLanesOf, sum[n][v], count - v * kLanesOf);
  }
}

// Calls f with the number of vectors that `count` pixels of a panel take, as a constant.
template <int Vectors = kPanelVectors, class F>
void with_vectors(int64_t count, F&& f) {
  if constexpr (Vectors > 1)
    if (count <= (Vectors - 1) * kLanesOf) return with_vectors<Vectors - 1>(count, f);
  f(std::integral_constant<int, Vectors>());
}

inline void multiply(const frcn::PointwiseArgs& a, const float* packed, int64_t image, int64_t begin, int64_t end,
                     float* room) {
  const float* source = a.source + image * a.inputs * a.pixels;
  float* target = a.target + image * a.outputs * a.pixels;
  for (int64_t p = begin; p < end; p += kPanel)
    with_vectors(end - p, [&](auto vectors) {
      pack_panel<vectors()>(source + p, a.inputs, a.pixels, end - p, room + (p - begin) * a.inputs);
    });
  for (int64_t first = 0; first < a.outputs; first += kPointwiseOutputs)
    for (int64_t p = begin; p < end; p += kPanel)
      with_vectors(end - p, [&](auto vectors) {
        multiply_block<vectors()>(a, packed + first * a.inputs, room + (p - begin) * a.inputs, first, end - p,
                                  target + p);
      });
}

// Channels in blocks, of each block vector after vector of pixels, of each vector the block's channels; zeros behind
// the last channel and pixel.
template <int Block>
void pack_channels(const float* from, int64_t channels, int64_t pixels, int64_t count, float* to) {
  for (int64_t first = 0; first < channels; first += Block)
    for (int64_t p = 0; p < count; p += kLanesOf)
      for (int n = 0; n < Block; ++n, to += kLanesOf)
        store_vector(to, first + n < channels ? load_some(from + (first + n) * pixels + p, count - p) : V{});
}

// Sums of neighbouring pairs, of `a` and then of `b`.
inline V add_pairs(V a, V b) {
  Vector<Whole<float>>::Type even, odd;
  for (int k = 0; k < kLanesOf; ++k) {
    even[k] = 2 * k;
    odd[k] = 2 * k + 1;
  }
  return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
}

// The sum of each of `Count` vectors; there are as many as a vector has values where it begins.
template <int Count>
V add_lanes(const V* vectors) {
  if constexpr (Count == 1) {
    return vectors[0];
  } else {
    V half[Count / 2];
#pragma GCC unroll 8
    for (int k = 0; k < Count / 2; ++k) half[k] = add_pairs(vectors[2 * k], vectors[2 * k + 1]);
    return add_lanes<Count / 2>(half);
  }
}

inline void add_gradient_block(const float* grad, const float* x, int64_t steps, float* sums) {
  V sum[kBlockSums] = {};
  for (int64_t t = 0; t < steps; ++t, grad += kGradientOutputs * kLanesOf, x += kGradientInputs * kLanesOf) {
    V value[kGradientInputs];
#pragma GCC unroll 6
    for (int m = 0; m < kGradientInputs; ++m) value[m] = load_vector(x + m * kLanesOf);
#pragma GCC unroll 4
    for (int n = 0; n < kGradientOutputs; ++n) {
      const V g = load_vector(grad + n * kLanesOf);
#pragma GCC unroll 6
      for (int m = 0; m < kGradientInputs; ++m) sum[n * kGradientInputs + m] += g * value[m];
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < kBlockSums; k += kLanesOf)
    store_vector(sums + k, load_vector(sums + k) + add_lanes<kLanesOf>(sum + k));
}

inline void add_gradient(const frcn::PointwiseArgs& a, int64_t image, int64_t begin, int64_t end, float* sums,
                         float* room) {
  const int64_t count = end - begin, steps = blocks_of(count, kLanesOf), pixels = steps * kLanesOf;
  float* x = room + blocks_of(a.outputs, kGradientOutputs) * kGradientOutputs * pixels;
  pack_channels<kGradientOutputs>(a.grad + image * a.outputs * a.pixels + begin, a.outputs, a.pixels, count, room);
  pack_channels<kGradientInputs>(a.source + image * a.inputs * a.pixels + begin, a.inputs, a.pixels, count, x);
  for (int64_t n = 0; n < a.outputs; n += kGradientOutputs)
    for (int64_t m = 0; m < a.inputs; m += kGradientInputs, sums += kBlockSums)
      add_gradient_block(room + n * pixels, x + m * pixels, steps, sums);
}

inline void gather_gradient(const frcn::PointwiseArgs& a, const float* sums, int64_t count, int64_t apart,
                            int64_t begin, int64_t end) {
  const int64_t across = blocks_of(a.inputs, kGradientInputs);
  for (int64_t n = begin * kGradientOutputs; n < std::min(end * kGradientOutputs, a.outputs); ++n)
    for (int64_t m = 0; m < a.inputs; ++m) {
      const float* from = sums + (n / kGradientOutputs * across + m / kGradientInputs) * kBlockSums +
                          n % kGradientOutputs * kGradientInputs + m % kGradientInputs;
      float total = 0;
      for (int64_t k = 0; k < count; ++k) total += from[k * apart];
      a.total[n * a.inputs + m] = total;
    }
}

}  // namespace pointwise

constexpr frcn::PointwiseTable kPointwise = {pointwise::pack_weight,     pointwise::multiply, pointwise::add_gradient,
                                             pointwise::gather_gradient, pointwise::kLanesOf, kPointwiseOutputs,
                                             pointwise::kPanel,          kGradientOutputs,    kGradientInputs,
                                             pointwise::kBlockSums};

}  // namespace FRCN_ISA
