#include "conv3d_relu_maxpool3d/strips.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/parallel.h"

namespace frcn {
namespace {

constexpr int64_t kWeightBytes = 192 * 1024;  // of one group of outputs: half of the second-level cache
constexpr int64_t kBufferBytes = 128 * 1024;

// Positions before pooling that the windows [first, last) of one dimension cover.
struct Span {
  int64_t begin, end;
  Span(const PoolArgs& p, int dimension, int64_t first, int64_t last)
      : begin(std::max<int64_t>(0, first * p.stride[dimension] - p.padding[dimension])),
        end(std::min(p.size[dimension], (last - 1) * p.stride[dimension] - p.padding[dimension] +
                                            (p.kernel[dimension] - 1) * p.dilation[dimension] + 1)) {}
  int64_t count() const { return end - begin; }
};

// How the work is divided: groups of outputs, whose weights a thread keeps in its cache, by strips of pooled rows.
struct Plan {
  const Strips& s;
  int64_t group, groups, rows, strips_per_frame, strips;

  Plan(const Strips& given, int threads) : s(given) {
    const auto& c = s.convolution;
    const auto& p = s.pool;
    const int64_t taps = c.kernel[0] * c.kernel[1] * c.kernel[2] * c.inputs;
    const int64_t fitting = kWeightBytes / (taps * s.block_outputs * s.element);
    group = std::min(c.outputs, std::max<int64_t>(1, fitting) * s.block_outputs);
    groups = (c.outputs + group - 1) / group;
    const int64_t frames = Span(p, 0, 0, 1).count() + p.padding[0];
    const int64_t row_bytes = frames * c.size[2] * group * s.element;
    const int64_t most = std::max<int64_t>(1, (kBufferBytes / row_bytes - p.kernel[1]) / p.stride[1] + 1);
    // At least four strips for each thread, where the pooled rows allow it.
    const int64_t total = s.images * p.pooled_size[0] * p.pooled_size[1];
    rows = std::max<int64_t>(1, std::min({most, p.pooled_size[1], groups * total / (4 * threads)}));
    strips_per_frame = (p.pooled_size[1] + rows - 1) / rows;
    strips = s.images * p.pooled_size[0] * strips_per_frame;
  }
};

// Pooled pixels (width, channels) as rows of the contiguous layout.
template <class T>
void put_first(const T* source, T* target, int64_t pixels, int64_t channels, int64_t channel_step) {
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t p = 0; p < pixels; ++p) target[c * channel_step + p] = source[p * channels + c];
}

struct Buffers {
  std::vector<char> maps, pooled;
  std::vector<uint8_t> index;
};

void run_strip(const Plan& plan, int64_t item, Buffers& room) {
  const Strips& s = plan.s;
  const int64_t first = item / plan.strips * plan.group, strip = item % plan.strips;
  const int64_t row = strip % plan.strips_per_frame * plan.rows;
  const int64_t frame = strip / plan.strips_per_frame % s.pool.pooled_size[0];
  const int64_t image = strip / plan.strips_per_frame / s.pool.pooled_size[0];
  const int64_t last_row = std::min(s.pool.pooled_size[1], row + plan.rows);
  const int64_t channels = std::min(plan.group, s.convolution.outputs - first);

  ConvolutionArgs c = s.convolution;
  const int64_t taps = c.kernel[0] * c.kernel[1] * c.kernel[2] * c.inputs;
  c.weight += first * taps * s.element;
  c.outputs = channels;
  const int64_t width = c.size[2], pixel = channels * s.element;
  const Span frames(s.pool, 0, frame, frame + 1), lines(s.pool, 1, row, last_row);
  const int64_t frame_pixels = lines.count() * width;
  room.maps.resize(frames.count() * frame_pixels * pixel);
  char* maps = room.maps.data();
  if (s.bias)
    for (int64_t k = 0; k < frames.count() * frame_pixels; ++k)
      std::memcpy(maps + k * pixel, s.bias + first * s.element, pixel);
  else
    std::memset(maps, 0, room.maps.size());
  for (int64_t d = frames.begin; d < frames.end; ++d) {
    const int64_t begin = ((image * c.size[0] + d) * c.size[1] + lines.begin) * width;
    c.target = maps + ((d - frames.begin) * frame_pixels - begin) * pixel;
    s.convolve(c, begin, begin + frame_pixels, 0, channels);
  }

  PoolArgs p = s.pool;
  const int64_t windows = p.pooled_size[2];
  const int64_t pooled_row = (image * p.pooled_size[0] + frame) * p.pooled_size[1];
  p.channels = channels;
  p.step[0] = 0;
  p.step[2] = frame_pixels * channels;
  p.step[3] = width * channels;
  p.maps = maps - (frames.begin * p.step[2] + lines.begin * p.step[3]) * s.element;
  const int64_t begin = pooled_row + row, end = pooled_row + last_row;
  if (s.last) {
    p.pooled_pixel = s.convolution.outputs;
    p.pooled += first * s.element;
    if (p.index) p.index += first;
    return s.pool_forward(p, begin, end);
  }
  const int64_t count = (end - begin) * windows;
  room.pooled.resize(count * pixel);
  room.index.resize(p.index ? count * channels : 0);
  p.pooled_pixel = channels;
  p.pooled = room.pooled.data() - begin * windows * pixel;
  if (p.index) p.index = room.index.data() - begin * windows * channels;
  s.pool_forward(p, begin, end);
  const int64_t step = p.pooled_size[0] * p.pooled_size[1] * windows;
  const int64_t at = (image * s.convolution.outputs + first) * step + (frame * p.pooled_size[1] + row) * windows;
  if (s.element == 8)
    put_first(reinterpret_cast<const uint64_t*>(room.pooled.data()), reinterpret_cast<uint64_t*>(s.pool.pooled) + at,
              count, channels, step);
  else
    put_first(reinterpret_cast<const uint32_t*>(room.pooled.data()), reinterpret_cast<uint32_t*>(s.pool.pooled) + at,
              count, channels, step);
  if (p.index) put_first(room.index.data(), s.pool.index + at, count, channels, step);
}

void run_part(void* context, int part, int parts) {
  const Plan& plan = *static_cast<const Plan*>(context);
  const int64_t items = plan.groups * plan.strips;
  Buffers room;
  for (int64_t k = items * part / parts; k < items * (part + 1) / parts; ++k) run_strip(plan, k, room);
}

}  // namespace

void run_strips(const Strips& s, int threads) {
  Plan plan(s, threads);
  const auto& c = s.convolution;
  const int64_t pixels = s.images * c.size[0] * c.size[1] * c.size[2];
  const int64_t work = pixels * c.outputs * c.inputs * c.kernel[0] * c.kernel[1] * c.kernel[2];
  if (plan.strips) parallel(work < kSerialWork ? 1 : threads, run_part, &plan);
}

}  // namespace frcn
