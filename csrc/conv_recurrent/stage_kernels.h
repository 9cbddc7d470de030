// The stages as kernels of a GPU, to whoever launches them: what a launch gets, and a table of what was compiled.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "conv_recurrent/stage.h"

namespace frcn {

constexpr int kMostStageSums = 16;

// One stage on all pixels at one time. The last arguments of a stage that has gradients of parameters are sums in
// double: a map (pixels_per_image, channels) that is added to, or so many rows of channels as there are `parts`, each
// added to by one block of threads.
struct StageLaunch {
  StageArgs args;
  int64_t pixels;
  const char* addend[kMaxStageArguments];    // what convolutions add to an argument, of the maps' type; or null
  int64_t addend_pitch[kMaxStageArguments];  // in elements
  uint64_t blank;                            // bit k: argument k is its addend alone, its buffer is not read
  uint64_t complete;                         // bit k: the sum is written to argument k's buffer
  uint64_t maps;                             // bit n: the n-th gradient of a parameter is a map
  int64_t parts;
};

struct StageKernel {
  const char* fingerprint;
  int stage;
  bool backward;
  int arguments;
  int sums;                                             // the last so many arguments are gradients of parameters
  std::string (*run)(const StageLaunch&, void* where);  // an empty text, or what went wrong
};

// For one data type; the order is the same for all.
struct StageKernels {
  const StageKernel* entries;
  int count;
};

// A kernel's number, or -1.
int find_stage_kernel(const StageKernels& kernels, const std::string& fingerprint, int stage, bool backward);

// (argument, address, pitch, whether the argument is this alone, whether the sum is written back)
using Addend = std::tuple<int, uintptr_t, int64_t, bool, bool>;

struct StageSizes {
  int64_t channels, pixels, pixels_per_image;
};

// Kernel `number`. Throws std::invalid_argument where there is none.
const StageKernel& stage_kernel(const StageKernels& kernels, int number);

// What is the same at all times of a launch: not the buffers' addresses, the addends and the time. `maps`: which
// gradients of parameters are maps. Throws std::invalid_argument where it does not fit the kernel.
StageLaunch prepare_launch(const StageKernel& kernel, const std::vector<int64_t>& pitch, const StageSizes& sizes,
                           const int64_t* lengths, const std::vector<bool>& maps, int64_t parts);

// The addresses of all buffers, and the time. Throws std::invalid_argument where there are more or fewer than pitches.
void set_data(StageLaunch& launch, const std::vector<uintptr_t>& data, const std::vector<int64_t>& pitch, int64_t time);

// Throws std::invalid_argument where the kernel has no such argument.
void set_addend(StageLaunch& launch, const StageKernel& kernel, const Addend& addend);

// Runs kernel `number` once. Throws std::invalid_argument where it does not fit what it is given.
std::string launch_stage(const StageKernels& kernels, int number, const std::vector<uintptr_t>& data,
                         const std::vector<int64_t>& pitch, const std::vector<Addend>& addends, const StageSizes& sizes,
                         uintptr_t lengths, int64_t time, const std::vector<bool>& maps, int64_t parts, void* where);

}  // namespace frcn
