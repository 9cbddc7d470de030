// What a convolution is to its callers: a function over a range of output pixels and output channels.
#pragma once

#include <cstdint>

#include "convolution/pointwise.h"
#include "convolution/weight_gradient.h"
#include "convolution/winograd.h"

namespace frcn {

// target += convolution(source, weight). Maps are channels-last and dense, of type float, double or bfloat16; sizes are
// of frames, rows and columns, one frame for a 2-D convolution. The weight is packed as [blocks of outputs][kernel
// frames][kernel rows][kernel columns][inputs][outputs of a block], zeros behind the last output; of bfloat16, as
// [...][pairs of inputs][outputs of a block][2], zeros behind an odd number of inputs.
struct ConvolutionArgs {
  const char* source;
  char* target;
  const char* weight;
  int64_t inputs, outputs;
  int64_t source_size[3], size[3];
  int64_t kernel[3], stride[3], dilation[3], padding[3];
};

// Pixels count through all images; `first_output` is a multiple of the block.
using ConvolutionFunction = void (*)(const ConvolutionArgs&, int64_t begin, int64_t end, int64_t first_output,
                                     int64_t last_output);

// What was compiled for one instruction set.
struct ConvolutionTable {
  ConvolutionFunction convolve_float, convolve_double;
  ConvolutionFunction convolve_bfloat16;   // null where the instruction set has no products of bfloat16
  WeightGradientFunction weight_gradient;  // float, for few inputs: rows [begin, end)
  // Blocks of outputs [begin, end) of all the kernel's frames.
  WeightGradientFunction weight_gradient_float, weight_gradient_double;
  WeightGradientFunction weight_gradient_bfloat16_rows, weight_gradient_bfloat16;  // both ways; null likewise
  WinogradTable winograd[2];                                                       // for 3x3 and 5x5 rows and columns
  PointwiseTable pointwise;
  int vector_bytes;

  // Outputs of one block of packed weights, by the size of a sum's element.
  int64_t block_outputs(int64_t element) const { return 2 * vector_bytes / element; }
};

}  // namespace frcn
