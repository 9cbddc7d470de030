// Layer normalisation of whole images as kernels of a GPU, to whoever launches them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

namespace frcn {

// All images of one step. Forward: target = (source - mean) * scale, where scale = 1 / sqrt(variance + eps). Backward:
// the target, the gradient of what forward made, becomes that of what it was given.
struct NormalizeLaunch {
  char* target;
  const char* source;      // forward: the target itself, or other maps, or null: zeros; backward: what forward made
  char* scale;             // of each image, of the type of the sums; written by forward
  int64_t images, values;  // of an image: its values, side by side
  int64_t slices;          // of an image, each of them one block's
  char* sums;              // where there are several: room for kSliceSums of each slice, of the type of the sums
  double eps;
};

constexpr int kSliceSums = 3;

struct NormalizeKernels {
  // Return an empty text, or what went wrong.
  std::string (*forward)(const NormalizeLaunch&, void* where);
  std::string (*backward)(const NormalizeLaunch&, void* where);
};

// How many slices an image has where about `blocks` blocks fill a GPU. One block alone takes a small image about as
// fast as a second launch begins.
inline int64_t normalize_slices(int64_t images, int64_t values, int64_t blocks) {
  constexpr int64_t kOneSlice = 1 << 15, kSmallestSlice = 1 << 13;
  if (values <= kOneSlice) return 1;
  const int64_t of_image = blocks / std::max<int64_t>(1, images);
  return std::max<int64_t>(1, std::min(of_image, values / kSmallestSlice));
}

}  // namespace frcn
