// The stage where a tile's product has left its sums, and the kernel of both.
#pragma once

#include "conv_recurrent/step_device.h"

namespace FRCN_ISA {

// What a stage reads and writes, where the tile completes arguments.
template <class Block>
struct StageOnTile {
  const FusedStep& step;
  Block block;
  int pitch;
  int64_t first_pixel, first_channel;

  FRCN_HD operator const BareStage&() const { return step.stage; }
};

// V values of memory that the kernel may write too, as the block reads it.
template <class T, int V, class Block>
FRCN_HD Pack<T, V> read_lanes(Block block, const T* source) {
  return read_pieces<T, V>(source, [&](const T* piece) { return block.template load_pack<kPiece<T, V>>(piece); });
}

template <class T, int V, class Block>
FRCN_HD Pack<T, V> read_lanes(const StageOnTile<Block>& a, int k, int64_t p, int64_t i) {
  const StageArgs& args = a.step.stage.args;
  return read_lanes<T, V>(a.block, reinterpret_cast<const T*>(args.data[k]) + p * args.pitch[k] + i);
}

// V channels from i on of a slot at pixel p.
template <int V, class Block>
FRCN_HD Pack<float, V> read_tile(const StageOnTile<Block>& a, int slot, int64_t p, int64_t i) {
  const int64_t channel = slot * a.step.slot_channels + (i - a.first_channel);
  const auto* tile = reinterpret_cast<const float*>(a.block.room());
  return read_lanes<float, V>(tile + (p - a.first_pixel) * a.pitch + channel);
}

template <class T, int V, class Block>
FRCN_HD Pack<float, V> read_addend(const StageOnTile<Block>& a, int k, int64_t p, int64_t i) {
  const int slot = a.step.slot_of[k];
  return slot < 0 ? Pack<float, V>{} : read_tile<V>(a, slot, p, i);
}

// Adds to memory what the stage takes nothing of.
template <class T, int V, class Block>
FRCN_HD void write_others(const StageOnTile<Block>& a, int64_t p, int64_t i) {
  for (int slot = 0; slot < a.step.slots; ++slot) {
    if (!a.step.targets[slot]) continue;
    T* target = reinterpret_cast<T*>(a.step.targets[slot]) + p * a.step.target_pitch[slot] + i;
    auto sum = a.step.blank >> slot & 1 ? Pack<T, V>{} : read_lanes<T, V>(a.block, target);
    add<float>(sum, read_tile<V>(a, slot, p, i));
    write_lanes<T, V>(target, sum);
  }
}

// The stage where the product has left its sums.
template <class T, class Lanes, class Block>
FRCN_HD void run_stage(const FusedStep& a, Block block, int64_t first_pixel, int64_t first_channel) {
  const int pitch = a.tile == kLarge ? LargeTile::pitch : SmallTile::pitch;
  const StageOnTile<Block> stage{a, block, pitch, first_pixel, first_channel};
  const int packs = a.slot_channels / Lanes::lanes;  // a power of two
  const int64_t pixels = a.stage.items / a.stage.packs.value;
  for (int item = block.thread(); item < tile_pixels(a) * packs; item += kStepThreads) {
    const int64_t p = first_pixel + item / packs, i = first_channel + item % packs * Lanes::lanes;
    if (p >= pixels || i >= a.stage.args.channels) continue;
    Lanes::run(stage, p, i, a.stage.ended(p), nullptr);
    write_others<T, Lanes::lanes>(stage, p, i);
  }
}

// The kernel: all threads of a block.
template <class T, class Lanes>
struct Step {
  template <class Block>
  static FRCN_HD void run(const FusedStep& a, Block block, int64_t group, int64_t part) {
    const int64_t first_pixel = group * tile_pixels(a), first_channel = part * a.slot_channels;
    if (a.tile == kLarge) {
      multiply_tile<T, LargeTile>(a, block, first_pixel, first_channel);
    } else if (a.tile == kMedium) {
      multiply_tile<T, MediumTile>(a, block, first_pixel, first_channel);
    } else {
      multiply_tile<T, SmallTile>(a, block, first_pixel, first_channel);
    }
    run_stage<T, Lanes>(a, block, first_pixel, first_channel);
  }
};

}  // namespace FRCN_ISA
