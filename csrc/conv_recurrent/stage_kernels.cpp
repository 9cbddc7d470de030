#include "conv_recurrent/stage_kernels.h"

#include <algorithm>
#include <stdexcept>

namespace frcn {

int find_stage_kernel(const StageKernels& kernels, const std::string& fingerprint, int stage, bool backward) {
  for (int n = 0; n < kernels.count; ++n) {
    const StageKernel& e = kernels.entries[n];
    if (fingerprint == e.fingerprint && e.stage == stage && e.backward == backward) return n;
  }
  return -1;
}

const StageKernel& stage_kernel(const StageKernels& kernels, int number) {
  if (number < 0 || number >= kernels.count)
    throw std::invalid_argument("fastrcn: there is no stage kernel " + std::to_string(number));
  return kernels.entries[number];
}

StageLaunch prepare_launch(const StageKernel& kernel, const std::vector<int64_t>& pitch, const StageSizes& sizes,
                           const int64_t* lengths, const std::vector<bool>& maps, int64_t parts) {
  if (pitch.size() != static_cast<size_t>(kernel.arguments) || maps.size() != static_cast<size_t>(kernel.sums) ||
      (kernel.sums && parts < 1))
    throw std::invalid_argument("fastrcn: stage kernel " + std::to_string(kernel.stage) + " of " + kernel.fingerprint +
                                " takes " + std::to_string(kernel.arguments) + " buffers, " +
                                std::to_string(kernel.sums) + " of them sums; got " + std::to_string(pitch.size()) +
                                ", " + std::to_string(maps.size()));
  StageLaunch launch{};
  std::copy(pitch.begin(), pitch.end(), launch.args.pitch);
  for (size_t n = 0; n < maps.size(); ++n) launch.maps |= static_cast<uint64_t>(maps[n]) << n;
  launch.args.channels = sizes.channels;
  launch.args.pixels_per_image = sizes.pixels_per_image;
  launch.args.lengths = lengths;
  launch.pixels = sizes.pixels;
  launch.parts = parts;
  return launch;
}

void set_data(StageLaunch& launch, const std::vector<uintptr_t>& data, const std::vector<int64_t>& pitch,
              int64_t time) {
  if (data.size() != pitch.size())
    throw std::invalid_argument("fastrcn: got " + std::to_string(data.size()) + " buffers and " +
                                std::to_string(pitch.size()) + " pitches");
  for (size_t k = 0; k < data.size(); ++k) launch.args.data[k] = reinterpret_cast<char*>(data[k]);
  launch.args.time = time;
}

void set_addend(StageLaunch& launch, const StageKernel& kernel, const Addend& addend) {
  const auto& [argument, address, width, alone, written] = addend;
  if (argument < 0 || argument >= kernel.arguments)
    throw std::invalid_argument("fastrcn: a stage has no argument " + std::to_string(argument));
  launch.addend[argument] = reinterpret_cast<const char*>(address);
  launch.addend_pitch[argument] = width;
  launch.blank |= static_cast<uint64_t>(alone) << argument;
  launch.complete |= static_cast<uint64_t>(written) << argument;
}

std::string launch_stage(const StageKernels& kernels, int number, const std::vector<uintptr_t>& data,
                         const std::vector<int64_t>& pitch, const std::vector<Addend>& addends, const StageSizes& sizes,
                         uintptr_t lengths, int64_t time, const std::vector<bool>& maps, int64_t parts, void* where) {
  const StageKernel& kernel = stage_kernel(kernels, number);
  StageLaunch launch = prepare_launch(kernel, pitch, sizes, reinterpret_cast<const int64_t*>(lengths), maps, parts);
  set_data(launch, data, pitch, time);
  for (const Addend& addend : addends) set_addend(launch, kernel, addend);
  return kernel.run(launch, where);
}

}  // namespace frcn
