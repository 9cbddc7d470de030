// Weight gradient of a "same" convolution with few channels, on channels-last maps.
#pragma once

#include <cstdint>

namespace frcn {

// x: (images, height, width, inputs); grad: (images, height, width, outputs); both dense float.
struct WeightGradientArgs {
  const float* x;
  const float* grad;
  int64_t images, height, width, inputs, outputs;
  int64_t kernel[2], dilation[2];
};

// Adds the gradient over image rows [begin, end) of all images' rows to total (kh, kw, inputs, outputs).
using WeightGradientFunction = void (*)(const WeightGradientArgs&, int64_t begin, int64_t end, float* total);

}  // namespace frcn
