// From (C,H,W) to (H,W,C), for many maps.
#pragma once

#include <cstdint>

namespace frcn {

struct MapsLast {
  const char* source;
  char* target;                                     // dense
  int64_t outer, inner;                             // maps are counted by two indices
  int64_t outer_bytes, inner_bytes, channel_bytes;  // steps of the source; its pixels are dense
  int64_t channels, pixels, element;                // element: 4 or 8 bytes
};

void copy_maps_last(const MapsLast& m, int threads);

}  // namespace frcn
