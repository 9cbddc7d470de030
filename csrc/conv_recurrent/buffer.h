// A buffer as the steps of a time loop see it.
#pragma once

#include <cstdint>

namespace frcn {

// base + time * step bytes; at the first step `first` instead, where it is given.
struct Buffer {
  char* base;
  int64_t step;
  char* first;

  char* at(int64_t time, bool is_first) const { return is_first && first ? first : base + time * step; }
};

}  // namespace frcn
