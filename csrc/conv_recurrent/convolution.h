// What a convolution is to its callers: a function over a range of output pixels and output channels.
#pragma once

#include <cstdint>

namespace frcn {

// target += convolution(source, weight). Maps are channels-last and dense, of type float or double. The weight is
// packed as [blocks of outputs][kernel rows][kernel columns][inputs][outputs of a block], zeros behind the last output.
struct ConvolutionArgs {
  const char* source;
  char* target;
  const char* weight;
  int64_t inputs, outputs;
  int64_t source_height, source_width, height, width;
  int64_t kernel[2], stride[2], dilation[2], padding[2];
};

// Pixels count through all images; `first_output` is a multiple of the block.
using ConvolutionFunction = void (*)(const ConvolutionArgs&, int64_t begin, int64_t end, int64_t first_output,
                                     int64_t last_output);

}  // namespace frcn
