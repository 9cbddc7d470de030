// Which kernels walk over time, and how. Beside what step_dispatch.h asks of it, a Launch has
//   launch.most_room()
//   launch.template most_blocks<Body>(int room)
//   launch.template walk<Body>(const FusedWalk&, int64_t groups, int64_t parts, int room)
// the bytes that a block may have, the blocks with so many bytes that run at once, and the start of the kernel, which
// returns an empty text or what went wrong.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include "conv_recurrent/step_dispatch.h"
#include "conv_recurrent/step_walk_device.h"

namespace FRCN_ISA {

using frcn::StepWalk;

// Bytes before the step at hand.
template <class T>
int64_t room_before_step(const FusedStep& a) {
  if (!a.keeps) return kTiles[a.tile].room;
  const int64_t turns = int64_t{a.kernel[0]} * a.kernel[1] * a.kernel[2] * tiles_in(a.inputs, kRowBytes / sizeof(T));
  const int64_t kept_at = a.tile == kMedium ? MediumTile::kept_at : SmallTile::kept_at;
  return kept_at + turns * kTiles[a.tile].columns * kRowBytes;
}

template <class T, class Lanes, class Launch>
std::optional<std::string> run_walk(const StepWalk& given, void* where) {
  check_step<T, Lanes>(given.step);
  bool fits = given.source_between % 16 == 0;
  for (const int64_t bytes : given.between) fits = fits && bytes % 16 == 0;
  if (!fits) throw std::invalid_argument("fastrcn: a walk's kernel expects maps at multiples of 16 bytes");
  const StageLaunch& stage = given.step.stage;
  if (stage.pixels == 0 || stage.args.channels == 0) return "";
  const Launch launch{where};
  FusedWalk walk{};
  walk.step = make_fused_step<T>(given.step, launch.processors());
  std::copy(given.between.begin(), given.between.end(), walk.between);
  walk.source_between = given.source_between;
  walk.direction = given.direction;
  walk.arrivals = given.arrivals;
  walk.count = static_cast<int>(given.count);
  // Weights that stay save half of all copies; small tiles share the work out more evenly.
  for (const bool keeps : {true, false})
    for (const Tile tile : {kSmall, kMedium}) {
      take_tile(walk.step, tile);
      walk.step.keeps = walk.step.fills = keeps;
      const int64_t before = room_before_step<T>(walk.step), room = before + sizeof(FusedStep);
      const auto [groups, parts] = grid_of(stage, walk.step);
      if (room > launch.most_room() ||
          groups * parts > launch.template most_blocks<Walk<T, Lanes>>(static_cast<int>(room)))
        continue;
      walk.blocks = static_cast<uint32_t>(groups * parts);
      walk.step_at = static_cast<int>(before);
      return launch.template walk<Walk<T, Lanes>>(walk, groups, parts, static_cast<int>(room));
    }
  return std::nullopt;
}

struct StageName {
  const char* cell;
  int stage;
};

// clang-format off
#define FRCN_STAGE_NAME(NAME, FINGERPRINT, STAGE, BACKWARD, GRADIENTS) {FINGERPRINT, STAGE},
// clang-format on

// Whether a cell has one stage alone, so that a step may be one kernel.
constexpr bool has_one_stage(const char* cell) {
  constexpr StageName all[] = {FRCN_DEVICE_STAGES(FRCN_STAGE_NAME)};
  for (const StageName& name : all)
    if (name.stage > 0 && std::string_view(name.cell) == cell) return false;
  return true;
}

template <template <class, class, int> class Lanes, bool kOneStage, class T, class Launch>
constexpr frcn::WalkKernel walk_of() {
  using Packed = Lanes<T, float, 16 / sizeof(T)>;
  if constexpr (kOneStage && Packed::sums == 0) {
    return run_walk<T, Packed, Launch>;
  } else {
    return nullptr;
  }
}

// clang-format off
#define FRCN_WALK(NAME, FINGERPRINT, STAGE, BACKWARD, GRADIENTS) \
  walk_of<NAME##_lanes, has_one_stage(FINGERPRINT), T, Launch>(),
// clang-format on

// Both in the order of stage_kernels.
template <class T, class Launch>
frcn::StepKernels step_and_walk_kernels() {
  static const frcn::WalkKernel walks[] = {FRCN_DEVICE_STAGES(FRCN_WALK)};
  return {step_kernels<T, Launch>().run, walks};
}

}  // namespace FRCN_ISA
