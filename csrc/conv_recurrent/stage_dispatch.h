// Which kernel runs a stage. A Launch is made of a StageKernel's `where` and starts it, on a GPU or in tests on the
// host:
//   launch.template threads<Body>(const DeviceStage&)
//   launch.template blocks<Body>(const DeviceStageSums&, int64_t groups)
// Both return an empty text or what went wrong.
#pragma once

#include <algorithm>
#include <string>

#include "conv_recurrent/stage_device.h"
#include "conv_recurrent/stage_kernels.h"

namespace FRCN_ISA {

using frcn::StageLaunch;

constexpr int kStageColumns = 32;

// Values that a thread has in registers at once, beside what the equations need: as many as do not spill.
template <class A>
constexpr int kMostValues = sizeof(A) == 8 ? 40 : 112;

// Channels that a thread has side by side: 16 bytes of the maps, or fewer where it holds very many of a stage's
// arguments or sums.
template <class S, class A>
constexpr int lanes_for(int held, int sums) {
  constexpr int kRoom = kStageThreads * sizeof(A);  // of one sum
  int lanes = 16 / sizeof(S);
  while (lanes > 1 && (held * lanes > kMostValues<A> || sums * lanes * kRoom > kMostSumRoom)) lanes /= 2;
  return lanes;
}

// Whether all rows begin at aligned places and hold whole packs.
inline bool takes_packs(const StageLaunch& given, int arguments, int64_t lanes) {
  if (given.args.channels % lanes) return false;
  for (int k = 0; k < arguments; ++k)
    if (!is_aligned(given.args.data[k]) || given.args.pitch[k] % lanes || !is_aligned(given.addend[k]) ||
        given.addend_pitch[k] % lanes)
      return false;
  return true;
}

inline BareStage make_bare_stage(const StageLaunch& given, int64_t lanes) {
  BareStage a{};
  a.args = given.args;
  a.blank = given.blank;
  a.complete = given.complete;
  a.packs = LongDivisor(given.args.channels / lanes);
  a.items = given.pixels * a.packs.value;
  a.pixels_per_image = LongDivisor(given.args.pixels_per_image);
  return a;
}

inline DeviceStage make_device_stage(const StageLaunch& given, int64_t lanes) {
  DeviceStage a{make_bare_stage(given, lanes), {}, {}};
  std::copy(std::begin(given.addend), std::end(given.addend), a.addend);
  std::copy(std::begin(given.addend_pitch), std::end(given.addend_pitch), a.addend_pitch);
  return a;
}

template <class Lanes, class Launch>
std::string run_lanes(const StageLaunch& given, const Launch& launch) {
  if (given.pixels == 0 || given.args.channels == 0) return "";
  const DeviceStage stage = make_device_stage(given, Lanes::lanes);
  if constexpr (Lanes::sums == 0) {
    return launch.template threads<StageThreads<Lanes>>(stage);
  } else {
    DeviceStageSums a{};
    a.stage = stage;
    a.places = given.maps ? given.args.pixels_per_image : given.pixels;
    a.rounds = given.pixels / a.places;
    a.columns = 1;
    while (a.columns < kStageColumns && a.columns < stage.packs.value) a.columns *= 2;
    a.lines = kStageThreads / a.columns;
    a.parts = static_cast<int>(std::min(given.parts, (a.places + a.lines - 1) / a.lines));
    for (int n = 0; n < Lanes::sums; ++n) {
      a.totals[n] = reinterpret_cast<double*>(given.args.data[Lanes::arguments - Lanes::sums + n]);
      a.maps[n] = given.maps >> n & 1;
    }
    return launch.template blocks<StageSums<Lanes>>(a, (stage.packs.value + a.columns - 1) / a.columns);
  }
}

template <template <class, class, int> class Lanes, class S, class A, class Launch>
std::string run_stage(const StageLaunch& given, void* where) {
  constexpr int kLanes = lanes_for<S, A>(Lanes<S, A, 1>::held, Lanes<S, A, 1>::sums);
  const Launch launch{where};
  if (takes_packs(given, Lanes<S, A, 1>::arguments, kLanes)) return run_lanes<Lanes<S, A, kLanes>>(given, launch);
  return run_lanes<Lanes<S, A, 1>>(given, launch);
}

// clang-format off
#define FRCN_KERNEL(NAME, FINGERPRINT, STAGE, BACKWARD, GRADIENTS) \
  {FINGERPRINT, STAGE, static_cast<bool>(BACKWARD), NAME##_lanes<S, A, 1>::arguments, GRADIENTS, \
   run_stage<NAME##_lanes, S, A, Launch>},
// clang-format on

// The stages of maps of type S, with sums in A.
template <class S, class A, class Launch>
frcn::StageKernels stage_kernels() {
  static const frcn::StageKernel entries[] = {FRCN_STAGES(FRCN_KERNEL)};
  return {entries, sizeof entries / sizeof entries[0]};
}

}  // namespace FRCN_ISA
