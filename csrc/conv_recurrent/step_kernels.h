// A convolution with the stage that takes its result, as one kernel of a GPU, to whoever launches it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "conv_recurrent/stage_kernels.h"

namespace frcn {

struct StepSource {
  uintptr_t maps;
  int64_t pitch;   // channels from pixel to pixel
  int64_t inputs;  // channels
};

// Convolutions of one source, or each the sum of two sources', with stride 1, that keep the maps' size. Axes are
// (depth, height, width).
struct StepConvolution {
  using Axes = std::array<int64_t, 3>;

  std::vector<StepSource> sources;
  Axes size, kernel, padding, dilation;
};

// What one slot of channels is for. The rows of its weight are output channels, each with the sources one after
// another, of each its taps and within a tap its channels side by side.
struct StepSlot {
  uintptr_t weight;
  int argument;      // that the convolution completes; -1: the stage takes none of it
  bool alone;        // the argument, or the target, is this alone
  bool written;      // the argument's sum is written back
  uintptr_t target;  // without an argument: where the sum is written, and the channels from pixel to pixel there
  int64_t target_pitch;
};

// Of the stage's sums over pixels a map has every image apart, (pixels, channels), and there is a row for every 64
// pixels at least.
struct StepLaunch {
  StageLaunch stage;  // without addends; `blank` and `complete` are of the slots
  StepConvolution convolution;
  std::vector<StepSlot> slots;
};

// One of the kernels of a step for many times. `between`: bytes from the maps of a time to those of the time that
// follows: an argument's, a slot's target's, a source's.
struct WalkedStep {
  StepLaunch step;  // at the first of these times
  std::array<int64_t, kMaxStageArguments> between;
  std::vector<int64_t> targets_between, sources_between;
};

// A step, which is these kernels one after another, at `count` times by one kernel. Its blocks wait for each other
// between any two.
struct StepWalk {
  std::vector<WalkedStep> steps;
  int64_t count, direction;  // of time
  uint32_t* arrivals;        // zero by the time at which the kernel starts
};

// As a step's, or nothing: not all blocks can run at once, and none was started.
using WalkKernel = std::optional<std::string> (*)(const StepWalk&, void* where);

// Run a stage with what completes it: an empty text, or what went wrong. Walks: those of a cell's stages in one
// direction, by the stage that a step begins with. Null: the stage has no such kernel, or the data type has none.
struct StepKernels {
  std::string (*const* run)(const StepLaunch&, void* where);
  const WalkKernel* walk;
};

// What is the same at all times, as `prepare_launch` gives it. Throws std::invalid_argument where the convolution or
// the slots do not fit; `run` throws it where channels or addresses do not allow accesses of 16 bytes.
StepLaunch prepare_step(const StageKernel& kernel, const StageLaunch& stage, const StepConvolution& convolution,
                        std::vector<StepSlot> slots);

// The step's kernel of stage `number`. Throws std::invalid_argument where there is none.
auto step_kernel(const StepKernels& steps, int number) -> std::string (*)(const StepLaunch&, void* where);

// Runs the step's kernel of stage `number` once. Throws std::invalid_argument where it does not fit what it is given.
std::string launch_step(const StageKernels& stages, const StepKernels& steps, int number,
                        const std::vector<uintptr_t>& data, const std::vector<int64_t>& pitch,
                        std::vector<StepSlot> slots, const StepConvolution& convolution, const StageSizes& sizes,
                        uintptr_t lengths, int64_t time, const std::vector<bool>& maps, int64_t parts, void* where);

}  // namespace frcn
