// The weight gradient kernel; included once per instruction set.
//
// A library makes this a matrix product with the pixels as the inner dimension: it unfolds and packs both operands,
// which for few channels costs as much as the product. Here a block of 16 outputs by up to 6 inputs stays in
// registers while it walks over the pixels of a few rows; a tap of the kernel is an offset of the input's pointer.
#pragma once

#include <algorithm>

#include "common/range.h"
#include "convolution/weight_gradient.h"

namespace FRCN_ISA {

constexpr int64_t kTilePixels = 256;  // rows that stay in the second-level cache while all blocks pass over them
constexpr int kBlockInputs = 6;

// total[m][n] += sum over pixels of x[m] * grad[n].
template <int M, int N>
FRCN_HD void add_outer_products(const float* x, const float* grad, int64_t pixels, int64_t x_pixel, int64_t outputs,
                                float* total) {
  float sum[M][N];
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) sum[m][n] = total[m * outputs + n];
  for (int64_t p = 0; p < pixels; ++p, x += x_pixel, grad += outputs) {
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
void add_block(int m, const float* x, const float* grad, int64_t pixels, int64_t x_pixel, int64_t outputs,
               float* total) {
  switch (m) {
    case 1:
      return add_outer_products<1, N>(x, grad, pixels, x_pixel, outputs, total);
    case 2:
      return add_outer_products<2, N>(x, grad, pixels, x_pixel, outputs, total);
    case 3:
      return add_outer_products<3, N>(x, grad, pixels, x_pixel, outputs, total);
    case 4:
      return add_outer_products<4, N>(x, grad, pixels, x_pixel, outputs, total);
    case 5:
      return add_outer_products<5, N>(x, grad, pixels, x_pixel, outputs, total);
    default:
      return add_outer_products<6, N>(x, grad, pixels, x_pixel, outputs, total);
  }
}

// One tap over one row of the map; `x_pixel` is the distance of the inputs of neighbouring pixels.
inline void add_row(const float* x, const float* grad, int64_t pixels, int64_t x_pixel, int64_t inputs, int64_t outputs,
                    float* total) {
  const int64_t blocks = (inputs + kBlockInputs - 1) / kBlockInputs;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t m = inputs * b / blocks, count = inputs * (b + 1) / blocks - m;
    float* rows = total + m * outputs;
    int64_t n = 0;
    for (; n + 16 <= outputs; n += 16) add_block<16>(count, x + m, grad + n, pixels, x_pixel, outputs, rows + n);
    for (; n + 8 <= outputs; n += 8) add_block<8>(count, x + m, grad + n, pixels, x_pixel, outputs, rows + n);
    for (; n < outputs; ++n) add_block<1>(count, x + m, grad + n, pixels, x_pixel, outputs, rows + n);
  }
}

inline void add_weight_gradient(const frcn::WeightGradientArgs& a, int64_t begin, int64_t end, char* total) {
  const auto *x = reinterpret_cast<const float*>(a.x), *grad = reinterpret_cast<const float*>(a.grad);
  const int64_t width = a.size[2], source_width = a.source_size[2];
  const int64_t tile = std::max<int64_t>(1, kTilePixels / width);
  for (int64_t first = begin; first < end; first += tile) {
    const int64_t last = std::min(end, first + tile);
    auto* tap = reinterpret_cast<float*>(total);
    for (int64_t f = 0; f < a.kernel[0]; ++f) {
      for (int64_t i = 0; i < a.kernel[1]; ++i) {
        for (int64_t j = 0; j < a.kernel[2]; ++j, tap += a.inputs * a.outputs) {
          const int64_t shift = j * a.dilation[2] - a.padding[2];
          const Range inside(0, width, a.stride[2], shift, source_width);
          if (inside.first >= inside.last) continue;
          for (int64_t row = first; row < last; ++row) {
            const int64_t image = row / a.size[1] / a.size[0];
            const int64_t d = row / a.size[1] % a.size[0] * a.stride[0] + f * a.dilation[0] - a.padding[0];
            const int64_t h = row % a.size[1] * a.stride[1] + i * a.dilation[1] - a.padding[1];
            if (d < 0 || d >= a.source_size[0] || h < 0 || h >= a.source_size[1]) continue;
            const int64_t pixel = ((image * a.source_size[0] + d) * a.source_size[1] + h) * source_width +
                                  inside.first * a.stride[2] + shift;
            add_row(x + pixel * a.inputs, grad + (row * width + inside.first) * a.outputs, inside.last - inside.first,
                    a.stride[2] * a.inputs, a.inputs, a.outputs, tap);
          }
        }
      }
    }
  }
}

}  // namespace FRCN_ISA
