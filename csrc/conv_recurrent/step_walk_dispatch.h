// Which kernels walk over time, and how. Beside what step_dispatch.h asks of it, a Launch has
//   launch.most_room()
//   launch.template most_blocks<Body>(int room)
//   launch.template walk<Body>(const typename Body::Given&, int room)
// the bytes that a block may have, the blocks with so many bytes that run at once, and the start of the kernel, which
// returns an empty text or what went wrong.
#pragma once

#include <algorithm>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "conv_recurrent/step_dispatch.h"
#include "conv_recurrent/step_walk_device.h"

namespace FRCN_ISA {

using frcn::StepWalk;
using frcn::WalkedStep;

inline int32_t in_units(int64_t bytes) {
  const int64_t units = bytes / kBetweenUnit;
  if (bytes % kBetweenUnit || units < std::numeric_limits<int32_t>::min() ||
      units > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument("fastrcn: a walk's kernel expects maps at multiples of 16 bytes, less than 2^35 apart");
  return static_cast<int32_t>(units);
}

template <class T, class Lanes>
FusedWalkStep make_walk_step(const WalkedStep& given, int processors) {
  check_step<T, Lanes>(given.step);
  FusedWalkStep a{};
  a.step = make_fused_step<T>(given.step, processors);
  std::transform(given.between.begin(), given.between.end(), a.between, in_units);
  std::transform(given.targets_between.begin(), given.targets_between.end(), a.targets_between, in_units);
  std::transform(given.sources_between.begin(), given.sources_between.end(), a.sources_between, in_units);
  return a;
}

// Bytes of the weights of a tile's columns.
template <class T>
int64_t weights_of_tile(const FusedStep& a) {
  return int64_t{count_turns<T>(a)} * kTiles[a.tile].columns * kRowBytes;
}

struct WalkSize {
  int64_t blocks, room;
};

// Gives all kernels the tile, and those whose bit is set in `keep`, the last kernel's being the lowest, a place for
// their weights. The steps at hand come last in the room.
template <class T, int kSteps>
WalkSize lay_out(FusedWalk<kSteps>& walk, Tile tile, unsigned keep) {
  WalkSize size{};
  for (int n = 0; n < kSteps; ++n) {
    FusedWalkStep& a = walk.steps[n];
    take_tile(a.step, tile);
    a.groups = static_cast<int>(tiles_in(a.step.stage.items / a.step.stage.packs.value, kTiles[tile].pixels));
    a.parts = static_cast<int>(tiles_in(a.step.stage.args.channels, a.step.slot_channels));
    a.step.fills = keep >> (kSteps - 1 - n) & 1;
    size.blocks = std::max(size.blocks, int64_t{a.groups} * a.parts);
    size.room = std::max<int64_t>(size.room, a.step.fills ? kTiles[tile].kept_at : kTiles[tile].room);
  }
  for (FusedWalkStep& a : walk.steps) {
    a.step.kept_at = a.step.fills ? static_cast<int>(size.room) : 0;
    if (a.step.fills) size.room += weights_of_tile<T>(a.step);
  }
  walk.steps_at = static_cast<int>(size.room);
  size.room += kSteps * sizeof(FusedStep);
  return size;
}

template <class T, class Launch, class... Lanes>
std::optional<std::string> run_walk(const StepWalk& given, void* where) {
  using Body = Walk<T, Lanes...>;
  constexpr int kSteps = Body::kSteps;
  if (given.steps.size() != kSteps)
    throw std::invalid_argument("fastrcn: a walk's kernel expects " + std::to_string(kSteps) + " stages");
  const StageLaunch& stage = given.steps[0].step.stage;
  if (stage.pixels == 0 || stage.args.channels == 0) return "";
  const Launch launch{where};
  typename Body::Given walk{};
  int n = 0;
  ((walk.steps[n] = make_walk_step<T, Lanes>(given.steps[n], launch.processors()), ++n), ...);
  walk.direction = given.direction;
  walk.arrivals = given.arrivals;
  walk.count = static_cast<int>(given.count);
  // Weights that stay save half of all copies; small tiles share the work out more evenly.
  for (unsigned keep = 1u << kSteps; keep-- > 0;)
    for (const Tile tile : {kSmall, kMedium}) {
      const auto [blocks, room] = lay_out<T>(walk, tile, keep);
      if (room > launch.most_room() || blocks > launch.template most_blocks<Body>(static_cast<int>(room))) continue;
      walk.blocks = static_cast<uint32_t>(blocks);
      return launch.template walk<Body>(walk, static_cast<int>(room));
    }
  return std::nullopt;
}

struct StageName {
  std::string_view cell;
  int stage;
  bool backward;
};

// clang-format off
#define FRCN_STAGE_NAME(NAME, FINGERPRINT, STAGE, BACKWARD, GRADIENTS) {FINGERPRINT, STAGE, BACKWARD != 0},
#define FRCN_PACKED_LANES(NAME, FINGERPRINT, STAGE, BACKWARD, GRADIENTS) , NAME##_lanes<T, float, 16 / sizeof(T)>
// clang-format on

constexpr StageName kStages[] = {FRCN_STAGES(FRCN_STAGE_NAME)};

// How many stages a step has, by one of them.
constexpr int stages_in_step(const StageName& own) {
  int count = 0;
  for (const StageName& name : kStages) count += name.cell == own.cell && name.backward == own.backward;
  return count;
}

template <class T, int k>
using LanesOf = std::tuple_element_t<k + 1, std::tuple<void FRCN_STAGES(FRCN_PACKED_LANES)>>;

template <class T, class Launch, class... Lanes>
constexpr frcn::WalkKernel walk_of_stages() {
  if constexpr ((Lanes::can_be_fused && ...)) {
    return run_walk<T, Launch, Lanes...>;
  } else {
    return nullptr;
  }
}

// Of the step that begins with the k-th stage: forward this is the first of its cell, backward the last. None of more
// stages than two, which no cell here has.
template <class T, class Launch, int k>
constexpr frcn::WalkKernel walk_of() {
  constexpr StageName own = kStages[k];
  constexpr int count = stages_in_step(own);
  if constexpr (count > 2 || own.stage != (own.backward ? count - 1 : 0)) {
    return nullptr;
  } else if constexpr (count == 2) {
    return walk_of_stages<T, Launch, LanesOf<T, k>, LanesOf<T, own.backward ? k - 1 : k + 1>>();
  } else {
    return walk_of_stages<T, Launch, LanesOf<T, k>>();
  }
}

template <class T, class Launch, int... k>
const frcn::WalkKernel* walk_kernels(std::integer_sequence<int, k...>) {
  static const frcn::WalkKernel walks[] = {walk_of<T, Launch, k>()...};
  return walks;
}

// Both in the order of stage_kernels.
template <class T, class Launch>
frcn::StepKernels step_and_walk_kernels() {
  constexpr auto stages = std::make_integer_sequence<int, static_cast<int>(std::size(kStages))>();
  return {step_kernels<T, Launch>().run, walk_kernels<T, Launch>(stages)};
}

}  // namespace FRCN_ISA
