// Sums over the maps per channel, as a block of GPU threads sees them: threads sum a few values in the accumulation
// type, the block and then a second kernel sum those in double, always in the same order.
//
// A block has `columns` vectors of channels (one channel where maps are contiguous) and every so-many-th of their
// items, a channels-last pixel or a vector along a contiguous map. `block.each(f)` runs f for each thread, then waits.
#pragma once

#include "relu_maxpool3d/pool_device.h"

namespace FRCN_ISA {

constexpr int kSumThreads = 256;

// Items that a thread has on their way from memory: as many as registers hold.
template <int V>
constexpr int kAhead = V > 4 ? 2 : 4;

struct DeviceSums {
  DevicePool pool;
  int64_t items;
  LongDivisor items_per_image;
  int64_t channels, vectors;  // vectors: of channels, or channels
  int columns, lanes;         // columns * lanes = kSumThreads
  int parts;                  // blocks that share a column's items
  double* partials;           // (parts, 2, channels)
  double* totals;             // (2, channels)
};

// The first element of an item of maps, of which an image's channel, or an image, has items_per_image.
template <int V>
FRCN_HD int64_t find_item(const DeviceSums& a, int64_t item, int64_t vector) {
  if (a.pool.last) return item * a.channels + vector * V;
  const int64_t image = a.items_per_image.divide(item);
  return (item + (image * (a.channels - 1) + vector) * a.items_per_image.value) * V;
}

// x - center and its square. A thread centres by the first value that it sees, so that float32 is enough, and moves the
// sums to the common centre in double.
template <class T, class A, int V>
struct Statistics {
  static FRCN_HD void sum(const DeviceSums& a, int64_t first, int64_t step, int64_t vector, double* room) {
    A near[V], plain[V], squares[V];
    int64_t count = 0;
#pragma unroll
    for (int j = 0; j < V; ++j) near[j] = plain[j] = squares[j] = A(0);
    for (int64_t item = first; item < a.items; item += kAhead<V> * step) {
      Pack<T, V> packs[kAhead<V>];
#pragma unroll
      for (int k = 0; k < kAhead<V>; ++k)
        if (item + k * step < a.items)
          packs[k] = load_pack<V>(reinterpret_cast<const T*>(a.pool.x) + find_item<V>(a, item + k * step, vector));
#pragma unroll
      for (int k = 0; k < kAhead<V>; ++k) {
        if (item + k * step >= a.items) continue;
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const A value = load<A>(packs[k].lanes[j]);
          if (count == 0) near[j] = value;
          const A distance = value - near[j];
          plain[j] += distance;
          squares[j] += distance * distance;
        }
        ++count;
      }
    }
    const auto* centers = reinterpret_cast<const A*>(a.pool.center);
    for (int j = 0; j < V; ++j) {
      const double away =
          static_cast<double>(near[j]) - static_cast<double>(centers[a.pool.last ? vector * V + j : vector]);
      const double n = static_cast<double>(count), s = plain[j];
      room[2 * j * kSumThreads] = count ? s + n * away : 0.0;
      room[(2 * j + 1) * kSumThreads] = count ? squares[j] + away * (2.0 * s + n * away) : 0.0;
    }
  }
};

template <class A, int V>
FRCN_HD void keep_sums(const A* plain, const A* second, double* room) {
#pragma unroll
  for (int j = 0; j < V; ++j) {
    room[2 * j * kSumThreads] = plain[j];
    room[(2 * j + 1) * kSumThreads] = second[j];
  }
}

// What the windows pass.
template <class T, class A, int V>
struct PlainSums {
  static FRCN_HD void sum(const DeviceSums& a, int64_t first, int64_t step, int64_t vector, double* room) {
    A plain[V], none[V];
#pragma unroll
    for (int j = 0; j < V; ++j) plain[j] = none[j] = A(0);
    for (int64_t item = first; item < a.items; item += kAhead<V> * step) {
      Passed<T, A, V> passed[kAhead<V>];
#pragma unroll
      for (int k = 0; k < kAhead<V>; ++k) {
        passed[k].close();
        if (item + k * step < a.items) passed[k].load_at(a.pool, find_item<V>(a, item + k * step, vector));
      }
#pragma unroll
      for (int k = 0; k < kAhead<V>; ++k)
#pragma unroll
        for (int j = 0; j < V; ++j) plain[j] += passed[k].chosen[j] == frcn::kClosed ? A(0) : passed[k].grad[j];
    }
    keep_sums<A, V>(plain, none, room);
  }
};

// That and, times x - center, at the cell it goes to. Lanes, where there are several, are channels.
template <class T, class A, int V>
struct WeightedSums {
  static FRCN_HD void sum(const DeviceSums& a, int64_t first, int64_t step, int64_t vector, double* room) {
    const DevicePool& p = a.pool;
    A plain[V], weighted[V], center[V];
#pragma unroll
    for (int j = 0; j < V; ++j) plain[j] = weighted[j] = A(0);
    load_coefficients<V>(reinterpret_cast<const A*>(p.center), vector * V, A(0), center);
    for (int64_t item = first; item < a.items; item += step) {
      Passed<T, A, V> passed;
      passed.load_at(p, find_item<V>(a, item, vector));
#pragma unroll
      for (int j = 0; j < V; ++j) plain[j] += passed.chosen[j] == frcn::kClosed ? A(0) : passed.grad[j];
      const int64_t image = a.items_per_image.divide(item);
      auto rest = static_cast<uint32_t>(item - image * a.items_per_image.value);
      const int w = take_digit(rest, p.columns) * p.stride[2] - p.padding[2];
      const int h = take_digit(rest, p.rows) * p.stride[1] - p.padding[1];
      const int d = static_cast<int>(rest) * p.stride[0] - p.padding[0];
      const T* x = reinterpret_cast<const T*>(p.x) +
                   (p.last ? image * p.image_step + vector * V : (image * a.channels + vector) * p.image_step);
      if constexpr (V == 1) {
        if (passed.chosen[0] == frcn::kClosed || passed.grad[0] == A(0)) continue;
        auto number = static_cast<uint32_t>(passed.chosen[0]);
        const int k = take_digit(number, p.vectors), j = take_digit(number, p.channels);
        const int64_t at = (d + static_cast<int>(number) * p.dilation[0]) * p.frame_step +
                           (h + j * p.dilation[1]) * p.row_step + static_cast<int64_t>(w + k * p.dilation[2]) * p.pixel;
        weighted[0] += passed.grad[0] * (load<A>(x[at]) - center[0]);
      } else {
        add_cells(p, x, d, h, w, passed, center, weighted);
      }
    }
    keep_sums<A, V>(plain, weighted, room);
  }

  // Reads the whole window: neighbouring channels choose different cells, so that little would be saved by less.
  static FRCN_HD void add_cells(const DevicePool& p, const T* x, int d, int h, int w, const Passed<T, A, V>& passed,
                                const A* center, A* weighted) {
    int number = 0;
    for (int i = 0; i < p.kernel[0]; ++i) {
      for (int j = 0; j < p.kernel[1]; ++j) {
        const int frame = d + i * p.dilation[0], row = h + j * p.dilation[1];
        const bool inside = is_inside(frame, p.size[0]) && is_inside(row, p.size[1]);
        const T* line = x + frame * p.frame_step + row * p.row_step;
#pragma unroll 1
        for (int k = 0; k < p.kernel[2]; ++k, ++number) {
          const int column = w + k * p.dilation[2];
          if (!inside || !is_inside(column, p.size[2])) continue;
          const auto pack = load_pack<V>(line + static_cast<int64_t>(column) * p.pixel);
#pragma unroll
          for (int n = 0; n < V; ++n) {
            // Not even an infinite x counts where nothing passes.
            const A grad = passed.to(n, number), product = grad * (load<A>(pack.lanes[n]) - center[n]);
            weighted[n] += grad == A(0) ? A(0) : product;
          }
        }
      }
    }
  }
};

// One block's part: `group` of columns, `part` of their items.
template <template <class, class, int> class Sum, class T, class A, int V>
struct SumBlock {
  static constexpr int kLanes = V, kRoom = 2 * V * kSumThreads;

  template <class Block>
  static FRCN_HD void run(const DeviceSums& a, const Block& block, double* room, int64_t group, int part) {
    block.each([&](int thread) {
      const int64_t vector = group * a.columns + thread % a.columns;
      const int64_t first = static_cast<int64_t>(part) * a.lanes + thread / a.columns;
      if (vector < a.vectors) {
        Sum<T, A, V>::sum(a, first, static_cast<int64_t>(a.parts) * a.lanes, vector, room + thread);
      } else {
        for (int j = 0; j < 2 * V; ++j) room[j * kSumThreads + thread] = 0.0;
      }
    });
    for (int threads = kSumThreads / 2; threads >= a.columns; threads /= 2) {
      block.each([&](int thread) {
        if (thread >= threads) return;
        for (int j = 0; j < 2 * V; ++j) room[j * kSumThreads + thread] += room[j * kSumThreads + thread + threads];
      });
    }
    block.each([&](int thread) {
      const int64_t vector = group * a.columns + thread;
      if (thread >= a.columns || vector >= a.vectors) return;
      double* partial = a.partials + part * 2 * a.channels;
      if (a.pool.last) {
        for (int j = 0; j < 2 * V; ++j)
          partial[j % 2 * a.channels + vector * V + j / 2] = room[j * kSumThreads + thread];
      } else {
        for (int kind = 0; kind < 2; ++kind) {
          double sum = 0;
          for (int j = 0; j < V; ++j) sum += room[(2 * j + kind) * kSumThreads + thread];
          partial[kind * a.channels + vector] = sum;
        }
      }
    });
  }
};

// The second kernel: 32 totals, each summed by 8 threads.
struct CombineBlock {
  static constexpr int kLanes = 1, kRoom = kSumThreads, kTotals = 32;

  template <class Block>
  static FRCN_HD void run(const DeviceSums& a, const Block& block, double* room, int64_t group, int) {
    const int64_t count = 2 * a.channels;
    block.each([&](int thread) {
      const int64_t total = group * kTotals + thread % kTotals;
      double sum = 0;
      if (total < count)
        for (int part = thread / kTotals; part < a.parts; part += kSumThreads / kTotals)
          sum += a.partials[part * count + total];
      room[thread] = sum;
    });
    block.each([&](int thread) {
      const int64_t total = group * kTotals + thread;
      if (thread >= kTotals || total >= count) return;
      double sum = 0;
      for (int k = thread; k < kSumThreads; k += kTotals) sum += room[k];
      a.totals[total] = sum;
    });
  }
};

}  // namespace FRCN_ISA
