// Convolution, bias, ReLU and max-pooling, strip by strip: the pixels that a few rows of windows need are convolved
// into a buffer that stays in the cache, and pooled there. The convolution's result is never in memory.
#pragma once

#include "convolution/convolution.h"
#include "relu_maxpool3d/pool.h"

namespace frcn {

struct Strips {
  ConvolutionArgs convolution;  // `target` is not read
  ConvolutionFunction convolve;
  PoolArgs pool;  // `maps` and `last` are not read
  PoolFunction pool_forward;
  const char* bias;  // (outputs), of the element type, or null
  int64_t images, element, block_outputs;
  bool last;  // whether pooled and index are channels-last; the source always is
};

void run_strips(const Strips& s, int threads);

}  // namespace frcn
