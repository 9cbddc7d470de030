#include "conv_recurrent/step_kernels.h"

#include <stdexcept>
#include <utility>

namespace frcn {

namespace {

constexpr int64_t kMostPixels = int64_t{1} << 30, kMostWeights = int64_t{1} << 28;
constexpr size_t kMostSlots = 8, kMostSources = 2;

void check(bool fits, const char* expected) {
  if (!fits) throw std::invalid_argument(std::string("fastrcn: a step's kernel expects ") + expected);
}

}  // namespace

StepLaunch prepare_step(const StageKernel& kernel, const StageLaunch& stage, const StepConvolution& convolution,
                        std::vector<StepSlot> slots) {
  StepLaunch launch{stage, convolution, std::move(slots)};
  const auto& sources = convolution.sources;
  check(!sources.empty() && sources.size() <= kMostSources, "one source or two");
  int64_t pixels = 1, weights = 0;
  for (const StepSource& source : sources) {
    check(source.inputs > 0, "sources with channels");
    check(source.pitch <= kMostWeights, "at most 2^28 channels from pixel to pixel");
    weights += source.inputs;
  }
  for (int axis = 0; axis < 3; ++axis) {
    pixels *= convolution.size[axis];
    weights *= convolution.kernel[axis];
    check(2 * convolution.padding[axis] == convolution.dilation[axis] * (convolution.kernel[axis] - 1),
          "a convolution that keeps the map's size");
  }
  check(pixels == stage.args.pixels_per_image, "a source with the maps' size");
  check(stage.pixels <= kMostPixels, "at most 2^30 pixels in a step");
  check(weights <= kMostWeights, "at most 2^28 weights of an output channel");
  check(!launch.slots.empty() && launch.slots.size() <= kMostSlots, "1 to 8 slots");
  for (const StepSlot& slot : launch.slots)
    if (slot.argument >= 0) set_addend(launch.stage, kernel, {slot.argument, 0, 0, slot.alone, slot.written});
  return launch;
}

auto step_kernel(const StepKernels& steps, int number) -> std::string (*)(const StepLaunch&, void* where) {
  check(steps.run != nullptr, "maps of float32, bfloat16 or float16");
  check(steps.run[number] != nullptr, "a stage that can be fused");
  return steps.run[number];
}

std::string launch_step(const StageKernels& stages, const StepKernels& steps, int number,
                        const std::vector<uintptr_t>& data, const std::vector<int64_t>& pitch,
                        std::vector<StepSlot> slots, const StepConvolution& convolution, const StageSizes& sizes,
                        uintptr_t lengths, int64_t time, const std::vector<bool>& maps, int64_t parts, void* where) {
  const StageKernel& kernel = stage_kernel(stages, number);
  const auto run = step_kernel(steps, number);
  const StageLaunch stage =
      prepare_launch(kernel, pitch, sizes, reinterpret_cast<const int64_t*>(lengths), maps, parts);
  StepLaunch launch = prepare_step(kernel, stage, convolution, std::move(slots));
  set_data(launch.stage, data, pitch, time);
  return run(launch, where);
}

}  // namespace frcn
