// From (C,P) to (P,C), for many matrices.
#pragma once

#include <cstdint>

namespace frcn {

// Matrices are counted by two indices, `outer` and `inner`. Distances are in bytes; the source's columns (`pixels`) and
// the target's (`channels`) lie side by side.
struct MapsLast {
  const char* source;
  char* target;
  int64_t outer, inner;
  int64_t outer_bytes, inner_bytes, channel_bytes;              // of the source
  int64_t target_outer_bytes, target_inner_bytes, pixel_bytes;  // of the target
  int64_t channels, pixels, element;                            // element: 1, 2, 4 or 8 bytes
};

void copy_maps_last(const MapsLast& m, int threads);

}  // namespace frcn
