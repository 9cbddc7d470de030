// Layer normalisation of images in place, forward and backward, in two passes over the pixels of each: sums, then the
// change. Threads share out pixels or channels, so that an image's sums are made of those of all parts.
#pragma once

#include <cstdint>

namespace frcn {

// Sums of one part for one image. Forward: values, their mean, their squared distances from it. Backward: the gradient,
// and the gradient times what was normalised.
struct ImageSums {
  double count = 0, first = 0, second = 0;
};

struct NormalizeArgs {
  char* maps;              // (pixels, channels); backward: their gradient
  const char* normalized;  // backward: what forward made; else null
  char* scale;             // of each image: 1 / sqrt(variance + eps); written by forward, of the maps' type
  int64_t channels;
  int64_t pixels_per_image;
  double eps;
  ImageSums* sums;  // (parts, images)
  int64_t images;
  int parts;
};

// What of the maps a call is about: pixels [begin, end), counted through all images, and of every `slot` channels the
// range [first, last).
struct NormalizeRange {
  int64_t begin, end, slot, first, last;
};

using NormalizeSums = void (*)(const NormalizeArgs&, const NormalizeRange&, int part);
using NormalizeApply = void (*)(const NormalizeArgs&, const NormalizeRange&);

// What was compiled for one instruction set, by the maps' type: float, double.
struct NormalizeTable {
  NormalizeSums sums[2], sums_backward[2];
  NormalizeApply apply[2], apply_backward[2];
};

}  // namespace frcn
