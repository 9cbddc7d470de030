// The tiles of the kernels of convolutions with their stages, and how these lay operands out in a block's memory.
#pragma once

#include "common/pack.h"

namespace FRCN_ISA {

constexpr int kStepThreads = 256;
constexpr int kWarps = kStepThreads / 32;
constexpr int kMostSlots = 8, kMostSources = 2;
constexpr int kBuffers = 4;    // of operands: one is multiplied, the others are on their way
constexpr int kRowBytes = 64;  // of a pixel's or a column's operands in a buffer
constexpr int kPieces = kRowBytes / 16;
constexpr int kRowsAtOnce = kStepThreads / kPieces;  // that all threads copy together
constexpr int kPadding = 8;  // sums beside each row of a tile, so that rows begin in different banks

// Pixels and columns of a tile. Each of the eight warps has 32 columns.
template <int kM, int kN>
struct StepTile {
  static constexpr int pixels = kM, columns = kN;
  static constexpr int warps_across = kN / 32, warps_down = kWarps / warps_across;
  static constexpr int rows = kM / warps_down;  // of a warp
  static constexpr int buffer = (kM + kN) * kRowBytes;
  static constexpr int columns_at = kM * kRowBytes;  // in a buffer
  static constexpr int pitch = kN + kPadding;
  static constexpr int sums = kM * pitch * static_cast<int>(sizeof(float));
  static constexpr int room = sums > kBuffers* buffer ? sums : kBuffers * buffer;
  // Where weights that stay may begin: behind the sums and the buffers, which then have pixels alone.
  static constexpr int kept_at = sums > kBuffers* columns_at ? sums : kBuffers * columns_at;
};

using LargeTile = StepTile<128, 128>;
using MediumTile = StepTile<128, 64>;
using SmallTile = StepTile<64, 64>;
enum Tile : int { kLarge, kMedium, kSmall };

// Where 16 bytes of a row lie in a buffer. Eight rows, of which a warp reads the same piece at once, are in different
// banks; so are the pieces that four threads copy. 16 rows further it is the same place 16 * kRowBytes further, and the
// piece after the next is the place with kTwoPieces exchanged.
FRCN_HD int place_of(int row, int piece) { return row * kRowBytes + ((piece ^ (row >> 1 & 3)) << 4); }
constexpr int kTwoPieces = 32;
constexpr int kEightRows = 8 * kRowBytes;  // after which the places repeat: rooms begin at a multiple of it

}  // namespace FRCN_ISA
