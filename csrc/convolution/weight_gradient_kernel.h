// The weight gradient kernel for few input channels; included once per instruction set.
//
// A library makes this a matrix product with the pixels as the inner dimension: it unfolds and packs both operands,
// which for few channels costs as much as the product. Here a block of two vectors of outputs by a few inputs stays in
// registers while it walks over the pixels of some rows. The inputs that a row of the kernel joins to a pixel are
// neighbours in memory, so that they count as that many inputs; where the kernel reaches over the map's left or right
// edge, rows are copied with zeros around them.
#pragma once

#include <algorithm>
#include <vector>

#include "common/vector.h"
#include "convolution/weight_gradient.h"

namespace FRCN_ISA {

constexpr int64_t kTilePixels = 128;  // rows that stay in the cache while all blocks pass over them
// As many sums as leave registers for two vectors of the gradient and a value of the input.
constexpr int kBlockInputs = kVectorBytes == 64 ? 12 : 6;

// A row of the gradient, and of the input from where the first pixel's window begins.
struct JoinedRow {
  const float* x;
  const float* grad;
};

// What is the same for all rows.
struct RowSteps {
  int64_t pixels, x_pixel, outputs;
};

// total[m][n] += sum over pixels of x[m] * grad[n], for M inputs and Vectors vectors V of outputs.
template <int M, class V, int Vectors>
void add_outer_products(const std::vector<JoinedRow>& rows, const RowSteps& s, int64_t m, int64_t n, float* total) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  V sum[M][Vectors] = {};
  for (const JoinedRow& row : rows) {
    const float *x = row.x + m, *grad = row.grad + n;
    for (int64_t p = 0; p < s.pixels; ++p, x += s.x_pixel, grad += s.outputs) {
      V value[Vectors];
#pragma GCC unroll 2
      for (int k = 0; k < Vectors; ++k) value[k] = load_as<V>(grad + k * lanes);
#pragma GCC unroll 12
      for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int k = 0; k < Vectors; ++k) sum[i][k] += x[i] * value[k];
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
    for (int k = 0; k < Vectors; ++k) {
      float* to = total + (m + i) * s.outputs + n + k * lanes;
      const V value = load_as<V>(to) + sum[i][k];
      std::memcpy(to, &value, sizeof value);
    }
}

template <class V, int Vectors, int M = kBlockInputs>
void add_inputs(int64_t count, const std::vector<JoinedRow>& rows, const RowSteps& s, int64_t m, int64_t n,
                float* total) {
  if (count == M) return add_outer_products<M, V, Vectors>(rows, s, m, n, total);
  if constexpr (M > 1) add_inputs<V, Vectors, M - 1>(count, rows, s, m, n, total);
}

template <class V, int Vectors>
void add_outputs(const std::vector<JoinedRow>& rows, const RowSteps& s, int64_t inputs, int64_t n, float* total) {
  const int64_t blocks = (inputs + kBlockInputs - 1) / kBlockInputs;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t m = inputs * b / blocks, count = inputs * (b + 1) / blocks - m;
    add_inputs<V, Vectors>(count, rows, s, m, n, total);
  }
}

// One row of the kernel over some rows of the map.
inline void add_rows(const std::vector<JoinedRow>& rows, const RowSteps& s, int64_t inputs, float* total) {
  using Whole = Vector<float>::Type;
  constexpr int lanes = kLanes<float>;
  int64_t n = 0;
  for (; n + 2 * lanes <= s.outputs; n += 2 * lanes) add_outputs<Whole, 2>(rows, s, inputs, n, total);
  for (; n + lanes <= s.outputs; n += lanes) add_outputs<Whole, 1>(rows, s, inputs, n, total);
  if constexpr (lanes > 8)
    for (; n + 8 <= s.outputs; n += 8) add_outputs<Packed<float, 8>::Type, 1>(rows, s, inputs, n, total);
  if constexpr (lanes > 4)
    for (; n + 4 <= s.outputs; n += 4) add_outputs<Packed<float, 4>::Type, 1>(rows, s, inputs, n, total);
  for (; n < s.outputs; ++n) add_outputs<float, 1>(rows, s, inputs, n, total);
}

class WeightGradientByRows {
 public:
  explicit WeightGradientByRows(const frcn::WeightGradientArgs& args) : a(args) {
    // Of a dilated kernel each column is one on its own.
    columns = a.dilation[2] == 1 ? a.kernel[2] : 1;
    const int64_t reach = (a.size[2] - 1) * a.stride[2] + (a.kernel[2] - 1) * a.dilation[2] + 1;
    copies = a.padding[2] > 0 || reach > a.source_size[2];
    width = std::max(reach, a.padding[2] + a.source_size[2]);
    steps = {a.size[2], a.stride[2] * a.inputs, a.outputs};
  }

  void run(int64_t begin, int64_t end, float* total) {
    const int64_t together = std::max<int64_t>(1, kTilePixels / a.size[2]);
    if (copies) room.assign(std::min(together, end - begin) * width * a.inputs, 0.f);
    for (int64_t first = begin; first < end; first += together) {
      float* tap = total;
      for (int64_t f = 0; f < a.kernel[0]; ++f)
        for (int64_t i = 0; i < a.kernel[1]; ++i, tap += a.kernel[2] * a.inputs * a.outputs) {
          join(first, std::min(end, first + together), f, i);
          if (!rows.empty()) add_columns(tap);
        }
    }
  }

 private:
  // The rows of the output for which a row of the kernel is inside the map.
  void join(int64_t first, int64_t last, int64_t f, int64_t i) {
    rows.clear();
    for (int64_t row = first; row < last; ++row) {
      const int64_t image = row / a.size[1] / a.size[0];
      const int64_t d = row / a.size[1] % a.size[0] * a.stride[0] + f * a.dilation[0] - a.padding[0];
      const int64_t h = row % a.size[1] * a.stride[1] + i * a.dilation[1] - a.padding[1];
      if (d < 0 || d >= a.source_size[0] || h < 0 || h >= a.source_size[1]) continue;
      const int64_t line = (image * a.source_size[0] + d) * a.source_size[1] + h;
      const float* x = reinterpret_cast<const float*>(a.x) + line * a.source_size[2] * a.inputs;
      if (copies) {
        float* copy = room.data() + static_cast<int64_t>(rows.size()) * width * a.inputs;
        std::copy(x, x + a.source_size[2] * a.inputs, copy + a.padding[2] * a.inputs);
        x = copy;
      }
      rows.push_back({x, reinterpret_cast<const float*>(a.grad) + row * a.size[2] * a.outputs});
    }
  }

  void add_columns(float* tap) {
    for (int64_t j = 0; j < a.kernel[2]; j += columns, tap += columns * a.inputs * a.outputs) {
      add_rows(rows, steps, columns * a.inputs, tap);
      for (JoinedRow& row : rows) row.x += columns * a.dilation[2] * a.inputs;
    }
  }

  const frcn::WeightGradientArgs& a;
  int64_t columns, width;  // of the kernel, taken together; of a copied row
  bool copies;
  RowSteps steps;
  std::vector<JoinedRow> rows;
  std::vector<float> room;
};

inline void add_weight_gradient(const frcn::WeightGradientArgs& a, int64_t begin, int64_t end, char* total) {
  WeightGradientByRows(a).run(begin, end, reinterpret_cast<float*>(total));
}

}  // namespace FRCN_ISA
