// Which tile a step's kernel takes. A Launch is made of a StepKernels' `where` and starts it, on a GPU or in tests on
// the host:
//   launch.processors()
//   launch.template step<Body>(const FusedStep&, int64_t groups, int64_t parts, int room)
// The last returns an empty text or what went wrong.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "conv_recurrent/stage_dispatch.h"
#include "conv_recurrent/step_kernels.h"
#include "conv_recurrent/step_stage_device.h"

namespace FRCN_ISA {

using frcn::StepLaunch;

struct TileSize {
  int pixels, columns, room, kept_at;
};

template <class Tile>
constexpr TileSize kSizeOf{Tile::pixels, Tile::columns, Tile::room, Tile::kept_at};
constexpr TileSize kTiles[] = {kSizeOf<LargeTile>, kSizeOf<MediumTile>, kSizeOf<SmallTile>};

inline int64_t tiles_in(int64_t whole, int64_t tile) { return (whole + tile - 1) / tile; }

// The largest tile that has no more channels than there are, rounded to a power of two, and that leaves no processor
// without one; else the smallest.
inline int choose_tile(int64_t pixels, int64_t channels, int slots, int processors) {
  for (int tile = kLarge; tile < kSmall; ++tile) {
    const int width = kTiles[tile].columns / slots;
    if (width < 2 * channels && tiles_in(pixels, kTiles[tile].pixels) * tiles_in(channels, width) >= processors)
      return tile;
  }
  return kSmall;
}

// A power of two, so that slots divide the columns.
inline int slots_in_tile(const FusedStep& a) {
  int width = 1;
  while (width < a.slots) width *= 2;
  return width;
}

inline void take_tile(FusedStep& a, int tile) {
  a.tile = tile;
  a.slot_channels = kTiles[tile].columns / slots_in_tile(a);
}

template <class T>
FusedStep make_fused_step(const StepLaunch& given, int processors) {
  const frcn::StepConvolution& c = given.convolution;
  FusedStep a{};
  a.stage = make_bare_stage(given.stage, 16 / sizeof(T));
  int64_t taps = 1, inputs = 0;
  for (int axis = 0; axis < 3; ++axis) {
    a.kernel[axis] = static_cast<int>(c.kernel[axis]);
    a.padding[axis] = static_cast<int>(c.padding[axis]);
    a.dilation[axis] = static_cast<int>(c.dilation[axis]);
    a.size[axis] = static_cast<int>(c.size[axis]);
    a.axes[axis] = Divisor(c.size[axis]);
    taps *= c.kernel[axis];
  }
  for (const auto& [maps, pitch, channels] : c.sources) {
    a.source[a.sources++] = {reinterpret_cast<const char*>(maps), static_cast<int>(pitch * sizeof(T)),
                             static_cast<int>(channels)};
    inputs += channels;
  }
  a.weight_pitch = static_cast<int>(taps * inputs * sizeof(T));
  std::fill(std::begin(a.slot_of), std::end(a.slot_of), static_cast<signed char>(-1));
  for (const frcn::StepSlot& slot : given.slots) {
    if (slot.argument >= 0) {
      a.slot_of[slot.argument] = static_cast<signed char>(a.slots);
    } else {
      a.targets[a.slots] = reinterpret_cast<char*>(slot.target);
      a.target_pitch[a.slots] = slot.target_pitch;
      a.blank |= static_cast<uint32_t>(slot.alone) << a.slots;
    }
    a.weights[a.slots++] = reinterpret_cast<const char*>(slot.weight);
  }
  a.maps = static_cast<uint32_t>(given.stage.maps);
  const int width = slots_in_tile(a);
  take_tile(a, choose_tile(given.stage.pixels, given.stage.args.channels, width, processors));
  return a;
}

// The blocks' (groups of pixels, parts of the channels).
inline std::pair<int64_t, int64_t> grid_of(const StageLaunch& stage, const FusedStep& a) {
  return {tiles_in(stage.pixels, tile_pixels(a)), tiles_in(stage.args.channels, a.slot_channels)};
}

template <class T, class Lanes>
void check_step(const StepLaunch& given) {
  constexpr int64_t kLanes = Lanes::lanes;
  bool fits = takes_packs(given.stage, Lanes::arguments, kLanes);
  for (const auto& [maps, pitch, inputs] : given.convolution.sources)
    fits = fits && maps % 16 == 0 && pitch % kLanes == 0 && inputs % kLanes == 0;
  for (const frcn::StepSlot& slot : given.slots)
    fits = fits && slot.weight % 16 == 0 && slot.target % 16 == 0 && slot.target_pitch % kLanes == 0;
  if (!fits)
    throw std::invalid_argument("fastrcn: a step's kernel expects rows of channels that are whole packs of 16 bytes");
  if (Lanes::sums > 0 && given.stage.parts < tiles_in(given.stage.pixels, SmallTile::pixels))
    throw std::invalid_argument("fastrcn: a step's kernel expects a row of sums for every " +
                                std::to_string(SmallTile::pixels) + " pixels");
}

template <class T, class Lanes, class Launch>
std::string run_step(const StepLaunch& given, void* where) {
  check_step<T, Lanes>(given);
  const Launch launch{where};
  if (given.stage.pixels == 0 || given.stage.args.channels == 0) return "";
  const FusedStep a = make_fused_step<T>(given, launch.processors());
  const auto [groups, parts] = grid_of(given.stage, a);
  return launch.template step<Step<T, Lanes>>(a, groups, parts, kTiles[a.tile].room);
}

template <template <class, class, int> class Lanes, class T, class Launch>
constexpr auto step_of() -> std::string (*)(const StepLaunch&, void*) {
  using Packed = Lanes<T, float, 16 / sizeof(T)>;
  if constexpr (Packed::can_be_fused) {
    return run_step<T, Packed, Launch>;
  } else {
    return nullptr;
  }
}

// clang-format off
#define FRCN_STEP(NAME, FINGERPRINT, STAGE, BACKWARD, GRADIENTS) step_of<NAME##_lanes, T, Launch>(),
// clang-format on

// In the order of stage_kernels.
template <class T, class Launch>
frcn::StepKernels step_kernels() {
  static std::string (*const entries[])(const StepLaunch&, void*) = {FRCN_STAGES(FRCN_STEP)};
  return {entries, nullptr};
}

}  // namespace FRCN_ISA
