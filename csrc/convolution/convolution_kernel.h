// The convolution kernel; included once per instruction set.
//
// A block of up to 6 neighbouring pixels by two vectors of outputs (or 12 by one) stays in registers over all inputs
// and all taps of the kernel; per input it takes two vectors of weights, which lie in the order of use, and one
// broadcast value per pixel. Nothing is unfolded, padded or reordered but the weights. Where the kernel reaches over
// the map's left or right edge, its columns are done one by one on the pixels that they cover.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/range.h"
#include "common/vector.h"
#include "convolution/convolution.h"

namespace FRCN_ISA {

// Outputs of one block of packed weights.
template <class F>
constexpr int kBlockOutputs = 2 * kLanes<F>;

// The taps of one block of pixels, as distances in elements.
struct Taps {
  int64_t frames, rows, columns, inputs;
  int64_t source_frame, source_row, source_column, source_pixel;
  int64_t weight_frame, weight_row, weight_column;
  int64_t target_pixel;
};

template <class F, int Pixels, int Vectors>
void add_block(const Taps& t, const F* source, const F* weight, F* target) {
  using V = typename Vector<F>::Type;
  constexpr int lanes = kLanes<F>;
  V sum[Pixels][Vectors];
  for (int m = 0; m < Pixels; ++m)
    for (int n = 0; n < Vectors; ++n) std::memcpy(&sum[m][n], target + m * t.target_pixel + n * lanes, sizeof(V));
  for (int64_t f = 0; f < t.frames; ++f) {
    for (int64_t i = 0; i < t.rows; ++i) {
      for (int64_t j = 0; j < t.columns; ++j) {
        const F* x = source + f * t.source_frame + i * t.source_row + j * t.source_column;
        const F* w = weight + f * t.weight_frame + i * t.weight_row + j * t.weight_column;
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

// One run of pixels within the row (frame, y) of an image, for one block of outputs.
template <class F, int Vectors>
void add_run(const frcn::ConvolutionArgs& a, int64_t image, int64_t frame, int64_t y, int64_t from, int64_t to,
             int64_t output, int64_t outputs) {
  constexpr int64_t most = 12 / Vectors;
  const int64_t front = frame * a.stride[0] - a.padding[0], top = y * a.stride[1] - a.padding[1];
  const Range frames(0, a.kernel[0], a.dilation[0], front, a.source_size[0]);
  const Range rows(0, a.kernel[1], a.dilation[1], top, a.source_size[1]);
  if (frames.first >= frames.last || rows.first >= rows.last) return;
  const int64_t source_width = a.source_size[2];
  Taps t;
  t.frames = frames.last - frames.first;
  t.rows = rows.last - rows.first;
  t.columns = a.kernel[2];
  t.inputs = a.inputs;
  t.source_pixel = a.stride[2] * a.inputs;
  t.source_column = a.dilation[2] * a.inputs;
  t.source_row = a.dilation[1] * source_width * a.inputs;
  t.source_frame = a.dilation[0] * a.source_size[1] * source_width * a.inputs;
  t.weight_column = a.inputs * kBlockOutputs<F>;
  t.weight_row = a.kernel[2] * t.weight_column;
  t.weight_frame = a.kernel[1] * t.weight_row;
  t.target_pixel = a.outputs;
  const int64_t first_frame = image * a.source_size[0] + front + frames.first * a.dilation[0];
  const int64_t first_row = first_frame * a.source_size[1] + top + rows.first * a.dilation[1];
  const F* source_row = reinterpret_cast<const F*>(a.source) + first_row * source_width * a.inputs;
  const F* weight = reinterpret_cast<const F*>(a.weight) + rows.first * t.weight_row +
                    (output / kBlockOutputs<F> * a.kernel[0] + frames.first) * t.weight_frame;
  F* target_row =
      reinterpret_cast<F*>(a.target) + output + ((image * a.size[0] + frame) * a.size[1] + y) * a.size[2] * a.outputs;
  const int64_t blocks = (to - from + most - 1) / most;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = from + (to - from) * b / blocks, last = from + (to - from) * (b + 1) / blocks;
    const int64_t left = first * a.stride[2] - a.padding[2];
    const int64_t right = (last - 1) * a.stride[2] - a.padding[2] + (a.kernel[2] - 1) * a.dilation[2];
    if (left >= 0 && right < source_width) {
      add_tile<F, Vectors>(last - first, outputs, t, source_row + left * a.inputs, weight,
                           target_row + first * a.outputs);
      continue;
    }
    Taps column = t;
    column.columns = 1;
    for (int64_t j = 0; j < a.kernel[2]; ++j) {
      const int64_t shift = j * a.dilation[2] - a.padding[2];
      const Range inside(first, last, a.stride[2], shift, source_width);
      if (inside.first >= inside.last) continue;
      add_tile<F, Vectors>(inside.last - inside.first, outputs, column,
                           source_row + (inside.first * a.stride[2] + shift) * a.inputs, weight + j * t.weight_column,
                           target_row + inside.first * a.outputs);
    }
  }
}

template <class F>
void add_convolution(const frcn::ConvolutionArgs& a, int64_t begin, int64_t end, int64_t first_output,
                     int64_t last_output) {
  const int64_t width = a.size[2];
  for (int64_t output = first_output; output < last_output; output += kBlockOutputs<F>) {
    const int64_t outputs = std::min<int64_t>(kBlockOutputs<F>, last_output - output);
    for (int64_t pixel = begin; pixel < end;) {
      const int64_t row = pixel / width, from = pixel % width, to = std::min(width, from + end - pixel);
      const int64_t y = row % a.size[1], frame = row / a.size[1] % a.size[0], image = row / a.size[1] / a.size[0];
      const auto add = outputs > kLanes<F> ? add_run<F, 2> : add_run<F, 1>;
      add(a, image, frame, y, from, to, output, outputs);
      pixel += to - from;
    }
  }
}

}  // namespace FRCN_ISA
