// Convolutions of 3x3 rows and columns with fewer multiplications: Winograd's minimal filtering F(2x2,3x3), as Lavin
// and Gray 2016 (arXiv 1509.09308) apply it; the kernel's frames are summed as they are.
#pragma once

#include <cstdint>
#include <vector>

namespace frcn {

// The result is in tiles of 2x2 pixels. 4x4 (6x6) pixels of the source, the kernel and a tile are each taken to 16 (36)
// points, at which they are multiplied. Maps are float, channels-last and dense; stride and dilation are 1.
struct WinogradArgs {
  const float* source;  // (images, source_size, inputs)
  int64_t images, inputs, outputs;
  int64_t source_size[3], size[3];  // of frames, rows and columns, before and after the convolution
  int64_t kernel_frames, padding[3];

  // Convolution: (images, size, outputs), from a weight with these steps over outputs, inputs, frames, rows and
  // columns.
  float* target;
  const float* weight;
  int64_t weight_step[5];
  const float* points;  // or null: the weight's, (blocks of outputs, those of one block)
  const float* bias;    // or null
  bool add;             // to what the target holds

  // Weight gradient: added to total (kernel_frames, taps, taps, inputs, outputs).
  const float* grad;  // (images, size, outputs)
  float* total;
};

// Tiles [begin, end) of one image of a chunk, and the kernel's frames that lie in the source there.
struct WinogradPiece {
  int64_t image, begin, end, first_tap, last_tap;
};

// The tiles that are computed at a time: some rows of tiles of some images. Tiles of one image count through frames,
// rows and columns.
struct WinogradChunk {
  int64_t first_image, images, first_row, rows, columns;
  float* source;  // (points, blocks of inputs, images, source frames, rows, columns, inputs of a block)
  float* grad;    // (points, blocks of outputs, images, frames, rows, columns, outputs of a block)
  std::vector<WinogradPiece> pieces;
  int64_t group;  // blocks of outputs that are computed together, so that the source is read once for them

  int64_t plane() const { return rows * columns; }
};

// What was compiled for one instruction set, each over a range of its units.
struct WinogradTable {
  using Function = void (*)(const WinogradArgs&, const WinogradChunk&, int64_t begin, int64_t end, float* room);

  void (*transform_weight)(const WinogradArgs&, int64_t begin, int64_t end, float* points);  // blocks of outputs
  Function transform_source;  // rows of tiles of all images and source frames
  Function transform_grad;    // the same of frames; null, as the last, where there is no weight gradient
  Function convolve;          // vectors of outputs by pieces
  Function weight_gradient;   // blocks of outputs by blocks of inputs
  int taps;                   // of the kernel's rows and columns
  int lanes;                  // inputs of a block; outputs of one are twice as many
  int64_t piece_tiles;        // that a piece has at most, for one block of outputs

  int64_t points() const { return (taps + 1) * (taps + 1); }

  int64_t input_blocks(const WinogradArgs& a) const { return (a.inputs + lanes - 1) / lanes; }
  int64_t output_vectors(const WinogradArgs& a) const { return (a.outputs + lanes - 1) / lanes; }
  int64_t output_blocks(const WinogradArgs& a) const { return (a.outputs + 2 * lanes - 1) / (2 * lanes); }
};

// Values between two points of so many vectors: an odd number of cache lines, so that points differ in their sets.
inline int64_t winograd_point_step(int64_t vectors, int lanes) { return (vectors | 1) * lanes; }

// Values of the weight's points for one block of outputs, and of all blocks', which `winograd_points` writes.
inline int64_t winograd_block_values(const WinogradArgs& a, int taps, int lanes) {
  return (taps + 1) * (taps + 1) * winograd_point_step(2 * a.kernel_frames * a.inputs, lanes);
}
void winograd_points(const WinogradTable& table, const WinogradArgs& args, int threads, float* points);

// How a thread computes rows of tiles of one image by itself, with `points`: how many at a time, so that they stay in
// its cache, and the bytes that it works in.
struct WinogradRows {
  int64_t rows, bytes;
};
WinogradRows winograd_rows(const WinogradTable& table, const WinogradArgs& args);

void winograd_run_rows(const WinogradTable& table, const WinogradArgs& args, int64_t image, int64_t first_row,
                       int64_t rows, float* room);

// All of a call by all threads, and the bytes that they work in. With `points` each thread computes rows by itself.
int64_t winograd_room(const WinogradTable& table, const WinogradArgs& args, bool gradient, int threads);

void winograd(const WinogradTable& table, const WinogradArgs& args, bool gradient, int threads, float* room);

}  // namespace frcn
