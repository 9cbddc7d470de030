// The stage where a tile's product has left its sums, and the kernel of both.
//
// Gradients of parameters are sums over pixels, in double as the stage's own kernel has them: a tile of pixels has a
// row of its own, or a map's pixel a place for each image, so that nobody else adds there and every run gives the same
// bits.
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

// Where the n-th sum over pixels begins.
template <class Lanes>
FRCN_HD double* totals_of(const FusedStep& a, int n) {
  return reinterpret_cast<double*>(a.stage.args.data[Lanes::arguments - Lanes::sums + n]);
}

// Adds a thread's sums of one pixel to the maps, and begins again.
template <class Lanes, class Block>
FRCN_HD void add_to_maps(const FusedStep& a, Block block, int64_t p, int64_t i, typename Lanes::Sum* sums) {
#pragma unroll
  for (int n = 0; n < Lanes::sums; ++n) {
    if (!(a.maps >> n & 1)) continue;
    double* at = totals_of<Lanes>(a, n) + p * a.stage.args.channels + i;
    auto total = read_lanes<double, Lanes::lanes>(block, at);
    add<double>(total, sums[n]);
    write_lanes(at, total);
    sums[n] = {};
  }
}

// Adds all threads' sums to the tile's row, each channel's in the order of the threads that have it. Weights may stay
// behind the tile's own memory.
template <class Lanes, class Block>
FRCN_HD void add_to_row(const FusedStep& a, Block block, int64_t row, int64_t first_channel,
                        const typename Lanes::Sum* sums) {
  constexpr int kLanes = Lanes::lanes, kMostPacks = LargeTile::columns / kLanes;
  static_assert(kLanes * (kStepThreads + kMostPacks) * sizeof(float) <= SmallTile::kept_at, "no room for all sums");
  // Thread t has the channels of pack t % packs. Lines of threads that lie so far apart begin in different banks.
  const int thread = block.thread(), packs = a.slot_channels / kLanes, pitch = kStepThreads + packs;
  const int lane = thread / packs, pack = thread % packs;
  const int64_t channel = first_channel + pack * kLanes + lane;
  auto* room = reinterpret_cast<float*>(block.room());
#pragma unroll
  for (int n = 0; n < Lanes::sums; ++n) {
    if (a.maps >> n & 1) continue;
    // All are done with what is there: the tile, or other sums.
    block.sync();
#pragma unroll
    for (int j = 0; j < kLanes; ++j) room[j * pitch + thread] = sums[n][j];
    block.sync();
    if (lane >= kLanes || channel >= a.stage.args.channels) continue;
    float sum = 0;
    for (int other = pack; other < kStepThreads; other += packs) sum += room[lane * pitch + other];
    double* total = totals_of<Lanes>(a, n) + row * a.stage.args.channels + channel;
    *total = block.template load_pack<1>(total)[0] + sum;
  }
}

// The stage where the product has left its sums.
template <class T, class Lanes, class Block>
FRCN_HD void run_stage(const FusedStep& a, Block block, int64_t first_pixel, int64_t first_channel) {
  const int pitch = a.tile == kLarge ? LargeTile::pitch : SmallTile::pitch;
  const StageOnTile<Block> stage{a, block, pitch, first_pixel, first_channel};
  const int packs = a.slot_channels / Lanes::lanes;  // a power of two
  const int64_t pixels = a.stage.items / a.stage.packs.value;
  typename Lanes::Sum sums[Lanes::sums + 1] = {};  // one more, as there may be none
  for (int item = block.thread(); item < tile_pixels(a) * packs; item += kStepThreads) {
    const int64_t p = first_pixel + item / packs, i = first_channel + item % packs * Lanes::lanes;
    if (p >= pixels || i >= a.stage.args.channels) continue;
    Lanes::run(stage, p, i, a.stage.ended(p), sums);
    write_others<T, Lanes::lanes>(stage, p, i);
    add_to_maps<Lanes>(a, block, p, i, sums);
  }
  add_to_row<Lanes>(a, block, first_pixel / tile_pixels(a), first_channel, sums);
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
