// A stage as the threads of a GPU run it: each takes V channels of a pixel, side by side in memory. All of it runs on
// the host too, thread after thread.
//
// Gradients of parameters are sums over pixels. A thread sums its pixels in the accumulation type. Those of a map's
// pixel in every image are one thread's, which adds them to the map; else the block sums its threads' and adds to its
// own row of double sums. Everything is always in the same order, so that every run gives the same bits.
#pragma once

#include <cstdint>

#include "common/float16.h"
#include "common/pack.h"
#include "conv_recurrent/stage_kernels.h"

namespace FRCN_ISA {

using frcn::kMostStageSums;
using frcn::StageArgs;

constexpr int kStageThreads = 256;
constexpr int kMostSumRoom = 48 << 10;  // bytes of a block's own memory that the compiler lays out

// See StageLaunch; without addends. An item is a pack of channels of a pixel.
struct BareStage {
  StageArgs args;
  uint64_t blank, complete;
  int64_t items;
  LongDivisor packs;  // in a pixel
  LongDivisor pixels_per_image;

  FRCN_HD bool ended(int64_t pixel) const {
    return args.lengths && args.time >= args.lengths[pixels_per_image.divide(pixel)];
  }
};

struct DeviceStage : BareStage {
  const char* addend[frcn::kMaxStageArguments];
  int64_t addend_pitch[frcn::kMaxStageArguments];
};

// In pieces of 16 bytes at most.
template <class T, int V>
constexpr int kPiece = V * sizeof(T) <= 16 ? V : 16 / sizeof(T);

// V values, of which `load` gives a piece.
template <class T, int V, class Load>
FRCN_HD Pack<T, V> read_pieces(const T* source, const Load& load) {
  Pack<T, V> pack;
#pragma unroll
  for (int part = 0; part < V; part += kPiece<T, V>) {
    const auto piece = load(source + part);
#pragma unroll
    for (int j = 0; j < kPiece<T, V>; ++j) pack[part + j] = piece[j];
  }
  return pack;
}

template <class T, int V>
FRCN_HD Pack<T, V> read_lanes(const T* source) {
  return read_pieces<T, V>(source, [](const T* piece) { return load_own_pack<kPiece<T, V>>(piece); });
}

// V channels from i on of argument k at pixel p.
template <class T, int V>
FRCN_HD Pack<T, V> read_lanes(const BareStage& a, int k, int64_t p, int64_t i) {
  return read_lanes<T, V>(reinterpret_cast<const T*>(a.args.data[k]) + p * a.args.pitch[k] + i);
}

template <class T, int V>
FRCN_HD void write_lanes(T* target, const Pack<T, V>& pack) {
#pragma unroll
  for (int part = 0; part < V; part += kPiece<T, V>) {
    Pack<T, kPiece<T, V>> piece;
#pragma unroll
    for (int j = 0; j < kPiece<T, V>; ++j) piece[j] = pack[part + j];
    store_pack(target + part, piece);
  }
}

template <class T, int V>
FRCN_HD void write_lanes(const BareStage& a, int k, int64_t p, int64_t i, const Pack<T, V>& pack) {
  write_lanes(reinterpret_cast<T*>(a.args.data[k]) + p * a.args.pitch[k] + i, pack);
}

// An argument before convolutions are added to it.
template <class T, int V, class Stage>
FRCN_HD Pack<T, V> read_begun(const Stage& a, int k, int64_t p, int64_t i) {
  const BareStage& stage = a;
  return stage.blank >> k & 1 ? Pack<T, V>{} : read_lanes<T, V>(a, k, p, i);
}

// What is to be added.
template <class T, int V>
FRCN_HD Pack<T, V> read_addend(const DeviceStage& a, int k, int64_t p, int64_t i) {
  return a.addend[k] ? read_lanes<T, V>(reinterpret_cast<const T*>(a.addend[k]) + p * a.addend_pitch[k] + i)
                     : Pack<T, V>{};
}

// Rounded as it is kept, so that forward and backward see the same sum.
template <class A, class T, class U, int V>
FRCN_HD void add(Pack<T, V>& sum, const Pack<U, V>& addend) {
#pragma unroll
  for (int j = 0; j < V; ++j) store(sum[j], load<A>(sum[j]) + load<A>(addend[j]));
}

template <class T, int V>
FRCN_HD void write_completed(const BareStage& a, int k, int64_t p, int64_t i, const Pack<T, V>& pack) {
  if (a.complete >> k & 1) write_lanes(a, k, p, i, pack);
}

}  // namespace FRCN_ISA

// The emitted stages, which use these.
#define FRCN_STAGE_LANES
#include "conv_recurrent/rows.h"

namespace FRCN_ISA {

// The pixel of a turn, which the compiler does not derive from the last turn's: for sm_100 it would step the address of
// every argument instead, which takes four registers for each, far more than there are.
FRCN_HD int64_t hide(int64_t pixel) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(pixel));
#endif
  return pixel;
}

// A stage without gradients of parameters: thread `first` of `step` threads. Hardly one has a second turn, and
// `step` in one register is what leaves the widest stage without spills for sm_100.
template <class Lanes>
struct StageThreads {
  static FRCN_HD void run(const DeviceStage& a, int64_t first, uint32_t step) {
#pragma unroll 1
    for (int64_t item = first; item < a.items; item += step) {
      const int64_t p = hide(a.packs.divide(item));
      Lanes::run(a, p, (item - p * a.packs.value) * Lanes::lanes, a.ended(p), nullptr);
    }
  }
};

// A block has `columns` packs of channels and every so-many-th of the places. A place is a pixel or, where there are
// `rounds`, that pixel of the map in every image.
struct DeviceStageSums {
  DeviceStage stage;
  int64_t places, rounds;
  int columns, lines;  // columns * lines = kStageThreads
  int parts;           // blocks that share a column's places
  double* totals[kMostStageSums];
  bool maps[kMostStageSums];
};

// One with them. `block.each(f)` runs f for each thread, then waits; `room` is the block's own memory.
template <class Lanes>
struct StageSums {
  using Sum = typename Lanes::Sum;
  using Value = typename Lanes::Value;
  static constexpr int kSums = Lanes::sums, kLanes = Lanes::lanes;
  static constexpr int kRoom = kSums * kLanes * kStageThreads;
  static_assert(kSums <= kMostStageSums, "more gradients of parameters than a kernel takes");
  static_assert(kRoom * sizeof(Value) <= kMostSumRoom, "more sums than a block has memory for");

  template <class Block>
  static FRCN_HD void run(const DeviceStageSums& a, const Block& block, Value* room, int64_t group, int part) {
    const int64_t channels = a.stage.args.channels;
    block.each([&](int thread) {
      const int64_t pack = group * a.columns + thread % a.columns;
      Sum sums[kSums] = {};
      if (pack < a.stage.packs.value) {
        const int64_t step = static_cast<int64_t>(a.parts) * a.lines;
        for (int64_t place = static_cast<int64_t>(part) * a.lines + thread / a.columns; place < a.places; place += step)
          add_place(a, place, pack * kLanes, sums);
      }
#pragma unroll
      for (int n = 0; n < kSums; ++n)
#pragma unroll
        for (int j = 0; j < kLanes; ++j) room[(n * kLanes + j) * kStageThreads + thread] = sums[n][j];
    });
    for (int threads = kStageThreads / 2; threads >= a.columns; threads /= 2) {
      block.each([&](int thread) {
        if (thread >= threads) return;
        for (int k = 0; k < kSums * kLanes; ++k)
          room[k * kStageThreads + thread] += room[k * kStageThreads + thread + threads];
      });
    }
    block.each([&](int thread) {
      const int64_t pack = group * a.columns + thread;
      if (thread >= a.columns || pack >= a.stage.packs.value) return;
      for (int n = 0; n < kSums; ++n) {
        if (a.maps[n]) continue;
        double* row = a.totals[n] + part * channels + pack * kLanes;
        for (int j = 0; j < kLanes; ++j) row[j] += room[(n * kLanes + j) * kStageThreads + thread];
      }
    });
  }

  static FRCN_HD void add_place(const DeviceStageSums& a, int64_t place, int64_t channel, Sum* sums) {
    for (int64_t round = 0; round < a.rounds; ++round) {
      const int64_t p = hide(round * a.places + place);
      Lanes::run(a.stage, p, channel, a.stage.ended(p), sums);
    }
#pragma unroll
    for (int n = 0; n < kSums; ++n) {
      if (!a.maps[n]) continue;
      double* at = a.totals[n] + place * a.stage.args.channels + channel;
#pragma unroll
      for (int j = 0; j < kLanes; ++j) at[j] += sums[n][j];
      sums[n] = Sum{};
    }
  }
};

}  // namespace FRCN_ISA
