// A tile's product as the two warpgroups of a block do it: sm_90a. The tensor cores read their operands from the
// buffers, while the threads go on. See step_product_warps.h.
//
// The buffers' layout is what the PTX manual (section on wgmma's shared memory layouts) calls K-major with 64-byte
// swizzle: pieces of 16 bytes whose address has its bits 4 and 5 exchanged by its bits 7 and 8.
#pragma once

#include "conv_recurrent/step_tile.h"

namespace FRCN_ISA {

// A matrix descriptor of rows from an address on: after eight rows the next eight begin, kEightRows further. An address
// is in units of 16 bytes in the lower half's first bits.
constexpr uint32_t kUnusedStep = 1 << 16;
FRCN_HD uint32_t begin_rows(uint32_t address) { return kUnusedStep | address >> 4; }
FRCN_HD uint64_t describe_rows(uint32_t begin, uint32_t offset) {
  constexpr uint64_t kSwizzle64 = 2;
  return kSwizzle64 << 62 | uint64_t{kEightRows >> 4} << 32 | (begin + (offset >> 4));
}

template <class T, class Tile, class Block>
class WarpgroupProduct {
  static constexpr int kGroupThreads = 128, kGroupRows = 64;  // of an instruction
  static constexpr int kGroupsDown = Tile::pixels / kGroupRows;
  static constexpr int kGroupsAcross = kStepThreads / kGroupThreads / kGroupsDown;
  static constexpr int kColumns = Tile::columns / kGroupsAcross;

 public:
  static constexpr int kDown = 1, kAcross = kColumns / 8;

  // Columns that are not there are zeros in the buffers, and are multiplied with the others.
  FRCN_HD WarpgroupProduct(Block block, int) : block(block) {
    const int first = block.warp() / (kGroupThreads / 32) * kGroupThreads;
    left = begin_rows(block.at(first_row(first) * kRowBytes));
    right = begin_rows(block.at(first_column(first) * kRowBytes));
  }

  static FRCN_HD int first_row(int thread) {
    return thread / kGroupThreads % kGroupsDown * kGroupRows + thread % kGroupThreads / 32 * 16;
  }
  static FRCN_HD int first_column(int thread) { return thread / kGroupThreads / kGroupsDown * kColumns; }

  // Copies have written to memory as threads do; what the tensor cores read is behind a fence of its own.
  FRCN_HD void receive() { block.fence_copies(); }

  FRCN_HD void begin(int pixels_at, int columns_at) {
    block.fence_sums();
    // The rows' second half is two pieces further on: bits are exchanged in the address that comes of it.
#pragma unroll
    for (int half = 0; half < kPieces / 2; ++half)
      block.template multiply<T>(sums[0], describe_rows(left, pixels_at + half * kTwoPieces),
                                 describe_rows(right, columns_at + half * kTwoPieces));
    block.commit_products();
  }

  // No products stay on their way into the next turn: they would keep a buffer from being filled, and a turn's copies
  // (a large tile's 16 KB) take longer than its products (256 cycles at the full rate).
  FRCN_HD void end(int, int) { block.wait_for_products(sums[0]); }

  float sums[kDown][kAcross][4] = {};

 private:
  Block block;
  uint32_t left, right;  // where the warpgroup's rows and columns would begin at the room's first byte
};

}  // namespace FRCN_ISA
