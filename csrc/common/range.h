// Where a strided, shifted row of positions lies inside another.
#pragma once

#include <algorithm>
#include <cstdint>

namespace FRCN_ISA {

inline int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// The range of positions p in [first, last) for which 0 <= p * scale + shift < size.
struct Range {
  int64_t first, last;
  Range(int64_t from, int64_t to, int64_t scale, int64_t shift, int64_t size)
      : first(std::max(from, floor_divide(scale - 1 - shift, scale))),
        last(std::min(to, floor_divide(size - 1 - shift, scale) + 1)) {}
};

}  // namespace FRCN_ISA
