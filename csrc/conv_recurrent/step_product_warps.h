// A tile's product as warps do it: sm_80 and later. Every warp loads its operands into registers.
//
// A block's `Product` is this or that of step_product_warpgroups.h. In every turn `receive` is called once the thread's
// own copies are there, `begin` after everyone's are, and `end` after later copies are on their way; then the product
// is done with the operands, whose places both are given. `sums` are the warp's, in blocks of 16x8 from (first_row,
// first_column) on, of which a thread has two columns of a row and of the row eight below.
#pragma once

#include "conv_recurrent/step_tile.h"

namespace FRCN_ISA {

template <class T, class Tile, class Block>
class WarpProduct {
 public:
  static constexpr int kDown = Tile::rows / 16, kAcross = 4;

  // Of so many columns; all that follow are not there.
  FRCN_HD WarpProduct(Block block, int columns) : block(block), is_idle(first_column(block.thread()) >= columns) {}

  static FRCN_HD int first_row(int thread) { return thread / 32 / Tile::warps_across * Tile::rows; }
  static FRCN_HD int first_column(int thread) { return thread / 32 % Tile::warps_across * 32; }

  FRCN_HD void receive() {}
  FRCN_HD void begin(int, int) {}

  // Each block of sums from 16x32 bytes and 8x32 bytes of operands.
  FRCN_HD void end(int pixels_at, int columns_at) {
    if (is_idle) return;
    const int thread = block.thread(), lane = thread % 32;
    // Each eight lanes name eight rows of 16 bytes: of pixels two above each other, then two beside these; of columns
    // two beside each other, then two below these, one block's columns and the next's.
    const int of_pixels = pixels_at + place_of(first_row(thread) + lane % 16, lane / 16);
    const int of_columns = columns_at + place_of(first_column(thread) + lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int half = 0; half < kPieces / 2; ++half) {
      uint32_t left[kDown][4], right[2][4];
#pragma unroll
      for (int n = 0; n < kDown; ++n) block.load(left[n], (of_pixels ^ half * kTwoPieces) + n * 16 * kRowBytes);
#pragma unroll
      for (int n = 0; n < 2; ++n) block.load(right[n], (of_columns ^ half * kTwoPieces) + n * 16 * kRowBytes);
#pragma unroll
      for (int n = 0; n < kDown; ++n)
#pragma unroll
        for (int m = 0; m < kAcross; ++m) block.template multiply<T>(sums[n][m], left[n], right[m / 2] + m % 2 * 2);
    }
  }

  float sums[kDown][kAcross][4] = {};

 private:
  Block block;
  const bool is_idle;
};

}  // namespace FRCN_ISA
