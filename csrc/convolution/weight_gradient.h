// Weight gradient of a convolution, on channels-last maps.
#pragma once

#include <cstdint>

namespace frcn {

// x: (images, source_size, inputs); grad: (images, size, outputs); both dense, of type float, double or bfloat16. Sizes
// are of frames, rows, columns.
struct WeightGradientArgs {
  const char* x;
  const char* grad;
  int64_t images, inputs, outputs;
  int64_t source_size[3], size[3];
  int64_t kernel[3], stride[3], dilation[3], padding[3];
};

// Adds a part of the gradient to total (kd, kh, kw, inputs, outputs), float for bfloat16: that over rows [begin, end)
// of all images' and frames' rows, or blocks [begin, end) of it.
using WeightGradientFunction = void (*)(const WeightGradientArgs&, int64_t begin, int64_t end, char* total);

}  // namespace frcn
