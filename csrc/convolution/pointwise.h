// Convolutions of 1x1x1 with stride 1 over contiguous maps: products of matrices whose columns are the pixels of an
// image. A library's general product packs them anew for every block of the result and leaves a third of the
// processor's peak; here all channels of some pixels are packed once, and stay in a thread's cache.
#pragma once

#include <cstdint>

namespace frcn {

// Maps are float and dense.
struct PointwiseArgs {
  int64_t images, pixels, inputs, outputs;
  const float* source;  // (images, inputs, pixels)

  // Convolution: (images, outputs, pixels), of a weight with these steps over outputs and inputs.
  float* target;
  const float* weight;
  int64_t weight_step[2];
  const float* bias;  // (outputs) or null

  // Weight gradient: (outputs, inputs), of (images, outputs, pixels).
  const float* grad;
  float* total;
};

// What was compiled for one instruction set.
struct PointwiseTable {
  // Blocks of outputs [begin, end), as `multiply` takes them: (blocks, inputs, outputs of a block).
  void (*pack_weight)(const PointwiseArgs&, int64_t begin, int64_t end, float* packed);
  // Pixels [begin, end) of an image; the room is for their inputs, in whole panels.
  void (*multiply)(const PointwiseArgs&, const float* packed, int64_t image, int64_t begin, int64_t end, float* room);
  // Adds what pixels [begin, end) of an image contribute to sums (blocks of outputs, blocks of inputs, sums of both);
  // the room is for their channels, in whole vectors and blocks.
  void (*add_gradient)(const PointwiseArgs&, int64_t image, int64_t begin, int64_t end, float* sums, float* room);
  // The total of blocks of outputs [begin, end): of so many such sums, this many values apart.
  void (*gather_gradient)(const PointwiseArgs&, const float* sums, int64_t count, int64_t apart, int64_t begin,
                          int64_t end);
  int lanes;
  int outputs, panel;                                          // of a block, and pixels, in a product
  int gradient_outputs, gradient_inputs, gradient_block_sums;  // of a block in the weight gradient
};

// Bytes that a call works in.
int64_t pointwise_room(const PointwiseTable& table, const PointwiseArgs& args, bool gradient, int threads);

void pointwise(const PointwiseTable& table, const PointwiseArgs& args, int threads, float* room);

void pointwise_gradient(const PointwiseTable& table, const PointwiseArgs& args, int threads, float* room);

}  // namespace frcn
