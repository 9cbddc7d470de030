// The kernels of a step for many steps of time, one after another in one: all blocks run at once, and wait for each
// other behind each (a persistent kernel; Diamos et al. 2016). Of each a block has a tile for all of time, or none.
// Where the weights of the tile's columns fit, they stay in the block's memory.
//
// What a block reads others may have written meanwhile: the convolution's sources and, as the tiles of two kernels may
// be of different pixels and channels, whatever else a stage reads. All of it is read past the first-level cache, which
// is emptied where blocks wait and would be of no use.
#pragma once

#include "conv_recurrent/step_stage_device.h"

namespace FRCN_ISA {

constexpr int kBetweenUnit = 16;  // bytes

// See WalkedStep.
struct FusedWalkStep {
  FusedStep step;                             // at the first time
  int32_t between[frcn::kMaxStageArguments];  // units from an argument's maps to the next time's
  int32_t targets_between[kMostSlots];
  int32_t sources_between[kMostSources];
  int groups, parts;  // of tiles
};

// See StepWalk.
template <int kSteps>
struct FusedWalk {
  FusedWalkStep steps[kSteps];
  int64_t direction;
  uint32_t* arrivals;
  uint32_t blocks;
  int count;
  int steps_at;  // place of the steps at hand
};

// The kernel: all threads of a block; `Lanes` are the stages of a step. A walk takes no large tiles: a step of so many
// pixels lasts much longer than its launch.
template <class T, class... Lanes>
struct Walk {
  static constexpr int kSteps = sizeof...(Lanes);
  using Given = FusedWalk<kSteps>;
  static_assert(sizeof(Given) <= 4096, "a kernel's arguments take at most 4 KB");

  template <class Block>
  static FRCN_HD void run(const Given& walk, Block block, int number) {
    auto* steps = reinterpret_cast<FusedStep*>(block.room() + walk.steps_at);
    for (int n = 0; n < kSteps; ++n) begin(steps[n], walk.steps[n].step, block);
    block.sync();
    uint32_t expected = 0;
    for (int turn = 1;; ++turn) {
#pragma unroll 1
      for (int n = 0; n < kSteps; ++n) {
        const FusedWalkStep& given = walk.steps[n];
        const int part = number / given.groups;
        if (part < given.parts) run_tile(n, steps[n], block, number - part * given.groups, part);
        if (turn == walk.count && n == kSteps - 1) return;
        // All of the block are done with this kernel.
        block.sync();
        move_on(steps[n], given, walk.direction, block);
        expected += walk.blocks;
        if (block.thread() == 0) meet(walk.arrivals, expected, block);
        block.sync();
      }
    }
  }

 private:
  template <class Block>
  static FRCN_HD void begin(FusedStep& a, const FusedStep& first, Block block) {
    const auto* from = reinterpret_cast<const char*>(&first);
    auto* to = reinterpret_cast<char*>(&a);
    for (int at = block.thread() * 8; at < static_cast<int>(sizeof a); at += kStepThreads * 8)
      std::memcpy(to + at, from + at, 8);
  }

  template <class Block>
  static FRCN_HD void run_tile(int n, const FusedStep& a, Block block, int group, int part) {
    const int64_t first_pixel = static_cast<int64_t>(group) * tile_pixels(a);
    const int64_t first_channel = static_cast<int64_t>(part) * a.slot_channels;
    if (a.tile == kMedium) {
      multiply_tile<T, MediumTile, true>(a, block, first_pixel, first_channel);
    } else {
      multiply_tile<T, SmallTile, true>(a, block, first_pixel, first_channel);
    }
    int k = 0;
    ((k++ == n ? run_stage<T, Lanes>(a, block, first_pixel, first_channel) : void()), ...);
  }

  template <class Block>
  static FRCN_HD void move_on(FusedStep& a, const FusedWalkStep& given, int64_t direction, Block block) {
    for (int k = block.thread(); k < frcn::kMaxStageArguments; k += kStepThreads)
      a.stage.args.data[k] += int64_t{given.between[k]} * kBetweenUnit;
    if (block.thread() < a.slots) {
      const int slot = block.thread();
      a.targets[slot] += int64_t{given.targets_between[slot]} * kBetweenUnit;
    }
    if (block.thread() < a.sources) {
      const int source = block.thread();
      a.source[source].maps += int64_t{given.sources_between[source]} * kBetweenUnit;
    }
    if (block.thread() != 0) return;
    a.stage.args.time += direction;
    a.fills = false;
  }

  // Until so many blocks have come; what they wrote before is then there to be read.
  template <class Block>
  static FRCN_HD void meet(uint32_t* arrivals, uint32_t expected, Block block) {
    block.fence();
    block.add_one(arrivals);
    while (block.read(arrivals) < expected) continue;
    block.fence();
  }
};

}  // namespace FRCN_ISA
