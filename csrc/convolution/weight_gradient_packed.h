// The weight gradient kernel for many channels; included once per instruction set.
//
// A thread owns some blocks of outputs for some frames of the kernel, so nothing is summed between threads. It walks
// over tiles of a few hundred pixels: their gradients are packed by blocks of outputs, the inputs that one frame of the
// kernel joins to them by blocks of 6 or 8, with zeros around the map. A block of outputs by so many inputs then stays
// in registers over the whole tile, both panels stay in the first-level cache, and a tap is an offset. With few inputs
// threads share out the rows instead, and sum on their own. Pixels of bfloat16 are taken in pairs of neighbours.
#pragma once

#include <algorithm>
#include <vector>

#include "common/range.h"
#include "common/vector.h"
#include "convolution/product.h"
#include "convolution/weight_gradient.h"

namespace FRCN_ISA {

constexpr int kPanelInputs = kVectorBytes == 64 ? 8 : 6;
constexpr int64_t kPanelPixels = 256;

// Rows [first, last) of one frame of the output.
struct Piece {
  int64_t image, frame, first, last;
};

template <class T>
class PackedWeightGradient {
 public:
  using P = Product<T>;
  using F = SumOf<T>;
  using V = typename P::V;
  static constexpr int kPanelOutputs = 2 * kLanes<F>, kTogether = P::kTogether;

  explicit PackedWeightGradient(const frcn::WeightGradientArgs& args) : a(args) {
    blocks = (a.outputs + kPanelOutputs - 1) / kPanelOutputs;
    input_blocks = (a.inputs + kPanelInputs - 1) / kPanelInputs;
    width = a.source_size[2] + 2 * a.padding[2];
    rows = std::min(a.size[1], std::max<int64_t>(1, kPanelPixels / a.size[2]));
    row_pixels = (a.size[2] + kTogether - 1) / kTogether * kTogether;
  }

  // Items count through the kernel's frames and, within each, through the blocks of outputs; rows through those of all
  // images and frames.
  void run(int64_t first_row, int64_t last_row, int64_t begin, int64_t end, F* total) {
    const size_t together = std::max<int64_t>(1, kPanelPixels / (rows * a.size[2]));
    std::vector<Piece> tile;
    for (int64_t row = first_row; row < last_row;) {
      tile.clear();
      while (tile.size() < together && row < last_row) {
        const int64_t frame = row / a.size[1], y = row % a.size[1];
        const int64_t last = std::min({a.size[1], y + rows, y + last_row - row});
        tile.push_back({frame / a.size[0], frame % a.size[0], y, last});
        row += last - y;
      }
      add_tile(tile, begin, end, total);
    }
  }

  int64_t items() const { return a.kernel[0] * blocks; }
  int64_t all_rows() const { return a.images * a.size[0] * a.size[1]; }

 private:
  // In the packed inputs those of a pixel are neighbours, or where pixels are taken in pairs, the pixels of an input.
  int64_t pixel_step() const { return kTogether == 1 ? kPanelInputs : 1; }
  int64_t input_step() const { return kTogether == 1 ? 1 : width; }

  int64_t source_rows() const { return (rows - 1) * a.stride[1] + (a.kernel[1] - 1) * a.dilation[1] + 1; }

  int64_t source_frame(const Piece& p, int64_t tap) const {
    const int64_t d = p.frame * a.stride[0] + tap * a.dilation[0] - a.padding[0];
    return d >= 0 && d < a.source_size[0] ? d : -1;
  }

  void add_tile(const std::vector<Piece>& tile, int64_t begin, int64_t end, F* total) {
    pack_gradients(tile, begin, end);
    for (int64_t item = begin; item < end;) {
      const int64_t tap = item / blocks, stop = std::min(end, (tap + 1) * blocks);
      pack_inputs(tile, tap);
      for (; item < stop; ++item) add_block(tile, tap, item % blocks, total);
    }
  }

  // (blocks, pixels of the tile, outputs of a block), or (blocks, pairs of pixels, outputs of a block, 2), zeros behind
  // an odd row: only the blocks of the items.
  void pack_gradients(const std::vector<Piece>& tile, int64_t begin, int64_t end) {
    pixels = 0;
    for (const Piece& p : tile) pixels += (p.last - p.first) * row_pixels;
    gradients.resize(blocks * pixels * kPanelOutputs);
    const bool all = end - begin >= blocks;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t n = begin / blocks * blocks + b;
      if (!all && !((n >= begin && n < end) || (n + blocks >= begin && n + blocks < end))) continue;
      const int64_t count = std::min<int64_t>(kPanelOutputs, a.outputs - b * kPanelOutputs);
      T* to = gradients.data() + b * pixels * kPanelOutputs;
      for (const Piece& p : tile) {
        const int64_t row = (p.image * a.size[0] + p.frame) * a.size[1] + p.first;
        const T* from = reinterpret_cast<const T*>(a.grad) + row * a.size[2] * a.outputs + b * kPanelOutputs;
        for (int64_t y = p.first; y < p.last; ++y) {
          for (int64_t w = 0; w < a.size[2]; w += kTogether, to += kTogether * kPanelOutputs) {
            const bool whole = w + kTogether <= a.size[2];
            if (count < kPanelOutputs || !whole) std::fill(to, to + kTogether * kPanelOutputs, T());
            if (count == kPanelOutputs && whole)
              interleave<kTogether>(from, kPanelOutputs, to);
            else if (whole)
              interleave<kTogether>(from, count, to);
            else
              interleave<1>(from, count, to);
            from += whole ? kTogether * a.outputs : a.outputs;
          }
        }
      }
    }
  }

  // Neighbouring pixels' gradients, output by output.
  template <int Pixels>
  FRCN_HD void interleave(const T* from, int64_t count, T* to) const {
    for (int64_t n = 0; n < count; ++n)
      for (int k = 0; k < Pixels; ++k) to[n * kTogether + k] = from[k * a.outputs + n];
  }

  // (pieces, blocks of inputs, rows, padded width, inputs of a block) for one frame of the kernel; of pairs, (...,
  // rows, inputs of a block, padded width).
  void pack_inputs(const std::vector<Piece>& tile, int64_t tap) {
    const int64_t plane = source_rows() * width * kPanelInputs, piece = input_blocks * plane;
    inputs.resize(tile.size() * piece);
    for (size_t n = 0; n < tile.size(); ++n) {
      const Piece& p = tile[n];
      const int64_t frame = source_frame(p, tap);
      if (frame < 0) continue;
      T* to = inputs.data() + n * piece;
      std::fill(to, to + piece, T());
      for (int64_t r = 0; r < source_rows(); ++r) {
        const int64_t h = p.first * a.stride[1] - a.padding[1] + r;
        if (h < 0 || h >= a.source_size[1]) continue;
        const int64_t row = (p.image * a.source_size[0] + frame) * a.source_size[1] + h;
        const T* from = reinterpret_cast<const T*>(a.x) + row * a.source_size[2] * a.inputs;
        T* line = to + r * width * kPanelInputs + a.padding[2] * pixel_step();
        for (int64_t w = 0; w < a.source_size[2]; ++w, from += a.inputs, line += pixel_step()) {
          int64_t b = 0;
          for (; (b + 1) * kPanelInputs <= a.inputs; ++b)
            copy_inputs(from + b * kPanelInputs, kPanelInputs, line + b * plane);
          if (b < input_blocks) copy_inputs(from + b * kPanelInputs, a.inputs - b * kPanelInputs, line + b * plane);
        }
      }
    }
  }

  FRCN_HD void copy_inputs(const T* from, int64_t count, T* to) const {
    for (int64_t m = 0; m < count; ++m) to[m * input_step()] = from[m];
  }

  // sum += the products of neighbouring pixels; `Last`: of the one that is left of an odd row.
  template <bool Last>
  FRCN_HD void add_pixels(V (&sum)[kPanelInputs][2], const T* x, const T* grad) const {
    const auto first = P::weights(grad), second = P::weights(grad + kTogether * kLanes<F>);
#pragma GCC unroll 8
    for (int m = 0; m < kPanelInputs; ++m) {
      const auto values = P::template values<Last>(x + m * input_step());
      sum[m][0] = P::add(sum[m][0], values, first);
      sum[m][1] = P::add(sum[m][1], values, second);
    }
  }

  // All taps of one frame of the kernel for one block of outputs.
  void add_block(const std::vector<Piece>& tile, int64_t tap, int64_t block, F* total) {
    constexpr int lanes = kLanes<F>;
    const int64_t plane = source_rows() * width * kPanelInputs, piece = input_blocks * plane;
    const int64_t outputs = std::min<int64_t>(kPanelOutputs, a.outputs - block * kPanelOutputs);
    const int64_t step = kTogether * a.stride[2] * pixel_step();
    for (int64_t i = 0; i < a.kernel[1]; ++i) {
      for (int64_t j = 0; j < a.kernel[2]; ++j) {
        F* target = total + ((tap * a.kernel[1] + i) * a.kernel[2] + j) * a.inputs * a.outputs + block * kPanelOutputs;
        for (int64_t c = 0; c < input_blocks; ++c, target += kPanelInputs * a.outputs) {
          V sum[kPanelInputs][2] = {};
          int64_t before = 0;  // rows
          for (size_t n = 0; n < tile.size(); ++n) {
            const Piece& p = tile[n];
            const Range lines(p.first, p.last, a.stride[1], i * a.dilation[1] - a.padding[1], a.source_size[1]);
            const int64_t count = source_frame(p, tap) < 0 ? 0 : lines.last - lines.first;
            const T* row = inputs.data() + n * piece + c * plane + j * a.dilation[2] * pixel_step() +
                           ((lines.first - p.first) * a.stride[1] + i * a.dilation[1]) * width * kPanelInputs;
            const T* grad =
                gradients.data() + (block * pixels + (before + lines.first - p.first) * row_pixels) * kPanelOutputs;
            before += p.last - p.first;
            for (int64_t y = 0; y < count; ++y, row += a.stride[1] * width * kPanelInputs) {
              const T* x = row;
              int64_t w = 0;
              for (; w + kTogether <= a.size[2]; w += kTogether, x += step, grad += kTogether * kPanelOutputs)
                add_pixels<false>(sum, x, grad);
              if constexpr (kTogether > 1)
                if (w < a.size[2]) {
                  add_pixels<true>(sum, x, grad);
                  grad += kTogether * kPanelOutputs;
                }
            }
          }
          const int64_t count = std::min<int64_t>(kPanelInputs, a.inputs - c * kPanelInputs);
          for (int64_t m = 0; m < count; ++m) {
            F* t = target + m * a.outputs;
            if (outputs == kPanelOutputs) {
              store_vector(t, load_vector(t) + sum[m][0]);
              store_vector(t + lanes, load_vector(t + lanes) + sum[m][1]);
            } else {
              for (int64_t k = 0; k < outputs; ++k) t[k] += k < lanes ? sum[m][0][k] : sum[m][1][k - lanes];
            }
          }
        }
      }
    }
  }

  const frcn::WeightGradientArgs& a;
  int64_t blocks, input_blocks, width, rows, row_pixels, pixels = 0;
  std::vector<T> gradients, inputs;
};

template <class T>
void add_weight_gradient_packed(const frcn::WeightGradientArgs& a, int64_t begin, int64_t end, char* total) {
  PackedWeightGradient<T> packed(a);
  if (begin < end) packed.run(0, packed.all_rows(), begin, end, reinterpret_cast<SumOf<T>*>(total));
}

template <class T>
void add_weight_gradient_packed_rows(const frcn::WeightGradientArgs& a, int64_t begin, int64_t end, char* total) {
  PackedWeightGradient<T> packed(a);
  packed.run(begin, end, 0, packed.items(), reinterpret_cast<SumOf<T>*>(total));
}

}  // namespace FRCN_ISA
