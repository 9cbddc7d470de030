// The convolution kernel; included once per instruction set.
//
// A block of up to 6 neighbouring pixels by two vectors of outputs (or 12 by one) stays in registers over all inputs
// and all taps of the kernel; per input it takes two vectors of weights, which lie in the order of use, and one
// broadcast value per pixel. Nothing is unfolded, padded or reordered but the weights. Where the kernel reaches over
// the map's left or right edge, its columns are done one by one on the pixels that they cover.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/math.h"
#include "conv_recurrent/convolution.h"

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

// Outputs of one block of packed weights.
template <class F>
constexpr int kBlockOutputs = 2 * kLanes<F>;

template <class F>
struct Vector {
  typedef F Type __attribute__((vector_size(kVectorBytes)));
};

// The taps of one block of pixels, as distances in elements.
struct Taps {
  int64_t rows, columns, inputs;
  int64_t source_row, source_column, source_pixel;
  int64_t weight_row, weight_column;
  int64_t target_pixel;
};

template <class F, int Pixels, int Vectors>
void add_block(const Taps& t, const F* source, const F* weight, F* target) {
  using V = typename Vector<F>::Type;
  constexpr int lanes = kLanes<F>;
  V sum[Pixels][Vectors];
  for (int m = 0; m < Pixels; ++m)
    for (int n = 0; n < Vectors; ++n) std::memcpy(&sum[m][n], target + m * t.target_pixel + n * lanes, sizeof(V));
  for (int64_t i = 0; i < t.rows; ++i) {
    for (int64_t j = 0; j < t.columns; ++j) {
      const F* x = source + i * t.source_row + j * t.source_column;
      const F* w = weight + i * t.weight_row + j * t.weight_column;
      for (int64_t c = 0; c < t.inputs; ++c, w += kBlockOutputs<F>) {
        V column[Vectors];
        for (int n = 0; n < Vectors; ++n) std::memcpy(&column[n], w + n * lanes, sizeof(V));
#pragma GCC unroll 12
        for (int m = 0; m < Pixels; ++m) {
          const F value = x[m * t.source_pixel + c];
          for (int n = 0; n < Vectors; ++n) sum[m][n] += value * column[n];
        }
      }
    }
  }
  for (int m = 0; m < Pixels; ++m)
    for (int n = 0; n < Vectors; ++n) std::memcpy(target + m * t.target_pixel + n * lanes, &sum[m][n], sizeof(V));
}

template <class F, int Vectors, int Pixels>
void add_pixels(int64_t pixels, const Taps& t, const F* source, const F* weight, F* target) {
  if (pixels == Pixels) return add_block<F, Pixels, Vectors>(t, source, weight, target);
  if constexpr (Pixels > 1) add_pixels<F, Vectors, Pixels - 1>(pixels, t, source, weight, target);
}

// Up to 12 / Vectors pixels by `outputs` <= Vectors * lanes outputs; a ragged end goes through a buffer.
template <class F, int Vectors>
void add_tile(int64_t pixels, int64_t outputs, Taps t, const F* source, const F* weight, F* target) {
  constexpr int width = Vectors * kLanes<F>, most = 12 / Vectors;
  if (outputs == width) return add_pixels<F, Vectors, most>(pixels, t, source, weight, target);
  F sums[most * width] = {};
  const int64_t pitch = t.target_pixel;
  t.target_pixel = width;
  add_pixels<F, Vectors, most>(pixels, t, source, weight, sums);
  for (int64_t m = 0; m < pixels; ++m)
    for (int64_t n = 0; n < outputs; ++n) target[m * pitch + n] += sums[m * width + n];
}

inline int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// The range of positions p in [first, last) for which 0 <= p * scale + shift < size.
struct Range {
  int64_t first, last;
  Range(int64_t from, int64_t to, int64_t scale, int64_t shift, int64_t size)
      : first(std::max(from, floor_divide(scale - 1 - shift, scale))),
        last(std::min(to, floor_divide(size - 1 - shift, scale) + 1)) {}
};

// One run of pixels within a row of the map, for one block of outputs.
template <class F, int Vectors>
void add_run(const frcn::ConvolutionArgs& a, int64_t image, int64_t y, int64_t from, int64_t to, int64_t output,
             int64_t outputs) {
  constexpr int64_t most = 12 / Vectors;
  const Range rows(0, a.kernel[0], a.dilation[0], y * a.stride[0] - a.padding[0], a.source_height);
  if (rows.first >= rows.last) return;
  Taps t;
  t.rows = rows.last - rows.first;
  t.columns = a.kernel[1];
  t.inputs = a.inputs;
  t.source_pixel = a.stride[1] * a.inputs;
  t.source_column = a.dilation[1] * a.inputs;
  t.source_row = a.dilation[0] * a.source_width * a.inputs;
  t.weight_column = a.inputs * kBlockOutputs<F>;
  t.weight_row = a.kernel[1] * t.weight_column;
  t.target_pixel = a.outputs;
  const int64_t top = y * a.stride[0] - a.padding[0] + rows.first * a.dilation[0];
  const F* source_row =
      reinterpret_cast<const F*>(a.source) + (image * a.source_height + top) * a.source_width * a.inputs;
  const F* weight =
      reinterpret_cast<const F*>(a.weight) + (output / kBlockOutputs<F> * a.kernel[0] + rows.first) * t.weight_row;
  F* target_row = reinterpret_cast<F*>(a.target) + (image * a.height + y) * a.width * a.outputs + output;
  const int64_t blocks = (to - from + most - 1) / most;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = from + (to - from) * b / blocks, last = from + (to - from) * (b + 1) / blocks;
    const int64_t left = first * a.stride[1] - a.padding[1];
    const int64_t right = (last - 1) * a.stride[1] - a.padding[1] + (a.kernel[1] - 1) * a.dilation[1];
    if (left >= 0 && right < a.source_width) {
      add_tile<F, Vectors>(last - first, outputs, t, source_row + left * a.inputs, weight,
                           target_row + first * a.outputs);
      continue;
    }
    Taps column = t;
    column.columns = 1;
    for (int64_t j = 0; j < a.kernel[1]; ++j) {
      const int64_t shift = j * a.dilation[1] - a.padding[1];
      const Range inside(first, last, a.stride[1], shift, a.source_width);
      if (inside.first >= inside.last) continue;
      add_tile<F, Vectors>(inside.last - inside.first, outputs, column,
                           source_row + (inside.first * a.stride[1] + shift) * a.inputs, weight + j * t.weight_column,
                           target_row + inside.first * a.outputs);
    }
  }
}

template <class F>
void add_convolution(const frcn::ConvolutionArgs& a, int64_t begin, int64_t end, int64_t first_output,
                     int64_t last_output) {
  for (int64_t output = first_output; output < last_output; output += kBlockOutputs<F>) {
    const int64_t outputs = std::min<int64_t>(kBlockOutputs<F>, last_output - output);
    for (int64_t pixel = begin; pixel < end;) {
      const int64_t row = pixel / a.width, from = pixel % a.width;
      const int64_t to = std::min(a.width, from + end - pixel);
      if (outputs > kLanes<F>)
        add_run<F, 2>(a, row / a.height, row % a.height, from, to, output, outputs);
      else
        add_run<F, 1>(a, row / a.height, row % a.height, from, to, output, outputs);
      pixel += to - from;
    }
  }
}

}  // namespace FRCN_ISA
