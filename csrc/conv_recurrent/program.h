// The time loop: a short program of fills, convolutions, normalisations and stages, run once per step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "conv_recurrent/buffer.h"
#include "conv_recurrent/normalize.h"
#include "conv_recurrent/stage.h"
#include "convolution/convolution.h"

namespace frcn {

// Writes one row of channels to every pixel.
struct FillStep {
  Buffer target;
  const char* row;
  int64_t bytes;
};

// A convolution with fewer multiplications, of rows of tiles; each thread works in memory of its own.
struct WinogradConvolution {
  const WinogradTable* table;
  WinogradArgs args;  // without the maps
  char* room;
  WinogradRows rows;
};

// Accumulates a convolution into its target.
struct ConvolutionStep {
  Buffer source;
  Buffer target;
  ConvolutionArgs args;  // without the pointers, which belong to a time
  ConvolutionFunction function;
  bool skip_first;  // nothing to do at the first step: the source is zero there, or nobody needs the result
  WinogradConvolution winograd;  // where its table is given, in place of the function
};

// Normalises the images of its target, or turns the gradient of what was normalised into that of what it was made of.
struct NormalizeStep {
  Buffer target;
  Buffer normalized;  // backward
  Buffer scale;
  int64_t channels;
  double eps;
  bool backward;
  NormalizeSums sums;
  NormalizeApply apply;
};

// Runs one stage over all pixels.
struct StageStep {
  StageFunction function;
  std::vector<Buffer> buffers;
  std::vector<int64_t> pitch;
  std::vector<int64_t> element;         // bytes of one of a buffer's: in bfloat16 some states are float
  int parameter_gradients;              // the last so many buffers are accumulated over pixels, in double
  std::vector<int64_t> parameter_size;  // channels: one row for all pixels; pixels_per_image * channels: a map
};

struct Program {
  enum class Kind { fill, convolution, normalize, stage };
  struct Step {
    Kind kind;
    size_t index;
  };
  std::vector<Step> steps;
  std::vector<FillStep> fills;
  std::vector<ConvolutionStep> convolutions;
  std::vector<NormalizeStep> normalizes;
  std::vector<StageStep> stages;
  DataType type = DataType::float32;
  int64_t block_outputs = 1;  // of the packed weights
  int64_t channels = 0;
  int64_t images = 0;
  int64_t map_pixels = 0, width = 0;  // of one image, and of one of its rows
  const int64_t* lengths = nullptr;
  int threads = 1;

  // Runs the steps at times start, start + direction, ..., count in all. `at_start`: the first of these times is
  // the sequence's first step.
  void run(int64_t start, int64_t count, int64_t direction, bool at_start) const;
};

}  // namespace frcn
