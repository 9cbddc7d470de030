// Scale and shift, ReLU and max-pooling of (N,C,D,H,W) maps in one pass, and back: what these passes are to their
// callers. A pass works on a range of rows, so that threads, or strips of a larger computation, can share it.
#pragma once

#include <cstdint>

namespace frcn {

constexpr int kMaxCells = 255;    // of a window: a cell's number is one byte
constexpr uint8_t kClosed = 255;  // a window whose ReLU let nothing through
enum class Gate : int {
  open,
  index,
  value
};  // what tells a window's cell: nothing (there is one), its number, its sign

// `maps` is the tensor before pooling, or its gradient; `pooled` the one after, dense, or its gradient. Rows of maps
// are dense: (W) or, channels-last, (W,C). Coefficients are per channel, of the accumulation type, or null.
struct PoolArgs {
  int64_t images, channels, size[3], pooled_size[3];
  int64_t kernel[3], stride[3], padding[3], dilation[3];
  bool last;  // channels-last
  bool relu;
  Gate gate;
  char* maps;
  int64_t step[4];  // elements of maps between images, channels (not channels-last), frames and rows
  char* pooled;
  int64_t pooled_pixel;  // channels-last, forward: elements between pooled pixels
  uint8_t* index;        // of the shape of pooled, or null
  const char* scale;     // forward: of x; backward: of the gradient
  const char* shift;
  const char* x;  // backward: dense maps like `maps`, whose share slope * (x - center) + offset is added, or null
  const char* center;
  const char* slope;
  const char* offset;
};

// forward: rows count through images, (channels,) pooled frames and pooled rows.
// backward, statistics: through images, (channels,) frames and rows. sums: as forward.
using PoolFunction = void (*)(const PoolArgs&, int64_t begin, int64_t end);

// Adds to totals (2, channels). sums: the gradient that passes each channel's windows, and, where there is x, that
// times (x - center) at the cell it goes to. statistics: x - origin and its square, with a channel's first value for
// origin, which `origins` adds for channels begin to end.
using PoolSumFunction = void (*)(const PoolArgs&, int64_t begin, int64_t end, double* totals);

struct PoolFunctions {
  PoolFunction forward, backward;
  PoolSumFunction sums, statistics, origins;
};

// What was compiled for one instruction set, by data type.
struct PoolTable {
  PoolFunctions types[3];
};

}  // namespace frcn
