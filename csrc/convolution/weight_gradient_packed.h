// The weight gradient kernel for many channels; included once per instruction set.
//
// A thread owns some blocks of outputs for some frames of the kernel, so nothing is summed between threads. It walks
// over tiles of a few hundred pixels: their gradients are packed by blocks of outputs, the inputs that one frame of the
// kernel joins to them by blocks of 6, with zeros around the map. A block of outputs by 6 inputs then stays in
// registers over the whole tile, both panels stay in the first-level cache, and a tap is an offset.
#pragma once

#include <algorithm>
#include <vector>

#include "common/vector.h"
#include "convolution/weight_gradient.h"

namespace FRCN_ISA {

constexpr int kPanelInputs = 6;
constexpr int64_t kPanelPixels = 256;

// Rows [first, last) of one frame of the output.
struct Piece {
  int64_t image, frame, first, last;
};

template <class F>
class PackedWeightGradient {
 public:
  static constexpr int kPanelOutputs = 2 * kLanes<F>;

  explicit PackedWeightGradient(const frcn::WeightGradientArgs& args) : a(args) {
    blocks = (a.outputs + kPanelOutputs - 1) / kPanelOutputs;
    input_blocks = (a.inputs + kPanelInputs - 1) / kPanelInputs;
    width = a.source_size[2] + 2 * a.padding[2];
    rows = std::min(a.size[1], std::max<int64_t>(1, kPanelPixels / a.size[2]));
  }

  // Items count through the kernel's frames and, within each, through the blocks of outputs.
  void run(int64_t begin, int64_t end, F* total) {
    const int64_t frames = a.images * a.size[0], pieces_per_frame = (a.size[1] + rows - 1) / rows;
    const int64_t together = std::max<int64_t>(1, kPanelPixels / (rows * a.size[2]));
    std::vector<Piece> tile;
    for (int64_t k = 0; k < frames * pieces_per_frame; k += together) {
      tile.clear();
      for (int64_t n = k; n < std::min(frames * pieces_per_frame, k + together); ++n) {
        const int64_t frame = n / pieces_per_frame, first = n % pieces_per_frame * rows;
        tile.push_back({frame / a.size[0], frame % a.size[0], first, std::min(a.size[1], first + rows)});
      }
      add_tile(tile, begin, end, total);
    }
  }

 private:
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

  // (blocks, pixels of the tile, outputs of a block): only the blocks of the items.
  void pack_gradients(const std::vector<Piece>& tile, int64_t begin, int64_t end) {
    pixels = 0;
    for (const Piece& p : tile) pixels += (p.last - p.first) * a.size[2];
    gradients.resize(blocks * pixels * kPanelOutputs);
    const bool all = end - begin >= blocks;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t n = begin / blocks * blocks + b;
      if (!all && !((n >= begin && n < end) || (n + blocks >= begin && n + blocks < end))) continue;
      const int64_t count = std::min<int64_t>(kPanelOutputs, a.outputs - b * kPanelOutputs);
      F* to = gradients.data() + b * pixels * kPanelOutputs;
      for (const Piece& p : tile) {
        const int64_t row = (p.image * a.size[0] + p.frame) * a.size[1] + p.first;
        const F* from = reinterpret_cast<const F*>(a.grad) + row * a.size[2] * a.outputs + b * kPanelOutputs;
        for (int64_t k = 0; k < (p.last - p.first) * a.size[2]; ++k, from += a.outputs, to += kPanelOutputs) {
          if (count == kPanelOutputs) {
            std::memcpy(to, from, kPanelOutputs * sizeof(F));
          } else {
            std::fill(to, to + kPanelOutputs, F(0));
            std::memcpy(to, from, count * sizeof(F));
          }
        }
      }
    }
  }

  // (pieces, blocks of inputs, rows, padded width, inputs of a block) for one frame of the kernel.
  void pack_inputs(const std::vector<Piece>& tile, int64_t tap) {
    const int64_t plane = source_rows() * width * kPanelInputs, piece = input_blocks * plane;
    inputs.resize(tile.size() * piece);
    for (size_t n = 0; n < tile.size(); ++n) {
      const Piece& p = tile[n];
      const int64_t frame = source_frame(p, tap);
      if (frame < 0) continue;
      F* to = inputs.data() + n * piece;
      std::fill(to, to + piece, F(0));
      for (int64_t r = 0; r < source_rows(); ++r) {
        const int64_t h = p.first * a.stride[1] - a.padding[1] + r;
        if (h < 0 || h >= a.source_size[1]) continue;
        const int64_t row = (p.image * a.source_size[0] + frame) * a.source_size[1] + h;
        const F* from = reinterpret_cast<const F*>(a.x) + row * a.source_size[2] * a.inputs;
        F* line = to + (r * width + a.padding[2]) * kPanelInputs;
        for (int64_t w = 0; w < a.source_size[2]; ++w, from += a.inputs, line += kPanelInputs) {
          int64_t b = 0;
          for (; (b + 1) * kPanelInputs <= a.inputs; ++b)
            std::memcpy(line + b * plane, from + b * kPanelInputs, kPanelInputs * sizeof(F));
          if (b < input_blocks)
            std::memcpy(line + b * plane, from + b * kPanelInputs, (a.inputs - b * kPanelInputs) * sizeof(F));
        }
      }
    }
  }

  // All taps of one frame of the kernel for one block of outputs.
  void add_block(const std::vector<Piece>& tile, int64_t tap, int64_t block, F* total) {
    using V = typename Vector<F>::Type;
    constexpr int lanes = kLanes<F>;
    const int64_t plane = source_rows() * width * kPanelInputs, piece = input_blocks * plane;
    const int64_t outputs = std::min<int64_t>(kPanelOutputs, a.outputs - block * kPanelOutputs);
    const int64_t step = a.stride[2] * kPanelInputs;
    for (int64_t i = 0; i < a.kernel[1]; ++i) {
      for (int64_t j = 0; j < a.kernel[2]; ++j) {
        F* target = total + ((tap * a.kernel[1] + i) * a.kernel[2] + j) * a.inputs * a.outputs + block * kPanelOutputs;
        for (int64_t c = 0; c < input_blocks; ++c, target += kPanelInputs * a.outputs) {
          V sum[kPanelInputs][2] = {};
          const F* grad = gradients.data() + block * pixels * kPanelOutputs;
          for (size_t n = 0; n < tile.size(); ++n) {
            const int64_t count = tile[n].last - tile[n].first;
            if (source_frame(tile[n], tap) < 0) {
              grad += count * a.size[2] * kPanelOutputs;
              continue;
            }
            const F* row =
                inputs.data() + n * piece + c * plane + (i * a.dilation[1] * width + j * a.dilation[2]) * kPanelInputs;
            for (int64_t y = 0; y < count; ++y, row += a.stride[1] * width * kPanelInputs) {
              const F* x = row;
              for (int64_t w = 0; w < a.size[2]; ++w, x += step, grad += kPanelOutputs) {
                const V first = load_vector(grad), second = load_vector(grad + lanes);
#pragma GCC unroll 6
                for (int m = 0; m < kPanelInputs; ++m) {
                  sum[m][0] += x[m] * first;
                  sum[m][1] += x[m] * second;
                }
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
  int64_t blocks, input_blocks, width, rows, pixels = 0;
  std::vector<F> gradients, inputs;
};

template <class F>
void add_weight_gradient_packed(const frcn::WeightGradientArgs& a, int64_t begin, int64_t end, char* total) {
  if (begin < end) PackedWeightGradient<F>(a).run(begin, end, reinterpret_cast<F*>(total));
}

}  // namespace FRCN_ISA
