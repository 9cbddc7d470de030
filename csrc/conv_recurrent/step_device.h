// A convolution and the stage that takes its result, as one kernel: an implicit product of matrices on tensor cores
// (Chetlur et al. 2014), whose tile of sums stays on the processor until the stage (step_stage_device.h) has read it.
// It may be the sum of two convolutions, of two sources.
//
// A block has a tile of pixels by channels, the same channels of every slot that the convolution completes. Its loop
// walks over the sources, over the kernel's taps and over the source's channels, kRowBytes of them a turn; copies of
// later turns are on their way meanwhile. A slot's column of the tile is a row of the weight, whose sources, taps and
// channels lie in the loop's order.
//
// All of it runs on the host too: `Block` is what threads do together. How they multiply is its `Product`.
#pragma once

#include "conv_recurrent/stage_device.h"
#include "conv_recurrent/step_tile.h"

namespace FRCN_ISA {

struct FusedSource {
  const char* maps;
  int pitch;   // bytes from pixel to pixel
  int inputs;  // channels
};

// See StepLaunch. Axes are (depth, height, width).
struct FusedStep {
  BareStage stage;
  FusedSource source[kMostSources];
  int sources;
  int weight_pitch;  // bytes from a column's weights to the next's
  int kernel[3], padding[3], dilation[3], size[3];
  Divisor axes[3];
  const char* weights[kMostSlots];
  char* targets[kMostSlots];  // of the sums that the stage takes nothing of; else null
  int64_t target_pitch[kMostSlots];
  uint32_t blank;  // bit n: nothing is in the n-th target yet
  uint32_t maps;   // bit n: the n-th gradient of a parameter is maps
  int slots;
  int slot_channels;  // that a tile has of each slot
  int tile;
  int kept_at;                                    // place of all weights of the tile's columns, which stay; else 0
  bool fills;                                     // they have to be brought there first
  signed char slot_of[frcn::kMaxStageArguments];  // of an argument; -1: none
};

FRCN_HD int tile_pixels(const FusedStep& a) { return a.tile == kSmall ? SmallTile::pixels : LargeTile::pixels; }

// Of the loop.
template <class T>
FRCN_HD int count_turns(const FusedStep& a) {
  constexpr int kInputs = kRowBytes / sizeof(T);
  int turns = 0;
  for (int n = 0; n < a.sources; ++n) turns += (a.source[n].inputs + kInputs - 1) / kInputs;
  return turns * a.kernel[0] * a.kernel[1] * a.kernel[2];
}

// `kMayKeep`: the weights may be in the room already, see FusedStep.
template <class T, class Tile, class Block, bool kMayKeep = false>
class TileProduct {
  static constexpr int kInputs = kRowBytes / sizeof(T);
  static constexpr int kPixelRows = Tile::pixels / kRowsAtOnce, kColumnRows = Tile::columns / kRowsAtOnce;
  using Product = typename Block::template Product<T, Tile>;
  static constexpr int kColumnBytes = Tile::columns * kRowBytes;  // of a turn

 public:
  FRCN_HD TileProduct(const FusedStep& step, Block block, int64_t first_pixel, int64_t first_channel)
      : a(step),
        block(block),
        product(block, step.slots * step.slot_channels),
        kept_at(kMayKeep ? step.kept_at : 0),
        keeps(kMayKeep && kept_at > 0),
        pixel(static_cast<int>(first_pixel) + block.thread() / kPieces) {
    const int piece = block.thread() % kPieces, row = block.thread() / kPieces;
    input = piece * (16 / static_cast<int>(sizeof(T)));
    own = place_of(row, piece);
    const int64_t count = a.stage.items / a.stage.packs.value;
#pragma unroll
    for (int n = 0; n < kPixelRows; ++n) {
      auto rest = static_cast<uint32_t>(pixel + n * kRowsAtOnce);
#pragma unroll
      for (int axis = 2; axis >= 0; --axis) at[n][axis] = take_digit(rest, a.axes[axis]);
      // A pixel that there is not lies outside of every map.
      if (pixel + n * kRowsAtOnce >= count) at[n][0] = -(1 << 30);
    }
#pragma unroll
    for (int n = 0; n < kColumnRows; ++n) {
      const int column = row + n * kRowsAtOnce, slot = column / a.slot_channels;
      const int64_t channel = first_channel + column % a.slot_channels;
      const bool is_there = slot < a.slots && channel < a.stage.args.channels;
      columns[n] = is_there ? a.weights[slot] + channel * a.weight_pitch + piece * 16 : a.weights[0];
      in_weight |= static_cast<uint32_t>(is_there) << n;
    }
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) tap[axis] = -a.padding[axis];
    start_source();
    start_tap();
  }

  // Leaves the sums in the room, rows of `Tile::pitch`.
  FRCN_HD void run() {
    const int turns = count_turns<T>(a);
    if (kMayKeep && a.fills) keep(turns);
    const int size = keeps ? Tile::columns_at : Tile::buffer, end = kBuffers * size;
#pragma unroll 1
    for (int n = 0; n < kBuffers - 1; ++n) {
      if (n < turns) fetch(n * size);
      block.commit();
    }
    int full = 0, empty = (kBuffers - 1) * size;
    for (int n = 0; n < turns; ++n) {
      block.template wait<kBuffers - 2>();
      product.receive();
      // Everyone's copies are there, and everyone is done with the buffer that is filled next.
      block.sync();
      const int columns_at = keeps ? kept_at + n * kColumnBytes : full + Tile::columns_at;
      product.begin(full, columns_at);
      if (n + kBuffers - 1 < turns) fetch(empty);
      block.commit();
      product.end(full, columns_at);
      full = full + size == end ? 0 : full + size;
      empty = empty + size == end ? 0 : empty + size;
    }
    block.template wait<0>();
    block.sync();
    write();
    block.sync();
  }

 private:
  // Has all weights copied to where they stay, in the group of copies of the first turn, and begins again.
  FRCN_HD void keep(int turns) {
    for (int n = 0; n < turns; ++n) {
      fetch_columns(kept_at + n * kColumnBytes);
      move_on();
    }
    weights = 0;
  }

  FRCN_HD void start_source() {
    const FusedSource& from = a.source[source];
    inputs = from.inputs;
    pitch = from.pitch;
    const char* first = from.maps + block.thread() % kPieces * 16;
#pragma unroll
    for (int n = 0; n < kPixelRows; ++n) pixels[n] = first + static_cast<int64_t>(pixel + n * kRowsAtOnce) * pitch;
  }

  // Which of the thread's pixels have the tap inside the map, and where.
  FRCN_HD void start_tap() {
    in_map = 0;
#pragma unroll
    for (int n = 0; n < kPixelRows; ++n) {
      uint32_t inside = 1;
#pragma unroll
      for (int axis = 0; axis < 3; ++axis)
        inside &= static_cast<uint32_t>(at[n][axis] + tap[axis]) < static_cast<uint32_t>(a.size[axis]);
      in_map |= inside << n;
    }
    moved = ((static_cast<int64_t>(tap[0]) * a.size[1] + tap[1]) * a.size[2] + tap[2]) * pitch;
  }

  // Copies one turn's operands, zeros where a tap is beside the map or channels have ended, and moves on.
  FRCN_HD void fetch(int buffer) {
#pragma unroll
    for (int n = 0; n < kPixelRows; ++n)
      block.copy(buffer + own + n * kRowsAtOnce * kRowBytes, pixels[n] + moved, (input < inputs) & (in_map >> n & 1));
    if (!keeps) fetch_columns(buffer + Tile::columns_at);
    move_on();
  }

  FRCN_HD void fetch_columns(int to) {
#pragma unroll
    for (int n = 0; n < kColumnRows; ++n)
      block.copy(to + own + n * kRowsAtOnce * kRowBytes, columns[n] + weights, (input < inputs) & (in_weight >> n & 1));
  }

  FRCN_HD void move_on() {
    input += kInputs;
    moved += kRowBytes;
    weights += kRowBytes;
    const int ahead = input - block.thread() % kPieces * (16 / static_cast<int>(sizeof(T)));
    if (ahead < inputs) return;
    input -= ahead;
    weights -= (ahead - inputs) * static_cast<int>(sizeof(T));
    int axis = 2;
#pragma unroll
    for (; axis >= 0; --axis) {
      tap[axis] += a.dilation[axis];
      if (tap[axis] < a.kernel[axis] * a.dilation[axis] - a.padding[axis]) break;
      tap[axis] = -a.padding[axis];
    }
    if (axis < 0) {
      source = source + 1 == a.sources ? 0 : source + 1;
      start_source();
    }
    start_tap();
  }

  FRCN_HD void write() {
    const int thread = block.thread(), lane = thread % 32;
    const int row = Product::first_row(thread) + lane / 4, column = Product::first_column(thread) + lane % 4 * 2;
    float* tile = reinterpret_cast<float*>(block.room()) + row * Tile::pitch + column;
#pragma unroll
    for (int n = 0; n < Product::kDown; ++n)
#pragma unroll
      for (int m = 0; m < Product::kAcross; ++m)
#pragma unroll
        for (int down = 0; down < 2; ++down) {
          const float* sums = product.sums[n][m] + 2 * down;
          store_pack(tile + (16 * n + 8 * down) * Tile::pitch + 8 * m, Pack<float, 2>{{sums[0], sums[1]}});
        }
  }

  const FusedStep& a;
  Block block;
  Product product;
  const int kept_at;
  const bool keeps;
  const int pixel;  // the thread's first
  int own;          // place of the thread's first 16 bytes
  int at[kPixelRows][3];
  const char* pixels[kPixelRows];
  const char* columns[kColumnRows];
  uint32_t in_map = 0, in_weight = 0;  // bit n: the thread's n-th pixel or column is there
  // The turn that is copied next: the source, its channels and bytes from pixel to pixel, the tap's offset, the first
  // channel that the thread copies, bytes from the pixel and from the column's first weight.
  int source = 0, inputs, pitch;
  int tap[3], input;
  int64_t moved = 0;
  int weights = 0;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FRCN_APART FRCN_HD
#elif defined(__CUDACC__)
#define FRCN_APART __host__ __device__ __noinline__
#else
#define FRCN_APART inline
#endif

// Apart from the kernels that call it, all stages, so that it is compiled once; but products of warpgroups are part of
// them: around a call the compiler lets each of these wait for the one before.
template <class T, class Tile, bool kMayKeep = false, class Block>
FRCN_APART void multiply_tile(const FusedStep& a, Block block, int64_t first_pixel, int64_t first_channel) {
  TileProduct<T, Tile, Block, kMayKeep>(a, block, first_pixel, first_channel).run();
}

}  // namespace FRCN_ISA
