// Which kernel runs a pass. `launch` starts it: on a GPU, or in tests on the host.
//   launch.template threads<Body>(const DevicePool&)
//   launch.template blocks<Body>(const DeviceSums&, int64_t groups, int parts)
//   Launch::kBlocks: about how many blocks a sum is shared out to, at most kSumBlocks
// Both return an empty text or what went wrong, and so do these functions.
#pragma once

#include <algorithm>
#include <string>

#include "relu_maxpool3d/pool.h"
#include "relu_maxpool3d/sums_device.h"

namespace FRCN_ISA {

using frcn::PoolArgs;

template <class T>
constexpr int kPackLanes = 16 / sizeof(T);

// Whether whole packs lie at aligned places: channels-last, of channels; contiguous, of columns.
inline bool takes_packs(const PoolArgs& a, int64_t lanes) {
  const void* addresses[] = {a.maps, a.pooled, a.index, a.x};
  const void* coefficients[] = {a.scale, a.shift, a.center, a.slope, a.offset};
  return (a.last ? a.channels : a.size[2]) % lanes == 0 &&
         std::all_of(std::begin(addresses), std::end(addresses), is_aligned) &&
         (!a.last || std::all_of(std::begin(coefficients), std::end(coefficients), is_aligned));
}

inline bool is_tiled(const PoolArgs& a, int axis) {
  return a.kernel[axis] == a.stride[axis] && (a.dilation[axis] == 1 || a.kernel[axis] == 1);
}

// Whether windows of one or two columns tile the rows of contiguous maps.
inline bool takes_rows(const PoolArgs& a, int64_t lanes) {
  return !a.last && takes_packs(a, lanes) && is_tiled(a, 2) && a.padding[2] == 0 && a.kernel[1] == a.kernel[2] &&
         (a.kernel[2] == 1 || a.kernel[2] == 2);
}

// A map without windows is one row.
inline PoolArgs flatten(PoolArgs a) {
  for (int axis = 0; axis < 3; ++axis)
    if (a.kernel[axis] != 1 || a.stride[axis] != 1 || a.padding[axis] != 0) return a;
  if (a.last) return a;
  a.size[2] = a.pooled_size[2] = a.size[0] * a.size[1] * a.size[2];
  a.size[0] = a.size[1] = a.pooled_size[0] = a.pooled_size[1] = 1;
  return a;
}

inline DevicePool make_device_pool(const PoolArgs& a) {
  DevicePool p{};
  for (int axis = 0; axis < 3; ++axis) {
    p.size[axis] = static_cast<int>(a.size[axis]);
    p.pooled_size[axis] = static_cast<int>(a.pooled_size[axis]);
    p.kernel[axis] = static_cast<int>(a.kernel[axis]);
    p.stride[axis] = static_cast<int>(a.stride[axis]);
    p.padding[axis] = static_cast<int>(a.padding[axis]);
    p.dilation[axis] = static_cast<int>(a.dilation[axis]);
    p.stride_by[axis] = Divisor(a.stride[axis]);
    p.dilation_by[axis] = Divisor(a.dilation[axis]);
  }
  p.channels = Divisor(a.channels);
  p.pixel = a.last ? static_cast<int>(a.channels) : 1;
  p.row_step = a.size[2] * p.pixel;
  p.frame_step = a.size[1] * p.row_step;
  p.image_step = a.size[0] * p.frame_step;
  p.pooled_row_step = a.pooled_size[2] * p.pixel;
  p.pooled_frame_step = a.pooled_size[1] * p.pooled_row_step;
  p.pooled_image_step = a.pooled_size[0] * p.pooled_frame_step;
  p.last = a.last;
  p.relu = a.relu;
  p.gate = a.gate;
  p.maps = a.maps;
  p.pooled = a.pooled;
  p.index = a.index;
  p.scale = a.scale;
  p.shift = a.shift;
  p.x = a.x;
  p.center = a.center;
  p.slope = a.slope;
  p.offset = a.offset;
  return p;
}

// Threads take turns through the images with this many frames, rows, columns and vectors each.
inline void set_items(DevicePool& p, const PoolArgs& a, const int64_t* grid, int64_t vectors) {
  p.vectors = Divisor(vectors);
  p.columns = Divisor(grid[2]);
  p.rows = Divisor(grid[1]);
  p.items_per_image = LongDivisor(grid[0] * grid[1] * grid[2] * vectors);
  p.items = a.images * (a.last ? 1 : a.channels) * p.items_per_image.value;
}

constexpr int64_t kLimit = int64_t{1} << 31;

// Why the kernels' 32-bit numbers do not hold this call, or an empty text.
inline std::string find_limit(const PoolArgs& a) {
  int64_t largest = std::max(a.images * a.channels, (a.size[2] + 1) * (a.last ? a.channels : 1));
  for (int axis = 0; axis < 3; ++axis)
    largest = std::max({largest, 4 * a.size[axis], 4 * a.stride[axis], 4 * a.dilation[axis] * a.kernel[axis]});
  return largest < kLimit ? "" : "a size or a window is too large for the kernels' 32-bit numbers";
}

inline std::string check_items(int64_t items_per_image) {
  return items_per_image < kLimit ? "" : "one clip is too large for the kernels' 32-bit numbers";
}

template <class Body, class Launch>
std::string launch_threads(const DevicePool& p, Launch& launch) {
  const std::string wrong = check_items(p.items_per_image.value);
  return wrong.empty() ? launch.template threads<Body>(p) : wrong;
}

template <class T, class A, class Launch>
std::string forward(const PoolArgs& given, Launch& launch) {
  const PoolArgs a = flatten(given);
  DevicePool p = make_device_pool(a);
  if constexpr (sizeof(T) < 8) {
    constexpr int V = kPackLanes<T>;
    if (takes_rows(a, V)) {
      const int64_t grid[] = {a.pooled_size[0], a.pooled_size[1], 1};
      set_items(p, a, grid, a.size[2] / V);
      return a.kernel[2] == 1 ? launch_threads<ForwardRows<T, A, V, 1, 1>>(p, launch)
                              : launch_threads<ForwardRows<T, A, V, 2, 2>>(p, launch);
    }
    if (a.last && takes_packs(a, V)) {
      set_items(p, a, a.pooled_size, a.channels / V);
      switch (a.kernel[2]) {
        case 1:
          return launch_threads<ForwardPixels<T, A, V, 1>>(p, launch);
        case 2:
          return launch_threads<ForwardPixels<T, A, V, 2>>(p, launch);
        case 3:
          return launch_threads<ForwardPixels<T, A, V, 3>>(p, launch);
        default:
          return launch_threads<ForwardPixels<T, A, V, 0>>(p, launch);
      }
    }
  }
  set_items(p, a, a.pooled_size, p.pixel);
  return launch_threads<ForwardPixels<T, A, 1, 0>>(p, launch);
}

template <class T, class A, class Launch>
std::string backward(const PoolArgs& given, Launch& launch) {
  const PoolArgs a = flatten(given);
  DevicePool p = make_device_pool(a);
  if constexpr (sizeof(T) < 8) {
    constexpr int V = kPackLanes<T>;
    int64_t tiles[3];
    for (int axis = 0; axis < 3; ++axis)
      tiles[axis] = (a.size[axis] + a.padding[axis] + a.kernel[axis] - 1) / a.kernel[axis];
    const bool tiled = is_tiled(a, 0) && is_tiled(a, 1) && is_tiled(a, 2);
    if (tiled && takes_rows(a, V)) {
      tiles[2] = 1;
      set_items(p, a, tiles, a.size[2] / V);
      return a.kernel[2] == 1 ? launch_threads<BackwardRows<T, A, V, 1, 1>>(p, launch)
                              : launch_threads<BackwardRows<T, A, V, 2, 2>>(p, launch);
    }
    if (a.last && takes_packs(a, V)) {
      if (tiled && a.kernel[1] == a.kernel[2] && a.kernel[2] <= 2) {
        set_items(p, a, tiles, a.channels / V);
        return a.kernel[2] == 1 ? launch_threads<BackwardTiles<T, A, V, 1, 1>>(p, launch)
                                : launch_threads<BackwardTiles<T, A, V, 2, 2>>(p, launch);
      }
      set_items(p, a, a.size, a.channels / V);
      return launch_threads<BackwardPixels<T, A, V>>(p, launch);
    }
  }
  set_items(p, a, a.size, p.pixel);
  return launch_threads<BackwardPixels<T, A, 1>>(p, launch);
}

constexpr int kSumBlocks = 1024;  // about as many as a large GPU runs at once
constexpr int kSumColumns = 16;   // vectors of 16 bytes side by side: two lines of memory

// Sums over maps with `size` places per channel and image, V lanes at a time.
template <template <class, class, int> class Sum, class T, class A, int V, class Launch>
std::string sum_maps(const PoolArgs& a, const DevicePool& pool, int64_t places, double* partials, double* totals,
                     Launch& launch) {
  DeviceSums s{};
  s.pool = pool;
  s.channels = a.channels;
  s.vectors = a.last ? a.channels / V : a.channels;
  s.columns = 1;
  while (a.last && s.columns < kSumColumns && s.columns < s.vectors) s.columns *= 2;
  s.lanes = kSumThreads / s.columns;
  s.items_per_image = LongDivisor(a.last ? places : places / V);
  s.items = a.images * s.items_per_image.value;
  const int64_t groups = (s.vectors + s.columns - 1) / s.columns;
  const int64_t most = std::max<int64_t>(1, Launch::kBlocks / std::max<int64_t>(1, groups));
  s.parts = static_cast<int>(std::clamp<int64_t>((s.items + s.lanes - 1) / s.lanes, 1, most));
  s.partials = partials;
  s.totals = totals;
  std::string wrong = check_items(s.items_per_image.value);
  if (wrong.empty()) wrong = launch.template blocks<SumBlock<Sum, T, A, V>>(s, groups, s.parts);
  if (!wrong.empty()) return wrong;
  return launch.template blocks<CombineBlock>(s, (2 * a.channels + CombineBlock::kTotals - 1) / CombineBlock::kTotals,
                                              1);
}

// With places in a row: packs of a contiguous map go across its rows.
inline PoolArgs one_row(PoolArgs a, int64_t places) {
  a.size[2] = places;
  return a;
}

template <class T, class A, class Launch>
std::string sums(const PoolArgs& a, double* partials, double* totals, Launch& launch) {
  const int64_t places = a.pooled_size[0] * a.pooled_size[1] * a.pooled_size[2];
  DevicePool p = make_device_pool(a);
  p.columns = Divisor(a.pooled_size[2]);
  p.rows = Divisor(a.pooled_size[1]);
  if (a.x) {
    // Of a cell's number, what take_digit divides by.
    p.vectors = Divisor(a.kernel[2]);
    p.channels = Divisor(a.kernel[1]);
    if constexpr (sizeof(T) < 8)
      if (a.last && takes_packs(a, kPackLanes<T>))
        return sum_maps<WeightedSums, T, A, kPackLanes<T>>(a, p, places, partials, totals, launch);
    return sum_maps<WeightedSums, T, A, 1>(a, p, places, partials, totals, launch);
  }
  if constexpr (sizeof(T) < 8)
    if (takes_packs(one_row(a, places), kPackLanes<T>))
      return sum_maps<PlainSums, T, A, kPackLanes<T>>(a, p, places, partials, totals, launch);
  return sum_maps<PlainSums, T, A, 1>(a, p, places, partials, totals, launch);
}

template <class T, class A, class Launch>
std::string statistics(const PoolArgs& a, double* partials, double* totals, Launch& launch) {
  const int64_t places = a.size[0] * a.size[1] * a.size[2];
  const DevicePool p = make_device_pool(a);
  if constexpr (sizeof(T) < 8)
    if (takes_packs(one_row(a, places), kPackLanes<T>))
      return sum_maps<Statistics, T, A, kPackLanes<T>>(a, p, places, partials, totals, launch);
  return sum_maps<Statistics, T, A, 1>(a, p, places, partials, totals, launch);
}

// Calls pass(T(), A()) for a type's number, as Python counts them.
template <class Pass>
std::string by_type(const PoolArgs& a, int type, Pass pass) {
  if (a.channels == 0) return "";
  const std::string wrong = find_limit(a);
  if (!wrong.empty()) return wrong;
  switch (type) {
    case 0:
      return pass(float(), float());
    case 1:
      return pass(double(), double());
    case 2:
      return pass(bfloat16(), float());
    case 3:
      return pass(float16(), float());
    default:
      return "no kernel of this data type";
  }
}

template <class Launch>
std::string run_forward(const PoolArgs& a, int type, Launch launch) {
  return by_type(a, type, [&](auto t, auto sum) { return forward<decltype(t), decltype(sum)>(a, launch); });
}

template <class Launch>
std::string run_backward(const PoolArgs& a, int type, Launch launch) {
  return by_type(a, type, [&](auto t, auto sum) { return backward<decltype(t), decltype(sum)>(a, launch); });
}

template <class Launch>
std::string run_sums(const PoolArgs& a, int type, double* partials, double* totals, Launch launch) {
  return by_type(a, type,
                 [&](auto t, auto sum) { return sums<decltype(t), decltype(sum)>(a, partials, totals, launch); });
}

template <class Launch>
std::string run_statistics(const PoolArgs& a, int type, double* partials, double* totals, Launch launch) {
  return by_type(a, type,
                 [&](auto t, auto sum) { return statistics<decltype(t), decltype(sum)>(a, partials, totals, launch); });
}

// Doubles that sums of so many channels need room for, at most.
inline int64_t count_partials(int64_t channels) {
  return 2 * (channels + kSumBlocks * std::min<int64_t>(channels, kSumColumns * kPackLanes<bfloat16>));
}

}  // namespace FRCN_ISA
