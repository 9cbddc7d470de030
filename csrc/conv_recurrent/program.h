// The time loop: a short program of convolutions and stages, run once per step.
#pragma once

#include <cstdint>
#include <vector>

#include "common/aten.h"
#include "conv_recurrent/stage.h"

namespace frcn {

// A buffer as a step sees it: base + time * step bytes; at the first step `first` instead, where it is given.
struct Buffer {
  char* base;
  int64_t step;
  char* first;

  char* at(int64_t time, bool is_first) const { return is_first && first ? first : base + time * step; }
};

// Accumulates a "same" convolution, stride 1: target += convolution(source, weight). Maps are channels-last.
struct ConvolutionStep {
  Buffer source;
  Buffer target;
  TensorHandle weight;  // packed for oneDNN, or [source_channels, target_channels] where the kernel is 1x1
  int64_t batch, height, width;
  int64_t source_channels, target_channels;
  int64_t padding[2];
  bool pointwise;
  bool skip_first;  // nothing to do at the first step: the source is zero there, or nobody needs the result
  bool overwrite;   // target = convolution(source, weight)
};

// Runs one stage over all pixels.
struct StageStep {
  StageFunction function;
  std::vector<Buffer> buffers;
  std::vector<int64_t> pitch;
  int parameter_gradients;              // the last so many buffers are accumulated over pixels, in double
  std::vector<int64_t> parameter_size;  // channels: one row for all pixels; pixels_per_image * channels: a map
};

struct Program {
  struct Step {
    int convolution = -1;
    int stage = -1;
  };
  std::vector<Step> steps;
  std::vector<ConvolutionStep> convolutions;
  std::vector<StageStep> stages;
  DataType type = DataType::float32;
  int64_t channels = 0;
  int64_t images = 0;
  int64_t pixels_per_image = 0;
  const int64_t* lengths = nullptr;
  int threads = 1;

  // Runs the steps at times start, start + direction, ..., count in all. `at_start`: the first of these times is
  // the sequence's first step. Throws std::runtime_error where PyTorch reports an error.
  void run(int64_t start, int64_t count, int64_t direction, bool at_start) const;
};

}  // namespace frcn
