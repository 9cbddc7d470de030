// A step's kernel for many steps of time: all blocks run at once, each with its tile for all of time, and wait for each
// other between two steps (a persistent kernel; Diamos et al. 2016). Where the weights of a tile's columns fit, they
// stay in the block's memory.
//
// What a block reads of others is the convolution's source alone, by copies that go past the first-level cache. All
// else that a stage reads its own block has written, or nobody.
#pragma once

#include "conv_recurrent/step_device.h"

namespace FRCN_ISA {

// See StepWalk.
struct FusedWalk {
  FusedStep step;                             // at the first time
  int64_t between[frcn::kMaxStageArguments];  // bytes from an argument's maps to the next step's
  int64_t source_between;
  int64_t direction;
  uint32_t* arrivals;
  uint32_t blocks;
  int count;
  int step_at;  // place of the step at hand
};
static_assert(sizeof(FusedWalk) <= 4096, "a kernel's arguments take at most 4 KB");

// The kernel: all threads of a block. A walk takes no large tiles: a step of so many pixels lasts much longer than its
// launch.
template <class T, class Lanes>
struct Walk {
  template <class Block>
  static FRCN_HD void run(const FusedWalk& walk, Block block, int64_t group, int64_t part) {
    FusedStep& a = *reinterpret_cast<FusedStep*>(block.room() + walk.step_at);
    begin(a, walk.step, block);
    const int64_t first_pixel = group * tile_pixels(a), first_channel = part * a.slot_channels;
    for (int turn = 1;; ++turn) {
      if (a.tile == kMedium) {
        multiply_tile<T, MediumTile, true>(a, block, first_pixel, first_channel);
      } else {
        multiply_tile<T, SmallTile, true>(a, block, first_pixel, first_channel);
      }
      run_stage<T, Lanes>(a, block, first_pixel, first_channel);
      if (turn == walk.count) return;
      // All of the block are done with this step.
      block.sync();
      move_on(a, walk, block);
      if (block.thread() == 0) meet(walk.arrivals, turn * walk.blocks, block);
      block.sync();
    }
  }

 private:
  template <class Block>
  static FRCN_HD void begin(FusedStep& a, const FusedStep& first, Block block) {
    const auto* from = reinterpret_cast<const char*>(&first);
    auto* to = reinterpret_cast<char*>(&a);
    for (int at = block.thread() * 8; at < static_cast<int>(sizeof a); at += kStepThreads * 8)
      std::memcpy(to + at, from + at, 8);
    block.sync();
  }

  template <class Block>
  static FRCN_HD void move_on(FusedStep& a, const FusedWalk& walk, Block block) {
    for (int k = block.thread(); k < frcn::kMaxStageArguments; k += kStepThreads)
      a.stage.args.data[k] += walk.between[k];
    if (block.thread() != 0) return;
    a.source += walk.source_between;
    a.stage.args.time += walk.direction;
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
