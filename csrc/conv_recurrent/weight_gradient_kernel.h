// The weight gradient kernel; included once per instruction set.
//
// A library makes this a matrix product with the pixels as the inner dimension: it unfolds and packs both operands,
// which for few channels costs as much as the product. Here a block of 16 outputs by up to 6 inputs stays in
// registers while it walks over the pixels of a few rows; a tap of the kernel is an offset of the input's pointer.
#pragma once

#include <algorithm>

#include "conv_recurrent/weight_gradient.h"

namespace FRCN_ISA {

constexpr int64_t kTilePixels = 256;  // rows that stay in the second-level cache while all blocks pass over them
constexpr int kBlockInputs = 6;

// total[m][n] += sum over pixels of x[m] * grad[n].
template <int M, int N>
FRCN_HD void add_outer_products(const float* x, const float* grad, int64_t pixels, int64_t inputs, int64_t outputs,
                                float* total) {
  float sum[M][N];
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) sum[m][n] = total[m * outputs + n];
  for (int64_t p = 0; p < pixels; ++p, x += inputs, grad += outputs) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma omp simd
      for (int n = 0; n < N; ++n) sum[m][n] += x[m] * grad[n];
    }
  }
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) total[m * outputs + n] = sum[m][n];
}

template <int N>
void add_block(int m, const float* x, const float* grad, int64_t pixels, int64_t inputs, int64_t outputs,
               float* total) {
  switch (m) {
    case 1:
      return add_outer_products<1, N>(x, grad, pixels, inputs, outputs, total);
    case 2:
      return add_outer_products<2, N>(x, grad, pixels, inputs, outputs, total);
    case 3:
      return add_outer_products<3, N>(x, grad, pixels, inputs, outputs, total);
    case 4:
      return add_outer_products<4, N>(x, grad, pixels, inputs, outputs, total);
    case 5:
      return add_outer_products<5, N>(x, grad, pixels, inputs, outputs, total);
    default:
      return add_outer_products<6, N>(x, grad, pixels, inputs, outputs, total);
  }
}

// One tap over one row of the map.
inline void add_row(const float* x, const float* grad, int64_t pixels, int64_t inputs, int64_t outputs, float* total) {
  const int64_t blocks = (inputs + kBlockInputs - 1) / kBlockInputs;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t m = inputs * b / blocks, count = inputs * (b + 1) / blocks - m;
    float* rows = total + m * outputs;
    int64_t n = 0;
    for (; n + 16 <= outputs; n += 16) add_block<16>(count, x + m, grad + n, pixels, inputs, outputs, rows + n);
    for (; n + 8 <= outputs; n += 8) add_block<8>(count, x + m, grad + n, pixels, inputs, outputs, rows + n);
    for (; n < outputs; ++n) add_block<1>(count, x + m, grad + n, pixels, inputs, outputs, rows + n);
  }
}

inline void add_weight_gradient(const frcn::WeightGradientArgs& a, int64_t begin, int64_t end, float* total) {
  const int64_t tile = std::max<int64_t>(1, kTilePixels / a.width);
  const int64_t middle[2] = {a.dilation[0] * (a.kernel[0] - 1) / 2, a.dilation[1] * (a.kernel[1] - 1) / 2};
  for (int64_t first = begin; first < end; first += tile) {
    const int64_t last = std::min(end, first + tile);
    for (int64_t i = 0; i < a.kernel[0]; ++i) {
      for (int64_t j = 0; j < a.kernel[1]; ++j) {
        const int64_t dy = i * a.dilation[0] - middle[0], dx = j * a.dilation[1] - middle[1];
        const int64_t from = std::max<int64_t>(0, -dx), to = std::min(a.width, a.width - dx);
        if (from >= to) continue;
        float* tap = total + (i * a.kernel[1] + j) * a.inputs * a.outputs;
        for (int64_t row = first; row < last; ++row) {
          const int64_t y = row % a.height;
          if (y + dy < 0 || y + dy >= a.height) continue;
          add_row(a.x + ((row + dy) * a.width + from + dx) * a.inputs, a.grad + (row * a.width + from) * a.outputs,
                  to - from, a.inputs, a.outputs, tap);
        }
      }
    }
  }
}

}  // namespace FRCN_ISA
