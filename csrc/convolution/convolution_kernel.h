// The convolution kernel; included once per instruction set.
//
// A block of up to 6 neighbouring pixels (with AVX-512: 12) by two vectors of outputs, or twice as many by one, stays
// in registers over all inputs and all taps of the kernel; per input (bfloat16: two inputs) it takes two vectors of
// weights, which lie in the order of use, and one broadcast value per pixel. Nothing is unfolded, padded or reordered
// but the weights. Where the kernel reaches over the map's left or right edge, its columns are done one by one on the
// pixels that they cover. A target of bfloat16 is read and rounded once, from and to a buffer of float.
#pragma once

#include <algorithm>
#include <type_traits>

#include "common/range.h"
#include "common/vector.h"
#include "convolution/convolution.h"
#include "convolution/product.h"

namespace FRCN_ISA {

// Outputs of one block of packed weights.
template <class T>
constexpr int kBlockOutputs = 2 * kLanes<SumOf<T>>;

// The taps of one block of pixels, as distances in elements.
struct Taps {
  int64_t frames, rows, columns, inputs;
  int64_t source_frame, source_row, source_column, source_pixel;
  int64_t weight_frame, weight_row, weight_column;
  int64_t target_pixel;
};

// sum += the products of neighbouring inputs of pixels; `Last`: of the one that is left of an odd number.
template <class T, int Lanes, bool Last, int Pixels, int Vectors>
FRCN_HD void add_products(typename Product<T, Lanes>::V (&sum)[Pixels][Vectors], const T* x, int64_t source_pixel,
                          const T* weight) {
  using P = Product<T, Lanes>;
  decltype(P::weights(weight)) column[Vectors];
  for (int n = 0; n < Vectors; ++n) column[n] = P::weights(weight + n * Lanes * P::kTogether);
#pragma GCC unroll 24
  for (int m = 0; m < Pixels; ++m) {
    const auto values = P::template values<Last>(x + m * source_pixel);
    for (int n = 0; n < Vectors; ++n) sum[m][n] = P::add(sum[m][n], values, column[n]);
  }
}

template <class T, int Lanes, int Pixels, int Vectors>
void add_block(const Taps& t, const T* source, const T* weight, SumOf<T>* target) {
  using V = typename Product<T, Lanes>::V;
  constexpr int together = Product<T, Lanes>::kTogether;
  V sum[Pixels][Vectors];
  for (int m = 0; m < Pixels; ++m)
    for (int n = 0; n < Vectors; ++n) sum[m][n] = load_as<V>(target + m * t.target_pixel + n * Lanes);
  for (int64_t f = 0; f < t.frames; ++f) {
    for (int64_t i = 0; i < t.rows; ++i) {
      for (int64_t j = 0; j < t.columns; ++j) {
        const T* x = source + f * t.source_frame + i * t.source_row + j * t.source_column;
        const T* w = weight + f * t.weight_frame + i * t.weight_row + j * t.weight_column;
        int64_t c = 0;
        for (; c + together <= t.inputs; c += together, w += together * kBlockOutputs<T>)
          add_products<T, Lanes, false>(sum, x + c, t.source_pixel, w);
        if constexpr (together > 1)
          if (c < t.inputs) add_products<T, Lanes, true>(sum, x + c, t.source_pixel, w);
      }
    }
  }
  for (int m = 0; m < Pixels; ++m)
    for (int n = 0; n < Vectors; ++n) std::memcpy(target + m * t.target_pixel + n * Lanes, &sum[m][n], sizeof(V));
}

template <class T, int Lanes, int Vectors, int Pixels>
void add_pixels(int64_t pixels, const Taps& t, const T* source, const T* weight, SumOf<T>* target) {
  if (pixels == Pixels) return add_block<T, Lanes, Pixels, Vectors>(t, source, weight, target);
  if constexpr (Pixels > 1) add_pixels<T, Lanes, Vectors, Pixels - 1>(pixels, t, source, weight, target);
}

// Sums of a block: what leaves registers for the weights and for a value.
constexpr int kBlockVectors = kVectorBytes == 64 ? 24 : 12;

// The sums of up to kMost pixels by `outputs` <= kWidth outputs, where they cannot stay in the target: a ragged end of
// the outputs, or a type that must not be rounded in between.
template <class T, int Lanes, int Vectors>
struct Tile {
  using F = SumOf<T>;
  static constexpr int kWidth = Vectors * Lanes, kMost = kBlockVectors / Vectors;

  void read(const T* target, int64_t pixels, int64_t outputs, int64_t pitch) {
    for (int64_t m = 0; m < pixels; ++m) {
      const T* from = target + m * pitch;
      F* to = sums + m * kWidth;
      if (is_whole(outputs))
        for (int n = 0; n < kWidth; n += kLanes<F>) store_vector(to + n, load_vector<F>(from + n));
      else
        for (int64_t n = 0; n < outputs; ++n) to[n] = load<F>(from[n]);
    }
  }

  void write(T* target, int64_t pixels, int64_t outputs, int64_t pitch) const {
    for (int64_t m = 0; m < pixels; ++m) {
      const F* from = sums + m * kWidth;
      T* to = target + m * pitch;
      if (is_whole(outputs))
        for (int n = 0; n < kWidth; n += kLanes<F>) store_vector(to + n, load_vector(from + n));
      else
        for (int64_t n = 0; n < outputs; ++n) store(to[n], from[n]);
    }
  }

  static bool is_whole(int64_t outputs) { return Lanes == kLanes<F> && outputs == kWidth; }

  F sums[kMost * kWidth] = {};
};

// All taps of up to kBlockVectors / Vectors pixels of a run, pixels [first, last) of the row.
template <class T, int Lanes, int Vectors>
void add_taps(const frcn::ConvolutionArgs& a, const Taps& t, int64_t first, int64_t last, const T* source_row,
              const T* weight, SumOf<T>* target) {
  constexpr int most = Tile<T, Lanes, Vectors>::kMost;
  const int64_t source_width = a.source_size[2], left = first * a.stride[2] - a.padding[2];
  const int64_t right = (last - 1) * a.stride[2] - a.padding[2] + (a.kernel[2] - 1) * a.dilation[2];
  if (left >= 0 && right < source_width)
    return add_pixels<T, Lanes, Vectors, most>(last - first, t, source_row + left * a.inputs, weight, target);
  Taps column = t;
  column.columns = 1;
  for (int64_t j = 0; j < a.kernel[2]; ++j) {
    const int64_t shift = j * a.dilation[2] - a.padding[2];
    const Range inside(first, last, a.stride[2], shift, source_width);
    if (inside.first >= inside.last) continue;
    add_pixels<T, Lanes, Vectors, most>(inside.last - inside.first, column,
                                        source_row + (inside.first * a.stride[2] + shift) * a.inputs,
                                        weight + j * t.weight_column, target + (inside.first - first) * t.target_pixel);
  }
}

// One run of pixels within the row (frame, y) of an image, for one block of outputs.
template <class T, int Lanes, int Vectors>
void add_run(const frcn::ConvolutionArgs& a, int64_t image, int64_t frame, int64_t y, int64_t from, int64_t to,
             int64_t output, int64_t outputs) {
  using Sums = Tile<T, Lanes, Vectors>;
  constexpr int64_t most = Sums::kMost;
  const int64_t front = frame * a.stride[0] - a.padding[0], top = y * a.stride[1] - a.padding[1];
  const Range frames(0, a.kernel[0], a.dilation[0], front, a.source_size[0]);
  const Range rows(0, a.kernel[1], a.dilation[1], top, a.source_size[1]);
  if (frames.first >= frames.last || rows.first >= rows.last) return;
  const int64_t source_width = a.source_size[2], together = Product<T>::kTogether;
  Taps t;
  t.frames = frames.last - frames.first;
  t.rows = rows.last - rows.first;
  t.columns = a.kernel[2];
  t.inputs = a.inputs;
  t.source_pixel = a.stride[2] * a.inputs;
  t.source_column = a.dilation[2] * a.inputs;
  t.source_row = a.dilation[1] * source_width * a.inputs;
  t.source_frame = a.dilation[0] * a.source_size[1] * source_width * a.inputs;
  t.weight_column = (a.inputs + together - 1) / together * together * kBlockOutputs<T>;
  t.weight_row = a.kernel[2] * t.weight_column;
  t.weight_frame = a.kernel[1] * t.weight_row;
  t.target_pixel = a.outputs;
  const int64_t first_frame = image * a.source_size[0] + front + frames.first * a.dilation[0];
  const int64_t first_row = first_frame * a.source_size[1] + top + rows.first * a.dilation[1];
  const T* source_row = reinterpret_cast<const T*>(a.source) + first_row * source_width * a.inputs;
  const T* weight = reinterpret_cast<const T*>(a.weight) + rows.first * t.weight_row +
                    (output / kBlockOutputs<T> * a.kernel[0] + frames.first) * t.weight_frame;
  T* target_row =
      reinterpret_cast<T*>(a.target) + output + ((image * a.size[0] + frame) * a.size[1] + y) * a.size[2] * a.outputs;
  const int64_t blocks = (to - from + most - 1) / most;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = from + (to - from) * b / blocks, last = from + (to - from) * (b + 1) / blocks;
    T* target = target_row + first * a.outputs;
    if constexpr (std::is_same_v<T, SumOf<T>>) {
      if (outputs == Sums::kWidth) {
        add_taps<T, Lanes, Vectors>(a, t, first, last, source_row, weight, target);
        continue;
      }
    }
    Sums tile;
    Taps inside = t;
    inside.target_pixel = Sums::kWidth;
    tile.read(target, last - first, outputs, a.outputs);
    add_taps<T, Lanes, Vectors>(a, inside, first, last, source_row, weight, tile.sums);
    tile.write(target, last - first, outputs, a.outputs);
  }
}

template <class T>
void add_convolution(const frcn::ConvolutionArgs& a, int64_t begin, int64_t end, int64_t first_output,
                     int64_t last_output) {
  constexpr int lanes = kLanes<SumOf<T>>;
  // A processor that makes 512 bits of two halves takes half of the time for one.
  constexpr int least = std::is_same_v<T, SumOf<T>> && kVectorBytes == 64 ? lanes / 2 : lanes;
  const int64_t width = a.size[2];
  for (int64_t output = first_output; output < last_output; output += kBlockOutputs<T>) {
    const int64_t outputs = std::min<int64_t>(kBlockOutputs<T>, last_output - output);
    for (int64_t pixel = begin; pixel < end;) {
      const int64_t row = pixel / width, from = pixel % width, to = std::min(width, from + end - pixel);
      const int64_t y = row % a.size[1], frame = row / a.size[1] % a.size[0], image = row / a.size[1] / a.size[0];
      const auto add = outputs > lanes   ? add_run<T, lanes, 2>
                       : outputs > least ? add_run<T, lanes, 1>
                                         : add_run<T, least, 1>;
      add(a, image, frame, y, from, to, output, outputs);
      pixel += to - from;
    }
  }
}

}  // namespace FRCN_ISA
